import dataclasses
import itertools
import json
import math

import msgspec
import numpy as np
import pytest
from colours import Colour, ColourLogit, colour_run, coloured

from siamjax.data import PairList, of_arrays
from siamjax.data.people import People
from siamjax.errors import UsageError
from siamjax.inference import compare_people
from siamjax.inference.calibrating import calibrate
from siamjax.inference.calibration import CALIBRATION, Calibration, Estimate, OpenSet
from siamjax.inference.export import export_run
from siamjax.inference.model_card import model_card
from siamjax.inference.tested import VerificationTest


def colours_of(people):
    return np.array([people.images.image(i)[0, 0] for i in range(len(people.images))], float)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    return compare_people(colour_run(tmp_path_factory.mktemp("run")), coloured(40), progress=False)


@pytest.fixture(scope="module")
def found(compared):
    return calibrate(compared)


def pairs_by_hand(compared, rates):
    """Distance and names of each pair of one half, one by one."""
    people, pixels = compared.people, colours_of(compared.people)
    names = people.images.identities
    half = {name for name, own in zip(people.names, compared.rates, strict=True) if own == rates}
    shown = [i for i in range(len(names)) if names[i] in half]
    return [
        (math.dist(pixels[i], pixels[j]), names[i], names[j])
        for i, j in itertools.combinations(shown, 2)
    ]


def test_rates_are_those_of_the_people_who_did_not_set_the_threshold(compared, found):
    setting, judging = (pairs_by_hand(compared, rates) for rates in (False, True))
    assert not {n for _, *two in setting for n in two} & {n for _, *two in judging for n in two}
    assert found.people == [20, 20]
    different = [d for d, a, b in judging if a != b]
    same = [d for d, a, b in judging if a == b]
    assert found.fmr.comparisons == len(different) == 190 * 16
    assert found.fnmr.comparisons == len(same) == 20 * 6
    assert found.fmr.value == sum(d <= found.threshold for d in different) / len(different)
    assert found.fnmr.value == sum(d > found.threshold for d in same) / len(same)
    assert found.fmr.low < found.fmr.value < found.fmr.high
    # On those who set it no more than the wanted rate is accepted, by the conservative rule.
    own = [d for d, a, b in setting if a != b]
    assert found.wanted == 0.1
    assert 0 < sum(d <= found.threshold for d in own) / len(own) < 0.1
    # AUC: how often a same pair is nearer, ties half.
    auc = np.mean([np.mean([(s < d) + (s == d) / 2 for d in different]) for s in same])
    assert found.measures["auc"] == pytest.approx(auc, abs=1e-6)
    low, high = found.intervals["auc"]
    assert low < auc < high


def test_a_value_that_rises_with_similarity_has_the_mirrored_threshold(compared, found, tmp_path):
    run = colour_run(tmp_path, ColourLogit())
    other = calibrate(compare_people(run, coloured(40), progress=False))
    assert other.measure == "logit"
    assert other.rises
    assert other.threshold == pytest.approx(10 - found.threshold, abs=1e-4)
    assert (other.fmr, other.fnmr) == (found.fmr, found.fnmr)
    assert found.ratio(5.0) > 0 > found.ratio(200.0)
    assert other.ratio(10 - 5.0) > 0 > other.ratio(10 - 200.0)


def test_an_image_far_from_all_others_does_not_spoil_the_likelihood_ratio(compared, found):
    score = compared.score.copy()
    for person in np.unique(compared.person):  # in both halves
        odd = np.flatnonzero(compared.person == person)[0]
        if person % 10 == 0:
            score[odd], score[:, odd] = 30 * score[odd], 30 * score[:, odd]
    other = calibrate(dataclasses.replace(compared, score=score))
    assert other.cllr < 0.75
    assert other.ratio(5.0) > math.log(5)
    assert found.ratio(0.0) == pytest.approx(found.ratio.highest)


def test_the_division_depends_on_the_seed_alone(compared):
    again, other = (
        compare_people(compared.run, coloured(40), seed=seed, progress=False) for seed in (0, 1)
    )
    np.testing.assert_array_equal(again.rates, compared.rates)
    assert (other.rates != compared.rates).any()


