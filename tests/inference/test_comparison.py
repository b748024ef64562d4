"""Runs on the same test, by networks that see one colour or more."""

import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from splits import reid_splits, retrieval_splits, verification_splits

from siamjax.commands.runs import compare
from siamjax.errors import UsageError
from siamjax.inference.comparison import Comparison, compare_runs
from siamjax.inference.judging import Judgement
from siamjax.inference.seeds import Change, rows_of
from siamjax.metrics.intervals import Interval, percentile
from siamjax.report import comparison as told
from siamjax.training import Run, RunConfig, create_state

SIZE = (4, 4)


class Shade(nn.Module):
    """Embeds an image as the first channels of its mean colour, mixed a little at random."""

    channels: int = 3

    @nn.compact
    def embed(self, x, *, train=False):
        mixed = self.param("mixed", nn.initializers.normal(0.05), (3, 3)) + jnp.eye(3)
        return (x.mean(axis=(1, 2)) @ mixed)[:, : self.channels] / 255


def splits_of(folder, seed=0, *, task="verification", test_people=5):
    if task == "reid":
        return reid_splits(str(folder / "walkers"), seed=seed, validation_people=2)
    data = str(folder / "people")
    if task == "retrieval":
        return retrieval_splits(data, seed=seed, test_items=5)
    return verification_splits(data, seed=seed, validation_people=2, test_people=test_people)


def make(place, splits, *, channels=3, task="verification", best="validation_auc", **options):
    """A finished run of an untrained network."""
    devices = jax.local_device_count()
    config = RunConfig(run=place, batch_size=devices, **options)
    run = Run.open(config, Shade(channels=channels), splits, best=best)
    run.begin()
    image = np.zeros((1, *SIZE, 3), np.uint8)
    variables = run.network.init(jax.random.key(config.seed), image, method="embed")
    state = create_state(variables, optax.sgd(0.1), key=jax.random.key(0))
    run.checkpoints.save(state, {best: 0.5})
    run.best_variables()
    threshold = {"threshold": 0.2} if task == "verification" else {}
    results = {"network": {best.removeprefix("validation_"): None}}
    run.write_manifest(size=SIZE, results=results, facts={"task": task, **threshold})
    return place


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve people of four images, each around a colour; six of them also before two cameras."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(2)
    for person, colour in enumerate(rng.uniform(40, 215, (12, 3))):
        for number in range(4):
            pixels = np.broadcast_to((colour + rng.normal(0, 25, 3)).clip(0, 255), (4, 4, 3))
            image = Image.fromarray(pixels.astype(np.uint8))
            path = folder / "people" / f"p{person:02d}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            part = (
                "bounding_box_train" if person < 5 else "bounding_box_test" if number else "query"
            )
            path = folder / f"walkers/{part}/{person:04d}_c{1 + number % 2}s1_{number:06d}_00.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if 0 < person < 10:
                image.save(path)
    for seed in (0, 1):
        splits = splits_of(folder, seed)
        make(folder / f"three-{seed}", splits, seed=seed)
        make(folder / f"two-{seed}", splits, seed=seed, channels=2)
    return folder


def pixels_of(splits, index):
    return splits.images.image(int(index)).mean(axis=(0, 1)) / 255


def scores_by_hand(splits, channels, seed):
    """Minus the Euclidean distance of the mixed colours, in NumPy."""
    image = np.zeros((1, *SIZE, 3), np.uint8)
    variables = Shade().init(jax.random.key(seed), image, method="embed")
    mixed = np.asarray(variables["params"]["mixed"], np.float64) + np.eye(3)
    pairs = splits.test
    one, other = (
        np.stack([pixels_of(splits, index) for index in side]) @ mixed
        for side in (pairs.first, pairs.second)
    )
    return -np.linalg.norm((one - other)[:, :channels], axis=1)


def weighted_auc(score, same, weight):
    """P(a genuine pair is above an impostor pair) + P(equal) / 2, by its definition."""
    above = score[same][:, None] - score[~same]
    wins = (above > 0) + (above == 0) / 2
    both = np.outer(weight[same], weight[~same])
    return (wins * both).sum() / both.sum()


