"""One rule for every folder: links, loops, hidden files, and what cannot be read."""

import os
import re

import pytest
from PIL import Image

from siamjax.data.archives import collect
from siamjax.data.folders import files_in, image_files, walk
from siamjax.data.lists import folder_images
from siamjax.data.open_catalogue import open_catalogue
from siamjax.errors import UsageError


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def in_collected(folder):
    return sorted(collect(folder, lambda path: str(path) if path.suffix == ".png" else None))


READERS = {
    "image_files": lambda folder: [str(p.relative_to(folder)) for p in image_files(folder)],
    "collect": in_collected,
    "catalogue": lambda folder: list(open_catalogue(folder).images.keys),
    "identities": lambda folder: list(folder_images(folder).keys),
}


@pytest.fixture(params=READERS)
def reader(request):
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


def test_links_are_followed(reader, folder):
    assert reader(folder) == ["anna/1.png", "anna/2.png", "bert/1.png"]
    (folder.parent / "link").symlink_to("data")
    assert reader(folder.parent / "link") == ["anna/1.png", "anna/2.png", "bert/1.png"]


def test_a_folder_within_itself_is_left_out(reader, folder):
    (folder / "again").symlink_to(folder)
    (folder / "anna/self").symlink_to(".")
    (folder / "bert/up").symlink_to(folder)  # by way of another disk
    assert reader(folder) == ["anna/1.png", "anna/2.png", "bert/1.png"]


def test_loops_of_several_folders_end(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name / f"{name}.png")
    (tmp_path / "a/to_b").symlink_to("../b")
    (tmp_path / "b/to_a").symlink_to("../a")
    assert files_in(tmp_path) == ["a/a.png", "a/to_b/b.png", "b/b.png", "b/to_a/a.png"]


def test_hidden_files_and_folders_are_left_out(reader, folder):
    for name in (".x.png", "._1.png", ".trash/1.png", "anna/._1.png", "anna/.cache/1.png"):
        save(folder / name)
    (folder / ".broken").symlink_to("nowhere")
    assert reader(folder) == ["anna/1.png", "anna/2.png", "bert/1.png"]


@pytest.mark.parametrize("closed", ["data", "data/anna", "disk/bert"])
def test_a_folder_that_cannot_be_read_is_named(reader, folder, monkeypatch, closed):
    scan = os.scandir

    def scandir(path):
        if os.path.realpath(path) == str(folder.parent / closed):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    named = folder.parent / closed.replace("disk", "data")
    with pytest.raises(UsageError, match=rf"^{named}: the folder cannot be read \(Permission den"):
        reader(folder)


@pytest.mark.parametrize("target", ["nowhere", "carl"])
def test_a_broken_link_is_named(reader, folder, target):
    (folder / "carl").symlink_to(target)  # to nothing, or to itself
    with pytest.raises(UsageError, match=rf"^{folder}/carl: a broken link to {target}; mend or"):
        reader(folder)


def test_a_broken_link_to_an_image_is_named(folder):
    (folder / "anna/3.png").symlink_to("nowhere.png")
    for name in ("image_files", "collect", "identities"):
        with pytest.raises(UsageError, match=r"anna/3.png: a broken link to nowhere.png"):
            READERS[name](folder)
    images = open_catalogue(folder).images  # whose readers report images one by one
    assert images.keys == ("anna/1.png", "anna/2.png", "anna/3.png", "bert/1.png")
    with pytest.raises(UsageError, match=r"anna/3.png: no such image"):
        images.image(2)


def test_sorted_by_path_with_empty_folders(tmp_path):
    for name in ("b.png", "a b/1.png", "a/2.png", "a/10.PNG", "c/d/1.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "e").mkdir()
    walked = {"": ["b.png"], "a": ["10.PNG", "2.png"], "a b": ["1.png"]}
    assert walk(tmp_path) == walked | {"c": [], "c/d": ["1.txt"], "e": []}
    assert list(walk(tmp_path)) == ["", "a", "a b", "c", "c/d", "e"]
    found = [tmp_path / name for name in ("a/10.PNG", "a/2.png", "a b/1.png", "b.png")]
    assert image_files(tmp_path) == found == sorted(found)


def test_no_images(tmp_path):
    with pytest.raises(UsageError, match=r"none: no such folder of images"):
        image_files(tmp_path / "none")
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path} holds no image (.bmp, ")):
        image_files(tmp_path)


def test_a_folder_within_an_identity_is_named(folder):
    save(folder / "carl/2019/1.png")
    with pytest.raises(UsageError, match=rf"{folder}/carl/2019: a folder within the folder of an"):
        folder_images(folder)
