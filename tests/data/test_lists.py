import os
import unicodedata

import numpy as np
import pytest

from siamjax.data import of_files
from siamjax.data.lists import folder_images, listed_images
from siamjax.errors import UsageError


def test_folder(face_folder):
    images = folder_images(face_folder)
    assert len(images) == 40
    assert images.keys[5] == "s02/01.png"
    assert images.identities[5] == "s02"


def test_folder_mistakes(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere: no such folder; expected FOLDER/anna"):
        folder_images(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no image \(.*expected FOLDER/anna"):
        folder_images(tmp_path)
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"out: not an image \(anna/notes.txt\); expected"):
        folder_images(tmp_path)


def write_list(folder, text, name="pairs.txt"):
    path = folder / name
    path.write_text(text)
    return path


def test_list(face_folder):
    text = "# comment\ns01/01.png s01/02.png 1\n\ns01/01.png\ts02/03.png\t0\n"
    images, (pairs,) = listed_images(write_list(face_folder, text))
    assert len(images) == 3
    np.testing.assert_array_equal(pairs.same, [True, False])
    assert images.keys[pairs.second[1]].endswith("s02/03.png")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s01/01.png s01/02.png", r"pairs.txt, line 2: 2 words"),
        ("s01/01.png s01/02.png 2", r"pairs.txt, line 2: label '2' must be 1"),
        ("s01/01.png s01/02.png -1", r"pairs.txt, line 2: label '-1' must be 1"),
        ("s01/01.png s01/99.png 1", r"pairs.txt, line 2: .*s01/99.png: no such image"),
    ],
)
def test_wrong_line(face_folder, line, message):
    path = write_list(face_folder, f"s01/01.png s01/02.png 1\n{line}\n")
    with pytest.raises(UsageError, match=message):
        listed_images(path)


@pytest.fixture
def listed(tmp_path):
    """Makes a list of images a to d (one of them twice, by a link), and reads it."""
    for name in "abcd":
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link").symlink_to("a")

    def read(*lines, **options):
        _, (pairs,) = listed_images(write_list(tmp_path, "\n".join(lines)), **options)
        return list(
            zip(pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist(), strict=True)
        )

    return read


def test_a_pair_is_there_once(listed, capsys):
    lines = ["a b 1", "c d 0", "", "b a 1", "a ./b 1", "c d 0", "link b 1"]
    assert listed(*lines) == [(0, 1, True), (2, 3, False)]
    told = capsys.readouterr().err
    assert told.endswith(
        "pairs.txt: 2 pairs; 4 left out: repeated pair (4: line 4, line 5, line 6, ...)\n"
    )
    with pytest.raises(UsageError, match=r"4 left out: repeated pair \(4: line"):
        listed(*lines, strict=True)


@pytest.mark.parametrize("label", [0, 1])
def test_an_image_with_itself_is_no_pair(listed, capsys, label):
    assert listed("a b 1", f"c ./c {label}", f"a link {label}") == [(0, 1, True)]
    assert "pair of an image with itself (2: line 2, line 3)" in capsys.readouterr().err
    with pytest.raises(UsageError, match="with itself"):
        listed("a b 1", f"c c {label}", strict=True)
    with pytest.raises(UsageError, match="no pair in it"):
        listed(f"c c {label}")


@pytest.mark.parametrize("second", ["a b 0", "b a 0", "b link 0"])
def test_both_labels_of_a_pair_are_refused(listed, second):
    with pytest.raises(UsageError, match=r"pairs.txt: lines 2 and 4 are the same pair with .* 1"):
        listed("c d 0", "a b 1", "", second)


def test_a_clean_list_is_no_complaint(listed, capsys):
    assert len(listed("a b 1", "a c 0", "b c 0", strict=True)) == 3
    assert capsys.readouterr().err.endswith("pairs.txt: 3 pairs\n")


@pytest.mark.parametrize(
    "name", ["p\u2028q", "p\x85q", "p\x0bq", "\u00a0p", "日本", "😀", "a" * 200]
)
@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_name_that_a_disk_takes(tmp_path, name, separator, end):
    for one in (name, "b"):
        (tmp_path / one).write_bytes(b"x")
    path = tmp_path / "pairs.txt"
    path.write_bytes(f"{name}{separator}b{separator}1{end}".encode())
    images, (pairs,) = listed_images(path)
    assert images.keys == (str(tmp_path / name), str(tmp_path / "b"))
    assert pairs.same.tolist() == [True]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_both_forms_of_a_letter_are_one_name(tmp_path, form, face_folder):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    folder = tmp_path / unicodedata.normalize(form, "Łódź é")
    folder.mkdir()
    disk = folder / unicodedata.normalize(form, "café.png")
    disk.write_bytes((face_folder / "s01/01.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"x")
    named = unicodedata.normalize(other, "Łódź é/café.png")
    images, _ = listed_images(write_list(tmp_path, f"{named}\tb.png\t1"))
    assert images.keys[0] == str(disk)
    assert images.image(0).shape == of_files([tmp_path / named], name="x").image(0).shape


def test_a_long_or_odd_path_is_one_line(tmp_path):
    (tmp_path / "b").write_bytes(b"x")
    for name in ("a" * 300, "a/" * 3000, "\x1b[31mred"):
        with pytest.raises(UsageError, match=r"pairs.txt, line 1: .*: no such image") as error:
            listed_images(write_list(tmp_path, f"{name} b 1"))
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 600


def test_tabs_allow_spaces_and_a_byte_order_mark_is_no_name(face_folder, tmp_path):
    spaced = tmp_path / "my image.png"
    spaced.write_bytes((face_folder / "s01" / "01.png").read_bytes())
    (tmp_path / "other.png").write_bytes(b"x")
    path = tmp_path / "list.txt"
    path.write_text("my image.png\tother.png\t1\n", encoding="utf-8-sig")
    images, _ = listed_images(path)
    assert images.keys[0] == str(spaced)


def test_a_broken_image_is_named_when_it_is_read(tmp_path, face_folder):
    (tmp_path / "anna").mkdir()
    image = (face_folder / "s01" / "01.png").read_bytes()
    (tmp_path / "anna" / "1.png").write_bytes(image[:500])
    with pytest.raises(UsageError, match=r"anna/1.png: (not an|broken) image"):
        folder_images(tmp_path).image(0)


def test_empty_and_missing_list(face_folder, tmp_path):
    with pytest.raises(UsageError, match="no pair in it"):
        listed_images(write_list(face_folder, "# nothing\n"))
    with pytest.raises(UsageError, match=r"none.txt: no such file; give the path of a list"):
        listed_images(tmp_path / "none.txt")
    binary = tmp_path / "binary.txt"
    for content in (b"a b 1\n\xff\xfe\n", b"a b 1\na\0b c 1\n", "a b 1".encode("utf-16")):
        binary.write_bytes(content)
        line = 1 if content.endswith(b"\0") else 2
        with pytest.raises(UsageError, match=f"binary.txt, line {line}: not UTF-8 text"):
            listed_images(binary)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UsageError, match="it is a named pipe"):
        listed_images(tmp_path / "pipe.txt")
