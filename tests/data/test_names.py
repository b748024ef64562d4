"""Names that are not plain: not UTF-8, in two forms, hidden, numbers that are none."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamjax.data.catalogue import strings
from siamjax.data.images import fingerprint, of_arrays, of_files
from siamjax.data.lists import folder_images
from siamjax.data.names import is_hidden, on_disk, whole_number
from siamjax.data.open_catalogue import open_catalogue
from siamjax.data.pairs import PairList
from siamjax.data.verification import leaked
from siamjax.errors import UsageError

ODD = ["caf\udcff", "$x^{a}_b\\%", "p\u2028q", "日本語", "😀", "a" * 200, "<b>&\"'", "é", "e\u0301"]


@pytest.fixture
def folder(tmp_path):
    """A folder of people with every odd name, of two images each with an odd name too."""
    for number, name in enumerate(ODD):
        (tmp_path / name).mkdir()
        for image in range(2):
            pixels = Image.new("RGB", (4, 4), (number, image, 0))
            with open(tmp_path / name / f"{name[:200]}{image}.png", "wb") as file:
                pixels.save(file, "png")
    return tmp_path


@pytest.mark.parametrize("opened", [folder_images, lambda f: open_catalogue(f).images])
def test_every_name_is_read_and_hashed(folder, opened, capsys):
    images = opened(folder)
    assert len(images) == 2 * len(ODD)
    assert len({*images.keys}) == len(images)
    assert {key.split("/")[0] for key in images.keys} == {*ODD}
    for index, key in enumerate(images.keys):
        assert images.image(index)[0, 0, 0] == ODD.index(key.split("/")[0])
    assert len(images.checksum()) == len(fingerprint(images)) == 64
    capsys.readouterr().err.encode()  # what is printed can be


def test_the_fingerprint_tells_odd_names_apart(folder):
    images = folder_images(folder)
    seen = set()
    for index in range(len(images)):
        part = images.take(np.array([index]))
        seen |= {fingerprint(part), part.checksum()}
    assert len(seen) == 2 * len(images)


def test_a_name_in_its_other_form_is_found(tmp_path):
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        place = tmp_path / unicodedata.normalize(form, f"Zoë{form}/é ö/å.png")
        place.parent.mkdir(parents=True)
        place.write_bytes(b"x")
        assert on_disk(Path(unicodedata.normalize(other, str(place)))) == place
        assert (
            of_files([Path(unicodedata.normalize(other, str(place)))], name="x").source[0] == b"x"
        )
        absent = Path(unicodedata.normalize(other, str(place)).replace("å", "ø"))
        assert on_disk(absent.with_name("ø.png")) == absent.with_name("ø.png")
    with pytest.raises(UsageError, match="no such file"):
        of_files([tmp_path / "ü.png"], name="x").image(0)


def test_a_person_of_two_folders_that_differ_in_form_is_one(folder):
    people = folder_images(folder).identities.tolist()
    assert len({*people}) == len(ODD) - 1
    assert people.count("é") == 4


def test_a_changed_folder_is_looked_at_anew(tmp_path):
    name, other = unicodedata.normalize("NFD", "é.png"), tmp_path / "é.png"
    assert on_disk(other) == other
    (tmp_path / name).write_bytes(b"x")
    os.utime(tmp_path, ns=(0, 0))
    assert on_disk(other) == tmp_path / name


def test_of_two_names_that_differ_in_form_each_is_itself(tmp_path):
    for form in ("NFC", "NFD"):
        (tmp_path / unicodedata.normalize(form, "é.png")).write_bytes(form.encode())
    for form in ("NFC", "NFD"):
        path = tmp_path / unicodedata.normalize(form, "é.png")
        assert of_files([path], name="x").source[0] == form.encode()


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (".a", True),
        ("._a.png", True),
        ("a/.b/c", True),
        (".DS_Store", True),
        ("a/Thumbs.db", True),
        ("desktop.ini", True),
        ("__MACOSX/a/b.png", True),
        ("a/../b", False),
        ("a.b", False),
        ("__a", False),
        ("./a", False),
    ],
)
def test_hidden(name, hidden):
    assert is_hidden(name) is hidden


@pytest.mark.parametrize(
    "text", ["²", "٣", "", "-1", "+1", "1_0", " 1", "1.0", "9" * 19, "9" * 5000]
)
def test_only_plain_digits_are_a_number(text):
    assert whole_number(text) is None


def test_digits_are_a_number():
    assert [whole_number(text) for text in ("0", "007", "9" * 18)] == [0, 7, 10**18 - 1]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_who_was_trained_on_is_known_in_either_form(form):
    """A manifest may have been written where the disk has the other one."""
    images = of_arrays(np.zeros((4, 2, 2), np.uint8), ["José", "José", "Ana", "Bo"])
    pairs = PairList(
        name="x",
        first=np.array([0, 0, 2]),
        second=np.array([1, 2, 3]),
        same=np.array([True, False, False]),
    )
    trained_on = (unicodedata.normalize(form, "José"),)
    assert leaked(images, pairs, trained_on).tolist() == [True, True, False]
    assert not leaked(images, pairs, ()).any()


def test_a_long_column_holds_names_that_are_not_utf8():
    values = ["x" * 300, "caf\udcff"]
    assert strings(values).tolist() == values