def drawn_differences(splits, one, other, *, draws=1500):
    """The vertex bootstrap by its definition: w_i of a person's pairs, w_i w_j of two people's."""
    pairs, shown = splits.test, splits.images.identities
    people = np.unique(shown[pairs.first])
    first, second = (np.searchsorted(people, shown[side]) for side in (pairs.first, pairs.second))
    rng = np.random.default_rng(7)
    found = []
    while len(found) < draws:
        count = np.bincount(rng.integers(0, len(people), len(people)), minlength=len(people))
        weight = np.where(pairs.same, count[first], count[first] * count[second]).astype(float)
        if weight[pairs.same].sum() and weight[~pairs.same].sum():
            values = [weighted_auc(score, pairs.same, weight) for score in (one, other)]
            found.append(values[0] - values[1])
    return np.asarray(found)


@pytest.fixture(scope="module")
def two(world):
    return compare_runs([world / "three-0", world / "two-0"])


def test_the_difference_of_two_runs_is_paired(world, two):
    splits = splits_of(world)
    same = splits.test.same
    three, one = (scores_by_hand(splits, channels, 0) for channels in (3, 2))
    expected = [weighted_auc(score, same, np.ones(len(same))) for score in (three, one)]
    values = [two.judged.results[name]["auc"] for name in ("three-0", "two-0")]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    change = two.changes["two-0"]["auc"]
    assert change.value == pytest.approx(expected[1] - expected[0])
    drawn = drawn_differences(splits, one, three)
    paired = two.judged.draws["two-0"]["auc"] - two.judged.draws["three-0"]["auc"]
    tails = [0.025, 0.975]
    np.testing.assert_allclose(np.quantile(paired, tails), np.quantile(drawn, tails), atol=0.02)
    assert change.interval == percentile(paired, people=two.judged.people)
    # Independent draws would make a wider interval: the pairing is what is tested.
    apart = two.judged.draws["two-0"]["auc"] - np.roll(two.judged.draws["three-0"]["auc"], 1)
    assert np.std(apart) > 1.1 * np.std(drawn)
    assert change.seeds == 1
    assert list(two.changes) == ["two-0"]


def test_what_differs_is_told_once(world, two):
    """The number of channels, in the network alone; not the folder and not the fingerprint."""
    assert two.options == {"network.channels": [3, 2]}
    make(world / "long", splits_of(world), steps=7)
    found = compare_runs([world / "three-0", world / "long"])
    assert found.options == {"steps": [1000, 7]}
    shutil.copytree(world / "three-0", world / "copies" / "three-0", dirs_exist_ok=True)
    again = compare_runs([world / "three-0", world / "copies" / "three-0"])
    assert [row.name for row in again.rows] == [
        str(world / "three-0"),
        str(world / "copies" / "three-0"),
    ]
    assert again.options == {}
    assert "No option differs; the code may." in told.text_of(again)
    assert told.sentences(again)[0].startswith("No clear difference: ")


