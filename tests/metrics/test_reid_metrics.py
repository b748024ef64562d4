from fractions import Fraction
from itertools import pairwise, permutations
from math import comb

import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.metrics import reid as r

# one query; the matches are at the ranks 2, 3 and 5
SCORE = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]])
MATCH = np.array([[False, True, True, False, True]])
A, ABA = np.array(["a"]), np.array(["a", "b", "a"])


def precision_of(found):
    """Mean of the precision at the matches of a list of True and False."""
    at = [place for place, hit in enumerate(found, 1) if hit]
    return sum(sum(found[:place]) / place for place in at) / len(at)


def trapezoid_of(found):
    """The Market-1501 code as it goes down the list."""
    area, hits, old_recall, old_precision = 0.0, 0, 0.0, 1.0
    for place, hit in enumerate(found, 1):
        hits += hit
        recall, precision = hits / sum(found), hits / place
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def penalty_of(found):
    return sum(found) / max(place for place, hit in enumerate(found, 1) if hit)


def cmc_of(found, ranks):
    return [float(any(found[:k])) for k in range(1, ranks + 1)]


def orders(score, match):
    """The list under every order of the gallery that does not contradict the score."""
    for order in permutations(range(len(score))):
        if all(score[a] >= score[b] for a, b in pairwise(order)):
            yield [bool(match[i]) for i in order]


def all_measures(score, match, ranks, **options):
    return [
        *r.cmc(score, match, ranks=ranks, **options).curve,
        r.mean_average_precision(score, match, **options),
        r.mean_average_precision(score, match, definition="trapezoid", **options),
        r.inverse_negative_penalty(score, match, **options),
    ]


def oracle_of(found, ranks):
    return [*cmc_of(found, ranks), precision_of(found), trapezoid_of(found), penalty_of(found)]


def test_by_hand():
    np.testing.assert_array_equal(r.cmc(SCORE, MATCH, ranks=5).curve, [0, 1, 1, 1, 1])
    # precision at the hits: 1/2, 2/3, 3/5; their mean is (45 + 60 + 54) / 270
    assert r.average_precision(SCORE, MATCH) == pytest.approx(159 / 270)
    # (0 + 1/2)/2 + (1/2 + 2/3)/2 + (2/4 + 3/5)/2 = 15/60 + 35/60 + 33/60, over 3
    trapezoid = r.average_precision(SCORE, MATCH, definition="trapezoid")
    assert trapezoid == pytest.approx(83 / 180)
    assert r.inverse_negative_penalty(SCORE, MATCH) == pytest.approx(3 / 5)


def test_perfect_list_is_1_and_definitions_differ_elsewhere():
    perfect = np.array([[True, True, False]])
    score = np.array([[3.0, 2.0, 1.0]])
    for definition in ("precision", "trapezoid"):
        value = r.average_precision(score, perfect, definition=definition)
        assert value == 1.0
    # one match at rank 2: 1/2, and (0 + 1/2) / 2
    second = np.array([[False, True, False]])
    assert r.average_precision(score, second) == 0.5
    assert r.average_precision(score, second, definition="trapezoid") == 0.25


@pytest.mark.parametrize("ties", ["expected", "pessimistic"])
def test_ties_against_every_order(rng, ties):
    for _ in range(60):
        n = int(rng.integers(1, 7))
        score = rng.integers(0, rng.integers(1, 4), n).astype(float)
        match = rng.random(n) < 0.5
        match[rng.integers(n)] = True
        if ties == "expected":
            lists = list(orders(score, match))
        else:
            order = sorted(range(n), key=lambda i, s=score, m=match: (-s[i], m[i]))
            lists = [[bool(match[i]) for i in order]]
        expected = np.mean([oracle_of(found, n + 1) for found in lists], axis=0)
        got = all_measures(score[None], match[None], n + 1, ties=ties)
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_tie_by_hand():
    """Scores 2, 1, 1, 1, 0 with matches 3rd and 4th: two of the places 2, 3, 4 are matches.

    The lists: FTTFF, FTFTF, FFTTF. Rank 2: 2/3. Precision: (1/2 + 2/3) / 2, (1/2 + 2/4) / 2,
    (1/3 + 2/4) / 2, mean (14 + 12 + 10) / 72 = 1/2. mINP: 2/3, 2/4, 2/4, mean 5/9.
    """
    score, match = np.array([[2.0, 1, 1, 1, 0]]), np.array([[False, False, True, True, False]])
    np.testing.assert_allclose(r.cmc(score, match, ranks=4).curve, [0, 2 / 3, 1, 1])
    assert r.mean_average_precision(score, match) == pytest.approx(1 / 2)
    assert r.inverse_negative_penalty(score, match) == pytest.approx(5 / 9)
    hard = all_measures(score, match, 4, ties="pessimistic")
    np.testing.assert_allclose(hard, oracle_of([False, False, True, True, False], 4))


