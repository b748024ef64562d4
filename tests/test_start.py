"""What a command imports before it answers, what it keeps for the next call, and what it tells."""

import gc
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from siamjax import __main__ as program
from siamjax import cli, messages, platform
from siamjax.models import EuclideanHead, LfwNet, Siamese
from siamjax.options import Count, Options
from siamjax.training import create_state, initialize
from siamjax.training.checkpoints import Checkpoints
from siamjax.training.description import describe_module

ROOT = Path(__file__).parent.parent
HEAVY = (
    *("jax", "flax", "optax", "orbax", "tensorstore", "scipy", "tqdm", "pooch", "jinja2", "h5py"),
    *("grain", "tensorflow_datasets", "array_record", "matplotlib", "faiss"),
    *("torch", "tensorflow", "tensorboardX", "keras", "pandas", "sklearn"),
)
EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("[a-z]*.py"))
# In this order in one process: what is imported, and what of HEAVY may be there afterwards.
JAX, READ = {"jax", "flax", "optax"}, {"orbax", "tensorstore"}
STAGES = (
    ("import siamjax", set()),
    ("call('--help')", set()),
    ("[call(name, '--help') for name in program.COMMANDS]", set()),
    ("[call('weights', name, '--help') for name in program.WEIGHTS]", set()),
    ("call('runs', '.')", set()),
    *((f"import experiments.{name}", JAX) for name in EXPERIMENTS),
    ("call('verify', 'people/0/0.png', 'people/1/0.png', '--run', 'run')", JAX | READ),
    ("call('embed', 'people', '--run', 'run', '--out', 'index')", JAX | READ | {"tqdm"}),
    ("call('search', 'people/0/0.png', '--index', 'index')", JAX | READ | {"tqdm"}),
    (
        "call('rank', 'people/0/0.png', '--gallery', 'people', '--run', 'run')",
        JAX | READ | {"tqdm"},
    ),
    ("call('evaluate', '--data', 'people', '--run', 'run')", JAX | READ | {"tqdm", "scipy"}),
)
SCRIPT = f"""
import sys
def call(*words):
    from siamjax import __main__ as program
    sys.argv = ["siamjax", *words]
    try:
        program.main()
    except SystemExit as end:
        assert not end.code, (words, end.code)
from importlib import import_module
class program:
    COMMANDS, WEIGHTS = {sorted(program.COMMANDS)!r}, {sorted(program.WEIGHTS)!r}
for number, stage in enumerate({[stage for stage, _ in STAGES]!r}):
    exec(stage)
    found = [name for name in {HEAVY!r} if name in sys.modules]
    print(f"STAGE {{number}}:", *found, file=sys.stderr, flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a small network, and two people with two images each."""
    folder = tmp_path_factory.mktemp("start")
    network = Siamese(backbone=LfwNet(width=0.05), head=EuclideanHead())
    variables, key = initialize(network, 16, 0)
    checkpoints = Checkpoints(folder / "run" / "checkpoints", best="auc")
    checkpoints.save(create_state(variables, optax.sgd(0.1), key=key), {"auc": 0.5})
    checkpoints.close()
    described = describe_module(network)
    manifest = {"format": 2, "network": described, "size": 16, "step": 0, "threshold": 1.0}
    (folder / "run" / "manifest.json").write_text(json.dumps(manifest | {"trained_on": ["x"]}))
    drawn = np.random.default_rng(0).integers(0, 256, (2, 2, 20, 20, 3), np.uint8)
    for person, images in enumerate(drawn):
        (folder / "people" / str(person)).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / "people" / str(person) / f"{number}.png")
    return folder


def test_no_command_imports_what_it_does_not_use(folder):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("STAGE ")]
    found = [set(line.partition(":")[2].split()) for line in lines]
    assert len(found) == len(STAGES)
    surplus = {stage: seen - allowed for (stage, allowed), seen in zip(STAGES, found, strict=True)}
    assert {stage: more for stage, more in surplus.items() if more} == {}
    assert found[-1] >= {"jax", "orbax"}  # or nothing could be seen here


