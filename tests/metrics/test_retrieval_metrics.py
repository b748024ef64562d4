import importlib
import itertools

import numpy as np
import oracles
import pytest

from siamjax.errors import UsageError
from siamjax.metrics.retrieval import Found, map_at_r, recall_at_k, scores_quality, search_quality

MODULE = importlib.import_module("siamjax.metrics.retrieval")


def slow(query, gallery, same_as, shown, own=None):
    """Query by query: recall@1, 3, 5, 10, 20 and MAP@R, as Musgrave et al. 2020 define it."""
    rows = []
    for q, row in enumerate(query):
        kept = [g for g in range(len(gallery)) if own is None or g != own[q]]
        order = sorted(kept, key=lambda g: ((row - gallery[g]) ** 2).sum())
        hit = [shown[g] == same_as[q] for g in order]
        r = sum(hit)
        if not r:
            rows.append([np.nan] * 6)
            continue
        at_r = sum(sum(hit[: i + 1]) / (i + 1) for i in range(r) if hit[i]) / r
        rows.append([*(float(any(hit[:k])) for k in (1, 3, 5, 10, 20)), at_r])
    return np.array(rows)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_against_loops(rng, leave_one_out):
    shown = rng.integers(0, 6, 30).astype(str)
    gallery = rng.normal(size=(30, 4)) + 100  # far from 0: products alone would cancel
    gallery += 0.7 * np.array([[int(s)] * 4 for s in shown])
    if leave_one_out:
        own = rng.permutation(30)[:20]
        query, asked = gallery[own], shown[own]
    else:
        own, query = None, rng.normal(size=(20, 4)) + 101
        asked = rng.integers(0, 8, 20).astype(str)  # 6 and 7 have no match
    expected = slow(query, gallery, asked, shown, own)
    got = search_quality(
        query.astype(np.float32), gallery.astype(np.float32), asked, shown, own=own, block=7
    )
    np.testing.assert_allclose(got.recall, expected[:, :5], atol=1e-6)
    score = -np.square(query[:, None] - gallery).sum(-1)  # as of a network without embeddings
    by_score = scores_quality(score, asked, shown, own=own)
    np.testing.assert_allclose(by_score.recall, expected[:, :5])
    np.testing.assert_allclose(by_score.map_at_r, expected[:, 5])
    assert by_score.gallery == got.gallery
    np.testing.assert_allclose(got.map_at_r, expected[:, 5], atol=1e-6)
    summary = got.summary()
    assert summary["recall_at_3"] == pytest.approx(np.nanmean(expected[:, 1]))
    assert summary["queries"] == (~np.isnan(expected[:, 0])).sum()
    groups = np.where(np.arange(20) < 9, "a", "b")
    assert got.summary(got.groups(groups)["a"])["map_at_r"] == pytest.approx(
        np.nanmean(expected[:9, 5])
    )
    groups[3:] = ""  # not known
    assert list(got.groups(groups)) == ["a"]
    assert got.summary(got.groups(groups)["a"])["map_at_r"] == pytest.approx(
        np.nanmean(expected[:3, 5])
    )


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_one_number_against_every_order_of_ties(rng, leave_one_out):
    """Points of a small grid tie in groups; the mean over all orders of equal distances counts."""
    gallery = rng.integers(0, 2, (7, 2)).astype(float)
    shown = rng.integers(0, 3, 7)
    own = np.array([4, 0, 2]) if leave_one_out else None
    query = gallery[own] if leave_one_out else rng.integers(0, 2, (5, 2)).astype(float)
    asked = shown[own] if leave_one_out else np.array([0, 1, 2, 3, 1])  # 3 has no match
    # A strict order of the gallery's indices breaks every tie: 7! orders give all of them.
    recall, precision = [], []
    for order in itertools.permutations(range(7)):
        order = list(order)
        place = None if own is None else np.argsort(order)[own]
        rows = slow(query, gallery[order], asked, shown[order], place)
        recall.append(rows[:, [0, 1, 2]])
        precision.append(rows[:, 5])
    arguments = (query, gallery, asked, shown)
    for column, k in enumerate((1, 3, 5)):
        got = recall_at_k(*arguments, k=k, own=own, block=2)
        assert got == pytest.approx(np.nanmean(np.mean(recall, axis=0)[:, column]))
    got = map_at_r(*arguments, own=own, block=2)
    assert got == pytest.approx(np.nanmean(np.mean(precision, axis=0)))
    assert isinstance(got, float)


