import time

import numpy as np
import oracles
import pytest
from scipy import special

from siamjax.errors import UsageError
from siamjax.metrics import bootstrap, verification
from siamjax.metrics.bootstrap import PairBootstrap, QueryBootstrap
from siamjax.metrics.intervals import FARS, people_rate


@pytest.fixture
def pairs(rng):
    """Score, same, first, second of 12 people; the scores have many ties."""
    first, second = rng.integers(0, 12, (2, 400))
    second = np.where(rng.random(400) < 0.4, first, second)
    score = np.round(rng.normal(size=400) + (first == second), 1)
    return score, first == second, first, second


def by_hand(score, same, threshold):
    """The measures of pairs, as :mod:`siamjax.metrics.verification` has them."""
    curve = verification.roc(score, same)
    fars = {
        f"tar_at_far_{far:g}": curve.true_accept[curve.false_accept <= far + 1e-12].max()
        for far in FARS
    }
    right = np.mean(score[same] >= threshold), np.mean(score[~same] < threshold)
    return {"auc": verification.auc(curve), "eer": verification.eer(curve), **fars}, right


def test_weights_of_one_give_the_measures(pairs, monkeypatch):
    score, same, first, second = pairs
    monkeypatch.setattr(
        bootstrap, "_weights", lambda units, *_: iter([np.ones((units + 1, 3), np.int32)])
    )
    drawn = PairBootstrap(same, first, second, draws=3).measures(score, threshold=0.5)
    values, _ = by_hand(score, same, 0.5)
    values["accuracy"] = verification.accuracy(score, same, 0.5)
    assert set(values) == set(drawn)
    for name, value in values.items():
        assert drawn[name] == pytest.approx([value] * 3), name
    summary = verification.summary(score, same, threshold=0.5)
    assert set(drawn) < set(summary)


def test_each_draw_is_the_sample_of_its_people(pairs, monkeypatch):
    """A pair of two people w_i w_j times, a genuine one w_i times, nobody with his own copy."""
    score, same, first, second = pairs
    weights, original = [], bootstrap._weights

    def recorded(*arguments):
        for weight in original(*arguments):
            weights.append(weight)
            yield weight

    monkeypatch.setattr(bootstrap, "_weights", recorded)
    drawn = PairBootstrap(same, first, second, draws=8, seed=3).measures(score, threshold=0.5)
    for n, weight in enumerate(weights[0].T):
        assert weight[:-1].sum() == 12
        sample = oracles.vertex_sample(score, same, first, second, weight.tolist())
        values, (accepted, rejected) = by_hand(*sample, 0.5)
        assert sample[1].sum() == weight[first[same]].sum()
        for name, value in values.items():
            assert drawn[name][n] == pytest.approx(value), name
        # Both kinds keep their shares of the list.
        share = same.mean()
        accuracy = share * accepted + (1 - share) * rejected
        assert drawn["accuracy"][n] == pytest.approx(accuracy)


def test_what_changes_nothing(pairs):
    score, same, first, second = pairs
    one = PairBootstrap(same, first, second, draws=50).measures(score)
    order = np.random.default_rng(0).permutation(score.size)
    others = [
        PairBootstrap(same, second, first, draws=50).measures(np.exp(2 * score)),
        PairBootstrap(same[order], first[order], second[order], draws=50).measures(score[order]),
    ]
    for other in others:
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)
    again = PairBootstrap(same, first, second, draws=50, seed=1).measures(score)
    assert (again["auc"] != one["auc"]).any()


def test_scores_of_one_object_are_paired(pairs, rng):
    """Of a score with a little noise, the difference varies much less than each."""
    score, same, first, second = pairs
    sampled = PairBootstrap(same, first, second, draws=200)
    one = sampled.measures(score)["auc"]
    other = sampled.measures(score + rng.normal(0, 0.05, score.size))["auc"]
    assert np.std(one - other) < 0.3 * np.std(one)


def test_samples_without_a_kind_of_pair_are_drawn_again():
    """Of two people half of the samples show one alone; all 500 draws have both."""
    first, second = np.array([0, 0, 1, 1, 0, 1]), np.array([0, 0, 1, 1, 1, 0])
    score = np.array([3.0, 1.0, 2.0, 0.5, 1.5, 0.0])
    drawn = PairBootstrap(first == second, first, second, draws=500).measures(score)
    assert {len(values) for values in drawn.values()} == {500}
    assert all(np.isfinite(values).all() for values in drawn.values())


