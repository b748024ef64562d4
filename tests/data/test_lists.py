import numpy as np
import pytest

from siamjax.data.lists import folder_images, listed_images
from siamjax.errors import UsageError


def test_folder(face_folder):
    images = folder_images(face_folder)
    assert len(images) == 40
    assert images.keys[5] == "s02/01.png"
    assert images.identities[5] == "s02"


def test_folder_mistakes(tmp_path, face_folder):
    with pytest.raises(UsageError, match=r"nowhere: no such folder; expected FOLDER/anna"):
        folder_images(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no images in its sub-folders"):
        folder_images(tmp_path)
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"anna/notes.txt: not an image by its suffix"):
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


def test_tabs_allow_spaces_and_a_byte_order_mark_is_no_name(face_folder, tmp_path):
    spaced = tmp_path / "my image.png"
    spaced.write_bytes((face_folder / "s01" / "01.png").read_bytes())
    path = tmp_path / "list.txt"
    path.write_text("my image.png\tmy image.png\t1\n", encoding="utf-8-sig")
    images, _ = listed_images(path)
    assert images.keys == (str(spaced),)


def test_nothing_in_a_folder_is_dropped_in_silence(tmp_path, face_folder):
    (tmp_path / "anna").mkdir()
    with pytest.raises(UsageError, match="anna: an identity without images"):
        folder_images(tmp_path)
    image = (face_folder / "s01" / "01.png").read_bytes()
    (tmp_path / "anna" / "1.png").write_bytes(image[:500])
    with pytest.raises(UsageError, match=r"anna/1.png: (not an|broken) image"):
        folder_images(tmp_path).image(0)
    (tmp_path / "stray.png").write_bytes(image)
    with pytest.raises(UsageError, match=r"stray.png: in no identity's folder"):
        folder_images(tmp_path)


def test_empty_and_missing_list(face_folder, tmp_path):
    with pytest.raises(UsageError, match="no pair in it"):
        listed_images(write_list(face_folder, "# nothing\n"))
    with pytest.raises(UsageError, match="no such list file"):
        listed_images(tmp_path / "none.txt")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as a list file"):
        listed_images(binary)
