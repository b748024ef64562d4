"""Runs that differ in the seed alone: means, intervals over people, errors over seeds."""

import numpy as np
import pytest

from siamjax.inference.judging import Judgement, judge_queries
from siamjax.inference.seeds import Change, Judged, rows_of, standard_error, student
from siamjax.metrics.intervals import Interval


def config(seed, **options):
    return {"experiment": "e", "seed": seed, "data_fingerprint": f"f{seed}", "width": 1, **options}


def test_runs_that_differ_in_the_seed_alone_are_one_row():
    rows = rows_of(
        {
            "b1": config(1, width=2),
            "a2": config(2),
            "a0": config(0),
            "b0": config(0, width=2),
            "a1": config(1, data_fingerprint="another", workers=4, run="elsewhere"),
        }
    )
    assert [(row.name, row.runs, row.seeds) for row in rows] == [
        ("b0 (2 seeds)", ("b0", "b1"), (0, 1)),
        ("a0 (3 seeds)", ("a0", "a1", "a2"), (0, 1, 2)),
    ]
    assert rows[0].config == {"experiment": "e", "width": 2}


def test_the_same_seed_again_is_another_row():
    """The experiment's file was edited, say; and runs of format 1 may have no config at all."""
    rows = rows_of({"a": config(0), "b": config(0), "a1": config(1), "old": {}, "older": {}})
    assert [row.runs for row in rows] == [("a", "a1"), ("b",), ("old",), ("older",)]
    assert rows[2].seeds == (None,)


def judged(values, people):
    """Queries of some people; values by run."""
    return judge_queries(
        {run: {"rank1": np.asarray(one, float)} for run, one in values.items()},
        np.asarray(people),
        counts={run: {"queries": len(people), "gallery": 9} for run in values},
    )


# Of 6 people: Phi(-2.5706 sqrt(6/5)), 2.5706 the t of 5 degrees of freedom.
TAILS = [0.00243, 0.99757]
PEOPLE = ["p", "p", "q", "q", "r", "s", "t", "u"]
A0, B0 = [1, 1, 0, 0, 1, 0, 1, 0], [1, 1, 1, 0, 1, 1, 1, 0]
A1, B1 = [1, 0, 1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 0, 1, 1]


def redrawn(differences, people, draws, seed):
    """The definition: people with all their queries, drawn with replacement, one at a time."""
    rng, names, differences = (
        np.random.default_rng(seed),
        sorted(set(people)),
        np.asarray(differences),
    )
    means = []
    for _ in range(draws):
        drawn = rng.choice(names, len(names))
        rows = np.concatenate([np.flatnonzero(np.asarray(people) == name) for name in drawn])
        means.append(differences[rows].mean())
    return np.asarray(means)


def test_one_run_against_one():
    rows = rows_of({"a": config(0), "b": config(0, width=2)})
    both = Judged([judged({"a": A0, "b": B0}, PEOPLE)])
    change = both.change("rank1", rows[1], rows[0])
    assert (change.value, change.error, change.seeds) == (2 / 8, None, 1)
    drawn = redrawn(np.subtract(B0, A0), PEOPLE, 4000, 5)
    np.testing.assert_allclose(change.interval, np.quantile(drawn, TAILS), atol=0.03)
    back = both.change("rank1", rows[0], rows[1])
    assert back.value == -change.value
    np.testing.assert_allclose(back.interval, [-change.interval.high, -change.interval.low])
    whole = both.mean(rows)
    alone = judged({"a": A0, "b": B0}, PEOPLE)
    assert whole.results == alone.results
    assert whole.intervals == alone.intervals
    assert whole.over == alone.over
    # The difference of the rows is the change, so that tables of judgements can be used.
    assert whole.difference("rank1", "b", "a") == (change.value, change.interval)


def test_seeds_with_people_of_their_own():
    """Differences 2/8 and 2/8 + ... of two tests: their mean, and both kinds of doubt."""
    others = [name.upper() for name in PEOPLE]
    tests = [judged({"a0": A0, "b0": B0}, PEOPLE), judged({"a1": A1, "b1": B1}, others)]
    rows = rows_of(
        {"a0": config(0), "a1": config(1), "b0": config(0, width=2), "b1": config(1, width=2)}
    )
    both = Judged(tests)
    whole = both.mean(rows)
    a, b = "a0 (2 seeds)", "b0 (2 seeds)"
    assert whole.results[a] == {"rank1": (4 / 8 + 5 / 8) / 2, "queries": 8, "gallery": 9}
    assert whole.results[b]["rank1"] == (6 / 8 + 7 / 8) / 2
    ends = [one.interval(f"a{n}", "rank1") for n, one in enumerate(tests)]
    assert whole.interval(a, "rank1") == pytest.approx(np.mean(ends, axis=0))
    change = both.change("rank1", rows[1], rows[0])
    assert change.value == 2 / 8
    assert change.error == 0.0
    assert both.change("rank1", rows[0], rows[1]).seeds == 2
    # The tests are independent: the draws' variances add up.
    drawn = both.drawn(rows[1].runs, "rank1") - both.drawn(rows[0].runs, "rank1")
    parts = [
        one.draws[f"b{n}"]["rank1"] - one.draws[f"a{n}"]["rank1"] for n, one in enumerate(tests)
    ]
    assert np.var(drawn) == pytest.approx(sum(map(np.var, parts)) / 4, rel=0.1)
    one_by_one = np.corrcoef(*parts)[0, 1]
    assert whole.over == "6 people, 8 queries in each of 2 tests"
    assert abs(one_by_one) > 0.1  # as they come they are not: draw d takes the same places