def test_false_match_rates_are_never_less_than_measured(compared, found):
    different = np.array([d for d, a, b in pairs_by_hand(compared, True) if a != b])
    for value in np.linspace(0, 300, 121):
        measured = (different <= value).mean()
        point = found.at(value)
        assert point.fmr >= measured - 1e-12
        assert point.low <= point.fmr <= point.high
    for point in found.points:  # there it is exactly that
        assert found.at(point.value) == point
        assert point.fmr == pytest.approx((different <= point.value + 1e-4).mean(), abs=1e-3)
    nearest = found.at(different.min() / 2)
    assert nearest.fmr == 0 < nearest.high < 0.05
    assert found.at(1e9) == found.points[0]  # all match, and 20 people show no more than this
    assert found.points[0].low < found.points[0].fmr == 1 == found.points[0].high


def test_posterior_needs_a_prior(found):
    """An LR of 1000 at a prior of 0.001: odds 1000 * 0.001 / 0.999, P = 0.5003."""
    found.ratio.slope, before = 0.0, found.ratio.slope
    found.ratio.offset, offset = math.log(1000), found.ratio.offset
    found.ratio.highest, highest = 10.0, found.ratio.highest
    assert found.posterior(1.0, prior=0.001) == pytest.approx(0.50025, abs=1e-5)
    assert found.posterior(1.0, prior=0.5) == pytest.approx(1000 / 1001)
    found.ratio.slope, found.ratio.offset, found.ratio.highest = before, offset, highest


@pytest.mark.parametrize(
    ("count", "fmr", "message"),
    [
        (
            17,
            None,
            r"false match rate of 0.1 needs 9 people in each half .* there are 8: at least 2",
        ),
        (18, 0.01, r"0.01 needs 25 people .* there are 9: at least 32 more .*; 0.08 and above can"),
        (40, 0.001, r"0.001 needs 78 people .* there are 20: at least 116 more"),
    ],
)
def test_too_few_people_are_refused_with_numbers(tmp_path, count, fmr, message):
    some = compare_people(colour_run(tmp_path), coloured(count, each=2), progress=False)
    with pytest.raises(UsageError, match=message):
        calibrate(some, fmr=fmr)


def test_the_default_rate_is_the_smallest_that_the_people_support(tmp_path):
    fifty = compare_people(colour_run(tmp_path), coloured(50, each=2), progress=False)
    found = calibrate(fifty)
    assert found.wanted == 0.01
    assert found.smallest == pytest.approx(1 - 0.05 ** (1 / 300))  # 25 people: 300 pairs of people
    assert any("assumes that pairs which share a person" in note for note in found.notes)


@pytest.mark.parametrize(
    ("people", "message"),
    [
        (coloured(30, each=1), "0 of 30 people have two images or more"),
        (coloured(1, each=8), "1 of 1 people have two images or more"),
        (
            People(images=of_arrays(np.full((40, 2, 2), 7, np.uint8), np.repeat(range(20), 2))),
            "all values of arrays are 0: the network has collapsed",
        ),
    ],
)
def test_people_who_tell_nothing_are_refused(tmp_path, people, message):
    with pytest.raises(UsageError, match=message):
        compare_people(colour_run(tmp_path), people, progress=False)


def test_values_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(UsageError, match="not finite"):
        compare_people(
            colour_run(tmp_path, Colour(scale=float("nan"))), coloured(20), progress=False
        )


def test_of_more_images_than_fit_every_person_keeps_as_many(tmp_path):
    some = compare_people(colour_run(tmp_path), coloured(20, each=5), limit=40, progress=False)
    assert np.bincount(some.person).tolist() == [2] * 20
    fewer = compare_people(colour_run(tmp_path), coloured(40, each=5), limit=40, progress=False)
    assert np.bincount(fewer.person).tolist() == [2] * 20
    assert "40 of 200 images were compared (--limit)" in calibrate(fewer).notes