def test_seeds_are_one_row_and_paired_test_by_test(world):
    names = [world / f"{kind}-{seed}" for kind in ("three", "two") for seed in (0, 1)]
    found = compare_runs(names)
    three, one = found.rows
    assert (three.name, three.runs, three.seeds) == (
        "three-0 (2 seeds)",
        ("three-0", "three-1"),
        (0, 1),
    )
    assert [list(tested.scores) for tested in found.tests] == [
        ["three-0", "two-0"],
        ["three-1", "two-1"],
    ]
    auc = [
        [
            weighted_auc(scores_by_hand(splits, channels, seed), splits.test.same, np.ones(190))
            for seed, splits in enumerate([splits_of(world, 0), splits_of(world, 1)])
        ]
        for channels in (3, 2)
    ]
    for row, values in zip((three, one), auc, strict=True):
        assert found.judged.results[row.name]["auc"] == pytest.approx(np.mean(values))
        error = abs(values[1] - values[0]) / 2  # of two values a, b: |a - b| / sqrt 2 / sqrt 2
        assert found.errors[row.name]["auc"] == pytest.approx(error, abs=1e-6)
    change = found.changes[one.name]["auc"]
    each = np.subtract(auc[1], auc[0])
    assert change.value == pytest.approx(each.mean(), abs=1e-6)
    assert change.error == pytest.approx(abs(each[1] - each[0]) / 2, abs=1e-6)
    assert found.options == {"network.channels": [3, 2]}
    (said,) = told.sentences(found)
    assert "over 5 people in each of 2 tests, and [" in said
    assert "over 2 seeds" in said
    # One row alone has no difference, and says how sure its mean is.
    alone = compare_runs(names[:2])
    assert (len(alone.rows), alone.changes) == (1, {})
    (said,) = told.sentences(alone)
    assert "± " in said
    assert "over the seeds 0, 1." in said
    # Of three and two seeds the ones that both have are compared.
    part = compare_runs(names[:3])
    assert part.changes["two-0"]["auc"].value == pytest.approx(each[0], abs=1e-6)
    assert "on the one seed that both have" in told.sentences(part)[0]


def test_runs_tested_on_other_people_are_refused(world, tmp_path):
    with pytest.raises(
        UsageError,
        match=r"^three-0 and two-1 were tested on different data \(seed 0 and 1\); .*--data",
    ):
        compare_runs([world / "three-0", world / "two-1"])
    fewer = make(tmp_path / "fewer", splits_of(world, test_people=4), channels=2)
    with pytest.raises(UsageError, match=r"\(test_people 5 and 4\)"):
        compare_runs([world / "three-0", fewer])
    shutil.copytree(world / "two-0", tmp_path / "changed")
    path = tmp_path / "changed" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "data_sha256": "0" * 64}))
    with pytest.raises(UsageError, match=r"images have changed between the trainings"):
        compare_runs([world / "three-0", tmp_path / "changed"])


def test_wrong_numbers_of_runs_are_refused(world):
    for runs in ([], [world / "three-0"], [world / "three-0", world / "copies" / ".." / "three-0"]):
        with pytest.raises(UsageError, match="give two runs or more, each of them once"):
            compare_runs(runs)
    with pytest.raises(UsageError, match=r"nowhere is not a finished run"):
        compare_runs([world / "three-0", world / "nowhere"])


@pytest.fixture(scope="module")
def others(world):
    """Two runs of each of the other tasks."""
    for task, best in (("reid", "validation_map"), ("retrieval", "validation_recall_at_1")):
        for channels in (3, 2):
            place = world / f"{task}-{channels}"
            make(place, splits_of(world, task=task), channels=channels, task=task, best=best)
    return world


@pytest.mark.parametrize(
    ("task", "measure", "units"), [("reid", "map", "people"), ("retrieval", "recall_at_1", "items")]
)
def test_other_tasks(others, tmp_path, task, measure, units):
    runs = [others / f"{task}-{channels}" for channels in (3, 2)]
    found = compare_runs(runs)
    assert found.chosen == measure
    assert found.tests[0].test.task == task
    change = found.changes[f"{task}-2"][measure]
    low, high = change.interval
    assert low <= change.value <= high
    assert change.value < 0
    assert f"over 5 {units}" in told.sentences(found)[0]
    told.write_comparison(tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "could not be drawn" not in page
    assert "Hits over ranks" in page


def test_runs_of_other_tasks_are_compared_on_one_set_alone(others):
    runs = [others / "three-0", others / "retrieval-2"]
    with pytest.raises(
        UsageError, match=r"three-0 is a run of verification and retrieval-2 one of retrieval"
    ):
        compare_runs(runs)
    found = compare_runs(runs, data=str(others / "people"))
    assert found.tests[0].test.task == "verification"
    assert found.judged.results["retrieval-2"]["accuracy"] is None  # it has no threshold
    assert "auc" in found.changes["retrieval-2"]
    assert [line.split(":")[0] for line in found.warnings] == ["three-0", "retrieval-2"]
    assert all("CONTAMINATED" in line for line in found.warnings)
    (said,) = told.sentences(found)
    assert said.endswith(" Too good, as trained on some of this test: three-0, retrieval-2.")


def test_a_run_that_does_not_reach_its_manifest_again_is_named(world, tmp_path):
    shutil.copytree(world / "two-0", tmp_path / "other")
    path = tmp_path / "other" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "results": {"network": {"auc": 0.125}}}))
    found = compare_runs([world / "three-0", tmp_path / "other"])
    (said,) = found.warnings
    assert "other: auc is 0." in said
    assert "0.1250 in its manifest" in said


