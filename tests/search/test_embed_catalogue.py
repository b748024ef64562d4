import csv
import errno
import importlib
import json
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from stand_in import Stopped, png, stop_after
from test_index import (
    SIZE,
    contents,
    embed,
    embedder,
    files,
    killed_while_embedding,
    plain,
    same_as,
)

from siamjax.data import tables
from siamjax.data.catalogue import Catalogue
from siamjax.data.images import ImageSet
from siamjax.data.tables import open_table
from siamjax.errors import UsageError
from siamjax.inference.embedder import Embedder
from siamjax.search import index_making
from siamjax.search.index import Index
from siamjax.search.nearest import nearest

embedding = importlib.import_module("siamjax.search.embed_catalogue")  # not the function


@pytest.mark.parametrize("writes", [0, 1, 3, 4, 5, 6, 14, 15, 16, 17, 19, 20])
def test_resumes_wherever_it_was_stopped(tmp_path, monkeypatch, writes):
    """Three chunks of five files each, and the five headers at the end."""
    first, _ = files(tmp_path / "images", 4)
    both, pixels = files(tmp_path / "images", 28)
    embed(first, tmp_path / "index")
    with monkeypatch.context() as patch:
        stop_after(patch, index_making, "write_at", writes)
        if writes < 20:
            with pytest.raises(Stopped):
                embed(both, tmp_path / "index")
            assert set(contents(Index.open(tmp_path / "index"))) == set(first.images.keys)
        else:
            embed(both, tmp_path / "index")
    seen = []
    image = ImageSet.image
    monkeypatch.setattr(ImageSet, "image", lambda self, i: seen.append(i) or image(self, i))
    assert embed(both, tmp_path / "index").added == (24 if writes < 20 else 0)
    # As a set: threads of what was stopped may read ahead a little yet.
    assert len(set(seen)) == 24 - 8 * min(3, writes // 5)
    same_as(Index.open(tmp_path / "index"), both, pixels)


def test_resumes_when_stopped_at_the_manifest(tmp_path, monkeypatch):
    catalogue, pixels = files(tmp_path / "images", 20)
    with monkeypatch.context() as patch:
        patch.setattr(Index, "with_segments", lambda *a: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            embed(catalogue, tmp_path / "index")
    assert len(Index.open(tmp_path / "index")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(ImageSet, "image", None)  # all is embedded
        embed(catalogue, tmp_path / "index")
    same_as(Index.open(tmp_path / "index"), catalogue, pixels)


def test_a_kill_leaves_the_old_index_and_the_same_command_goes_on(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    first, _ = files(tmp_path / "images", 4)
    embed(first, folder)
    manifest = (folder / "manifest.json").read_bytes()
    progress = folder / "segment-0002" / "progress.json"
    with (
        killed_while_embedding(
            "siamjax.search.index_making:Making",
            tmp_path / "images",
            folder,
            when=lambda: progress.exists() and json.loads(progress.read_text())["rows"] >= 16,
        ),
        pytest.raises(UsageError, match="is being written by another process"),
    ):
        embed(first, folder)
    assert (folder / "manifest.json").read_bytes() == manifest
    assert set(contents(Index.open(folder))) == set(first.images.keys)
    both, pixels = files(tmp_path / "images", 60)
    seen = []
    image = ImageSet.image
    monkeypatch.setattr(ImageSet, "image", lambda self, i: seen.append(i) or image(self, i))
    assert embed(both, folder).added == 56
    assert len(seen) <= 40
    same_as(Index.open(folder), both, pixels)


def test_resumes_without_images_that_are_gone_since(tmp_path, monkeypatch):
    catalogue, pixels = files(tmp_path / "images", 24)
    with monkeypatch.context() as patch:
        stop_after(patch, index_making, "write_at", 10)
        with pytest.raises(Stopped):
            embed(catalogue, tmp_path / "index")
    fewer, _ = files(tmp_path / "images", 21, first=3)
    with pytest.raises(UsageError, match="unfinished embedding with catalogue noise, not ot"):
        embed(fewer, tmp_path / "index", source="other")
    assert embed(fewer, tmp_path / "index").added == 21
    same_as(Index.open(tmp_path / "index"), fewer, pixels[3:])


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    catalogue, pixels = files(tmp_path / "images", 24)
    write, calls = index_making.write_at, []

    def full(*args, **options):
        calls.append(args)
        if len(calls) > 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(index_making, "write_at", full)
        with pytest.raises(UsageError, match=r"No space left on device.*same command again"):
            embed(catalogue, tmp_path / "index")
    assert embed(catalogue, tmp_path / "index").added == 24
    same_as(Index.open(tmp_path / "index"), catalogue, pixels)


def test_broken_images_are_named_and_the_others_embedded(tmp_path):
    catalogue, pixels = files(tmp_path / "images", 20)
    paths = catalogue.images.source.paths
    paths[3].write_bytes(b"nothing")
    paths[11].write_bytes(paths[11].read_bytes()[:50])
    paths[19].unlink()
    with pytest.raises(UsageError, match=r"p003.png: not an image"):
        embed(catalogue, tmp_path / "stopped", on_error="stop")
    done = embed(catalogue, tmp_path / "index")
    assert list(done.failed) == ["p003", "p011", "p019"]
    assert done.added == len(done.index) == 17
    with (tmp_path / "index" / "failed.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["id", "picture", "why", "catalogue"]
    assert [line[:2] for line in lines[1:]] == [
        [p.stem, str(p)] for p in (paths[3], paths[11], paths[19])
    ]
    assert "not an image" in lines[1][2]
    good = [n for n in range(20) if n not in (3, 11, 19)]
    found = contents(Index.open(tmp_path / "index"))
    assert set(found) == {paths[n].stem for n in good}
    for number in good:
        np.testing.assert_allclose(found[f"p{number:03d}"], plain(pixels)[number], atol=1e-6)
    for number in (3, 11):
        Image.fromarray(pixels[number]).save(paths[number])
    again = embed(catalogue, tmp_path / "index")
    assert (again.added, list(again.failed)) == (2, ["p019"])
    paths[19].write_bytes(png(pixels[19]))
    assert embed(catalogue, tmp_path / "index").added == 1
    assert not (tmp_path / "index" / "failed.csv").exists()
    same_as(Index.open(tmp_path / "index"), catalogue, pixels)


def test_only_broken_images(tmp_path):
    catalogue, _ = files(tmp_path / "images", 3)
    for path in catalogue.images.source.paths:
        path.write_bytes(b"")
    done = embed(catalogue, tmp_path / "index")
    assert (done.added, len(done.failed), len(Index.open(tmp_path / "index"))) == (0, 3, 0)
    assert nearest(np.zeros((1, 7), "f4"), done.index).rows.shape == (1, 0)


def test_refuses_ids_given_twice(tmp_path):
    catalogue, _ = files(tmp_path / "images", 3)
    images = replace(catalogue.images, keys=("a", "b", "a"))
    with pytest.raises(UsageError, match="noise: the id a is there twice"):
        embed(Catalogue(images=images, attributes={}), tmp_path / "index")


def test_refuses_embeddings_that_are_not_finite(tmp_path):
    catalogue, _ = files(tmp_path / "images", 3)
    with pytest.raises(UsageError, match="features of p000 of noise are not finite"):
        embed(catalogue, tmp_path / "index", model=embedder(gain=float("nan")))


def test_refuses_damage_of_what_is_unfinished(tmp_path, monkeypatch):
    catalogue, _ = files(tmp_path / "images", 24)
    with monkeypatch.context() as patch:
        stop_after(patch, index_making, "write_at", 10)
        with pytest.raises(Stopped):
            embed(catalogue, tmp_path / "index")
    segment = tmp_path / "index" / "segment-0001"
    rows = (segment / "embeddings.npy").read_bytes()
    (segment / "embeddings.npy").write_bytes(rows[:100])
    with pytest.raises(UsageError, match=r"embeddings.npy is missing or cut short; remove .*0001"):
        embed(catalogue, tmp_path / "index")
    (segment / "progress.json").write_text("{")
    with pytest.raises(UsageError, match=r"progress.json: not JSON.*damaged.*remove .*0001 to"):
        embed(catalogue, tmp_path / "index")
    (segment / "progress.json").unlink()
    with pytest.raises(UsageError, match="neither part of the index nor an unfinished"):
        embed(catalogue, tmp_path / "index")


def listing(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stopped_embedding_that_removes_goes_on(tmp_path, monkeypatch):
    """Nothing is removed before the end; then the image that went with its item is missed."""
    folder = tmp_path / "index"
    embed(files(tmp_path / "images", 4)[0], folder)
    both, pixels = files(tmp_path / "images", 28, first=1)
    with monkeypatch.context() as patch:
        stop_after(patch, index_making, "write_at", 10)
        with pytest.raises(Stopped):
            embed(both, folder, without=("p000", "p002"))
    assert len(Index.open(folder)) == 4
    done = embed(both, folder, without=("p000", "p002"))
    assert (done.removed, done.added, done.present) == (2, 25, 2)
    right = [number for number, key in enumerate(both.images.keys) if key != "p002"]
    found = contents(Index.open(folder))
    assert set(found) == {both.images.keys[number] for number in right}
    np.testing.assert_allclose(found["p020"], plain(pixels)[19], atol=1e-6)
    again = embed(both, folder, without=("p000", "p002"))
    assert (again.removed, again.added, again.present) == (0, 0, 27)
    assert len(again.index) == 27


def test_removes_nothing_before_all_is_checked(tmp_path):
    catalogue, _ = files(tmp_path / "images", 6)
    more, _ = files(tmp_path / "images", 9)
    folder = tmp_path / "index"
    embed(catalogue, folder)
    before = listing(folder)
    with pytest.raises(UsageError, match="another model"):
        embed(catalogue, folder, model=embedder(seed=1), without=("p001",))
    for opened in (catalogue, more):
        with pytest.raises(UsageError, match=r"^q1, q2: to be removed, but neither in .*index nor"):
            embed(opened, folder, without=("p001", "q2", "q1"))
    assert listing(folder) == before
    with pytest.raises(UsageError, match="q1: to be removed"):
        embed(catalogue, tmp_path / "new", without=("q1",))
    assert not (tmp_path / "new" / "manifest.json").exists()
    assert embed(catalogue, folder, without=("p001",)).removed == 1


def test_removes_what_only_an_unfinished_segment_has(tmp_path, monkeypatch):
    catalogue, _ = files(tmp_path / "images", 24)
    with monkeypatch.context() as patch:
        stop_after(patch, index_making, "write_at", 10)
        with pytest.raises(Stopped):
            embed(catalogue, tmp_path / "index")
    fewer, pixels = files(tmp_path / "images", 21, first=3)
    assert embed(fewer, tmp_path / "index", without=("p001",)).removed == 0
    same_as(Index.open(tmp_path / "index"), fewer, pixels)


def test_an_error_before_the_first_chunk_leaves_no_segment(tmp_path, monkeypatch):
    """Or another catalogue could not be embedded."""
    catalogue, _ = files(tmp_path / "images", 3)
    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "batches", lambda *a: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            embed(catalogue, tmp_path / "index")
    assert embed(catalogue, tmp_path / "index", source="other").added == 3


def test_what_a_kill_left_behind_the_table_is_not_read(tmp_path, monkeypatch):
    catalogue, pixels = files(tmp_path / "images", 24)
    with monkeypatch.context() as patch:
        stop_after(patch, index_making, "write_at", 10)
        with pytest.raises(Stopped):
            embed(catalogue, tmp_path / "index")
    with (tmp_path / "index" / "segment-0001" / "items.csv").open("ab") as file:
        file.write(b'"\xff,\n')
    assert embed(catalogue, tmp_path / "index").added == 24
    same_as(Index.open(tmp_path / "index"), catalogue, pixels)


def test_failed_images_of_a_catalogue_are_those_of_its_last_embedding(tmp_path):
    first, _ = files(tmp_path / "first", 3)
    other, _ = files(tmp_path / "other", 3, first=3)
    for catalogue in (first, other):
        catalogue.images.source.paths[1].write_bytes(b"")
    embed(first, tmp_path / "index", source="first")
    embed(other, tmp_path / "index", source="other")

    def failed():
        with (tmp_path / "index" / "failed.csv").open(newline="") as file:
            return [(line["id"], line["catalogue"]) for line in csv.DictReader(file)]

    assert failed() == [("p001", "first"), ("p004", "other")]
    embed(files(tmp_path / "first", 1)[0], tmp_path / "index", source="first")  # p001 is gone
    assert failed() == [("p004", "other")]


def test_refuses_batches_and_chunks_of_nothing(tmp_path):
    catalogue, _ = files(tmp_path / "images", 3)
    with pytest.raises(UsageError, match="batch size 0, chunk 8: each must be 1 or more"):
        embed(catalogue, tmp_path / "index", model=replace(embedder(), batch_size=0))
    with pytest.raises(UsageError, match="batch size 8, chunk 0: each must be 1 or more"):
        embed(catalogue, tmp_path / "index", chunk=0)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("change", ["one more", "one less", "another"])
def test_refuses_a_table_that_changes_meanwhile(tmp_path, monkeypatch, change):
    """It is read part by part, and more than once."""
    files(tmp_path, 20)
    table = tmp_path / "items.csv"
    names = [f"p{number:03d}.png" for number in range(20)]
    table.write_text("\n".join(["image", *names[:16]]))
    opened = open_table(table)
    monkeypatch.setattr(embedding, "_PART", 8)
    compared = embedding.compare

    def then_changes(*args, **options):
        found = compared(*args, **options)
        rows = {"one more": names[:17], "one less": names[:8], "another": [*names[:15], names[19]]}
        table.write_text("\n".join(["image", *rows[change]]))
        return found

    monkeypatch.setattr(embedding, "compare", then_changes)
    with pytest.raises(UsageError, match="noise: its images are not those that were there at"):
        embed(opened, tmp_path / "index")
    assert len(Index.open(tmp_path / "index")) == 0
    monkeypatch.setattr(embedding, "compare", compared)
    done = embed(open_table(table), tmp_path / "index")
    assert len(done.index) == {"one more": 17, "one less": 8, "another": 16}[change]


def test_parts_of_a_table_make_one_index(tmp_path, monkeypatch):
    """In parts of 8 rows as in one; changed, gone, kept and new ones are in different parts."""
    catalogue, pixels = files(tmp_path, 40)
    table = tmp_path / "items.csv"

    def listed(numbers):
        table.write_text("\n".join(["image", *(f"p{number:03d}.png" for number in numbers)]))
        return open_table(table)

    monkeypatch.setattr(embedding, "_PART", 8)
    embed(listed(range(30)), tmp_path / "index")
    pixels[[3, 20]] = 255 - pixels[[3, 20]]
    for number in (3, 20):
        catalogue.images.source.paths[number].write_bytes(png(pixels[number]))
    right = [*range(2, 18), *range(19, 40)]
    done = embed(listed(right), tmp_path / "index", remove_gone=True)
    assert (done.added, done.present, done.removed) == (10, 25, 3)
    assert done.changed == ["p003.png", "p020.png"]
    found = contents(Index.open(tmp_path / "index"))
    assert set(found) == {f"p{number:03d}.png" for number in right}
    for number in right:
        np.testing.assert_allclose(found[f"p{number:03d}.png"], plain(pixels)[number], atol=1e-6)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_catalogue(tmp_path, monkeypatch):
    """But for a few bytes a row, where objects of Python would be some hundred."""
    path = tmp_path / "one.png"
    path.write_bytes(png(np.zeros((*SIZE, 3), np.uint8)))
    monkeypatch.setattr(embedding, "_PART", 500)
    monkeypatch.setattr(tables, "_CHUNK", 500)
    peaks = []
    for rows in (1000, 1000, 5000):  # the first compiles
        table = tmp_path / f"{rows}.csv"
        lines = (f"product-{number},one.png,a title of product {number}" for number in range(rows))
        table.write_text("\n".join(["id,image,title", *lines]))
        tracemalloc.start()
        embed(open_table(table), tmp_path / f"index{len(peaks)}", chunk=500)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 4000 < 80  # threads that read ahead add to either peak
