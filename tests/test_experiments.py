"""The experiments on faces for a few steps, end to end: stopped and resumed, then used."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from tiny_run import rows

from experiments import lfw_bce, lfw_contrastive
from siamjax.commands import verification as commands
from siamjax.data import SampledPairs, VerificationOptions, load_verification, pair_batches
from siamjax.errors import Interrupted, UsageError
from siamjax.inference.verification import Verifier
from siamjax.models import ConcatenationHead, DifferenceHead
from siamjax.training import Finished
from siamjax.training.checkpoints import Checkpoints
from siamjax.training.writers import read_metrics

TINY = {
    "data": "orl_faces",
    "width": 0.0625,
    "size": 16,
    "batch_size": 8,
    "steps": 4,
    "evaluate_every": 2,
    "log_every": 1,
    "validation_people": 3,
    "test_people": 3,
}


HAPPENED = []  # in the straight run: steps, saved checkpoints and compilations


def noted(function, what):
    """The function, which notes that it was called."""

    def call(*args, **options):
        result = function(*args, **options)
        HAPPENED.append(what)
        return result

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A straight run of lfw_contrastive and its results."""

    def note(event, seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            HAPPENED.append(f"compiled {details.get('fun_name')}")

    folder = tmp_path_factory.mktemp("runs") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        pmapped = lfw_contrastive.data_parallel
        patch.setattr(lfw_contrastive, "data_parallel", lambda step: noted(pmapped(step), "step"))
        patch.setattr(Checkpoints, "save", noted(Checkpoints.save, "saved"))
        jax.monitoring.register_event_duration_secs_listener(note)
        try:
            return folder, lfw_contrastive.main(lfw_contrastive.Config(**TINY, run=folder))
        finally:
            jax.monitoring.clear_event_listeners()


def test_nothing_is_compiled_after_the_first_step(finished):
    """But for the first validation and checkpoint, after step 2."""
    begun = HAPPENED[HAPPENED.index("step") :]
    until = len(begun) - begun[::-1].index("saved")
    first = begun.index("saved")
    assert begun[:2] == ["step", "step"]
    assert any(one.startswith("compiled") for one in begun[2:first])  # it would be seen
    assert begun[first:until] == ["saved", "step", "step", "saved"]


def parameters(folder, step=4):
    """Parameters and batch statistics of a checkpoint, as saved."""
    opened = Checkpoints(folder / "checkpoints", best="validation_auc")
    try:
        return jax.device_get(opened.load(step))
    finally:
        opened.close()


def stopping_at(number, make_batches):
    """``pair_batches`` or ``triplet_batches``; SIGTERM comes while batch ``number`` is read."""

    def make(*args, **options):
        batches = make_batches(*args, **options)

        class Stopping:
            unit, describe = batches.unit, staticmethod(batches.describe)

            def __call__(self, start=0):
                for place, batch in enumerate(batches(start), start=1):
                    if place == number:
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield batch

        return Stopping()

    return make


def test_run_folder_is_complete(finished):
    folder, results = finished
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["data"], manifest["task"]) == ("orl_faces", "verification")
    assert manifest["config"]["experiment"] == "lfw_contrastive"
    assert len(manifest["trained_on"]) == 34
    assert manifest["results"] == json.loads(json.dumps(results))
    assert len(manifest["data_sha256"]) == 64
    assert [row["step"] for row in read_metrics(folder) if "loss" in row] == [1, 2, 3, 4]
    assert any("data_wait_percent" in row for row in read_metrics(folder))
    assert list((folder / "events").glob("events.out.*"))
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page.split("<h2>Manifest</h2>")[0]  # needs nothing from outside
    assert "orl_faces: people divided at random" in page
    assert results["network"]["pairs_same"] == 3 * 45
    intervals = manifest["intervals"]
    assert set(intervals) == set(results)
    for method, values in intervals.items():
        assert set(values) == {"auc", "eer", "accuracy"}  # three people show no FAR, not even 0.1
        for measure, (low, high) in values.items():
            assert 0 <= low <= results[method][measure] <= high <= 1
    low, high = intervals["network"]["auc"]
    first = page[: page.index("<h2>")]
    for shown in ("How good", "How sure", "Against what", f"{results['network']['auc']:.4f}"):
        assert shown in first
    assert f"{low:.3f} to {high:.3f}" in first
    assert "3 people, 135 same and 300 different pairs" in first
    assert f"raw pixels 32x32 ({results['raw pixels 32x32']['auc']:.4f})" in first
    assert "Not known: TAR at FAR 0.1, TAR at FAR 0.01, TAR at FAR 0.001" in page
    assert f"python -m siamjax verify first.jpg second.jpg --run {folder}" in page


