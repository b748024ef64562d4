"""Experiments by their commands: two processes of two devices make the run of one with four."""

import json
import signal

import pytest
from starting import Processes
from tiny_run import rows

from siamjax.files import read_rows

SHORT = ["--batch-size", "8", "--steps", "4", "--evaluate-every", "2", "--log-every", "1"]
FACES = [
    *("-m", "experiments.lfw_contrastive", *SHORT, "--data", "orl_faces", "--width", "0.0625"),
    *("--size", "16", "--validation-people", "3", "--test-people", "3"),
]
THINGS = [
    *("-m", "experiments.visual_search_triplet", *SHORT, "--size", "16", "--width", "0.0625"),
    *("--hidden", "16", "--embedding", "8", "--test-items", "30", "--validation-items", "10"),
]
# Images of the published size would take minutes.
SMALL_IMAGES = (
    "from experiments import reid_normxcorr as it; it.SIZE = (64, 40); "
    "from siamjax import cli; cli.run(it.main, it.Config, description=None)"
)
PEOPLE = ["-c", SMALL_IMAGES, *SHORT, "--no-fused", "--validation-people", "2"]
TOGETHER = ("--distributed", "{distributed}")


def alone(words, folder):
    """One process with four devices, where others would be two with two devices."""
    with Processes(*words, "--run", str(folder), folder=said(folder), count=1, devices=4) as one:
        return one.succeeded()[0]


def together(words, folder, **options):
    """The two processes, which are yet to end."""
    return Processes(
        *words, *TOGETHER, "--run", str(folder), folder=said(folder), count=2, devices=2, **options
    )


def said(folder):
    return folder.with_name(f"{folder.name}.said")


def files(folder):
    """The files of a run, without those of which Orbax and TensorBoard make up the names."""
    found = {str(path.relative_to(folder)) for path in folder.iterdir()}
    return found | {f"checkpoints/{path.name}" for path in (folder / "checkpoints").iterdir()}


def assert_same_run(got, expected, *, share):
    """The same files, written once; equal metrics, and numbers of the evaluation."""
    assert files(got) == files(expected)
    assert len(list((got / "events").iterdir())) == 1
    got_rows, expected_rows = rows(got), rows(expected)
    assert [row.keys() for row in got_rows] == [row.keys() for row in expected_rows]
    for row, other in zip(got_rows, expected_rows, strict=True):
        assert row == pytest.approx(other, rel=share, abs=share)
    sessions = read_rows(got / "sessions.jsonl", dict)
    assert [(row["start"], row["end"]) for row in sessions] == [(0, 4)]
    results, others = (
        json.loads((folder / "manifest.json").read_text())["results"] for folder in (got, expected)
    )
    assert results.keys() == others.keys()
    for name, values in results.items():
        for measure, value in values.items():
            other = others[name][measure]
            if isinstance(other, int | None) or name != "network":
                assert value == other, (name, measure)
            else:
                assert value == pytest.approx(other, rel=share, abs=share), (name, measure)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "share"),
    [(FACES, 1e-3), (THINGS, 2e-2), (PEOPLE, 2e-2)],
    ids=["pair", "triplet", "cross-input"],
)
def test_the_run_of_one_process(words, share, request, tmp_path):
    if words is PEOPLE:
        words = [*words, "--data", str(request.getfixturevalue("market"))]
    expected = alone(words, tmp_path / "alone")
    with together(words, tmp_path / "together") as processes:
        first, second = processes.succeeded()
    assert second.out == ""
    assert second.err.count("\n") <= 1  # where it meets the others
    assert first.out.count("\n") == expected.out.count("\n") > 3
    assert_same_run(tmp_path / "together", tmp_path / "alone", share=share)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_the_resumed_run_is_straight(tmp_path):
    words = [*FACES, "--steps", "200", "--evaluate-every", "50"]
    with together(words, tmp_path / "straight") as processes:
        processes.succeeded()
    with together(words, tmp_path / "stopped") as processes:
        processes.wait_for("step 50: ")
        processes.running[1].send_signal(signal.SIGTERM)
        first, second = processes.ended(within=60)
    assert (first.status, second.status) == (143, 143)
    step = int(first.err.split("SIGTERM: saved after step ")[1].split()[0])
    assert 50 <= step < 200
    saved = [int(path.name) for path in (tmp_path / "stopped" / "checkpoints").iterdir()]
    assert max(saved) == step
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    with together(words, tmp_path / "stopped") as processes:
        first, second = processes.succeeded()
    assert f"resumed at step {step} of 200" in first.err
    assert "resumed" not in second.err
    assert rows(tmp_path / "stopped") == rows(tmp_path / "straight")
    results = [
        json.loads((tmp_path / name / "manifest.json").read_text())["results"]
        for name in ("stopped", "straight")
    ]
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_folder_of_each_process_is_refused(tmp_path):
    where = [tmp_path / "first", tmp_path / "second"]
    for folder in where:
        folder.mkdir()
    words = [*FACES, *TOGETHER, "--run", "run"]
    with Processes(*words, folder=tmp_path / "said", where=where) as processes:
        first, second = processes.ended()
    assert (first.status, second.status) == (1, 1)
    assert "process 1 does not see what process 0 writes into" in first.err
    assert "give --run a folder on a disk that all processes share" in first.err
    assert not any((folder / "run").exists() for folder in where)


@pytest.mark.slow
def test_options_that_differ_are_refused(tmp_path):
    script = (
        "import os, runpy, sys; index = sys.argv[-1][-1]; "
        "sys.argv += ['--margin', '1.5' if index == '1' else '1.0']; "
        "runpy.run_module('experiments.lfw_contrastive', run_name='__main__', alter_sys=True)"
    )
    words = ["-c", script, *FACES[2:], "--run", str(tmp_path / "run"), *TOGETHER]
    with Processes(*words, folder=tmp_path / "said") as processes:
        first, second = processes.ended()
    assert (first.status, second.status) == (1, 1)
    assert "margin is 1.0 in process 0 and 1.5 in process 1; start all processes" in first.err
    assert not (tmp_path / "run").exists()
