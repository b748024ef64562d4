"""Every command on every kind of bad input: one line on standard error and a status, no traceback.

A new kind of damage is a row of ``FINISHED``, ``RESUMED`` or ``IMAGES``: its name, and a function
that damages the run's folder, or makes the image, that it is given.
"""

import json
import os
import shutil

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from siamjax import __main__ as program
from siamjax import cli
from siamjax.data import VerificationOptions, load_verification
from siamjax.models import LfwNet, Siamese
from siamjax.models.heads import DifferenceHead
from siamjax.training import Run, RunConfig, create_state, initialize
from siamjax.training.writers import MetricWriter

# Orbax leaves the errors of its other reads of a damaged checkpoint to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
NETWORK = Siamese(backbone=LfwNet(width=0.05, embedding_scale=None), head=DifferenceHead())
SIZE = (16, 24)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A finished run of the smallest network that every command can use, people, and an index."""
    folder = tmp_path_factory.mktemp("world")
    for person in range(24):  # six of them are of the run, the others calibrate it
        own = folder / ("people" if person < 6 else "crowd") / f"person{person}"
        own.mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(10 * person + number).integers(0, 256, (16, 24, 3))
            path = own / f"{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    run = training(folder, folder / "run")
    run.begin()
    variables, key = initialize(NETWORK, SIZE, 0)
    run.checkpoints.save(create_state(variables, optax.sgd(0.1), key=key), {"auc": 0.5})
    run.note_session(start=0, seconds=1.0)
    MetricWriter(run.folder, start=0).write(1, {"loss": 0.5})
    run.best_variables()
    results = {"network": {"accuracy": 0.5, "auc": None}}
    run.write_manifest(size=SIZE, results=results, facts={"threshold": 0.25})
    call("embed", str(folder / "people"), run=folder / "run", out=folder / "index")
    return folder


def training(folder, place):
    """The run's experiment, in a folder."""
    options = VerificationOptions(data=str(folder / "people"), validation_people=2, test_people=2)
    config = RunConfig(run=place, batch_size=2 * jax.local_device_count(), steps=2)
    return Run.open(config, NETWORK, load_verification(options), best="auc")


COMMANDS = {name: program.command(place) for name, place in program.COMMANDS.items()}


def call(name, *arguments, **options):
    """A command as the command line calls it; ``SystemExit`` if it was refused."""
    cli.guard(lambda: COMMANDS[name](*arguments, **options))


def refused(capsys, command):
    """The one line that a command is refused with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code == 1
    said = capsys.readouterr().err.splitlines()
    errors = [line for line in said if line.startswith("error: ")]
    # Before it, a warning may stand on a line of its own.
    assert len(errors) == 1, said
    assert said[-1] == errors[0]
    assert errors[0].isprintable()
    assert 20 < len(errors[0]) < 2000
    return errors[0]


def uses(world, run, scratch):
    """Every command that opens a run."""
    image = world / "people/person0/0.png"
    people = world / "people"
    return {
        "verify": lambda: call("verify", image, image, run=run),
        "evaluate": lambda: call("evaluate", run=run),
        "folds": lambda: call("folds", [run, run]),
        "compare": lambda: call("compare", [run, world / "run"]),
        "calibrate": lambda: call("calibrate", run=run, data=str(world / "crowd")),
        "rank": lambda: call("rank", [image], gallery=people / "person1", run=run),
        "embed": lambda: call("embed", str(people), run=run, out=scratch / "index"),
        "search": lambda: call("search", [image], index=world / "index", run=run),
        "inspect": lambda: call("inspect", run=run),
        "export": lambda: call("export", run=run, out=scratch / "out", platforms=("cpu",)),
    }


def test_every_command_is_here(world, tmp_path):
    # The list of runs shows those that are damaged, too.
    assert {*uses(world, world, tmp_path), "runs"} == set(COMMANDS)


def replaced(name, content):
    """A file of a run with other content."""

    def damage(run):
        (run / name).write_bytes(content)

    return damage


def instead(name, make):
    """Something that is no regular file in a file's place."""

    def damage(run):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        make(path)

    return damage


def told(**changes):
    """A manifest with other values; None takes the key out."""

    def damage(run):
        path = run / "manifest.json"
        manifest = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))

    return damage