def test_one_number_by_hand():
    """On a line: query 0 finds a match at place 2, query 1 at places 1 and 3 (R = 2)."""
    query, gallery = np.array([[0.0], [10.0]]), np.array([[1.0], [2.0], [9.0], [7.0], [6.5]])
    asked, shown = np.array(["a", "b"]), np.array(["c", "a", "b", "c", "b"])
    arguments = (query, gallery, asked, shown)
    assert recall_at_k(*arguments) == 0.5
    assert recall_at_k(*arguments, k=2) == 1.0
    assert map_at_r(*arguments) == (0 / 1 + 1 / 2) / 2  # the third place of query 1 is beyond R
    assert recall_at_k(*(list(one) for one in arguments), k=1) == 0.5


def test_a_constant_network_scores_chance():
    shown = np.repeat(["a", "b", "c", "d"], 2)
    got = search_quality(np.ones((4, 3)), np.ones((8, 3)), shown[::2], shown).summary()
    assert got["recall_at_1"] == pytest.approx(2 / 8)
    # MAP@R, R = 2: 1/2 (P(first right) + P(second right) * E[precision there])
    assert got["map_at_r"] == pytest.approx(0.5 * (2 / 8 + 2 / 8 * (1 + 1 / 7) / 2))
    assert got["recall_at_10"] is None


def test_nothing_to_find_and_not_finite():
    one = np.ones((1, 2))
    with pytest.raises(UsageError, match="none of the 1 queries"):
        search_quality(one, one, np.array(["a"]), np.array(["b"])).summary()
    with pytest.raises(UsageError, match="not finite"):
        search_quality(one * np.nan, one, np.array(["a"]), np.array(["a"]))
    for k in (0, 2):
        with pytest.raises(UsageError, match=f"k is {k}: choose 1 to 1, the number of images"):
            recall_at_k(one, one, np.array(["a"]), np.array(["a"]), k=k)
    for measure in (recall_at_k, map_at_r):
        with pytest.raises(UsageError, match="none of the 1 queries has a match"):
            measure(one, one, np.array(["a"]), np.array(["b"]))


def expected(query, gallery, asked, shown, own=None):
    """Recall@1 and MAP@R over all orders of ties: each group of equal distances, one by one."""
    rows = []
    for q, distances in enumerate(oracles.squared_distances(query, gallery)):
        kept = [g for g in range(len(gallery)) if own is None or g != own[q]]
        total = sum(shown[g] == asked[q] for g in kept)
        if not total:
            rows.append((np.nan, np.nan))
            continue
        recall, precision, before, hits = None, 0.0, 0, 0
        for value in sorted({distances[g] for g in kept}):
            tied = [g for g in kept if distances[g] == value]
            own_hits = sum(shown[g] == asked[q] for g in tied)
            recall = own_hits / len(tied) if recall is None else recall
            for j in range(1, len(tied) + 1):
                if own_hits and before + j <= total:
                    other = (own_hits - 1) / max(len(tied) - 1, 1)
                    mean = (hits + 1 + (j - 1) * other) / (before + j)
                    precision += own_hits / len(tied) * mean
            before, hits = before + len(tied), hits + own_hits
        rows.append((recall, precision / total))
    return np.array(rows).T


