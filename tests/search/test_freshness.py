"""An index against its catalogue: images that changed, went, moved and came since."""

import os
import time
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from stand_in import Stopped, png, stop_after
from test_index import SIZE, contents, embed, files, plain, same_as, without_checksums

from siamjax.data.catalogue import Catalogue
from siamjax.data.images import Files, ImageSet
from siamjax.errors import UsageError
from siamjax.search import freshness, index_making
from siamjax.search.freshness import out_of_date
from siamjax.search.index import Index
from siamjax.search.nearest import nearest


def other_pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def change(path, seed):
    """Another image in the file's place, of the same number of bytes; returns its pixels."""
    size = path.stat().st_size
    pixels = other_pixels(seed)
    content = png(pixels)
    path.write_bytes(content + bytes(max(0, size - len(content))))
    return pixels


def aged(folder):
    """The files as if they were written long ago."""
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))


@pytest.mark.parametrize("old", [True, False])
def test_a_changed_image_is_embedded_again_and_no_other(tmp_path, monkeypatch, old):
    """Also one that changed within the clock's tick of its embedding, at the same size."""
    catalogue, pixels = files(tmp_path / "images", 12)
    if old:
        aged(tmp_path / "images")
    embed(catalogue, tmp_path / "index")
    pixels[[2, 7]] = [change(tmp_path / "images" / f"p00{n}.png", n) for n in (2, 7)]
    os.utime(tmp_path / "images" / "p005.png")  # written anew, with the same content
    seen = []
    image = ImageSet.image
    monkeypatch.setattr(ImageSet, "image", lambda self, i: seen.append(i) or image(self, i))
    done = embed(catalogue, tmp_path / "index")
    assert (done.changed, done.added, done.present, done.gone) == (["p002", "p007"], 0, 10, [])
    assert sorted(set(seen)) == [2, 7]
    index = Index.open(tmp_path / "index")
    same_as(index, catalogue, pixels)
    assert len(index) == 12
    found = nearest(plain(pixels)[[2]], index, top=12)
    assert index.lookup(found.rows[0, :1])[int(found.rows[0, 0])].id == "p002"
    assert embed(catalogue, tmp_path / "index").changed == []


def test_files_of_the_same_time_and_size_are_not_opened(tmp_path, monkeypatch):
    catalogue, _ = files(tmp_path / "images", 6)
    aged(tmp_path / "images")
    embed(catalogue, tmp_path / "index")
    monkeypatch.setattr(type(catalogue.images.source), "__getitem__", None)
    assert embed(catalogue, tmp_path / "index").present == 6


def test_what_is_gone_is_named_and_removed_only_if_asked(tmp_path):
    embed(files(tmp_path / "images", 9)[0], tmp_path / "index")
    fewer, pixels = files(tmp_path / "images", 7, first=2)  # p000 and p001 are not listed
    fewer.images.source.paths[3].unlink()  # p005 is listed, and there is no file
    done = embed(fewer, tmp_path / "index")
    assert done.gone == ["p000", "p001", "p005"]
    assert (done.added, done.present, done.removed, done.failed) == (0, 6, 0, {})
    assert len(Index.open(tmp_path / "index")) == 9
    done = embed(fewer, tmp_path / "index", remove_gone=True)
    assert (done.removed, done.gone, len(done.index)) == (3, [], 6)
    left = [n for n in range(7) if n != 3]
    expected = dict(zip([fewer.images.keys[n] for n in left], plain(pixels[left]), strict=True))
    found = contents(Index.open(tmp_path / "index"))
    assert set(found) == set(expected)


def test_an_image_that_was_broken_since_is_not_found_any_more(tmp_path):
    catalogue, pixels = files(tmp_path / "images", 5)
    embed(catalogue, tmp_path / "index")
    catalogue.images.source.paths[1].write_bytes(b"no image")
    done = embed(catalogue, tmp_path / "index")
    assert (list(done.failed), done.changed, done.present) == (["p001"], [], 4)
    assert set(contents(Index.open(tmp_path / "index"))) == {"p000", "p002", "p003", "p004"}
    catalogue.images.source.paths[1].write_bytes(png(pixels[1]))
    assert embed(catalogue, tmp_path / "index").added == 1
    same_as(Index.open(tmp_path / "index"), catalogue, pixels)


