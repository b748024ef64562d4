import math

import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.metrics import reid, reranking


def nearest(d, p, k):
    """Equation 2: the k nearest of p, itself first; who ties with the next one is left out."""
    order = sorted(range(len(d)), key=lambda g: (g != p, d[p][g]))
    chosen, rest = order[:k], order[k:]
    return {g for g in chosen if g == p or not rest or d[p][g] < d[p][rest[0]]}


def slow(d, queries, k1, k2, weight, neighbours):
    """The paper's equations on a dense matrix, with sets and loops, in float64."""
    d = np.asarray(d, np.float64)
    n, more = len(d), 1 if neighbours == "code" else 0

    def reciprocal(p, k):  # equation 3
        return {g for g in nearest(d, p, k) if p in nearest(d, g, k)}

    normal = d / np.where(d.max(axis=1, keepdims=True) == 0, 1, d.max(axis=1, keepdims=True))
    encoded = np.zeros((n, n))
    for p in range(n):
        core = reciprocal(p, k1 + more)
        expanded = set(core)
        for q in core:  # equation 4
            half = reciprocal(q, round(k1 / 2) + more)
            share = len(core & half) * 3 - len(half) * 2
            if half and (share > 0 if neighbours == "code" else share >= 0):
                expanded |= half
        for g in expanded:  # equation 7
            encoded[p, g] = math.exp(-normal[p, g])
        encoded[p] /= encoded[p].sum()
    mean = np.array([np.mean([encoded[g] for g in nearest(d, p, k2)], axis=0) for p in range(n)])
    out = np.zeros((queries, n - queries))
    for p in range(queries):
        for g in range(queries, n):  # equations 10 and 12
            least, most = np.minimum(mean[p], mean[g]).sum(), np.maximum(mean[p], mean[g]).sum()
            out[p, g - queries] = (1 - weight) * (1 - least / most) + weight * normal[p, g]
    return out


def squared(x):
    return ((x[:, None] - x) ** 2).sum(-1)


def rows_of(d):
    return lambda start, stop: d[start:stop]


def clusters(rng, people, each, noise, dim=8):
    identity = np.repeat(np.arange(people), each)
    centres = rng.normal(size=(people, dim))
    return centres[identity] + noise * rng.normal(size=(len(identity), dim)), identity


@pytest.mark.parametrize("neighbours", ["code", "paper"])
@pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(6, 3, 0.3), (5, 1, 0.0), (7, 4, 0.6), (1, 2, 0.1), (80, 90, 0.3)]
)
def test_against_the_equations(rng, neighbours, k1, k2, weight):
    x, _ = clusters(rng, 8, 5, 0.6)
    x = x[rng.permutation(len(x))]
    expected = slow(squared(x), 12, k1, k2, weight, neighbours)
    for block in (1, 7, 12, 512):
        got = reranking.k_reciprocal(
            rows_of(squared(x)), queries=12, total=40, k1=k1, k2=k2, weight=weight,
            neighbours=neighbours, block=block,
        )  # fmt: skip
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("neighbours", ["code", "paper"])
@pytest.mark.parametrize("values", [2, 4])  # of 2, each image has more copies than k2
def test_ties_against_the_equations_and_in_any_order(rng, neighbours, values):
    x = rng.integers(0, values, (40, 3)).astype(float)  # many equal images and distances
    d = squared(x)
    options = {"k1": 6, "k2": 3, "neighbours": neighbours}
    got = reranking.k_reciprocal(rows_of(d), queries=10, total=40, **options)
    np.testing.assert_allclose(got, slow(d, 10, 6, 3, 0.3, neighbours), atol=2e-6)
    order = np.concatenate([np.arange(10), 10 + rng.permutation(30)])
    moved = reranking.k_reciprocal(
        rows_of(d[order][:, order]), queries=10, total=40, block=9, **options
    )
    np.testing.assert_allclose(moved, got[:, order[10:] - 10], atol=1e-6)


def test_a_image_is_its_own_nearest_at_whatever_distance(rng):
    """A cross-input network may find an image nearer to others than to itself."""
    d = squared(rng.normal(size=(30, 3))) + np.diag(rng.uniform(0, 9, 30))
    got = reranking.k_reciprocal(rows_of(d), queries=8, total=30, k1=6, k2=3)
    np.testing.assert_allclose(got, slow(d, 8, 6, 3, 0.3, "code"), atol=2e-6)


