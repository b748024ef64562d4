"""docs/commands.md: what each command gives for a run of each experiment, cell by cell."""

import functools
import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from random_variables import random_variables
from small_experiments import OPTIONS, SIDES
from splits import reid_splits, retrieval_splits, verification_splits

from siamjax.__main__ import COMMANDS, WEIGHTS, main
from siamjax.pretrained import Weights, published
from siamjax.training import Finished, Run, create_state

PAGE = (Path(__file__).parent.parent / "docs" / "commands.md").read_text()
EXPERIMENTS = [name for name in OPTIONS if name != "finetune_embedding"]


def words_in(cell):
    return re.findall("`([^`]+)`", cell)


def table(title):
    """The rows of the table under a title, and its head."""
    page = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [row.strip("| ").split(" | ") for row in page.splitlines() if row.startswith("| ")]
    return rows[0], rows[2:]


(_, *_names), _rows = table("Any run with any command")
CELLS = {  # by command line and experiment
    (words_in(line)[0], words_in(name)[0]): cell
    for line, *cells in _rows
    for name, cell in zip(_names, cells, strict=True)
}
KEYS = {  # of the objects, by command; what stands in brackets lies within
    words_in(command)[0]: set(words_in(re.sub(r"\([^)]*\)", "", keys)))
    for command, keys in table("JSON")[1]
}


@pytest.fixture(scope="module")
def place(faces, face_folder, tmp_path_factory):
    """A folder with data of every kind, and a run of every experiment that was never trained."""
    place = tmp_path_factory.mktemp("any")
    for path in face_folder.glob("s0*/0[12].png"):  # eight people with two images each
        (place / "people" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / "people" / path.parent.name)
    for index, key in enumerate(faces.keys):  # the next twenty people
        if "s09" <= key[:3] < "s29" and key[4:6] in ("01", "02"):
            path = place / "crowd" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(faces.image(index)).save(path)
    (place / "gallery").symlink_to(face_folder / "s02")
    rows = [f"people/s0{item}/0{image}.png,s0{item}" for item in (3, 4, 5) for image in (1, 2)]
    (place / "table.csv").write_text("\n".join(["image,item", *rows]))
    for name, number in (("a.jpg", 1), ("b.jpg", 2)):
        Image.open(face_folder / "s01" / f"0{number}.png").save(place / name)
    rng = np.random.default_rng(0)
    for person in range(1, 8):
        for camera in (1, 2):
            part = "bounding_box_train" if person <= 4 else "bounding_box_test"
            for folder in (part, "query") if (person > 4 and camera == 1) else (part,):
                path = place / "walkers" / folder / f"{person:04}_c{camera}s1_000.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 20, 3), np.uint8)).save(path)
    people = str(place / "people")
    pairs = verification_splits(people, validation_people=2, test_people=3)
    splits = dict.fromkeys(EXPERIMENTS, pairs) | {
        "reid_normxcorr": reid_splits(str(place / "walkers"), validation_people=2),
        "visual_search_triplet": retrieval_splits(people, test_items=3, validation_items=2),
    }
    for name in EXPERIMENTS:
        untrained(name, splits[name], place / name)
    return place


def untrained(name, splits, folder):
    """What ``main`` of an experiment leaves behind, but for training and report."""
    experiment = importlib.import_module(f"experiments.{name}")
    task = {"reid_normxcorr": "reid", "visual_search_triplet": "retrieval"}
    task = task.get(name, "verification")
    data = splits.request["data"]
    config = experiment.Config(**OPTIONS[name], data=data, run=folder, batch_size=8)
    network, _, optimizer = experiment.build(config)
    run = Run.open(config, network, splits, best="chosen")
    run.begin()
    variables = random_variables(network, SIDES[name])
    state = create_state(variables, optimizer, key=jax.random.key(0))
    run.checkpoints.save(state, {"chosen": 0.5})
    run.best_variables()
    # 1000: any two are the same by a distance, and no two by a logit.
    threshold = {"lfw_contrastive": 1000.0}.get(name, -1000.0)
    facts = {"task": task} | ({"threshold": threshold} if task == "verification" else {})
    manifest = run.write_manifest(size=SIDES[name], results={}, facts=facts)
    for other, steps in (("longer", 2000), ("calibrated", config.steps)):
        copy = folder.with_name(f"{name}-{other}")
        shutil.copytree(folder, copy)
        changed = {**manifest, "config": {**manifest["config"], "steps": steps}}
        (copy / "manifest.json").write_text(json.dumps(changed, default=str))


