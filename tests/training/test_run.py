"""A run's folder, what it must agree with, and the network that it describes."""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax import processes
from siamjax.data import of_arrays
from siamjax.errors import UsageError
from siamjax.models.heads import DifferenceHead
from siamjax.models.lfw import LfwNet
from siamjax.models.siamese import Siamese
from siamjax.options import Positive
from siamjax.training import Run, RunConfig
from siamjax.training.description import build_module, describe_module


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    learning_rate: Positive = 0.1
    batch_size: int = 8


class Net(nn.Module):
    widths: tuple[int, ...] = (2, 3)
    act: object = nn.relu


def splits(fingerprint="abc"):
    return SimpleNamespace(
        images=of_arrays(np.zeros((2, 4, 4), np.uint8), name="my set/1"),
        protocol="drawn by hand",
        request={"data": "mine"},
        trained_on=("a", "b"),
        fingerprint=lambda: fingerprint,
    )


def open_run(folder, network=None, of=None, **options):
    config = Config(**{"run": folder, "steps": 5, **options})
    return Run.open(config, network or Net(), of or splits(), best="auc")


def test_network_comes_back_from_json():
    backbone = LfwNet(width=0.25, dtype=jnp.bfloat16, embedding_scale=None)
    network = Siamese(backbone=backbone, head=DifferenceHead())
    described = json.loads(json.dumps(describe_module(network)))
    assert build_module(described) == network


@pytest.mark.parametrize("name", ["siamjax.models.nothing:X", "siamjax.models.lfw:Nothing"])
def test_network_that_is_gone(name):
    with pytest.raises(UsageError, match="cannot be imported"):
        build_module({"class": name, "fields": {}})


def test_only_modules_are_built():
    with pytest.raises(UsageError, match="is not a linen module"):
        build_module({"class": "pathlib:Path", "fields": {}}, trust=("pathlib",))


def test_folder_of_another_config(tmp_path):
    folder = tmp_path / "run"
    assert not open_run(folder).begin()
    before = (folder / "config.json").read_bytes()
    assert open_run(folder, workers=2).begin()  # how images are read does not change a result
    with pytest.raises(UsageError, match=r"learning_rate is 0.1 there and 0.2 here\)"):
        open_run(folder, learning_rate=0.2)
    with pytest.raises(UsageError, match=r"data_fingerprint is 'abc' there and 'abd' here\)"):
        open_run(folder, of=splits("abd"))
    with pytest.raises(UsageError, match=r"network.widths is .*2, 3.* there and .*2, 4.*"):
        open_run(folder, network=Net(widths=(2, 4)))
    assert (folder / "config.json").read_bytes() == before


def test_what_differs_is_said_in_short_however_deep_it_lies(tmp_path):
    one, other = (Siamese(backbone=LfwNet(width=w), head=DifferenceHead()) for w in (0.5, 0.25))
    open_run(tmp_path / "run", network=one).begin()
    with pytest.raises(
        UsageError,
        match=r"config \(network.backbone.width is 0.5 there and 0.25 here\); give",
    ):
        open_run(tmp_path / "run", network=other)


def test_begun_runs_of_two_processes_are_compared_when_training_begins(tmp_path):
    """Both were opened before either had a folder."""
    one, other = open_run(tmp_path / "run"), open_run(tmp_path / "run", learning_rate=0.2)
    assert not one.begin()
    with pytest.raises(UsageError, match="another config"):
        other.begin()


