"""Results with intervals over people: against enumeration, worked values, and what is refused."""

import itertools

import numpy as np
import pytest

from siamjax.data import of_arrays
from siamjax.data.pairs import PairList, all_pairs
from siamjax.inference.judging import Difference, Judgement, judge_pairs, judge_queries
from siamjax.metrics import verification
from siamjax.metrics.intervals import Interval
from siamjax.report.tables import (
    certainty,
    chosen_measure,
    reasons,
    signed,
    table_of,
    text_of,
    verdict,
)

GREY = np.zeros((1, 1), np.uint8)


def pairs_of(people, each=2):
    images = of_arrays([GREY] * (people * each), identities=np.repeat(np.arange(people), each))
    return images, all_pairs(images, np.arange(len(images)), name="all")


def judged_pairs(people, **scores):
    images, pairs = pairs_of(people)
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=len(pairs)) + d * pairs.same for name, d in scores.items()}
    return judge_pairs(images, pairs, scores, thresholds=dict.fromkeys(scores, 1.0)), pairs, scores


def test_results_are_those_of_the_metric_and_intervals_hold_them():
    judged, pairs, scores = judged_pairs(30, network=2.0, pixels=0.5)
    plain = verification.summary(scores["network"], pairs.same, threshold=1.0)
    assert judged.results["network"] | {"tar_at_far_0.001": plain["tar_at_far_0.001"]} == plain
    for name, values in judged.results.items():
        intervals = judged.intervals[name]
        assert set(intervals) == {"auc", "eer", "accuracy", "tar_at_far_0.1", "tar_at_far_0.01"}
        for measure, (low, high) in intervals.items():
            assert 0 <= low <= values[measure] <= high <= 1
            assert low < high
    assert judged.people == 30
    assert judged.over == "30 people, 30 same and 1,740 different pairs"
    assert judged.best_baseline("auc") == "pixels"


def test_a_rate_that_people_are_too_few_to_know_has_a_reason():
    """299 pairs of two people show FAR 0.01: 25 people make 300, and 24 make 276."""
    known, unknown = ({**judged_pairs(people, network=2.0)[0].unknown} for people in (25, 24))
    assert list(known) == ["tar_at_far_0.001", "tar_at_far_0.0001"]
    assert list(unknown) == ["tar_at_far_0.01", *known]
    judged = judged_pairs(24, network=2.0)[0]
    assert judged.results["network"]["tar_at_far_0.01"] is None
    assert judged.results["network"]["tar_at_far_0.1"] is not None
    assert "tar_at_far_0.01" not in judged.intervals["network"]
    (line,) = reasons(judged)
    assert line.startswith("Not known: TAR at FAR 0.01, TAR at FAR 0.001, TAR at FAR 0.0001; ")
    assert all(number in line for number in ("299", "276", "25 people", "24 people"))
    assert "0.01" not in "".join(name for name, _ in table_of(judged)[1])


def test_a_list_that_names_nobody_says_so():
    images = of_arrays([GREY] * 80, identities=np.arange(80))
    places = np.arange(40)
    same = places % 2 == 0
    pairs = PairList(name="list", first=2 * places, second=2 * places + 1, same=same)
    score = np.random.default_rng(0).normal(size=40) + same
    judged = judge_pairs(images, pairs, {"network": score}, thresholds={"network": 0.5})
    assert judged.people is None
    assert "20 same and 20 different pairs taken as independent" in certainty(judged)[0]
    assert len(certainty(judged)) == 1  # few people are not known to be few
    assert "needs at least 29 impostor pairs; there are 20" in reasons(judged)[0]


def test_queries_are_drawn_with_their_people():
    """Hits 1111|00|1|1, | between people: the draws are as the 4^4 samples of people are."""
    people, hits = np.array(list("aaaabbcd")), np.array([1, 1, 1, 1, 0, 0, 1, 1.0])
    sums = {who: (hits[people == who].sum(), (people == who).sum()) for who in "abcd"}
    means = [
        np.divide(*np.sum([sums[who] for who in drawn], axis=0))
        for drawn in itertools.product("abcd", repeat=4)
    ]
    judged = judge_queries(
        {"network": {"rank1": hits, "rank5": None}}, people, counts={"network": {"gallery": 3}}
    )
    assert judged.results == {"network": {"rank1": 0.75, "rank5": None, "gallery": 3}}
    drawn = judged.draws["network"]["rank1"]
    assert set(np.round(drawn, 9)) <= set(np.round(means, 9))
    error = np.std(means) / np.sqrt(len(drawn))
    assert np.mean(drawn) == pytest.approx(np.mean(means), abs=4 * error)
    assert np.std(drawn) == pytest.approx(np.std(means), abs=4 * error)
    low, high = judged.intervals["network"]["rank1"]
    # b b b b is 1 sample of 256, and b b b with c or d are 8, of mean (0 + 0 + 0 + 1) / 7: 3.5 %.
    assert low <= 1 / 7
    assert high > 0.99  # 81 samples of 256 are without b
    assert judged.over == "4 people, 8 queries"
    assert reasons(judged) == ["Not known: rank-5; the gallery has 3 images."]