def test_constant_score_is_chance():
    gallery, matches = 300, 7
    match = np.zeros((2, gallery), bool)
    match[0, :matches] = match[1, -matches:] = True  # where they stand in the array is nothing
    score = np.full(match.shape, 0.25, np.float32)
    chance = [
        float(1 - Fraction(comb(gallery - k, matches), comb(gallery, matches)))
        for k in range(1, gallery + 1)
    ]
    np.testing.assert_allclose(r.cmc(score, match, ranks=gallery).curve, chance, atol=1e-14)
    precision = r.average_precision(score, match)
    assert precision[0] == precision[1]
    # the mean over lists drawn at random: 20,000 leave a standard error of 0.0003
    rng = np.random.default_rng(1)
    ranks = np.sort(rng.permuted(np.tile(np.arange(1, 301), (20000, 1)), axis=1)[:, :matches])
    assert precision[0] == pytest.approx((np.arange(1, 8) / ranks).mean(), abs=0.0015)
    assert r.inverse_negative_penalty(score, match) == pytest.approx(
        (7 / ranks[:, -1]).mean(), 0.01
    )
    assert r.cmc(score, match, ties="pessimistic", ranks=293).curve.max() == 0


def test_large_gallery_against_loops(rng):
    score = rng.permuted(np.tile(np.arange(1500, dtype=np.float32), (3, 1)), axis=1)  # no ties
    match = rng.random(score.shape) < 0.02
    lists = [list(m[np.argsort(-s)]) for s, m in zip(score, match, strict=True)]
    expected = np.mean([oracle_of(found, 60) for found in lists], axis=0)
    np.testing.assert_allclose(all_measures(score, match, 60), expected, rtol=1e-12)


@pytest.mark.parametrize("ties", ["expected", "pessimistic"])
def test_order_of_gallery_and_monotone_change_of_score_change_nothing(rng, ties):
    score, match = rng.integers(0, 6, (5, 20)).astype(float), rng.random((5, 20)) < 0.3
    match[:, 0] = True
    valid = rng.random((5, 20)) < 0.8
    order = rng.permutation(20)
    values = r.summary(score, match, valid=valid, ties=ties)
    assert values == r.summary(np.exp(2 * score), match, valid=valid, ties=ties)
    moved = r.summary(score[:, order], match[:, order], valid=valid[:, order], ties=ties)
    assert values == moved
    assert values != r.summary(-score, match, valid=valid, ties=ties)


def test_junk_is_as_if_it_were_not_there(rng):
    score, match = rng.integers(0, 6, (1, 20)).astype(float), rng.random((1, 20)) < 0.3
    valid = rng.random((1, 20)) < 0.6
    valid[0, match.argmax()] = True
    got = all_measures(score, match, 8, valid=valid)
    np.testing.assert_array_equal(got, all_measures(score[valid][None], match[valid][None], 8))
    assert got != all_measures(score, match, 8)