@pytest.mark.parametrize("stopped_at", [1, 2], ids=["between evaluations", "at an evaluation"])
def test_stopped_and_resumed_is_bit_for_bit_straight(
    finished, tmp_path, monkeypatch, capsys, stopped_at
):
    config = lfw_contrastive.Config(**TINY, run=tmp_path / "stopped")
    stopping = stopping_at(stopped_at, lfw_contrastive.pair_batches)
    with monkeypatch.context() as patch:
        patch.setattr(lfw_contrastive, "pair_batches", stopping)
        with pytest.raises(Interrupted, match="143") as stop:
            lfw_contrastive.main(config)
    assert f"saved after step {stopped_at} of 4" in stop.value.message
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    results = lfw_contrastive.main(config)
    assert f"resumed at step {stopped_at} of 4" in capsys.readouterr().err
    assert results == finished[1]
    jax.tree.map(
        np.testing.assert_array_equal, parameters(tmp_path / "stopped"), parameters(finished[0])
    )
    assert rows(tmp_path / "stopped") == rows(finished[0])
    sessions = json.loads((tmp_path / "stopped" / "manifest.json").read_text())["sessions"]
    assert [(row["start"], row["end"]) for row in sessions] == [(0, stopped_at), (stopped_at, 4)]


def test_finished_run_is_only_judged_again(finished, capsys):
    folder, results = finished
    again = lfw_contrastive.main(lfw_contrastive.Config(**TINY, run=folder))
    assert again == results


def test_other_options_are_refused(finished):
    folder, _ = finished
    other = lfw_contrastive.Config(**{**TINY, "steps": 5}, run=folder, margin=0.5)
    with pytest.raises(UsageError, match=r"steps is 4 there and 5 here; margin is 1.0 .* 0.5 here"):
        lfw_contrastive.main(other)