def test_the_command_answers_in_text_as_json_and_on_a_page(world, tmp_path, capsys):
    runs = [world / "three-0", world / "two-0"]
    page = tmp_path / "page.html"
    compare(runs, out=page, trust=("own.networks",))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert max(map(len, lines[: lines.index("")])) <= 100
    assert [line for line in lines if line.startswith("AUC  ")][-1].split()[1].startswith("-0.")
    assert lines[-1] == f"page: {page}"
    assert lines[-2].startswith(("two-0 is worse than three-0 by 0.", "No clear difference: two-0"))
    assert lines[-2].endswith("over 5 people, who are too few to tell.")
    assert "next: python -m siamjax calibrate --run" in err
    assert err.endswith("--data my_people/ --trust own.networks\n")  # which it would ask for
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert lines[-2] in text.replace("&#43;", "+")
    for said in ("network.channels", "three-0", "Curves", "Differences"):
        assert said in text
    assert "http" not in text

    compare(runs, json=True)
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        *("measure", "tests", "rows", "options", "warnings", "summary", "page"),
    ]
    first, second = found["rows"]
    assert list(first) == list(second)
    assert (first["difference"], found["page"], found["measure"]) == (None, None, "auc")
    change = second["difference"]["auc"]
    assert list(change) == [
        *("value", "interval", "error", "seeds", "people", "over_seeds", "clear"),
    ]
    assert change["value"] == pytest.approx(second["results"]["auc"] - first["results"]["auc"])
    assert found["tests"][0]["runs"] == ["three-0", "two-0"]
    assert (second["runs"], second["seeds"]) == (["two-0"], [0])


@pytest.mark.parametrize(
    ("measure", "change", "said"),
    [
        (
            "auc",
            Change(0.021, Interval(0.004, 0.038), None, 1),
            "b is better than a by 0.0210 AUC [0.0040, 0.0380] over 10 people.",
        ),
        (
            "eer",
            Change(0.021, Interval(0.004, 0.038), None, 1),
            "b is worse than a by 0.0210 EER [0.0040, 0.0380] over 10 people.",
        ),
        (
            "auc",
            Change(-0.05, Interval(-0.09, -0.01), 0.01, 3),  # t(2) = 4.303: .05 +- .0430
            "b is worse than a by 0.0500 AUC [0.0100, 0.0900] over 10 people, "
            "and [0.0070, 0.0930] over 3 seeds.",
        ),
        (
            "auc",
            Change(0.05, Interval(0.01, 0.09), 0.012, 3),  # .05 +- .0516
            "No clear difference: b minus a is +0.0500 AUC [0.0100, 0.0900] over 10 people, "
            "and [-0.0016, +0.1016] over 3 seeds.",
        ),
        ("auc", None, "b and a: AUC cannot be compared."),
    ],
)
def test_a_sentence_says_what_is_better(measure, change, said):
    rows = rows_of({"a": {"experiment": "e", "width": 1}, "b": {"experiment": "e", "width": 2}})
    over = "10 people, 450 same and 4,500 different pairs"
    found = Comparison(
        chosen=measure,
        rows=rows,
        judged=Judgement(results={"a": {}, "b": {}}, people=10, over=over),
        errors={},
        changes={"b": {} if change is None else {measure: change}},
        options={},
        tests=[],
        warnings=[],
    )
    assert told.sentences(found) == [said]