def test_seeds_on_one_test_share_its_people():
    same = judged({"a0": A0, "a1": A1, "b0": B0, "b1": B1}, PEOPLE)
    rows = rows_of(
        {"a0": config(0), "a1": config(1), "b0": config(0, width=2), "b1": config(1, width=2)}
    )
    both = Judged([same])
    change = both.change("rank1", rows[1], rows[0])
    mean = (np.subtract(B0, A0) + np.subtract(B1, A1)) / 2
    drawn = redrawn(mean, PEOPLE, 4000, 5)
    np.testing.assert_allclose(change.interval, np.quantile(drawn, TAILS), atol=0.03)
    assert both.mean(rows).over == "6 people, 8 queries"


def test_who_is_paired_with_whom():
    """Equal seeds first, then what is left on the same test, nothing twice."""
    tests = [judged(dict.fromkeys(("a0", "a1", "a2", "b1", "b3"), A0), PEOPLE)]
    tests.append(judged(dict.fromkeys(("a5", "b6"), A0), PEOPLE[::-1]))
    rows = rows_of(
        {
            **{f"a{seed}": config(seed) for seed in (0, 1, 2, 5)},
            **{f"b{seed}": config(seed, width=2) for seed in (1, 3, 6)},
        }
    )
    both = Judged(tests)
    assert both.pairs(*rows) == [("a1", "b1"), ("a0", "b3"), ("a5", "b6")]
    assert both.pairs(*rows[::-1]) == [("b1", "a1"), ("b3", "a0"), ("b6", "a5")]
    alone = rows_of({"a0": config(0), "b6": config(6, width=2)})
    assert both.pairs(*alone) == []
    assert both.change("rank1", *alone) is None
    assert both.change("queries", *rows) is None  # no draws
    assert both.change("auc", *rows) is None


def test_a_measure_that_one_seed_lacks_has_no_mean():
    tests = [judged({"a0": A0}, PEOPLE), judged({"a1": A1}, PEOPLE)]
    tests[1].results["a1"]["rank1"] = None
    (row,) = rows_of({"a0": config(0), "a1": config(1)})
    whole = Judged(tests).mean([row])
    assert whole.results[row.name]["rank1"] is None
    assert whole.interval(row.name, "rank1") is None


def test_perfect_seeds_are_not_certain():
    """No draw has an error, but people who were not drawn may be worse."""
    tests = [judged({f"a{seed}": [1] * 8}, PEOPLE) for seed in (0, 1)]
    (row,) = rows_of({"a0": config(0), "a1": config(1)})
    interval = Judged(tests).mean([row]).interval(row.name, "rank1")
    assert interval == tests[0].interval("a0", "rank1")
    assert interval.low < 0.9


def test_an_error_over_seeds():
    """.91 .92 .93: deviation .01, error .01 / sqrt 3 = .005774, t(2) = 4.303: .92 +- .0248."""
    error = standard_error([0.91, 0.92, 0.93])
    assert error == pytest.approx(0.005774, abs=1e-6)
    assert student(0.92, error, 3) == pytest.approx((0.92 - 0.0248, 0.92 + 0.0248), abs=1e-4)
    assert standard_error([0.9]) is None


@pytest.mark.parametrize(
    ("low", "high", "error", "clear"),
    [
        (0.01, 0.09, None, True),
        (-0.09, -0.01, None, True),
        (0.0, 0.09, None, False),
        (0.01, 0.09, 0.01, True),  # .05 +- .0430
        (0.01, 0.09, 0.012, False),  # .05 +- .0516
        (-0.01, 0.09, 0.001, False),
    ],
)
def test_a_clear_change_is_clear_over_people_and_over_seeds(low, high, error, clear):
    value = (low + high) / 2
    assert Change(value, Interval(low, high), error, 3 if error else 1).clear is clear


def test_nothing_is_clear_of_few_people():
    change = Change(0.05, Interval(0.04, 0.06), None, 1)
    assert change._replace(people=6).clear
    assert not change._replace(people=5).clear


def test_judgements_without_draws():
    test = Judgement(results={"a": {"auc": 0.5}, "b": {"auc": 0.75}})
    rows = rows_of({"a": config(0), "b": config(0, width=2)})
    assert Judged([test]).change("auc", *rows) is None
    assert Judged([test]).mean(rows).results["b"] == {"auc": 0.75}