def test_market_rule():
    query_identity, query_camera = np.array(["0005", "0007"]), np.array([1, 2])
    gallery_identity = np.array(["0005", "-1", "0000", "0005", "0007"])
    gallery_camera = np.array([1, 3, 1, 2, 2])
    valid = r.market_valid(query_identity, gallery_identity, query_camera, gallery_camera)
    # query 0: the first is its own image; -1 is junk for all; 0000 of its camera stays
    # query 1: the last is its own image, so that it has no match
    assert valid.tolist() == [[False, False, True, True, True], [True, False, True, True, False]]
    match = r.same_identity(query_identity, gallery_identity)
    score = np.array([[0.9, 0.8, 0.7, 0.6, 0.5]] * 2)
    # what is left for query 0: 0000 (wrong), 0005 (right), 0007 (wrong): 1/2
    np.testing.assert_array_equal(r.average_precision(score, match, valid=valid), [0.5, np.nan])
    assert r.cmc(score, match, valid=valid, ranks=3).curve.tolist() == [0, 1, 1]
    assert r.cmc(score, match, valid=valid).queries == 1
    assert r.mean_average_precision(score, match, valid=valid) == 0.5
    assert r.inverse_negative_penalty(score, match, valid=valid) == 0.5
    kept = r.market_valid(query_identity, gallery_identity, query_camera, gallery_camera, junk=None)
    assert kept.tolist() == [[False, True, True, True, True], [True, True, True, True, False]]
    query_number, gallery_number = query_identity.astype(int), gallery_identity.astype(int)
    again = r.market_valid(query_number, gallery_number, query_camera, gallery_camera, junk=-1)
    np.testing.assert_array_equal(again, valid)


def test_same_identity_takes_objects_and_numbers():
    names = np.array(["a", "b", "a"], object)
    assert r.same_identity(names[:1], names).tolist() == [[True, False, True]]
    assert r.same_identity(np.array([3]), np.array([3, 4])).tolist() == [[True, False]]


def test_single_shot_by_hand():
    """One query; its two gallery images score 3 and 1, the other person's 2.

    With the first drawn rank 1 is 1, with the second 0; rank 2 is always 1.
    """
    score = np.array([[3.0, 2.0, 1.0]])
    shots = r.single_shot(score, A, ABA, trials=200, ranks=2)
    share = shots.mean[0]
    assert share == pytest.approx(0.5, abs=0.12)  # 3.4 standard errors
    # of zeros and ones the sample variance is p (1 - p) n / (n - 1)
    assert shots.standard_deviation[0] == pytest.approx(np.sqrt(share * (1 - share) * 200 / 199))
    assert (shots.mean[1], shots.standard_deviation[1]) == (1, 0)
    assert shots.gallery == 2
    again = r.single_shot(score, A, ABA, trials=200, ranks=2)
    assert share == again.mean[0]
    other = [r.single_shot(score, A, ABA, trials=9, seed=seed).mean[0] for seed in range(6)]
    assert len(set(other)) > 1


def test_single_shot_trials_are_the_first_of_more(rng):
    score, names = rng.normal(size=(12, 30)), rng.permutation(np.repeat(np.arange(6), 5))
    queries = np.repeat(np.arange(6), 2)
    one = r.single_shot(score, queries, names, trials=1)
    two = r.single_shot(score, queries, names, trials=2)
    assert np.isnan(one.standard_deviation).all()
    # of two values a and b: mean (a + b) / 2, deviation |a - b| / sqrt 2
    gap = np.abs(one.mean - two.mean)
    np.testing.assert_allclose(two.standard_deviation, gap * np.sqrt(2), atol=1e-12)
    assert gap.max() > 0
    # Each query's own mean over the trials; without ties a trial is 0 or 1.
    assert set(one.hits.ravel()) == {0, 1}
    assert set(two.hits.ravel()) == {0, 0.5, 1}
    for shots in (one, two):
        np.testing.assert_allclose(shots.hits.mean(axis=0), shots.mean)


def test_single_shot_draws_each_image_equally_often():
    # the query's images score 1, 2, 3 and the other person's 2.5, 1.5, 0.5 are always there
    score = np.array([[1.0, 2.0, 3.0, 2.5, 1.5, 0.5]])
    distractor = np.arange(6) > 2
    shots = r.single_shot(score, A, np.repeat(["a", "b"], 3), distractor=distractor, trials=900)
    assert shots.gallery == 4
    np.testing.assert_allclose(shots.mean[:4], [1 / 3, 2 / 3, 1, 1], atol=0.05)