def test_queries_that_do_not_count_are_left_out_and_no_error_is_not_certainty():
    hits = np.array([1, 1, np.nan, 1.0])
    judged = judge_queries(
        {"network": {"rank1": hits}}, np.array(list("abxc")), counts={"network": {"gallery": 9}}
    )
    assert judged.results["network"]["rank1"] == 1.0
    # No error of three people: 1 - 0.025^(1/3) = 0.708 may still err.
    np.testing.assert_allclose(judged.intervals["network"]["rank1"], [0.025 ** (1 / 3), 1.0])


def test_differences_are_of_the_same_people():
    """Paired: a constant difference is certain, however much the people vary."""
    rng = np.random.default_rng(0)
    people, base = np.arange(40) // 2, rng.random(40) * 0.5
    judged = judge_queries(
        {"network": {"map": base + 0.25}, "low": {"map": base - 0.1}, "pixels": {"map": base}},
        people,
        counts={key: {"gallery": 9} for key in ("network", "low", "pixels")},
    )
    assert judged.best_baseline("map") == "pixels"
    value, interval = judged.difference("map", "network", "pixels")
    assert value == pytest.approx(0.25)
    np.testing.assert_allclose(interval, [0.25, 0.25])
    low, high = judged.intervals["network"]["map"]
    assert high - low > 0.05
    assert verdict(judged, judged.difference("map", "network", "low")).startswith("clearly better")
    assert verdict(judged, judged.difference("map", "low", "network")).startswith("clearly worse")
    assert judged.difference("rank1", "network", "pixels") is None


def test_few_people_make_no_clear_difference():
    judged, _, _ = judged_pairs(10, network=3.0, pixels=0.0)
    found = judged.difference("auc", "network", "pixels")
    assert verdict(judged, found).startswith("better, as far as 10 people can tell")
    assert "10 people are few" in certainty(judged)[1]
    five, _, _ = judged_pairs(5, network=9.0, pixels=0.0)
    found_of_five = five.difference("auc", "network", "pixels")
    assert verdict(five, found_of_five) == "better here, but 5 people are too few to tell"
    none = judged.difference("auc", "network", "network")
    assert verdict(judged, none) == "not clearly different: the interval contains 0"


def test_a_table_fits_a_terminal():
    names = ["network", *(f"a baseline with a rather long name {k}" for k in range(4))]
    values = {"auc": 0.9, "eer": 0.1, "pairs_same": 3, "own measure": 2.0}
    bounds = {"auc": Interval(0.8, 0.95)}
    judged = Judgement(results=dict.fromkeys(names, values), bounds=dict.fromkeys(names, bounds))
    text = text_of(judged, chosen="auc")
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("0.9000 [0.8000, 0.9500]") == 5
    assert [line.split("  ")[0] for line in text.splitlines()[1:4]] == ["AUC", "EER", "own measure"]
    assert all(name in text for name in names)
    assert chosen_measure(judged, "validation_map") == "auc"  # what the test lacks
    assert chosen_measure(judged, "validation_eer") == "eer"


def test_folds_keep_their_standard_error():
    values = {
        "fold_accuracy": 0.8,
        "fold_standard_error": 0.005,
        "fold_standard_deviation": 0.0158,
    }
    columns, rows = table_of(Judgement(results={"network": values}))
    assert columns == ["network"]
    assert rows == [("k-fold accuracy", ["0.8000 ± 0.0050 (deviation 0.0158)"])]


def test_a_difference_whose_draws_are_all_the_same_has_no_interval():
    assert signed(Difference(0.05, Interval(-0.01, 0.11))) == "+0.0500 [-0.0100, +0.1100]"
    assert signed(Difference(0.05, Interval(0.05, 0.05))) == "+0.0500"