def difficult():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(40, 6)) + 1.5 * rng.normal(size=(8, 6))[np.arange(40) // 5]
    apart = np.where(np.arange(40)[:, None] // 5 % 2, 1.0, -1.0)
    return {
        "usual": rows,
        "offset": rows + 5e4,
        "groups": rows + 1e4 * apart,
        "far groups": rows + 1e6 * apart,
        "tiny": rows * 1e-30,
        "huge": rows * 1e30,
        "outlier": np.where(np.arange(40)[:, None] == 3, 1e8, rows),
        "equal": np.tile(rows[:1], (40, 1)),
        "copies": np.tile(rows[:8], (5, 1)),
        "codes": rng.integers(0, 2, (40, 6)).astype(float),
        "shifted codes": rng.integers(0, 2, (40, 6)) + 0.3,
    }


@pytest.mark.parametrize("unclear", [0, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", difficult())
def test_the_order_is_that_of_float64_differences(name, dtype, unclear, monkeypatch):
    monkeypatch.setattr(MODULE, "_UNCLEAR", unclear)  # so that both passes are tried
    rows, shown = difficult()[name].astype(dtype), np.arange(40) // 5
    own = np.arange(40)
    for options in ({}, {"own": own}):
        recall, precision = expected(rows, rows, shown, shown, **options)
        found = search_quality(rows, rows, shown, shown, block=17, **options)
        np.testing.assert_allclose(found.recall[:, 0], recall, atol=1e-9)
        np.testing.assert_allclose(found.map_at_r, precision, atol=1e-9)
        one = recall_at_k(rows, rows, shown, shown, k=1, **options)
        assert one == pytest.approx(recall.mean())
        assert map_at_r(rows, rows, shown, shown, **options) == pytest.approx(precision.mean())


def test_queries_far_from_the_gallery():
    gallery = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    shown = np.arange(4)
    for far in (-1e30, 1e30):  # beyond float64's digits: all are equally far
        found = search_quality(np.float32([[far]]), gallery, np.array([0]), shown)
        assert found.recall[0, 0] == pytest.approx(1 / 4)
    found = search_quality(np.float32([[-1e9]]), gallery, np.array([0]), shown)
    assert found.recall[0, 0] == 1


def test_a_gallery_of_one_image():
    one, name = np.ones((1, 2)), np.array(["a"])
    assert search_quality(one, one, name, name).summary()["recall_at_1"] == 1
    alone = search_quality(one, one, name, name, own=np.array([0]))
    assert np.isnan(alone.map_at_r).all()
    assert alone.gallery == 0


NAMES = np.array(["a", "b", "a"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.ones((3, 4))}, "query of 4 features, gallery of 2"),
        ({"query": np.ones((0, 2))}, "query of shape \\(0, 2\\); give at least one row"),
        ({"gallery": np.ones((0, 2))}, "gallery of shape"),
        ({"query": np.ones(3)}, "query of shape \\(3,\\)"),
        ({"query_identity": NAMES[:2]}, "2 and 3 identities of 3 queries and 3 gallery"),
        ({"query_identity": np.array([1.0, 2, np.nan])}, "3 of 3|1 of 3"),
        ({"query_identity": np.array([1, 2, 1])}, "both as text or both as whole numbers"),
        ({"gallery_identity": np.array(["a", "", ""])}, "2 of 3 are not known .* '' at 1"),
        ({"gallery_identity": np.array(["a", None, "b"], object)}, "1 of 3 .* None at 1"),
        ({"own": np.array([0, 1, 3])}, "own: 1 of 3 are not from 0 to 2; the first is 3 at 2"),
        ({"own": np.array([-1, 1, 2])}, "own: 1 of 3 .* is -1 at 0"),
        ({"own": np.array([0.0, 1, 2])}, "own: float64"),
        ({"own": np.array([0, 1])}, "give 3 whole numbers"),
    ],
)
def test_refuses_what_has_no_certain_answer(change, message):
    rows = np.arange(6.0).reshape(3, 2)
    asked = {"query": rows, "gallery": rows, "query_identity": NAMES, "gallery_identity": NAMES}
    for measure in (search_quality, recall_at_k, map_at_r):
        with pytest.raises(UsageError, match=message):
            measure(**{**asked, **change})


def test_masks_and_groups_of_queries():
    found = Found(recall=np.eye(5)[:4], map_at_r=np.array([1.0, 0, np.nan, 1]), gallery=30)
    assert found.summary(np.array([True, False, False, True]))["map_at_r"] == 1
    for wrong in ([1, 0, 0, 1], np.array([0, 3]), np.array(["yes"] * 4)):
        with pytest.raises(UsageError, match="chosen must be bool"):
            found.summary(wrong)
    with pytest.raises(UsageError, match="chosen of shape"):
        found.summary(np.array([True, False]))
    assert set(found.groups([1, 2, 1, 1])) == {"1", "2"}
    for wrong in (np.array([1.0, np.nan, 1, 1]), np.array(["a", None, "a", "b"], object), ["a"]):
        with pytest.raises(UsageError, match="groups"):
            found.groups(wrong)