def test_by_hand():
    """Query q at 0, gallery a at 1, b at 3, c at 10 on a line; k1 = 2, k2 = 1, code.

    d = squares: q: 0 1 9 100; a: 1 0 4 81; b: 9 4 0 49; c: 100 81 49 0.
    N(., 3): q {q a b}, a {a q b}, b {b a q}, c {c b a}. R: q, a, b {q a b}; c {c}.
    N(., 2): q {q a}, a {a q}, b {b a}, c {c b}; half R: {q a}, {q a}, {b}, {c}: all inside, so
    that R* = R. With the greatest distance of each: V_q ~ exp(-(0, 1, 9) / 100),
    V_a ~ exp(-(1, 0, 4) / 81), V_b ~ exp(-(9, 4, 0) / 49), V_c = (0, 0, 0, 1).
    """
    x = np.array([[0.0], [1.0], [3.0], [10.0]])
    q = np.exp([-0.0, -0.01, -0.09])
    a, b = np.exp([-1 / 81, 0, -4 / 81]), np.exp([-9 / 49, -4 / 49, 0])
    q, a, b = q / q.sum(), a / a.sum(), b / b.sum()
    jaccard = [
        1 - np.minimum(q, a).sum() / np.maximum(q, a).sum(),
        1 - np.minimum(q, b).sum() / np.maximum(q, b).sum(),
        1.0,
    ]
    expected = 0.7 * np.array(jaccard) + 0.3 * np.array([0.01, 0.09, 1.0])
    got = reranking.k_reciprocal_embeddings(x[:1], x[1:], k1=2, k2=1)
    np.testing.assert_allclose(got[0], expected, atol=1e-6)
    # paper: N(., 2): {q a}, {a q}, {b a}, {c b}; R: {q a}, {q a}, {b}, {c}; half is itself alone.
    # b shares nothing with q any more
    got = reranking.k_reciprocal_embeddings(x[:1], x[1:], k1=2, k2=1, neighbours="paper")
    q, a = np.exp([-0.0, -0.01]), np.exp([-1 / 81, 0])
    q, a = q / q.sum(), a / a.sum()
    jaccard = 1 - np.minimum(q, a).sum() / np.maximum(q, a).sum()
    expected = 0.7 * np.array([jaccard, 1, 1]) + 0.3 * np.array([0.01, 0.09, 1.0])
    np.testing.assert_allclose(got[0], expected, atol=1e-6)


def test_code_and_paper_differ_by_more_than_one_neighbour(rng):
    """Two thirds: more than (code), at least (paper)."""
    differ = 0
    for _ in range(10):
        d = squared(rng.normal(size=(30, 3)))
        code = reranking.k_reciprocal(rows_of(d), queries=8, total=30, k1=5, k2=2)
        # k1 = 6 takes the six images of code's k1 = 5, and both take three for the half
        paper = reranking.k_reciprocal(
            rows_of(d), queries=8, total=30, k1=6, k2=2, neighbours="paper"
        )
        differ += np.abs(code - paper).max() > 1e-3
    assert differ


def test_every_option_matters(rng):
    d = squared(clusters(rng, 8, 5, 0.6)[0])
    usual = reranking.k_reciprocal(rows_of(d), queries=9, total=40, k1=6, k2=3)
    for option in ({"k1": 8}, {"k2": 4}, {"weight": 0.4}, {"neighbours": "paper"}):
        values = {"k1": 6, "k2": 3, **option}
        other = reranking.k_reciprocal(rows_of(d), queries=9, total=40, **values)
        assert np.abs(other - usual).max() > 1e-3
    only = reranking.k_reciprocal(rows_of(d), queries=9, total=40, weight=1.0)
    np.testing.assert_allclose(only, d[:9, 9:] / d[:9].max(axis=1, keepdims=True), rtol=1e-6)


def test_three_forms_agree(rng):
    x, _ = clusters(rng, 8, 5, 0.6)
    x, d = x + 1000, squared(x)  # far from the origin: cancellation
    options = {"k1": 6, "k2": 3, "weight": 0.2, "block": 11}
    rows = reranking.k_reciprocal(rows_of(d), queries=9, total=40, **options)
    given = reranking.k_reciprocal_matrices(d[:9, 9:], d[:9, :9], d[9:, 9:], **options)
    np.testing.assert_array_equal(given, rows)
    embedded = reranking.k_reciprocal_embeddings(x[:9], x[9:], **options)
    np.testing.assert_allclose(embedded, rows, atol=1e-6)


@pytest.mark.parametrize("neighbours", ["code", "paper"])
def test_constant_embeddings_stay_constant(neighbours):
    same = np.full((30, 5), 0.1)
    got = reranking.k_reciprocal_embeddings(same[:3], same[3:], neighbours=neighbours)
    assert np.ptp(got) == 0
    ones = np.ones((30, 30))
    got = reranking.k_reciprocal(rows_of(ones), queries=3, total=30, neighbours=neighbours)
    assert np.ptp(got) == 0