@pytest.fixture
def no_choice(monkeypatch, tmp_path):
    """A user's home without a choice of a cache, before JAX is imported."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Set before they are removed, so that what the test leaves in the environment is undone.
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(platform.metadata, "version", lambda name: "0.10.2")
    return tmp_path / "cache" / "siamjax" / "compiled"


def test_compilations_are_kept_in_the_user_s_cache_folder(no_choice):
    platform.keep_compilations()
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert folder.parent == no_choice
    assert folder.stat().st_mode & 0o777 == 0o700  # who may write there can run code
    assert float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]) < 0.1


@pytest.mark.parametrize("chosen", ["", "/elsewhere"])
def test_the_user_s_own_choice_of_a_cache_is_kept(no_choice, monkeypatch, chosen):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    platform.keep_compilations()
    with warnings.catch_warnings(record=True) as told:
        warnings.warn("Error writing persistent compilation cache entry for 'f'", stacklevel=1)
    assert not told
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == chosen
    assert not no_choice.exists()


def test_nothing_is_kept_where_jaxlib_would_write_errors_at_reading(no_choice, monkeypatch):
    monkeypatch.setattr(platform.metadata, "version", lambda name: "0.10.0")
    platform.keep_compilations()
    assert not no_choice.exists()


def test_a_home_that_cannot_be_written_keeps_nothing(no_choice, monkeypatch, tmp_path):
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    platform.keep_compilations()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # of a user without a home
    platform.keep_compilations()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_the_cache_keeps_neither_old_nor_too_much(no_choice, monkeypatch):
    platform.keep_compilations()
    folder = Path(os.environ.pop("JAX_COMPILATION_CACHE_DIR"))
    days = {"old": 31, "a": 3, "b": 2, "c": 1}
    for name, age in days.items():
        path = folder / f"{name}-cache"
        path.write_bytes(bytes(400))
        os.utime(path, (path.stat().st_mtime - age * 24 * 3600,) * 2)
    (folder / "another file").touch()
    monkeypatch.setattr(platform, "_MOST_BYTES", 1000)
    platform.keep_compilations()
    assert {path.name for path in folder.iterdir()} == {"b-cache", "c-cache", "another file"}


def test_a_damaged_entry_of_the_cache_is_compiled_anew(no_choice, monkeypatch):
    """Without a word: what a killed process or a full disk leaves there costs time alone."""
    monkeypatch.setitem(sys.modules, "jax", jax)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    try:
        platform.keep_compilations()
        folder = Path(jax.config.jax_compilation_cache_dir)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for damage in (lambda whole: whole[: len(whole) // 2], lambda whole: b"", bytes.swapcase):
            assert jax.jit(lambda x: 3 * x + 1)(2.0) == 7
            entries = list(folder.glob("*-cache"))
            assert entries
            for path in entries:
                path.write_bytes(damage(path.read_bytes()))
            jax.clear_caches()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Options of an experiment."""

    steps: Count = 3


def typed(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["siamjax", *words])


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_is_an_option_of_every_experiment_and_command(monkeypatch, capsys, quiet):
    def main(config: Config):
        messages.note(f"{config.steps} steps")
        messages.warn("no locks")
        print("AUC 0.9")

    def command(*, steps: Count = 3):
        main(Config(steps=steps))

    words = ["--steps", "5"] + ["--quiet"] * quiet
    typed(monkeypatch, *words)
    cli.run(main, Config, description="An experiment.")
    cli.call(command, program="siamjax command", words=words)
    told = "warning: no locks\n" if quiet else "5 steps\nwarning: no locks\n"
    assert capsys.readouterr() == ("AUC 0.9\n" * 2, told * 2)
    assert messages.telling()


def test_garbage_is_looked_for_as_usual_once_a_command_begins():
    usual, seen = gc.get_threshold(), []
    platform.import_quickly()
    assert gc.get_threshold()[0] > usual[0]

    def command():
        seen.append(gc.get_threshold())

    cli.call(command, program="siamjax command", words=[])
    assert seen == [gc.get_threshold()] == [usual]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verfy", "a.png", "b.png"], "Unrecognized options: verfy"),
        (["verify", "a.png", "b.png"], "--run PATH"),
        (["verify", "a.png", "b.png", "--rnu", "x"], "--rnu"),
        (["verify", "a.png", "b.png", "c.png", "--run", "x"], "Unrecognized options: c.png"),
        (["evaluate", "--run", "x", "--limit", "many"], "Error parsing --limit"),
        (["embed", "x", "--run", "x", "--out", "x", "--dtype", "f"], "invalid choice 'f'"),
        (["weights", "lst"], "Unrecognized options: lst"),
        ([], "Expected one of"),
        (["--verion"], "Unrecognized options: --verion"),
    ],
    ids=" ".join,
)
def test_what_is_typed_wrong_is_named_and_ends_with_status_2(monkeypatch, capsys, words, said):
    typed(monkeypatch, *words)
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert "Traceback" not in shown.err