def test_bce_from_a_run_with_another_head(finished, tmp_path, capsys):
    options = {**TINY, "evaluate_every": 4, "start_from": finished[0]}
    results = lfw_bce.main(lfw_bce.Config(**options, run=tmp_path / "run"))
    assert f"starting from {finished[0]}, step" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["config"]["start_from"]["run"] == str(finished[0])
    assert "CONTAMINATED" not in manifest["protocol"]  # the same seed holds out the same people
    assert 0 <= results["network"]["auc"] <= 1
    opened = Verifier.open(tmp_path / "run")
    assert opened.measure == "logit"
    assert isinstance(opened.run.network.head, DifferenceHead)
    logged = [row for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert [row["accuracy"] * 8 % 1 for row in logged] == [0.0] * 4  # shares of eight pairs


def test_the_published_head_is_an_option_of_bce():
    network, _, _ = lfw_bce.build(lfw_bce.Config(**TINY, head="concatenation"))
    assert isinstance(network.head, ConcatenationHead)


def test_broken_network_stops_and_names_step_batch_and_checkpoint(tmp_path, monkeypatch):
    """A learning rate that throws the parameters to infinity, not a loss made NaN by hand."""
    monkeypatch.setattr(lfw_contrastive.optax, "adam", lambda rate: optax.sgd(1e30))
    config = lfw_contrastive.Config(**TINY, run=tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"loss of step \d is (nan|inf) on the batch s\d\d/.* \(8 pairs\)"
    ) as e:
        lfw_contrastive.main(config)
    assert "no checkpoint was saved yet" in str(e.value)


def test_refused_options_leave_no_folder(tmp_path):
    refused = [
        ({"size": 20}, "multiples of 8"),
        ({"size": 0}, "size 0: must be at least 1"),
        ({"evaluate_every": 0}, "evaluate_every 0: must be at least 1"),
        ({"width": -1.0}, "width -1.0: must be a number"),
        ({"seed": -1}, "seed -1"),
        ({"learning_rate": -1e-3}, "learning_rate -0.001: must be a number"),
        ({"workers": -1}, "workers -1"),
        ({"data": "nowhere"}, "nowhere"),
        ({"lfw_fold": 1}, "use --data lfw"),
        ({"validation_people": 30, "test_people": 20}, "add people, or hold out fewer"),
    ]
    for change, message in refused:
        with pytest.raises(UsageError, match=message):
            lfw_contrastive.main(lfw_contrastive.Config(**{**TINY, **change}, run=tmp_path / "r"))
        assert not (tmp_path / "r").exists()


def test_another_share_of_positive_pairs(tmp_path):
    """No option: the pairs that an experiment trains on are an object, and another one will do."""
    people = load_verification(
        VerificationOptions(**{k: TINY[k] for k in ("validation_people", "test_people")})
    )
    config = lfw_contrastive.Config(**TINY, run=tmp_path / "run")
    pairs = SampledPairs(people.images, people.trained_on, seed=0, positive_share=0.25)
    for stream, same in ((people.training, 4), (pairs, 2)):
        batches = pair_batches(people.images, stream, config, size=16)
        assert [batch["same"].sum() for batch in batches(start=1)] == [same] * 3
    with pytest.raises(UsageError, match="both kinds of pairs"):
        SampledPairs(people.images, people.trained_on, seed=0, positive_share=1.0)


def test_a_person_more_is_no_resumption(tmp_path, face_folder, faces):
    """People would be divided anew, and some that were trained on would be tested on."""
    people = tmp_path / "people"
    shutil.copytree(face_folder, people, ignore=shutil.ignore_patterns("*.txt"))
    options = {**TINY, "data": str(people), "evaluate_every": 4, "run": tmp_path / "run"}
    lfw_contrastive.main(lfw_contrastive.Config(**options))
    shutil.copytree(people / "s01", people / "a00")
    with pytest.raises(UsageError, match="data_fingerprint"):
        lfw_contrastive.main(lfw_contrastive.Config(**options))


# Orbax leaves the errors of its other reads of a damaged checkpoint to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
def test_damaged_best_checkpoint_gives_way_to_the_next_best(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    best = json.loads((folder / "manifest.json").read_text())["step"]
    for path in (folder / "checkpoints" / str(best) / "variables").rglob("d/*"):
        path.write_bytes(b"")
    with pytest.raises(UsageError, match=f"checkpoint of step {best} is gone or damaged"):
        Verifier.open(folder)
    lfw_contrastive.main(lfw_contrastive.Config(**TINY, run=folder))
    assert "cannot be read" in capsys.readouterr().err
    assert Finished.open(folder).manifest["step"] != best


def test_batch_that_does_not_split_over_the_devices(tmp_path):
    config = lfw_contrastive.Config(**{**TINY, "batch_size": 12}, run=tmp_path / "run")
    with pytest.raises(UsageError, match="batch of 12 examples cannot be split over 8 devices"):
        lfw_contrastive.main(config)
    assert not (tmp_path / "run").exists()


def test_a_run_is_used_from_another_folder(tmp_path, face_folder, monkeypatch, capsys):
    """Its data was given by a path that is relative to the folder of that day."""
    shutil.copytree(face_folder, tmp_path / "there" / "people")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    options = {**TINY, "data": "people", "evaluate_every": 4, "validation_people": 2}
    config = lfw_contrastive.Config(**options | {"test_people": 2, "run": Path("run")})
    results = lfw_contrastive.main(config)
    monkeypatch.chdir(tmp_path / "here")
    capsys.readouterr()
    commands.evaluate(run=tmp_path / "there" / "run")
    assert f"{results['network']['auc']:.4f}" in capsys.readouterr().out
    (tmp_path / "there" / "people").rename(tmp_path / "there" / "moved")
    with pytest.raises(UsageError, match=r"manifest.json names: .*there/people.*give --data"):
        commands.evaluate(run=tmp_path / "there" / "run")


def test_own_lists(face_folder, tmp_path):
    def write(name, people):
        lines = [f"{p}/01.png {p}/0{n}.png 1" for p in people for n in (2, 3)]
        lines += [f"{people[0]}/0{n}.png {people[1]}/0{n}.png 0" for n in (1, 2, 3, 4)]
        path = face_folder / name
        path.write_text("\n".join(lines))
        return path

    train = write("train.txt", ["s01", "s02", "s03"])
    lists = {
        "validation_list": write("validation.txt", ["s04", "s05"]),
        "test_list": write("test.txt", ["s06", "s07"]),
    }
    options = {**TINY, "data": str(train), "evaluate_every": 4, "run": tmp_path / "run"}
    results = lfw_contrastive.main(lfw_contrastive.Config(**options, **lists))
    assert results["network"]["pairs_different"] == 4
    overlapping = {**lists, "test_list": train}
    with pytest.raises(UsageError, match=r"must share no image"):
        lfw_contrastive.main(lfw_contrastive.Config(**{**options, **overlapping}))
    twice = {**lists, "test_list": lists["validation_list"]}
    with pytest.raises(UsageError, match=r"must share no image"):
        lfw_contrastive.main(lfw_contrastive.Config(**{**options, **twice}))
    with pytest.raises(UsageError, match="give --validation-list and --test-list"):
        lfw_contrastive.main(lfw_contrastive.Config(**options))


def test_network_of_a_finished_run_works_under_plain_jit(finished, faces):
    """It was trained under pmap, and nothing in it asks for an axis of devices."""
    opened = Finished.open(finished[0])
    images = np.stack([faces.image(index)[:16, :16] for index in (0, 1, 10)])

    @jax.jit
    def embed(variables, x):
        return opened.network.apply(variables, x, method="embed")

    embedded = embed(opened.variables, images)
    assert embedded.shape[0] == 3
    assert np.isfinite(embedded).all()
    assert np.ptp(embedded, axis=0).max() > 0
    again = jax.jit(opened.network.apply)(opened.variables, images[:1], images[2:])[0]
    np.testing.assert_allclose(
        again, [np.linalg.norm(embedded[0] - embedded[2])], rtol=1e-4, atol=1e-6
    )


class TestUse:
    """verify and evaluate, on a finished run."""

    def test_verify(self, finished, face_folder, capsys):
        folder, _ = finished
        opened = Verifier.open(folder)
        picture = face_folder / "s01" / "01.png"
        distance, same = opened.compare(picture, picture)
        assert distance == pytest.approx(0, abs=1e-6)  # some CPUs round by the row
        assert same
        commands.verify(picture, picture, run=folder)
        assert capsys.readouterr().out.startswith("distance 0.0000, threshold ")

    def test_arrays_give_what_their_files_give(self, finished, face_folder):
        opened = Verifier.open(finished[0])
        paths = [face_folder / "s01" / "01.png", face_folder / "s02" / "03.png"]
        arrays = [np.asarray(Image.open(path)) for path in paths]
        expected = opened.compare(*paths)
        assert expected[0] > 0
        assert opened.compare(*arrays) == expected
        grey = arrays[0][..., 0]  # the faces are grey
        assert opened.compare(grey, paths[1]) == expected
        with pytest.raises(UsageError, match="image 0 of arrays is float32; expected uint8"):
            opened.compare(arrays[0].astype(np.float32), arrays[1])

    def test_evaluate_own_test_pairs_is_the_run_s_result(self, finished, capsys):
        folder, results = finished
        commands.evaluate(run=folder)
        out = capsys.readouterr().out
        assert "0 of 435 pairs show someone whose name" in out
        assert f"{results['network']['auc']:.4f}" in out

    def test_evaluate_says_that_training_people_leak(self, finished, face_folder, capsys):
        commands.evaluate(run=finished[0], data="orl_faces", limit=2000)
        out = capsys.readouterr().out
        assert "2,000 of 79,800 pairs drawn" in out
        assert "CONTAMINATED" in out
        commands.evaluate(run=finished[0], data=str(face_folder))
        assert "all pairs of folder" in capsys.readouterr().out

    def test_mistakes(self, finished, tmp_path, face_folder):
        folder, _ = finished
        picture = face_folder / "s01" / "01.png"
        with pytest.raises(UsageError, match="is not a finished run"):
            commands.verify(picture, picture, run=tmp_path)
        with pytest.raises(UsageError, match=r"gone.png: no such file"):
            commands.verify(picture, tmp_path / "gone.png", run=folder)
        (tmp_path / "manifest.json").write_text("{}")
        with pytest.raises(UsageError, match=r"manifest.json: .*missing required field `network`"):
            commands.verify(picture, picture, run=tmp_path)


def command(*words):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parent.parent,
    )


def test_a_user_s_mistake_ends_with_one_line_and_status_1(finished, tmp_path):
    result = command("siamjax", "verify", "a.png", "b.png", "--run", str(finished[0]))
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "a.png: no such file" in result.stderr
    assert "Traceback" not in result.stderr