@pytest.mark.parametrize("neighbours", ["code", "paper"])
def test_improves_the_ranking_of_noisy_clusters(rng, neighbours):
    x, identity = clusters(rng, 40, 10, 0.6)
    order = rng.permutation(400)
    x, identity = x[order], identity[order]
    match = reid.same_identity(identity[:60], identity[60:])
    before = reid.mean_average_precision(-squared(x)[:60, 60:], match)
    after = reranking.k_reciprocal_embeddings(x[:60], x[60:], k1=10, k2=4, neighbours=neighbours)
    assert 0.2 < before < 0.8
    assert reid.mean_average_precision(-after, match) > before + 0.05


def test_distances_are_asked_for_in_blocks(rng):
    d, asked = squared(rng.normal(size=(25, 3))), []

    def rows(start, stop):
        asked.append((start, stop))
        return d[start:stop]

    before = d.copy()
    reranking.k_reciprocal(rows, queries=4, total=25, block=10)
    assert asked == [(0, 10), (10, 20), (20, 25)] * 2
    np.testing.assert_array_equal(d, before)  # what is given is not written to


GOOD = np.ones((6, 6)) - np.eye(6)


@pytest.mark.parametrize(
    ("distance", "options", "message"),
    [
        (np.where(np.eye(6, k=2), np.nan, GOOD), {}, "images 0 and 2 is nan"),
        (
            np.where(np.eye(6, k=-3), -1.0, GOOD),
            {},
            r"images 3 and 0 is -1.0; 3 of 36 .*\(1 - s for",
        ),
        (np.where(np.eye(6, k=-3), np.inf, GOOD), {"block": 2}, "images 3 and 0 is inf"),
        (GOOD[:, :5], {}, r"images 0 to 5 have shape \(6, 5\), expected \(6, 6\)"),
        (GOOD, {"queries": 6}, "6 queries among 6 images"),
        (GOOD, {"queries": 0}, "0 queries among 6 images"),
        (GOOD, {"k1": 0}, "k1 0"),
        (GOOD, {"k2": 0}, "k2 0"),
        (GOOD, {"block": 0}, "block 0"),
        (GOOD, {"weight": 1.1}, "weight 1.1"),
        (GOOD, {"neighbours": "papers"}, "neighbours papers: choose one of code, paper"),
    ],
)
def test_bad_input(distance, options, message):
    with pytest.raises(UsageError, match=message):
        reranking.k_reciprocal(rows_of(distance), **{"queries": 2, "total": 6, **options})


def test_bad_matrices_and_embeddings():
    with pytest.raises(UsageError, match=r"y \(2, 2\) .* \(3, 3\) do not fit .* \(2, 4\)"):
        reranking.k_reciprocal_matrices(GOOD[:2, :4], GOOD[:2, :2], GOOD[:3, :3])
    bad = np.ones((4, 2))
    bad[2, 1] = np.nan
    with pytest.raises(UsageError, match=r"gallery_embeddings: 1 of 8 .* at \(2, 1\)"):
        reranking.k_reciprocal_embeddings(np.ones((3, 2)), bad)


@pytest.mark.parametrize("neighbours", ["code", "paper"])
def test_offset_and_scale_of_embeddings_change_nothing(rng, neighbours):
    """Multiples of 1/64, so that float32 holds them beside the offsets."""
    x = np.rint(64 * clusters(rng, 8, 5, 0.6)[0]) / 64
    options = {"k1": 6, "k2": 3, "neighbours": neighbours}
    usual = reranking.k_reciprocal_embeddings(x[:9], x[9:], **options)
    for moved in (x + 4096, x * 2.0**-90, x * 2.0**90, -x):
        moved = moved.astype(np.float32)
        got = reranking.k_reciprocal_embeddings(moved[:9], moved[9:], **options)
        np.testing.assert_allclose(got, usual, rtol=1e-6)


def test_equal_embeddings_tie(rng):
    x = np.tile(rng.normal(size=(10, 300)).astype(np.float32), (4, 1))
    got = reranking.k_reciprocal_embeddings(x[:7], x[7:], k1=5, k2=2)
    order = np.arange(7, 40) % 10
    for row in got:
        for image in range(10):
            assert len(set(row[order == image].tolist())) == 1


@pytest.mark.parametrize("far", [1e4, 1e7])
def test_tight_groups_far_apart_keep_their_neighbours(rng, far):
    """The noise of products must neither be taken for 0 nor for a distance."""
    x = np.rint(64 * clusters(rng, 8, 5, 0.6)[0]) / 64
    x[::2] += far
    options = {"k1": 4, "k2": 2}
    right = reranking.k_reciprocal(rows_of(squared(x)), queries=9, total=40, **options)
    got = reranking.k_reciprocal_embeddings(x[:9], x[9:], **options)
    np.testing.assert_allclose(got, right, atol=1e-6)