@pytest.mark.parametrize("breaks", [False, True])
def test_an_image_that_changed_between_a_stop_and_its_resumption(tmp_path, monkeypatch, breaks):
    catalogue, pixels = files(tmp_path / "images", 24)
    with monkeypatch.context() as patch:
        stop_after(patch, index_making, "write_at", 10)  # two chunks of eight
        with pytest.raises(Stopped):
            embed(catalogue, tmp_path / "index")
    path = tmp_path / "images" / "p003.png"
    pixels[3] = change(path, 3)
    if breaks:
        path.write_bytes(b"")
    done = embed(catalogue, tmp_path / "index")
    assert (done.added, len(done.index), list(done.failed)) == (
        (23, 23, ["p003"]) if breaks else (24, 24, [])
    )
    found = contents(Index.open(tmp_path / "index"))
    assert ("p003" in found) == (not breaks)
    if not breaks:
        same_as(Index.open(tmp_path / "index"), catalogue, pixels)


def test_ids_of_other_images_of_another_catalogue_are_refused(tmp_path):
    """Two folders that both number their images would else be taken for one."""
    first, _ = files(tmp_path / "first", 6)
    embed(first, tmp_path / "index", source="first")
    second, _ = files(tmp_path / "second", 8)
    for number in (1, 4):
        change(second.images.source.paths[number], number)
    before = (tmp_path / "index" / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match=r"second: 2 of its ids .*p001, p004; give"):
        embed(second, tmp_path / "index", source="second")
    assert (tmp_path / "index" / "manifest.json").read_bytes() == before
    # The same images by another path are there already.
    third, _ = files(tmp_path / "third", 8)
    done = embed(third, tmp_path / "index", source="third")
    assert (done.added, done.present, done.changed, done.gone) == (2, 6, [], [])
    same_as(Index.open(tmp_path / "index"), *files(tmp_path / "first", 8))