def test_single_shot_distractors_match_nobody():
    score = np.array([[3.0, 2.0, 1.0]])
    marked = np.array([True, False, False])
    shots = r.single_shot(score, A, np.array(["a", "a", "b"]), distractor=marked, ranks=3)
    assert shots.mean.tolist() == [0, 1, 1]
    assert shots.gallery == 3


def test_single_shot_constant_score_is_chance():
    score = np.zeros((10, 50))
    shots = r.single_shot(score, np.arange(10), np.repeat(np.arange(10), 5), ranks=10)
    np.testing.assert_allclose(shots.mean, np.arange(1, 11) / 10)
    np.testing.assert_allclose(shots.standard_deviation, 0, atol=1e-12)
    hard = r.single_shot(
        score, np.arange(10), np.repeat(np.arange(10), 5), ranks=10, ties="pessimistic"
    )
    assert hard.mean.tolist() == [0] * 9 + [1]


def test_summary():
    score = np.concatenate([SCORE, SCORE])
    match = np.concatenate([MATCH, np.zeros_like(MATCH)])
    values = r.summary(score, match)
    assert list(values) == [
        *("rank1", "rank5", "rank10", "rank20", "map", "map_trapezoid", "minp"),
        *("queries", "queries_without_match", "gallery"),
    ]
    assert (values["rank1"], values["rank5"]) == (0, 1)
    assert values["rank10"] is None  # of 5 images
    assert values["map"] == pytest.approx(159 / 270)
    assert values["map_trapezoid"] == pytest.approx(83 / 180)
    assert values["minp"] == pytest.approx(3 / 5)
    assert (values["queries"], values["queries_without_match"], values["gallery"]) == (1, 1, 5)
    valid = np.tile([False, True, True, True, True], (2, 1))
    values = r.summary(score, match, valid=valid)
    assert (values["rank1"], values["rank5"], values["gallery"]) == (1, None, 4)


@pytest.mark.parametrize("ties", ["expected", "pessimistic"])
def test_summary_passes_its_options_on(rng, ties):
    score, match = rng.integers(0, 4, (6, 30)).astype(float), rng.random((6, 30)) < 0.3
    options = {"valid": rng.random((6, 30)) < 0.7, "ties": ties}
    values = r.summary(score, match, **options)
    alone = all_measures(score, match, 20, **options)
    assert [values[f"rank{k}"] for k in (1, 5, 10, 20)] == [alone[k - 1] for k in (1, 5, 10, 20)]
    for name, value in zip(("map", "map_trapezoid", "minp"), alone[20:], strict=True):
        assert values[name] == pytest.approx(value)


@pytest.mark.parametrize(
    ("score", "match", "options", "message"),
    [
        (SCORE, MATCH.astype(int), {}, "match must be bool"),
        (SCORE, MATCH, {"valid": MATCH.astype(float)}, "valid must be bool"),
        (SCORE, MATCH[:, :4], {}, r"score \(1, 5\) and match \(1, 4\)"),
        (SCORE, MATCH, {"valid": MATCH[0]}, r"valid \(5,\)"),
        (SCORE[0], MATCH[0], {}, r"must both be \(queries, gallery\)"),
        (np.where(MATCH, np.inf, SCORE), MATCH, {}, r"3 of 5 values .* is inf at \(0, 1\)"),
        (
            np.where(MATCH, SCORE, np.nan),
            MATCH,
            {},
            r"score: 2 of 5 .* is nan at \(0, 0\)",
        ),
        (SCORE, np.zeros_like(MATCH), {}, "none of the 1 queries has a valid match"),
        (SCORE, MATCH, {"valid": ~MATCH}, "none of the 1 queries has a valid match"),
        (SCORE, MATCH, {"ties": "argsort"}, "ties argsort: choose one of"),
    ],
)
def test_bad_input(score, match, options, message):
    for measure in (r.cmc, r.mean_average_precision, r.inverse_negative_penalty, r.summary):
        with pytest.raises(UsageError, match=message):
            measure(score, match, **options)


