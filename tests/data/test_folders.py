"""One rule for every folder: links, loops, hidden files, and what is left out."""

import os
import re

import pytest
from PIL import Image

from siamjax.data.archives import collect
from siamjax.data.folders import image_files, read_folder, walk
from siamjax.data.lists import folder_images
from siamjax.data.open_catalogue import open_catalogue
from siamjax.errors import UsageError


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def in_collected(folder, strict=False):
    return sorted(collect(folder, lambda path: str(path) if path.suffix == ".png" else None))


def in_gallery(folder, strict=False):
    return [str(path.relative_to(folder)) for path in image_files(folder, strict=strict)]


READERS = {
    "image_files": in_gallery,
    "collect": in_collected,
    "catalogue": lambda folder, **strict: list(open_catalogue(folder, **strict).images.keys),
    "identities": lambda folder, **strict: list(folder_images(folder, **strict).keys),
}


@pytest.fixture(params=READERS)
def reader(request):
    return READERS[request.param]


@pytest.fixture(params=sorted({*READERS} - {"collect"}))
def telling(request):
    """A reader that says in a sentence what is left out."""
    return READERS[request.param]


@pytest.fixture
def folder(tmp_path):
    """Folders of one image each, of which ``bert`` is elsewhere, and a file elsewhere."""
    save(tmp_path / "data/anna/1.png")
    save(tmp_path / "disk/bert/1.png")
    save(tmp_path / "disk/other.png")
    (tmp_path / "data/bert").symlink_to(tmp_path / "disk/bert")
    (tmp_path / "data/anna/2.png").symlink_to("../../disk/other.png")
    return tmp_path / "data"


ALL = ["anna/1.png", "anna/2.png", "bert/1.png"]


def test_links_are_followed(reader, folder):
    assert reader(folder) == ALL
    (folder.parent / "link").symlink_to("data")
    assert reader(folder.parent / "link") == ALL


def test_a_folder_within_itself_is_read_once(reader, folder):
    (folder / "again").symlink_to(folder)
    (folder / "anna/self").symlink_to(".")
    (folder / "bert/up").symlink_to(folder)  # by way of another disk
    assert reader(folder) == ALL


def test_loops_of_several_folders_end_and_images_are_read_once(tmp_path):
    names = "abcdefghij"
    for name in names:  # without a rule there would be millions of paths
        save(tmp_path / name / f"{name}.png")
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(f"../{other}")
    images, left_out = read_folder(tmp_path)
    assert images == [f"{name}/{name}.png" for name in names]
    assert {one.why for one in left_out} == {"link to what is read already"}
    assert len(left_out) == 100


def test_an_image_keeps_its_own_path_beside_links_to_it(tmp_path):
    save(tmp_path / "z/1.png")
    save(tmp_path.parent / f"{tmp_path.name}-disk/1.png")
    (tmp_path / "a.png").symlink_to("z/1.png")
    for name in ("b.png", "c.png"):
        (tmp_path / name).symlink_to(tmp_path.parent / f"{tmp_path.name}-disk/1.png")
    images, left_out = read_folder(tmp_path)
    assert images == ["b.png", "z/1.png"]
    assert [one.name for one in left_out] == ["a.png", "c.png"]


def test_hidden_files_and_those_of_file_managers_are_passed_over(reader, folder, capsys):
    hidden = (".x.png", "._1.png", ".trash/1.png", "anna/._1.png", "anna/.cache/1.png")
    for name in (*hidden, "__MACOSX/anna/1.png"):
        save(folder / name)
    for name in ("Thumbs.db", "anna/desktop.ini", "anna/.DS_Store"):
        (folder / name).write_bytes(b"x")
    (folder / ".broken").symlink_to("nowhere")
    assert reader(folder) == ALL
    assert "left out" not in capsys.readouterr().err


def test_all_else_is_counted_and_named(telling, folder, capsys):
    (folder / "anna/phone.heic").write_bytes(b"x")
    (folder / "anna/empty.png").touch()
    (folder / "anna/gone.png").symlink_to("nowhere.png")
    (folder / "anna/round.png").symlink_to("round.png")
    os.mkfifo(folder / "anna/pipe.png")
    for number in range(4):
        (folder / f"anna/{number}.txt").write_bytes(b"x")
    assert telling(folder) == ALL
    told = capsys.readouterr().err
    assert "3 images" in told
    assert "; 9 left out: " in told
    for one in (
        "not an image (5: anna/0.txt, anna/1.txt, anna/2.txt, ...)",
        "empty file (anna/empty.png)",
        "broken link (2: anna/gone.png, anna/round.png)",
        "neither file nor folder (anna/pipe.png)",
    ):
        assert one in told
    assert told.count("\n") == 1
    with pytest.raises(UsageError, match=r"3 images.*; 9 left out: .*leave out --strict"):
        telling(folder, strict=True)