def test_a_catalogue_that_was_moved_is_found_at_its_new_place(tmp_path):
    catalogue, pixels = files(tmp_path / "here", 5)
    embed(catalogue, tmp_path / "index", source="here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved, _ = files(tmp_path / "there", 5)
    done = embed(moved, tmp_path / "index", source="there")
    assert (len(done.changed), done.added, len(done.index)) == (5, 0, 5)
    same_as(done.index, moved, pixels)
    assert {os.path.dirname(item.image) for _, item in done.index.items()} == {
        str(tmp_path / "there")
    }


def test_a_file_that_was_renamed_is_found_at_its_new_name(tmp_path):
    """As when a table, which gives the id, names another file for it."""
    catalogue, pixels = files(tmp_path / "images", 4)
    embed(catalogue, tmp_path / "index", source="table")
    renamed = tmp_path / "images" / "other.png"
    paths = list(catalogue.images.source.paths)
    paths[1].rename(renamed)
    paths[1] = renamed
    images = replace(catalogue.images, source=Files(tuple(paths)))
    now = Catalogue(images=images, attributes=catalogue.attributes)
    done = embed(now, tmp_path / "index", source="table")
    assert (done.changed, done.gone, len(done.index)) == (["p001"], [], 4)
    assert out_of_date(done.index, []).gone == []
    same_as(done.index, now, pixels)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_in_the_other_form_of_unicode_is_not_gone(tmp_path, form):
    catalogue, _ = files(tmp_path / "images", 3)
    paths = list(catalogue.images.source.paths)
    named = tmp_path / "images" / unicodedata.normalize(form, "\u00e9.png")
    paths[2].rename(named)
    paths[2] = named.with_name(
        unicodedata.normalize({"NFC": "NFD", "NFD": "NFC"}[form], named.name)
    )
    now = Catalogue(
        images=replace(catalogue.images, source=Files(tuple(paths))),
        attributes=catalogue.attributes,
    )
    embed(now, tmp_path / "index")
    done = embed(now, tmp_path / "index")
    assert (done.present, done.changed, done.gone) == (3, [], [])
    assert not any(out_of_date(done.index, []))


def test_images_that_are_no_files_are_compared_by_their_content(tmp_path):
    keys, pixels = tuple("abc"), [other_pixels(n) for n in range(3)]

    def catalogue():
        images = ImageSet(
            name="x",
            credit="",
            keys=keys,
            identities=np.asarray(keys),
            source=tuple(map(png, pixels)),
        )
        return Catalogue(images=images, attributes={})

    embed(catalogue(), tmp_path / "index")
    assert embed(catalogue(), tmp_path / "index").present == 3
    pixels[1] = other_pixels(9)
    assert embed(catalogue(), tmp_path / "index").changed == ["b"]


def test_an_index_without_stamps_stays_as_it_is(tmp_path):
    catalogue, pixels = files(tmp_path / "images", 5)
    embed(catalogue, tmp_path / "index")
    without_checksums(tmp_path / "index")
    change(tmp_path / "images" / "p001.png", 1)
    assert embed(catalogue, tmp_path / "index").present == 5
    same_as(Index.open(tmp_path / "index"), catalogue, pixels)
    assert not any(out_of_date(Index.open(tmp_path / "index"), []))
    (tmp_path / "images" / "p003.png").unlink()
    assert out_of_date(Index.open(tmp_path / "index"), []) == ([], ["p003"], [])


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """An index of a folder that can be opened again, as the commands make it."""
    from siamjax.data.open_catalogue import open_catalogue

    files(tmp_path / "things", 8)
    (tmp_path / "things" / ".hidden.png").write_bytes(png(other_pixels(0)))
    source = str((tmp_path / "things").resolve())
    made = embed(open_catalogue(source), tmp_path / "index", source=source)
    assert len(made.index) == 8
    return made.index, tmp_path / "things"


def test_tells_what_an_index_lacks(opened):
    index, folder = opened
    assert not any(out_of_date(index, []))
    change(folder / "p001.png", 1)
    (folder / "p002.png").unlink()
    (folder / "p003.png").unlink()
    (folder / "new.png").write_bytes(png(other_pixels(4)))
    (folder / ".thumb.png").write_bytes(png(other_pixels(5)))
    found = out_of_date(index, [])
    assert found == (["p001.png"], ["p002.png", "p003.png"], ["new.png"])
    assert str(found) == ("1 changed (p001.png); 2 gone (p002.png, p003.png); 1 new (new.png)")


def test_the_line_has_the_counts_however_many_there_are():
    ids = [f"{n:04d}\n{'x' * 200}" for n in range(2000)]
    line = str(freshness.OutOfDate(ids, [], ids[:3]))
    assert line.startswith("2,000 changed (0000\\nxxx")
    assert line.count("...") == 1
    assert "3 new (0000" in line
    assert len(line) < 600
    assert line.isprintable()


def test_an_image_that_could_not_be_read_is_not_new(opened):
    from siamjax.data.open_catalogue import open_catalogue

    index, folder = opened
    (folder / "broken.png").write_bytes(b"no image")
    done = embed(open_catalogue(folder), index.folder, source=str(folder.resolve()))
    assert list(done.failed) == ["broken.png"]
    assert not any(out_of_date(done.index, []))


def test_of_a_large_index_only_what_is_shown_is_compared(opened, monkeypatch):
    index, folder = opened
    monkeypatch.setattr(freshness, "_COMPARED", 7)
    change(folder / "p001.png", 1)
    change(folder / "p002.png", 2)
    (folder / "new.png").write_bytes(png(other_pixels(4)))
    shown = [item for _, item in index.items() if item.id in ("p002.png", "p004.png")]
    assert out_of_date(index, shown) == (["p002.png"], [], [])


def test_a_catalogue_that_is_gone_is_all_gone(opened):
    index, folder = opened
    folder.rename(folder.with_name("elsewhere"))
    found = out_of_date(index, [])
    assert (found.changed, len(found.gone), found.new) == ([], 8, [])


def test_a_file_whose_time_lies_ahead_is_compared_by_content(tmp_path):
    catalogue, pixels = files(tmp_path / "images", 3)
    for path in (tmp_path / "images").iterdir():
        os.utime(path, (time.time() + 1e6, time.time() + 1e6))
    embed(catalogue, tmp_path / "index")
    path = tmp_path / "images" / "p001.png"
    times = path.stat().st_atime, path.stat().st_mtime
    pixels[1] = change(path, 1)
    os.utime(path, times)
    assert embed(catalogue, tmp_path / "index").changed == ["p001"]