_open = functools.cache(Finished.open)


@pytest.fixture
def say(place, monkeypatch, capsys):
    """Type a command line of the page for an experiment's run: status, and all that is said."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(Finished, "open", lambda folder, *, trust=(): _open(Path(folder)))

    def typed(line, experiment, *more):
        for name in ("index", "model"):
            line = line.replace(f"{name}/", f"{name}-{experiment}")
        # What is calibrated is another copy, so that no cell depends on another.
        run = f"{experiment}-calibrated" if line.startswith("calibrate") else experiment
        words = [*line.replace("RUN", run).split(), *more]
        monkeypatch.setattr(sys, "argv", ["siamjax", *words])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr()

    return typed


@pytest.fixture
def indexed(say, place):
    """Make the index of an experiment, which some cells need."""

    def made(experiment):
        if not (place / f"index-{experiment}").exists():
            say(next(one for one, _ in CELLS if one.startswith("embed")), experiment)

    return made


def cell_of(line, experiment):
    """Exports compile, and calibrations draw: of each kind of network one is in the fast tests."""
    again = line.startswith("export") and experiment != "lfw_contrastive"
    again |= line.startswith("calibrate") and experiment in ("lfw_bce", "faces_inception")
    return pytest.param(line, experiment, marks=[pytest.mark.slow] if again else [])


@pytest.mark.parametrize(("line", "experiment"), [cell_of(*place) for place in CELLS])
def test_cell(say, indexed, line, experiment):
    cell = CELLS[line, experiment]
    if line.startswith("search"):
        indexed(experiment)
    status, said = say(line, experiment)
    assert (status != 0) == ("refused" in cell), said.err
    if status:
        *notes, last = said.err.splitlines()
        assert last.startswith("error: ")
        assert not any(note.startswith("Traceback") for note in notes)
    for word in words_in(cell):
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", said.out + said.err), word


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--data walkers/ --task verification", "walkers/ cannot be for verification, only for re"),
        ("--task reid", "task reid applies to other data; give --data too"),
        ("--data a.jpg --task retrieval", "a.jpg cannot be for retrieval, only for verification"),
        ("--data nowhere", "nowhere: no such set, folder or file; give a path or one of orl_faces"),
        ("--data gallery/ --task retrieval", "no item has two images"),
        ("--data people/ --limit 0", "limit 0: must be at least 1"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(say, words, why):
    status, said = say(f"evaluate --run RUN {words}", "lfw_contrastive")
    assert (status, said.out) == (1, "")
    assert f"error: {why}" in said.err or why in said.err.splitlines()[-1]


def test_people_of_the_training_are_known_by_their_images_too(say, place):
    """Under other names: anna is s03 or whoever was trained on, bert is a stranger."""
    trained = json.loads((place / "lfw_contrastive/manifest.json").read_text())["trained_on"]
    for name, source in (("anna", f"people/{trained[0]}"), ("bert", "crowd/s28")):
        if not (place / "renamed" / name).exists():
            shutil.copytree(place / source, place / "renamed" / name)
    status, said = say("evaluate --run RUN --data renamed/ --json", "lfw_contrastive")
    told = json.loads(said.out)
    assert (status, told["contaminated"]) == (0, True)
    assert "CONTAMINATED: 0 of 6 pairs show someone whose name" in told["leaks"]
    assert "of 4 images 2 were trained on, and 0 chose the checkpoint" in told["leaks"]


def test_a_probability_needs_a_calibration(say):
    status, said = say("verify a.jpg b.jpg --run RUN --prior 0.5", "lfw_contrastive")
    assert (status, said.out) == (1, "")
    assert "calibrate it first: python -m siamjax calibrate --run lfw_contrastive --d" in said.err


def test_what_is_calibrated_is_evaluated_at_that_threshold(say, place):
    """A search's run has none before; on its own test data nothing is verified."""
    run = "visual_search_triplet-calibrated"
    if not (place / run / "calibration.json").exists():
        say("calibrate --run RUN --data crowd/", "visual_search_triplet")
    known = json.loads((place / run / "calibration.json").read_text())["threshold"]
    line = "evaluate --run RUN --data people/ --task verification --json"
    before, after = (json.loads(say(line, name)[1].out) for name in (run.partition("-")[0], run))
    assert (before["threshold"], before["results"]["network"]["accuracy"]) == (None, None)
    assert before["unknown"]["accuracy"].startswith("there is no threshold")
    assert after["threshold"] == pytest.approx(known)
    assert 0 <= after["results"]["network"]["accuracy"] <= 1