def every(pattern, change):
    """All files of the checkpoint that fit a pattern, changed."""

    def damage(run):
        paths = [path for path in (run / "checkpoints").rglob(pattern) if path.is_file()]
        assert paths
        for path in paths:
            change(path)

    return damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x5A
    path.write_bytes(content)


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def zero_device(path):
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def gone(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def large(path):
    with path.open("wb") as file:
        file.truncate(2**33)


def lfw(**fields):
    backbone = {"class": "siamjax.models.lfw:LfwNet", "fields": {"width": 0.05, **fields}}
    head = {"class": "siamjax.models.heads:DifferenceHead", "fields": {}}
    fields = {"backbone": backbone, "head": head}
    return {"class": "siamjax.models.siamese:Siamese", "fields": fields}


def deep(levels):
    value = {}
    for _ in range(levels):
        value = {"a": value}
    return value


NAMED = "\ud800\n\x1b[2J$" * 500
FINISHED = {
    "no folder": gone,
    "a file": lambda run: (gone(run), run.write_text("a file")),
    "no manifest": lambda run: gone(run / "manifest.json"),
    "an empty manifest": replaced("manifest.json", b""),
    "a manifest cut short": lambda run: cut(run / "manifest.json"),
    "a manifest of brackets": replaced("manifest.json", b"[" * 100_000),
    "a manifest of objects": replaced("manifest.json", b'{"network":' * 900 + b"1" + b"}" * 900),
    "a manifest not UTF-8": replaced("manifest.json", b'{"a": "\xff"}'),
    "a list as manifest": replaced("manifest.json", b"[]"),
    "an empty object as manifest": replaced("manifest.json", b"{}"),
    "5,000 digits": replaced("manifest.json", b'{"step": ' + b"9" * 5000 + b"}"),
    "a large manifest": lambda run: large(run / "manifest.json"),
    "a folder as manifest": instead("manifest.json", os.mkdir),
    "a pipe as manifest": instead("manifest.json", pipe),
    "a device as manifest": instead("manifest.json", zero_device),
    "a link to nothing": instead("manifest.json", lambda path: path.symlink_to("nothing")),
    "a later format": told(format=99),
    "format of text": told(format="x"),
    "no step": told(step=None),
    "another step": told(step=10**12),
    "step of text": told(step="0"),
    "a huge step": told(step=10**20),
    "no size": told(size=None),
    "size of text": told(size=[NAMED, 1]),
    "another size": told(size=[640, 480]),
    "threshold of text": told(threshold=NAMED),
    "a threshold that is no number": told(threshold=float("nan")),
    "splits of numbers": told(splits=[1]),
    "options of text": told(config="x"),
    "people of numbers": told(trained_on=[5]),
    "no network": told(network=None),
    "a deep network": told(network=deep(800)),
    "a deep network of format 1": told(network=deep(800), format=None),
    "a network of text": told(network=NAMED),
    "a class that is gone": told(network={"class": "siamjax.models.lfw:Gone", "fields": {}}),
    "a strange class": told(network={"class": NAMED, "fields": {}}),
    "a program": told(network={"class": "antigravity:x", "fields": {}}),
    "a module to trust": told(network={"class": "evil:Net", "fields": {}}),
    "another width": told(network=lfw(width=2.0)),
    "a field too many": told(network=lfw(height=1)),
    "a field of text": told(network=lfw(width="x")),
    "a huge field": told(network=lfw(width=10**30)),
    "a dtype of objects": told(network=lfw(dtype={"dtype": "object"})),
    "no checkpoints": lambda run: gone(run / "checkpoints"),
    "no checkpoint": lambda run: gone(run / "checkpoints/0"),
    "a file as checkpoint": instead("checkpoints/0", lambda path: path.write_text("x")),
    "no variables": lambda run: gone(run / "checkpoints/0/variables"),
    "no arrays": lambda run: gone(run / "checkpoints/0/variables/d"),
    "arrays cut short": every("variables/**/d/*", cut),
    "arrays changed": every("variables/**/d/*", flip),
    "pipes as arrays": every("variables/**/d/*", pipe),
    "devices as arrays": every("variables/**/d/*", zero_device),
    "large files as arrays": every("variables/**/d/*", large),
    "the tree cut short": every("variables/_METADATA", cut),
    "a tree of brackets": replaced("checkpoints/0/variables/_METADATA", b"[" * 100_000),
    "an empty tree": replaced("checkpoints/0/variables/_METADATA", b"{}"),
    "the arrays' list cut short": every("variables/manifest.ocdbt", cut),
}


@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("damage", FINISHED.values(), ids=FINISHED)
def test_every_command_refuses_a_damaged_run_in_one_line(damage, world, tmp_path, capsys):
    shutil.copytree(world / "run", tmp_path / "run")
    damage(tmp_path / "run")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    said = {
        name: refused(capsys, command)
        for name, command in uses(world, tmp_path / "run", tmp_path).items()
    }
    call("runs", tmp_path)
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    # Nothing was made, and but for the average of folds all say the same.
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert len(set(said.values()) - {said["folds"]}) <= 1


def resume(world, place):
    """What the experiment's command does, without the training."""
    run = training(world, place)
    run.begin()
    MetricWriter(place, start=1).close()
    variables, key = initialize(NETWORK, SIZE, 0)
    run.checkpoints.restore(create_state(variables, optax.sgd(0.1), key=key))
    run.note_session(start=1, seconds=1.0)
    run.best_variables()
    run.write_manifest(size=SIZE, results={"network": {"auc": 0.5}})


METRICS = "checkpoints/0/metrics/metrics"
RESUMED = {
    # Whether it goes on all the same, and the damage.
    "nothing": (True, lambda run: None),
    "no config": (False, lambda run: gone(run / "config.json")),
    "config cut short": (False, lambda run: cut(run / "config.json")),
    "config of brackets": (False, replaced("config.json", b"[" * 100_000)),
    "a list as config": (False, replaced("config.json", b"[]")),
    "a pipe as config": (False, instead("config.json", pipe)),
    "a folder as config": (False, instead("config.json", os.mkdir)),
    "a session cut short": (True, lambda run: cut(run / "sessions.jsonl")),
    "a session of brackets": (False, replaced("sessions.jsonl", b"[" * 100_000 + b"\n")),
    "a session of text": (False, replaced("sessions.jsonl", b'"x"\n')),
    "sessions not UTF-8": (False, replaced("sessions.jsonl", b"\xff\n")),
    "a folder as sessions": (False, instead("sessions.jsonl", os.mkdir)),
    "a pipe as sessions": (False, instead("sessions.jsonl", pipe)),
    "metrics cut short": (True, lambda run: cut(run / "metrics.jsonl")),
    "metrics of text": (False, replaced("metrics.jsonl", b'{"step": "x"}\n')),
    "metrics without a step": (False, replaced("metrics.jsonl", b'{"loss": 1}\n')),
    "a folder as metrics": (False, instead("metrics.jsonl", os.mkdir)),
    "no checkpoints": (False, lambda run: gone(run / "checkpoints")),
    "arrays cut short": (False, every("d/*", cut)),
    "pipes as arrays": (False, every("d/*", pipe)),
    "a checkpoint's metrics cut short": (False, replaced(METRICS, b'{"auc": 0.5, "st')),
    "a checkpoint's metrics of text": (False, replaced(METRICS, b'{"auc": "x", "step": 0.0}')),
    "a checkpoint's metrics without a step": (False, replaced(METRICS, b'{"auc": 0.5}')),
    "another run's metrics": (False, replaced(METRICS, b'{"eer": 0.5, "step": 0.0}')),
    "a checkpoint's metrics of nan": (False, replaced(METRICS, b'{"auc": NaN, "step": 0.0}')),
    "a folder as a checkpoint's metrics": (False, instead(METRICS, os.mkdir)),
    "a pipe as a checkpoint's metrics": (False, instead(METRICS, pipe)),
}


@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize(("goes_on", "damage"), RESUMED.values(), ids=RESUMED)
def test_a_damaged_run_is_resumed_or_refused_in_one_line(goes_on, damage, world, tmp_path, capsys):
    place = tmp_path / "run"
    shutil.copytree(world / "run", place)
    damage(place)
    if goes_on:
        resume(world, place)
        sessions = json.loads((place / "manifest.json").read_text())["sessions"]
        assert sessions[-1]["start"] == 1
    else:
        refused(capsys, lambda: cli.guard(lambda: resume(world, place)))


def eps(path):
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n%%EOF\n")


def broken_png(path):
    Image.new("RGB", (40, 40)).save(path)
    cut(path)


IMAGES = {
    "no image": lambda path: None,
    "an empty file": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("hello"),
    "a program": eps,
    "cut short": broken_png,
    "a pipe": pipe,
    "a device": zero_device,
    "a folder": os.mkdir,
    "a loop": lambda path: path.symlink_to(path),
    "a large file": large,
}


@pytest.mark.parametrize("make", IMAGES.values(), ids=IMAGES)
def test_every_command_refuses_a_bad_image_in_one_line(make, world, tmp_path, capsys):
    bad, run = tmp_path / "bad.png", world / "run"
    make(bad)
    good = world / "people/person0/0.png"
    (tmp_path / "pairs.txt").write_text(f"{bad} {good} 1\n{good} {good} 0\n")
    for command in (
        lambda: call("verify", bad, good, run=run),
        lambda: call("rank", [bad], gallery=world / "people/person1", run=run),
        lambda: call("search", [bad], index=world / "index", run=run),
        lambda: call("inspect", image=bad, run=run, out=tmp_path / "out"),
        lambda: call("evaluate", data=str(tmp_path / "pairs.txt"), run=run),
    ):
        assert "bad.png" in refused(capsys, command)


def test_strict_counts_for_the_run_s_own_pairs_too(world, capsys):
    note = world / "people/person0/note.txt"
    note.write_text("hello")
    try:
        call("evaluate", run=world / "run")
        assert "1 left out: not an image (person0/note.txt)" in capsys.readouterr().err
        said = refused(capsys, lambda: call("evaluate", run=world / "run", strict=True))
    finally:
        note.unlink()
    assert "person0/note.txt" in said
