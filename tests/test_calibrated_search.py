"""Two folders of photographs -> a calibrated search that says "no match" for a stranger."""

import json
import re
import shutil
import sys

import pytest
from PIL import Image

from experiments import lfw_contrastive
from siamjax.__main__ import main


@pytest.fixture(scope="module")
def place(faces, tmp_path_factory):
    """Photographs in folders, and a run that was trained on those in ``people``."""
    place = tmp_path_factory.mktemp("newcomer")
    folders = {"people": range(1, 15), "others": range(15, 35), "gallery": range(35, 39)}
    for index, key in enumerate(faces.keys):
        person, name = key.split("/")
        image = Image.fromarray(faces.image(index))
        for folder, numbers in folders.items():
            if int(person[1:]) in numbers and int(name[:2]) <= 4:
                path = place / folder / person / name
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
        if key in ("s35/10.png", "s39/01.png", "s40/01.png"):
            image.save(place / f"{person}.png")
    lfw_contrastive.main(
        lfw_contrastive.Config(
            **{"data": str(place / "people"), "run": place / "run", "width": 0.0625, "size": 16},
            **{"batch_size": 8, "steps": 60, "evaluate_every": 30, "log_every": 30},
            **{"validation_people": 3, "test_people": 3},
        )
    )
    return place


def call(place, monkeypatch, capsys, line):
    """What a command prints, in the folder with the photographs."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["siamjax", *line.split()])
    capsys.readouterr()
    main()
    return capsys.readouterr()


@pytest.mark.slow
def test_from_two_folders_to_a_search_that_says_no_match(place, monkeypatch, capsys):
    def said(line):
        return call(place, monkeypatch, capsys, line)

    before = said("verify s35.png s39.png --run run")
    assert "how often that is wrong is not known" in before.out
    assert "next: siamjax calibrate --run run --data" in before.err.replace("python -m ", "")
    done = said("calibrate --run run --data others")
    assert "folder others: 80 images of 20 people, divided in two (seed 0): 10 set" in done.out
    found = json.loads((place / "run" / "calibration.json").read_text())
    assert (place / "run" / "calibration.html").read_text().count("data:image/png;base64,") == 2
    own = said("verify gallery/s35/01.png gallery/s35/02.png --run run --prior 0.5").out
    value, threshold = map(float, re.findall(r"distance (\S+), threshold (\S+):", own)[0])
    assert threshold == pytest.approx(found["threshold"], abs=1e-4)
    assert ("same person" in own) == (value <= found["threshold"])
    assert re.search(r"false match rate at this distance \S+ \[\S+, \S+\]; likelihood ratio", own)
    assert "where 0.5 of all compared pairs are the same" in own
    on_others = said("evaluate --run run --data others --limit 500").out
    assert f"threshold is {threshold:.4f}, calibrated on folder others." in on_others
    assert "calibrated on" not in said("evaluate --run run").out  # it has the run's own
    answer = json.loads(said("verify s35.png s39.png --run run --json").out)
    assert answer["calibrated"] is True
    assert answer["fmr_interval"][0] <= answer["fmr"] <= answer["fmr_interval"][1]

    said("embed gallery --run run --out index")
    uncalibrated = said("search s39.png --index index --top 2")
    assert "a stranger finds someone, too" in uncalibrated.out
    assert "--data my_people/ --index" in uncalibrated.err
    said("calibrate --run run --data others --index index")
    shutil.copy(place / "gallery" / "s36" / "03.png", place / "again.png")
    line = "search again.png s35.png s39.png s40.png --index index --top 3"
    searched = said(f"{line} --out found.html")
    answers = json.loads(said(f"{line} --json").out)
    matched = {one["query"]: one["match"] for one in answers["queries"]}
    assert matched["again.png"] is True
    assert matched["s39.png"] is matched["s40.png"] is False
    assert answers["calibrated_images"] == 16
    assert answers["outgrown"] is False
    strangers = searched.out.split("s39.png\n")[1]
    assert strangers.startswith("      no match (threshold: squared distance")
    assert "no match from here on" in searched.out.split("s35.png\n")[0]
    assert "no match" in (place / "found.html").read_text()
    # A larger gallery than the one that was calibrated is warned of.
    said("embed people --run run --out index")
    assert "72 images are searched, and the threshold was made for 16" in said(line).err


def test_mistakes_are_a_line(place, monkeypatch, capsys):
    def refused(line, message):
        with pytest.raises(SystemExit):
            call(place, monkeypatch, capsys, line)
        assert re.search(message, capsys.readouterr().err)

    line = "calibrate --run run --data"
    refused(f"{line} people", r"people: 8 of 14 people, by name .*; by the pixels .* are among")
    refused("calibrate --run run", r"false match rate of 0.1 needs 9 people in each half")
    refused(f"{line} others --fpir 0.1", "--fpir is a rate of searches; give --gallery or --index")
    refused(f"{line} others --gallery 3 --index x", "two ways to say what is searched; give one")
    refused("verify s35.png s39.png --run nowhere --prior 0.1", "not a finished run")


def test_ranks_with_no_match_too(place, monkeypatch, capsys):
    refusal = "--gallery 99: a third of the 20 people of folder others has 18 images"
    with pytest.raises(SystemExit):
        call(place, monkeypatch, capsys, "calibrate --run run --data others --gallery 99")
    assert refusal in capsys.readouterr().err
    call(place, monkeypatch, capsys, "calibrate --run run --data others --gallery 4 --fpir 0.2")
    ranked = call(place, monkeypatch, capsys, "rank s39.png --gallery gallery/s35 --run run")
    assert "s39.png\n      no match (threshold: distance" in ranked.out
    assert "calibrated for 4 images" in ranked.out