def test_without_an_error_the_rule_of_3_holds_over_people(rng):
    first, second = np.triu_indices(20, 0)
    score = rng.random(first.size) + 5 * (first == second)
    bound = 0.025 ** (1 / 20)
    found = PairBootstrap(first == second, first, second, draws=50).intervals(score, threshold=3.0)
    assert found["auc"] == pytest.approx((bound, 1))
    assert found["eer"] == pytest.approx((0, 1 - bound))
    assert found["tar_at_far_0.01"] == pytest.approx((bound, 1))
    assert found["accuracy"] == pytest.approx((0.025 ** (1 / 210), 1))  # 190 pairs of people, 20


def test_intervals_are_of_log_odds_with_the_unseen(pairs):
    """Against leaving out each person by hand."""
    score, same, first, second = pairs
    sampled = PairBootstrap(same, first, second, draws=100)
    without = []
    for who in range(12):
        stay = (first != who) & (second != who)
        without.append(by_hand(score[stay], same[stay], 0.5)[0])
    values, drawn = by_hand(score, same, 0.5)[0], sampled.measures(score, threshold=0.5)
    found = sampled.intervals(score, threshold=0.5, drawn=drawn)
    assert list(found) == list(drawn)
    for name in ("auc", "eer", "tar_at_far_0.1"):
        away = np.array([one[name] for one in without])
        squares = (away - away.mean()) ** 2
        factor = 1 + squares.max() / squares.sum()
        freedom = np.clip(24 / (12 * (squares**2).sum() / squares.sum() ** 2 - 1), 1, 11)
        p = values[name]
        half = special.stdtrit(freedom, 0.975) * drawn[name].std() * factor**0.5 / (p * (1 - p))
        odds = np.log(p / (1 - p)) + np.array([-half, half])
        assert found[name] == pytest.approx(tuple(1 / (1 + np.exp(-odds))), rel=1e-9), name
    wrong = (score >= 0.5) != same
    low, high = people_rate(wrong, first, second).interval
    assert found["accuracy"] == pytest.approx((1 - high, 1 - low))


def test_near_1_the_log_odds_do_not_reach_from_one_end_to_the_other():
    """15 of 190 pairs of two people stand above all of one person's own: some draws lose these.

    Wilson's bounds x are where (p - x)^2 = t^2 x (1 - x) / n, with n = p (1 - p) / variance.
    """
    one, other = np.triu_indices(20, 1)
    who = np.repeat(np.arange(20), 20)
    first, second = np.append(who, one), np.append(who, other)
    same = first == second
    score = np.where(same, np.where(first == 19, 5.0, 9.0), 0.0)
    score[np.flatnonzero(~same)[:15]], score[0] = 6.0, -1.0
    sampled = PairBootstrap(same, first, second)
    p, drawn = 399 / 400, sampled.measures(score)
    assert by_hand(score, same, 0.0)[0]["tar_at_far_0.1"] == p
    without = []
    for person in range(20):
        stay = (first != person) & (second != person)
        without.append(by_hand(score[stay], same[stay], 0.0)[0]["tar_at_far_0.1"])
    squares = np.square(without - np.mean(without))
    variance = drawn["tar_at_far_0.1"].var() * (1 + squares.max() / squares.sum())
    freedom = np.clip(40 / (20 * (squares**2).sum() / squares.sum() ** 2 - 1), 1, 19)
    t = special.stdtrit(freedom, 0.975)
    assert t * variance**0.5 > 4 * p * (1 - p)
    low, high = sampled.intervals(score, drawn=drawn)["tar_at_far_0.1"]
    assert 0.01 < low < np.quantile(drawn["tar_at_far_0.1"], 0.025)
    assert (p - low) ** 2 == pytest.approx(t**2 * low * (1 - low) * variance / (p * (1 - p)))
    assert high == np.quantile(drawn["tar_at_far_0.1"], 0.975) == 1  # some draws are without him


def test_people_that_are_not_known(pairs):
    """Pairs are drawn one by one: the standard deviation is that of independent pairs."""
    score, same, _, _ = pairs
    sampled = PairBootstrap(same, None, None, draws=400)
    assert (sampled.people, sampled.impostors) == (None, (~same).sum())
    drawn = sampled.measures(score, threshold=0.5)
    accepted, rejected = np.mean(score[same] >= 0.5), np.mean(score[~same] < 0.5)
    share = same.mean()
    variance = share * accepted * (1 - accepted) + (1 - share) * rejected * (1 - rejected)
    assert drawn["accuracy"].std() == pytest.approx(np.sqrt(variance / 400), rel=0.15)
    low, high = sampled.intervals(score, drawn=drawn)["auc"]
    assert low < by_hand(score, same, 0.5)[0]["auc"] < high