BEGIN = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from test_run import open_run
run = open_run(pathlib.Path(sys.argv[2]))
run.begin()
print("begun", flush=True)
time.sleep(100)
"""


def test_a_second_command_in_a_folder_is_refused_until_the_first_has_gone(tmp_path):
    folder = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, "-c", BEGIN, Path(__file__).parent, folder],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert first.stdout.readline() == "begun\n"
        run = open_run(folder)
        with pytest.raises(UsageError, match=rf"{folder} is being written by another process"):
            run.begin()
    finally:
        first.kill()
        first.communicate()
    assert run.begin()
    assert open_run(folder).begin()  # a second run of this process, such as a notebook's


def test_a_folder_with_the_lock_alone_is_a_new_one(tmp_path):
    """What a command leaves that is killed as it begins."""
    (tmp_path / "lock").touch()
    assert not open_run(tmp_path).begin()


class Others:
    """Stands in for the other processes: what they give in each exchange, after process 0."""

    def __init__(self, monkeypatch, *given):
        self.given = list(given)
        monkeypatch.setattr(processes, "count", lambda: 2)
        monkeypatch.setattr(processes, "exchange", self.exchange)

    def exchange(self, value):
        other = self.given.pop(0) if self.given else value
        return [value, other(value) if callable(other) else other]


@pytest.mark.parametrize(
    ("name", "one", "two"), [("learning_rate", 0.1, 0.2), ("nonfinite", "stop", "skip")]
)
def test_processes_with_different_options_are_refused(tmp_path, monkeypatch, name, one, two):
    Others(monkeypatch, lambda value: value | {name: two})
    said = f"{name} is {one!r} in process 0 and {two!r} in process 1; start all"
    with pytest.raises(UsageError, match=said):
        open_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_other_processes_do_not_see_is_refused(tmp_path, monkeypatch):
    run = open_run(tmp_path / "run")

    def seen(here):
        return Others(monkeypatch, *(lambda value: value for _ in range(2)), here)

    seen(False)
    with pytest.raises(
        UsageError, match=r"process 1 does not see what process 0 writes into .*/run: give --run"
    ):
        run.begin()
    assert not (tmp_path / "run").exists()
    seen(True)
    assert not run.begin()
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.json", "lock"]


def test_folder_that_is_no_run(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and not a run"):
        open_run(tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "mine"
    with pytest.raises(UsageError, match=r"letter.txt.*cannot be made"):
        open_run(tmp_path / "letter.txt" / "run").begin()


def test_what_a_kill_leaves_of_a_run_that_began_is_no_obstacle(tmp_path):
    for name in ("lock", "config.json.tmp", "shared-0123456789abcdef.tmp"):
        (tmp_path / name).touch()
    assert not open_run(tmp_path).begin()
    assert (tmp_path / "config.json").stat().st_size


def test_folder_of_an_earlier_version(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"steps": 5}))
    with pytest.raises(UsageError, match="another version of siamjax, which cannot be resumed"):
        open_run(tmp_path)


def test_default_folder_is_named_by_experiment_and_data():
    def folder(**options):
        return str(Run(Config(**options), Net(), splits(), best="auc").folder)

    assert folder() == "runs/test_run-my-set-1"
    assert folder(seed=3) == "runs/test_run-my-set-1-seed3"
    assert folder(seed=3, run="mine/{data}") == "mine/my-set-1"


def test_what_cannot_work_is_refused_before_a_folder_is_made(tmp_path):
    folder = tmp_path / "run"
    for options, message in (
        ({"steps": 0}, "steps 0: must be at least 1"),
        ({"log_every": 0}, "log_every 0: must be at least 1"),
        ({"batch_size": 12}, "batch of 12 examples cannot be split over 8 devices; use a multip"),
        ({"seed": -1}, "seed -1: must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate 0.0: must be a number"),
        ({"network": Net(act=lambda x: x)}, r"Net.act: .*lambda.* cannot be imported"),
        ({"network": Net(act=np.zeros(2))}, r"Net.act = .* cannot be saved with a run"),
    ):
        with pytest.raises(UsageError, match=message):
            open_run(folder, **options)
        assert not folder.exists()


def test_manifest_comes_after_the_choice_of_a_checkpoint(tmp_path):
    run = open_run(tmp_path / "run", network=Net(act=partial(nn.leaky_relu, negative_slope=0.2)))
    run.begin()
    with pytest.raises(RuntimeError, match="best_variables"):
        run.write_manifest(size=4, results={})
    run.best_step = 3
    manifest = run.write_manifest(size=(4, 6), results={"network": {"auc": 0.5}}, facts={"t": 1})
    assert json.loads((tmp_path / "run/manifest.json").read_text()) == manifest
    assert (manifest["format"], manifest["experiment"]) == (2, "test_run")
    assert (manifest["size"], manifest["step"], manifest["t"]) == ([4, 6], 3, 1)
    assert "git" in manifest["judged"]
    again = build_module(manifest["network"])
    assert again.widths == (2, 3)
    assert dataclasses.asdict(run.config)["learning_rate"] == manifest["config"]["learning_rate"]
    assert float(again.act(-1.0)) == pytest.approx(-0.2)


def test_a_disk_without_space_leaves_no_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    run = open_run(tmp_path / "run")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"made or written \(No space left on device"):
        run.begin()
    assert not (tmp_path / "run").exists()
