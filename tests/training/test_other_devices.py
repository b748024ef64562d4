"""A run that was stopped on four devices goes on elsewhere, with the losses that it would have."""

import contextlib
import os
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from distributed.starting import ROOT, Processes
from tiny_run import OPTIMIZER, evaluate, killed_at, open_run, rows, train_step, variables_of

from siamjax.errors import Interrupted
from siamjax.models.normalization import BatchNorm
from siamjax.training import create_state, fit


class Quiet(nn.Module):
    """The tiny run's network without noise, which is drawn for each device anew."""

    @nn.compact
    def __call__(self, x, *, train=False, weight=None):
        x = nn.Dense(3, name="first")(x)
        x = BatchNorm(name="norm")(x, train=train, weight=weight)
        return nn.Dense(1, name="second")(x)[:, 0]


class Batches:
    """Stops at step ``stop``; a process of several has its rows of each batch."""

    def __init__(self, stop, index=0, count=1):
        self._stop, self._index, self._count = stop, index, count

    def __call__(self, start):
        for batch in killed_at(self._stop)(start):
            parts = {name: np.split(rows, self._count) for name, rows in batch.items()}
            yield {name: part[self._index] for name, part in parts.items()}

    def divided(self, index, count):
        return Batches(self._stop, index, count)


def train(folder, stop=None):
    """To the end, or until a signal arrives as step ``stop`` is made."""
    run = open_run(Path(folder), Quiet())
    state = create_state(variables_of(Quiet()), OPTIMIZER, key=jax.random.key(4))
    with contextlib.suppress(Interrupted):
        fit(run, state, train_step(network=Quiet()), Batches(stop), evaluate=evaluate)
    run.close()


def elsewhere(folder, script, *, stop=None, **options):
    """``train`` in other processes, after ``script``."""
    paths = [ROOT, ROOT / "tests", ROOT / "tests" / "training"]
    words = "import sys; from test_other_devices import *; train(sys.argv[1], eval(sys.argv[2]))"
    given = ["-c", f"{script}\n{words}", str(folder / "run"), str(stop), "{distributed}"]
    path = os.pathsep.join(map(str, paths))
    with Processes(*given, folder=folder / "said", PYTHONPATH=path, **options) as started:
        return started.succeeded()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Saved after step 3 of 6, on four devices."""
    folder = tmp_path_factory.mktemp("four")
    elsewhere(folder, "", stop=3, count=1, devices=4)
    assert sorted(path.name for path in (folder / "run" / "checkpoints").iterdir()) == ["2", "3"]
    return folder / "run"


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Never stopped, on this process's eight devices."""
    folder = tmp_path_factory.mktemp("straight")
    train(folder / "run")
    return rows(folder / "run")


def check(stopped, straight, folder, go_on):
    shutil.copytree(stopped, folder / "run")
    go_on()
    got = rows(folder / "run")
    assert (
        [row["step"] for row in got]
        == [row["step"] for row in straight]
        == [*(1, 2, 2, 3, 4, 4, 5, 6, 6)]
    )
    for row, expected in zip(got, straight, strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_on_eight_devices(stopped, straight, tmp_path):
    assert jax.device_count() == 8
    check(stopped, straight, tmp_path, lambda: train(tmp_path / "run"))


@pytest.mark.slow
def test_on_one_device(stopped, straight, tmp_path):
    check(stopped, straight, tmp_path, lambda: elsewhere(tmp_path, "", count=1, devices=1))


@pytest.mark.slow
def test_on_two_processes(stopped, straight, tmp_path):
    script = "import sys; from siamjax import processes; processes.start(sys.argv[3])"
    check(stopped, straight, tmp_path, lambda: elsewhere(tmp_path, script, count=2, devices=2))