LINES = {  # a line for each command that prints results
    **{line.split()[0]: line for line, _ in reversed(CELLS)},
    "runs": "runs .",
    "inspect": "inspect --run RUN --layer conv1",
    "export": "export --run RUN --out exported --platforms cpu",
    "weights list": "weights list",
}


@pytest.mark.parametrize("command", [name for name in KEYS if name in LINES])
def test_json_is_one_object_with_the_keys_of_the_page(say, indexed, command):
    if command == "search":
        indexed("lfw_contrastive")
    status, said = say(LINES[command], "lfw_contrastive", "--json")
    assert status == 0, said.err
    assert set(json.loads(said.out)) == KEYS[command]
    assert len(said.out.splitlines()) == 1
    assert "next: " not in said.err


def test_json_of_commands_without_a_run(say, place, monkeypatch):
    """Accuracies 0.9 and 0.8: mean 0.85, deviation sqrt(2 * 0.05^2 / 1), error that / sqrt(2)."""
    for fold, accuracy in ((1, 0.9), (2, 0.8)):
        manifest = {
            "data": "lfw/funneled",
            "network": {},
            "size": 8,
            "step": 1,
            "splits": {"lfw_fold": fold},
            "config": {"margin": 1.0},
            "threshold": 0.5,
            "results": {"network": {"accuracy": accuracy}},
        }
        (place / f"fold{fold}").mkdir()
        (place / f"fold{fold}" / "manifest.json").write_text(json.dumps(manifest))
    some = Weights(
        source="here",
        architecture="vgg16",
        tensors={"params/block1_conv1/bias": np.zeros(64, np.float32)},
        preprocessing="caffe",
    )
    monkeypatch.setattr(published, "fetch", lambda name: Path(f"{name}.npz"))
    monkeypatch.setattr(published, "open_weights", lambda file, *, preprocessing: some)
    lines = {
        "folds": "folds fold1 fold2",
        "weights get": "weights get vgg16",
        "weights convert": "weights convert vgg16.h5",
    }
    told = {}
    for name, line in lines.items():
        status, said = say(line, "", "--json")
        assert status == 0, said.err
        told[name] = json.loads(said.out)
        assert set(told[name]) == KEYS[name]
    assert told["folds"]["accuracy"] == pytest.approx(0.85)
    assert told["folds"]["standard_deviation"] == pytest.approx(0.0707107, rel=1e-5)
    assert told["folds"]["standard_error"] == pytest.approx(0.05)
    assert told["folds"]["missing"] == [3, 4, 5, 6, 7, 8, 9, 10]
    assert told["weights get"] == {"name": "vgg16", "path": "vgg16.npz"}
    assert (told["weights convert"]["path"], told["weights convert"]["values"]) == ("vgg16.npz", 64)
    assert {*LINES, *lines} == {*COMMANDS, *(f"weights {name}" for name in WEIGHTS)} == set(KEYS)