def test_strict_is_content_with_a_clean_folder(telling, folder, capsys):
    assert telling(folder, strict=True) == ALL
    assert capsys.readouterr().err.startswith(f"{folder}: 3 images")


def test_people_are_counted_and_images_elsewhere_are_left_out(folder, capsys):
    for name in ("stray.png", "anna/2019/1.png", "anna/2019/2.png", "carl/a/b/c/1.png"):
        save(folder / name)
    (folder / "dora").mkdir()
    (folder / "README").write_bytes(b"x")
    assert list(folder_images(folder).keys) == ALL
    told = capsys.readouterr().err
    assert told.startswith(f"{folder}: 3 images of 2 people; 6 left out: ")
    assert "elsewhere than FOLDER/PERSON/IMAGE (3: anna/2019/1.png, " in told
    assert "folder too deep (carl/a/b)" in told
    assert "not an image (README)" in told
    assert "folder without images (dora)" in told


def closed(monkeypatch, path):
    scan = os.scandir

    def scandir(place):
        if os.path.realpath(place) == str(path):
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize("name", ["data/anna", "disk/bert"])
def test_a_folder_that_cannot_be_read_is_named(telling, folder, monkeypatch, capsys, name):
    closed(monkeypatch, folder.parent / name)
    assert telling(folder) == [one for one in ALL if one[:4] != name[-4:]]
    assert f"folder that cannot be read ({name[-4:]})" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"folder that cannot be read \("):
        telling(folder, strict=True)


def test_the_folder_itself_must_be_readable(reader, folder, monkeypatch):
    closed(monkeypatch, folder)
    with pytest.raises(UsageError, match=rf"^{folder}: the folder cannot be read \(Permission den"):
        reader(folder)


@pytest.mark.parametrize(
    ("name", "why"), [("carl", "broken link"), ("carl.png", "broken link"), ("e.png", "empty file")]
)
def test_a_published_set_must_be_whole(folder, name, why):
    if why == "empty file":
        (folder / name).touch()
    else:
        (folder / name).symlink_to("nowhere")
    with pytest.raises(UsageError, match=f"{folder / name}: {why}; mend or remove it"):
        in_collected(folder)


def test_a_folder_that_is_no_set_is_not_walked_for_ever(tmp_path):
    for number in range(30):
        (tmp_path / str(number % 3)).mkdir(exist_ok=True)
        (tmp_path / str(number % 3) / str(number)).touch()
    assert len(walk(tmp_path, most=33).left_out) == 30
    with pytest.raises(UsageError, match="more than 32 files and folders"):
        walk(tmp_path, most=32)


def test_sorted_by_path_with_empty_folders(tmp_path):
    for name in ("b.png", "a b/1.png", "a/2.png", "a/10.PNG", "c/d/1.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "e").mkdir()
    walked = {"": ["b.png"], "a": ["10.PNG", "2.png"], "a b": ["1.png"]}
    assert walk(tmp_path).files == walked | {"c": [], "c/d": ["1.txt"], "e": []}
    found = [tmp_path / name for name in ("a/10.PNG", "a/2.png", "a b/1.png", "b.png")]
    assert image_files(tmp_path) == found == sorted(found)


def test_every_suffix_in_capitals_too(tmp_path):
    names = ["a.jfif", "b.JPE", "c.Tif", "d.pnm", "e.gif", "f.webp", "g.PFM", "h.bmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in image_files(tmp_path)] == names


def test_no_images(tmp_path):
    with pytest.raises(UsageError, match=r"none: the folder cannot be read \(No such file"):
        image_files(tmp_path / "none")
    (tmp_path / "a.txt").write_bytes(b"x")
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}: no image (.apng, ")) as error:
        image_files(tmp_path)
    assert "; 1 left out: not an image (a.txt); give the folder" in str(error.value)
