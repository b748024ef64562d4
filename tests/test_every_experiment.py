"""What holds for every file in experiments/: its form, what it imports, what its help says."""

import dataclasses
import importlib
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamjax.data import VerificationOptions, load_verification
from siamjax.data.datasets import lfw
from siamjax.training import RunConfig

ROOT = Path(__file__).parent.parent
NAMES = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if p.stem != "__init__")


def test_there_are_experiments():
    assert {"lfw_contrastive", "lfw_bce", "faces_inception", "reid_normxcorr"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_has_options_a_build_and_a_main(name):
    experiment = importlib.import_module(f"experiments.{name}")
    assert issubclass(experiment.Config, RunConfig)
    assert dataclasses.fields(experiment.Config)
    assert callable(experiment.build)
    assert callable(experiment.main)
    for field in dataclasses.fields(experiment.Config):
        if field.default is dataclasses.MISSING:  # what no default could be right for
            assert name in ("faces_inception", "finetune_embedding")
            assert field.name == "weights"


ALONE = """
import sys

BLOCKED = ("tyro", "grain", "tensorflow_datasets", "matplotlib")
for name in BLOCKED:
    sys.modules[name] = None  # an import of it raises

import importlib
from pathlib import Path

import jax
import numpy as np

for name in ("training", "inference", "report", "data", "models"):
    importlib.import_module(f"siamjax.{name}")

from siamjax import cli
from siamjax.training import create_state, make_train_step
from random_variables import random_variables
from small_experiments import OPTIONS, SIDES, batch_of, built

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
for name in sys.argv[1].split():
    network, loss_fn, optimizer = built(name)
    variables = random_variables(network, SIDES[name])
    state = create_state(variables, optimizer, key=jax.random.key(0))
    after, metrics = jax.jit(make_train_step(loss_fn, optimizer))(state, batch_of(name, 4))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), variables["params"], after.params)
    assert any(jax.tree.leaves(moved)), name
    assert metrics["loss"].count == 4, name
    assert np.isfinite(metrics["loss"].compute()), name
    print(f"{name} steps")

# The blocks are real: main meets each of them where it needs what is blocked.
contrastive = importlib.import_module("experiments.lfw_contrastive")
config = contrastive.Config(
    **OPTIONS["lfw_contrastive"], run=Path(sys.argv[2]), size=16, batch_size=2, steps=1,
    validation_people=2, test_people=2,
)


def met(call):
    try:
        call()
    except ImportError as error:
        name = error.name.partition(".")[0]
        assert sys.modules.pop(name, "") is None, error
        print("main needs", name)


met(lambda: cli.run(contrastive.main, contrastive.Config, description=None))
for _ in range(3):
    met(lambda: contrastive.main(config))
"""


@pytest.mark.slow
def test_each_steps_under_jit_without_what_only_main_needs(tmp_path):
    """No tyro, grain, TFDS or matplotlib is imported before ``main`` asks for it."""
    cache = ROOT / ".pytest_cache" / "jax"
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, " ".join(NAMES), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert [line for line in said if line.endswith("steps")] == [f"{name} steps" for name in NAMES]
    needed = [line.split()[-1] for line in said if line.startswith("main needs")]
    assert needed == ["tyro", "tensorflow_datasets", "grain", "matplotlib"]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", NAMES)
def test_help_shows_every_option_and_its_default(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    assert end.value.code == 0
    told = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert f"python -m experiments.{name}" in told
    options = dict(re.findall(r" --([a-z-]+) (.*?)(?= --[a-z]|$)", told))
    config = importlib.import_module(f"experiments.{name}").Config
    for field in dataclasses.fields(config):
        assert f"--{field.name.replace('_', '-')}" in told
    for option in ("width", "size", "batch-size", "steps", "run", "seed", "learning-rate"):
        field = config.__dataclass_fields__.get(option.replace("-", "_"))
        if field is not None:
            assert f"(default: {field.default})" in options[option].replace("'", "")


def test_a_module_that_is_gone_is_an_error():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.faces"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode != 0
    assert "No module named experiments.faces" in done.stderr


def test_where_lfw_lies_the_embedded_faces_are_trained_on_and_a_line_tells(
    faces, tmp_path, monkeypatch, capsys
):
    """The same command is the same experiment on every machine."""
    person = tmp_path / "lfw_funneled" / "Aaron_Eckhart"
    person.mkdir(parents=True)
    Image.fromarray(faces.image(0)).save(person / "Aaron_Eckhart_0001.jpg")
    monkeypatch.setattr(lfw, "search_path", lambda: [tmp_path / "nothing"])
    without = load_verification(VerificationOptions())
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    monkeypatch.setenv("SIAMJAX_LFW", str(tmp_path))
    found = load_verification(VerificationOptions())
    assert found.images.name == "orl_faces"
    assert found.fingerprint() == without.fingerprint()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert str(tmp_path) in said[0]
    assert "--data lfw" in said[0]
    assert len(np.unique(found.images.identities)) == 40