def test_impostors_are_pairs_of_people(pairs):
    _, same, first, second = pairs
    between = np.stack([first[~same], second[~same]], axis=1).tolist()
    expected = {frozenset(pair) for pair in between}
    assert PairBootstrap(same, first, second).impostors == len(expected)


def test_constant_score_is_chance():
    first, second = np.triu_indices(6, 0)
    found = PairBootstrap(first == second, first, second, draws=20).intervals(np.zeros(21))
    assert found["auc"] == found["eer"] == (0.5, 0.5)
    assert found["tar_at_far_0.1"] == pytest.approx((0, 1 - 0.025 ** (1 / 6)))


def test_ten_thousand_pairs_take_less_than_a_second(rng):
    """Processor time of one core, all measures, 2,000 draws."""
    first, second = rng.integers(0, 40, (2, 10_000))
    second = np.where(rng.random(10_000) < 0.5, first, second)
    score = rng.normal(size=10_000) + (first == second)
    sampled = PairBootstrap(first == second, first, second)
    started = time.thread_time()
    found = sampled.intervals(score, threshold=0.5)
    assert time.thread_time() - started < 1
    assert len(found) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"same": np.ones(6, bool)}, "both kinds"),
        ({"same": np.array([1, 1, 0, 0, 0, 0])}, "bool"),
        ({"first": list("abcdex")}, "pair 5 is called same = True, its identities not"),
        ({"second": None}, "both sides"),
        ({"draws": 0}, "at least 1"),
        ({"score": np.array([1, 2, 3, np.nan, 5, 6.0])}, "first is nan at 3"),
        ({"score": np.arange(5.0)}, "one for each pair"),
    ],
)
def test_refused(change, message):
    given = {
        "same": np.array([0, 0, 1, 0, 0, 1], bool),
        "first": list("abcdef"),
        "second": list("bccaff"),
        "draws": 10,
        "score": np.arange(6.0),
        **change,
    }
    score = given.pop("score")
    with pytest.raises(UsageError, match=message):
        PairBootstrap(**given).measures(score)


def test_query_people_are_drawn_with_their_queries():
    """Hits 1111|00|1|1: rank-1 .75, linearised SE over people .2652, over queries .1531.

    4/3 (1^2 + 1.5^2 + .25^2 + .25^2) = 4.5, of which the root is 2.1213, / 8 = .2652. Fifty times
    as many people have an SE of .2652 sqrt(3/4 200/199) / sqrt(50).
    """
    hits = np.tile([1, 1, 1, 1, 0, 0, 1, 1.0], 50)
    people = np.repeat(np.arange(200), np.tile([4, 2, 1, 1], 50))
    spread = 0.2652 * np.sqrt(3 / 4 * 200 / 199 / 50)
    drawn = QueryBootstrap(people, draws=4000).measures({"rank_1": hits, "map": hits / 2})
    assert drawn["rank_1"].mean() == pytest.approx(0.75, abs=0.005)
    assert drawn["rank_1"].std() == pytest.approx(spread, rel=0.05)
    np.testing.assert_allclose(drawn["map"], drawn["rank_1"] / 2)
    alone = QueryBootstrap(None, draws=4000).measures({"rank_1": hits})["rank_1"]
    assert alone.std() == pytest.approx(0.1531 / np.sqrt(50), rel=0.05)


def test_queries_that_do_not_count():
    values = {"rank_1": np.array([1, np.nan, 0, 1, 0]), "map": np.array([0.5, 0.5, np.nan, 1, 1])}
    sampled = QueryBootstrap(list("aabbc"), draws=300)
    drawn = sampled.measures(values)
    assert {len(one) for one in drawn.values()} == {300}
    # a has 1.0 of 2 queries, b 1.0 of 1, c 1.0 of 1: the means of the ten samples of three.
    possible = {3 / (2 * a + 3 - a) for a in range(4)}
    assert {round(one, 9) for one in drawn["map"]} == {round(one, 9) for one in possible}
    found = sampled.intervals(values, drawn=drawn)
    assert found["rank_1"].low < 0.5 < found["rank_1"].high
    one = QueryBootstrap(list("ab")).intervals({"rank_1": np.array([1.0, 1.0])})
    assert one["rank_1"] == pytest.approx((0.025**0.5, 1))
    single = QueryBootstrap(list("aa")).intervals({"rank_1": np.array([1.0, 0.0])})
    assert single["rank_1"] == (0, 1)
    with pytest.raises(UsageError, match="no query"):
        sampled.measures({"rank_1": np.full(5, np.nan)})
    with pytest.raises(UsageError, match="one for each"):
        sampled.measures({"rank_1": np.zeros(4)})