def test_bad_options():
    for definition in ("area", ""):
        with pytest.raises(UsageError, match=f"definition {definition}: choose one of"):
            r.average_precision(SCORE, MATCH, definition=definition)  # pyright: ignore
    with pytest.raises(UsageError, match="ranks 0 must be at least 1"):
        r.cmc(SCORE, MATCH, ranks=0)
    with pytest.raises(UsageError, match="both as text or both as whole numbers"):
        r.same_identity(np.array(["1"]), np.array([1]))
    with pytest.raises(UsageError, match=r"queries of shape \(1, 1\); give one for each image"):
        r.same_identity(np.array([["1"]]), np.array(["1"]))
    with pytest.raises(UsageError, match=r"\(1,\) and \(1,\) do not fit .*one for each image"):
        r.market_valid(A, ABA, np.array([1]), np.array([1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_identity": ["z"]}, "query 0 shows z"),
        ({"distractor": np.array([True, False, True])}, "query 0 shows a"),
        ({"distractor": np.array([1, 0, 0])}, "distractor must be bool"),
        (
            {"distractor": np.array([True])},
            r"distractor of shape \(1,\); give one",
        ),
        ({"trials": 0}, "trials 0 must be"),
        ({"query_identity": ["a", "b"]}, r"score \(1, 3\)"),
    ],
)
def test_bad_single_shot(options, message):
    values = {"query_identity": A, "gallery_identity": ABA, **options}
    with pytest.raises(UsageError, match=message):
        r.single_shot(np.ones((1, 3)), **values)


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        ([1.0, 2.0], ["1", "2"], "identities of the queries: 2 of 2"),
        ([1, 2], ["1", "2"], "both as text or both as whole numbers"),
        ([1, np.nan], [1, 2], "identities of the queries: 1 of 2 .* nan at 1"),
        (["a"], np.array(["a", None], object), "gallery: 1 of 2 .* None at 1"),
        (np.array([1, "1"], object), [1, 2], "queries: 1 of 2 .* '1' at 1"),
        (["a", ""], ["a"], "queries: 1 of 2 .* '' at 1"),
        ([True], [1], "queries: 1 of 1 .* True at 0"),
    ],
)
def test_identities_without_a_certain_equal_are_refused(query, gallery, message):
    for what in (
        lambda: r.same_identity(query, gallery),
        lambda: r.market_valid(query, gallery, [1] * len(query), [2] * len(gallery)),
        lambda: r.single_shot(np.ones((len(query), len(gallery))), query, gallery),
    ):
        with pytest.raises(UsageError, match=message):
            what()


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        ([1], ["1", "2", "2"], "cameras are int64 for the queries, .* both as text or"),
        ([1.0], [1, 2, 2], "cameras of the queries: 1 of 1"),
        ([1], [1, 2, np.nan], "cameras of the gallery: 1 of 3 .* nan at 2"),
        (["a"], np.array(["a", "b", None], object), "cameras of the gallery: 1 of 3"),
    ],
)
def test_cameras_without_a_certain_equal_are_refused(query, gallery, message):
    with pytest.raises(UsageError, match=message):
        r.market_valid(A, ABA, query, gallery)


def test_cameras_may_have_names_and_numbers_may_be_of_any_width():
    valid = r.market_valid(A, ABA, ["left"], ["left", "left", "right"])
    np.testing.assert_array_equal(valid, [[False, True, True]])
    big = 2**53 + 1  # would be equal to its neighbour as a float
    match = r.same_identity(np.array([big], np.uint64), np.array([big - 1, big], np.int64))
    np.testing.assert_array_equal(match, [[False, True]])
    match = r.same_identity(np.array([b"a"]), np.array(["a", "b"]))
    np.testing.assert_array_equal(match, [[True, False]])


def test_the_score_of_junk_need_not_be_finite():
    score = np.array([[np.nan, 0.8, -np.inf, 0.6]])
    match, valid = np.array([[True, False, False, True]]), np.array([[False, True, False, True]])
    np.testing.assert_array_equal(r.average_precision(score, match, valid=valid), [1 / 2])


def test_galleries_of_nothing():
    nothing = np.zeros((2, 0))
    assert np.isnan(r.average_precision(nothing, nothing.astype(bool))).all()
    for score in (nothing, nothing.T):
        with pytest.raises(UsageError, match=r"none of the [02] queries has a valid match"):
            r.cmc(score, score.astype(bool))