def test_one_camera_makes_no_pair_of_one_person(tmp_path):
    people = coloured(20)
    seen = People(images=people.images, cameras=np.tile([1, 1, 2, 2], 20))
    half = compare_people(colour_run(tmp_path), seen, progress=False).half(True)
    assert half.same.sum() == 10 * 4  # of 6 pairs of four images
    assert (~half.same).sum() == 45 * 16


def test_a_list_has_independent_pairs_and_says_so(tmp_path, rng):
    people = coloured(40)
    first, second = np.triu_indices(160, 1)
    some = rng.permutation(len(first))[:2000]
    first, second = first[some], second[some]
    names = people.images.identities
    pairs = PairList(name="list", first=first, second=second, same=names[first] == names[second])
    listed = People(images=people.images, pairs=pairs)
    found = calibrate(compare_people(colour_run(tmp_path), listed, progress=False))
    assert found.people is found.fmr.people is None
    assert "the list names no people: its pairs are taken as independent" in found.notes
    assert found.wanted == 0.01  # 299 pairs of two people in each half, and not 2,995
    assert found.fmr.comparisons + found.fnmr.comparisons == 1000


def test_is_read_as_it_was_written_and_only_for_its_network(found, tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    run = colour_run(folder)
    assert Calibration.read(run) is None
    found.write(run)
    assert Calibration.read(run) == found
    other = (
        r"is the calibration of another network: network is Colour\( scale = 1.0 \) there and .*2.0"
    )
    with pytest.raises(UsageError, match=other):
        Calibration.read(colour_run(folder, Colour(scale=2.0)))
    path = folder / CALIBRATION
    whole = path.read_text()
    for damage in (whole[:500], "[]", json.dumps({**json.loads(whole), "threshold": "x"})):
        path.write_text(damage)
        with pytest.raises(
            UsageError,
            match=r"calibration.json.*calibrate --run '\S+/my run' --data .* makes it again",
        ):
            Calibration.read(run)


def test_the_model_card_says_it_and_not_that_of_another_network(found, tmp_path):
    def card(network=None):
        return model_card(colour_run(tmp_path, network), {}, name="x", platforms=("cpu",))

    assert "Calibration" not in card()
    rate = Estimate(value=0.01, low=0.002, high=0.05, comparisons=9, people=None)
    known = {"credit": "two\nlines", "threshold": 1.25, "fmr": rate, "notes": ["few people"]}
    msgspec.structs.replace(found, **known).write(colour_run(tmp_path))
    said = card().partition("## Calibration\n\n")[2].partition("\n\n## ")[0].splitlines()
    assert said[0].startswith("On colours (two")
    assert said[0].endswith("lines); 20 people set it, 20 others gave the rates.")
    assert said[1:3] == ["", "* Threshold of the distance: 1.2500."]
    assert said[3].startswith("* False match rate 0.01 [0.002, 0.05], false non-match rate 0.")
    assert said[4:] == ["* few people"]
    msgspec.structs.replace(found, people=None).write(colour_run(tmp_path))
    assert "(arrays in memory); pairs.\n" in card()
    assert " (the same where it is at most 1.2500)" not in card()
    assert f" (the same where it is at most {found.threshold:.4f})" in card()  # as verify has it
    msgspec.structs.replace(found, credit="/home/me/others").write(colour_run(tmp_path))
    assert "On colours; 20 people" in card()
    assert "Calibration" not in card(Colour(scale=2.0))


def test_an_accuracy_on_people_who_set_the_threshold_is_warned_of(found, tmp_path, capsys):
    run = colour_run(tmp_path)
    found.write(run)
    pairs = PairList(name="pairs", first=[0, 0], second=[0, 1], same=np.array([True, False]))
    for name, warned in (
        ("colours", "set on people of colours: the accuracy is too good"),
        ("", ""),
    ):
        images = dataclasses.replace(coloured(2, each=1).images, name=name)
        test = VerificationTest(images=images, pairs=pairs)
        assert test.thresholds(run, {}) == {"network": -found.threshold}
        said = capsys.readouterr().err
        assert warned in said
        assert bool(said) == bool(warned)


def test_only_what_is_judged_by_a_calibration_needs_it(tmp_path):
    (tmp_path / CALIBRATION).write_text("damaged")
    images = coloured(2, each=1).images
    pairs = PairList(name="pairs", first=[0, 0], second=[0, 1], same=np.array([True, False]))
    own = VerificationTest(images=images, pairs=pairs, protocol="the run's own people")
    run = colour_run(tmp_path, threshold=0.5)
    assert own.thresholds(run, {}) == {"network": -0.5}
    for one, asked in ((colour_run(tmp_path), own), (run, dataclasses.replace(own, protocol=""))):
        with pytest.raises(UsageError, match=r"calibration.json"):
            asked.thresholds(one, {})


def searched(images, index="", threshold=0.5):
    return OpenSet(
        **{"searched": "cosine", "images": images, "data": "colours", "index": index},
        **{"wanted": 0.1, "rule": "people", "threshold": threshold, "fnir": None},
        fpir=Estimate(value=0.1, low=0.0, high=0.2, comparisons=9, people=9),
    )


def test_a_search_has_the_threshold_of_its_index_or_of_the_nearest_gallery(found):
    small, large, own = searched(50), searched(500), searched(60, "/index")
    known = msgspec.structs.replace(found, open_set=[small, large, own])
    assert known.search("cosine", images=60, index="/index") == (own, False)
    assert known.search("cosine", images=40, index="/other") == (small, False)
    assert known.search("cosine", images=51) == (large, False)
    assert known.search("cosine", images=61, index="/index") == (large, False)  # it has grown
    assert known.search("cosine", images=501) == (large, True)
    assert known.search("compare", images=1) == (None, False)


def test_thresholds_of_other_galleries_stay_when_a_run_is_calibrated_again(found, tmp_path):
    run = colour_run(tmp_path)
    first = msgspec.structs.replace(found, open_set=[searched(50), searched(60, "/index")])
    first.write(run)
    again = msgspec.structs.replace(found, open_set=[searched(70, "/index", threshold=0.4)])
    again.keep_searches(run)
    assert [(one.images, one.index) for one in again.open_set] == [(70, "/index"), (50, "")]
    assert [one.index for one in again.to_publish().open_set] == [""]  # that index stays here
    other = msgspec.structs.replace(found, open_set=[])
    other.keep_searches(colour_run(tmp_path, Colour(scale=2.0)))  # another network's do not
    assert other.open_set == []


def test_an_exported_run_keeps_its_calibration(found, tmp_path):
    (tmp_path / "run").mkdir()
    run = colour_run(tmp_path / "run", threshold=0.5)
    found.write(run)
    export_run(run, tmp_path / "model", platforms=("cpu",))
    kept, own = (
        json.loads((one / CALIBRATION).read_bytes()) for one in (tmp_path / "model", run.folder)
    )
    assert kept == own
    (run.folder / CALIBRATION).write_text("damaged")
    export_run(run, tmp_path / "other", platforms=("cpu",))
    assert not (tmp_path / "other" / CALIBRATION).exists()


def test_thresholds_of_people_of_the_training_do_not_stay_for_others(found, tmp_path, capsys):
    run = colour_run(tmp_path)
    told = {"open_set": [searched(50)], "notes": ["CONTAMINATED: 3 of 40 people, by name ..."]}
    msgspec.structs.replace(found, **told).write(run)
    Calibration.read(run).warn()
    assert "warning: the run was calibrated on people of its training" in capsys.readouterr().err
    others = msgspec.structs.replace(found, open_set=[], data="strangers")
    others.warn()
    assert capsys.readouterr().err == ""
    others.keep_searches(run)
    assert others.open_set == []
    same = msgspec.structs.replace(found, open_set=[])
    same.keep_searches(run)
    assert same.open_set == [searched(50)]


def test_what_a_limit_leaves_out_is_said(tmp_path):
    for limit, told in (
        (1, "1 of 160 images of colours (--limit): .* there are 0: at least 18 more"),
        (20, "20 of 160 images of colours (--limit): .* there are 5: at least 8 more"),
    ):
        few = compare_people(colour_run(tmp_path), coloured(40), limit=limit, progress=False)
        with pytest.raises(UsageError, match=told.replace("(", r"\(").replace(")", r"\)")):
            calibrate(few)
