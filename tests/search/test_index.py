import contextlib
import errno
import functools
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stand_in import png

from siamjax.data.catalogue import Catalogue
from siamjax.data.images import of_files
from siamjax.errors import UsageError
from siamjax.inference.embedder import Embedder
from siamjax.search.embed_catalogue import embed_catalogue
from siamjax.search.index import Index, writing
from siamjax.search.index_making import Making
from siamjax.search.index_segment import Item, Segment
from siamjax.search.nearest import nearest
from siamjax.training import Finished

SIZE = (6, 5)


class Small(nn.Module):
    gain: float = 1.0

    @nn.compact
    def embed(self, x):
        return self.gain * nn.Dense(7)(x.reshape(len(x), -1).astype(jnp.float32) / 255)

    def __call__(self, x):
        return self.embed(x)


@functools.cache  # one compilation for all tests
def embedder(*, gain=1.0, seed=0, size=SIZE):
    network = Small(gain)
    image = np.zeros((1, *size, 3), np.uint8)
    variables = jax.jit(network.init)(jax.random.key(seed), image)
    return Embedder(network=network, variables=variables, size=size, batch_size=8)


def run_of(model, folder):
    """A finished run of a model, as commands open it."""
    sizes = {"network": model.network, "variables": model.variables, "size": model.size}
    return Finished(folder=folder, manifest={}, **sizes)


def files(folder, count, *, first=0):
    """A catalogue of image files with attributes, and its pixels."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(5).integers(0, 256, (first + count, *SIZE, 3), np.uint8)
    paths = [folder / f"p{n:03d}.png" for n in range(first, first + count)]
    for path, image in zip(paths, pixels[first:], strict=True):
        path.write_bytes(png(image))
    images = replace(of_files(paths, name="noise"), keys=tuple(path.stem for path in paths))
    numbers = np.arange(first, first + count)
    attributes = {
        "color": np.asarray(["red", "green", "blue"])[numbers % 3],
        "note": np.asarray([f'with "quotes", and\na line {n}' for n in numbers]),
    }
    return Catalogue(images=images, attributes=attributes), pixels[first:]


SLOWLY = """
import importlib, sys, time
from pathlib import Path
from test_index import embed, files
module, name = sys.argv[1].split(":")
making = getattr(importlib.import_module(module), name)
write = making.append
def slow(*args, **options):
    write(*args, **options)
    time.sleep(0.2)
making.append = slow
embed(files(Path(sys.argv[2]), 60)[0], Path(sys.argv[3]))
"""


@contextlib.contextmanager
def killed_while_embedding(making, images, folder, *, when):
    """Another process, which embeds 60 images slowly: from ``when()`` on until it is killed."""
    here = Path(__file__).parent
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    command = [sys.executable, "-c", SLOWLY, making, str(images), str(folder)]
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 60
    while not when():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield
    process.send_signal(signal.SIGKILL)
    process.wait()


def plain(pixels, model=None):
    """Embeddings without the machinery."""
    model = model or embedder()
    return np.asarray(model.network.apply(model.variables, pixels, method="embed"))


def embed(catalogue, folder, *, model=None, **options):
    options = {"source": "noise", "progress": False, "chunk": 8, **options}
    return embed_catalogue(catalogue, model or embedder(), folder, **options)


def contents(index):
    """id -> embedding, as they lie on the disk."""
    rows = np.concatenate([one.rows(0, len(one)) for one in index.segments])
    return {item.id: rows[row] for row, item in index.items()}


def without_checksums(folder):
    """The index as the first version of siamjax left it."""
    content = json.loads((folder / "manifest.json").read_text())
    del content["crc"]
    for segment in content["segments"]:
        del segment["items_crc"]
        for name in ("checks.npy", "stamps.npy"):
            del segment["bytes"][name]
            (folder / segment["folder"] / name).unlink()
    (folder / "manifest.json").write_text(json.dumps(content, indent=2))
    return folder


def same_as(index, catalogue, pixels, *, atol=1e-6):
    found = contents(index)
    assert set(found) == set(catalogue.images.keys)
    for key, right in zip(catalogue.images.keys, plain(pixels), strict=True):
        np.testing.assert_allclose(found[key], right, atol=atol)


def test_holds_embeddings_and_what_is_known_of_each(tmp_path):
    catalogue, pixels = files(tmp_path / "images", 21)
    done = embed(catalogue, tmp_path / "index", run="runs/one")
    assert (done.added, done.present, done.failed, len(done.index)) == (21, 0, {}, 21)
    index = Index.open(tmp_path / "index")
    same_as(index, catalogue, pixels)
    assert (index.run, index.dtype, index.features) == (
        str(Path("runs/one").absolute()),
        "float32",
        7,
    )
    item = dict(index.items())[4]
    assert item.id == "p004"
    assert item.image == str(tmp_path / "images" / "p004.png")
    assert item.attributes == {"color": "green", "note": 'with "quotes", and\na line 4'}
    assert index.lookup([4]) == {4: item}
    segment = tmp_path / "index" / "segment-0001"
    assert sorted(path.name for path in segment.iterdir()) == [
        "checks.npy",
        "embeddings.npy",
        "items.csv",
        "squares.npy",
        "stamps.npy",
    ]
    loaded = np.load(segment / "embeddings.npy", mmap_mode="r")
    np.testing.assert_allclose(np.load(segment / "squares.npy"), (loaded**2).sum(1), rtol=1e-5)
    found = nearest(plain(pixels), index, top=1)
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(21))


def test_float16(tmp_path):
    catalogue, pixels = files(tmp_path / "images", 9)
    index = embed(catalogue, tmp_path / "index", dtype="float16").index
    assert np.load(index.segments[0].folder / "embeddings.npy").dtype == np.float16
    same_as(index, catalogue, pixels, atol=2e-3)
    with pytest.raises(UsageError, match="stores float16, not float32"):
        embed(catalogue, tmp_path / "index", dtype="float32")
    with pytest.raises(UsageError, match="p000 does not fit float16"):
        embed(catalogue, tmp_path / "other", dtype="float16", model=embedder(gain=1e6))


def test_adds_only_what_is_new(tmp_path):
    first, _ = files(tmp_path / "images", 10)
    both, pixels = files(tmp_path / "images", 15)
    embed(first, tmp_path / "index")
    segment = tmp_path / "index" / "segment-0001"
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in segment.iterdir()}
    done = embed(both, tmp_path / "index")
    assert (done.added, done.present) == (5, 10)
    same_as(Index.open(tmp_path / "index"), both, pixels)
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in segment.iterdir()
    }
    again = embed(both, tmp_path / "index")
    assert (again.added, again.present, len(again.index.segments)) == (0, 15, 2)
    assert not (tmp_path / "index" / "segment-0003").exists()


def test_removed_items_are_not_found_and_can_come_back(tmp_path):
    catalogue, pixels = files(tmp_path / "images", 12)
    index = embed(catalogue, tmp_path / "index").index
    assert nearest(plain(pixels[[3]]), index, top=1).rows == [[3]]
    index = index.remove(["p003", "p007"])
    assert len(index) == 10
    opened = Index.open(index.folder)
    assert {"p003", "p007"}.isdisjoint(contents(opened))
    found = nearest(plain(pixels[[3]]), opened, top=99).rows
    assert sorted(found[0]) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    with pytest.raises(UsageError, match="has no item p003"):
        opened.remove(["p001", "p003"])
    assert len(Index.open(index.folder)) == 10
    done = embed(catalogue, tmp_path / "index", without=("p007",))
    assert (done.added, done.present) == (1, 10)
    assert nearest(plain(pixels[[3]]), done.index, top=1).rows == [[12]]
    assert len(done.index.remove(["p003"])) == 10


def test_where(tmp_path):
    catalogue, _ = files(tmp_path / "images", 10)
    index = embed(catalogue, tmp_path / "index").index.remove(["p003"])
    red = index.where([("color", "red")])
    np.testing.assert_array_equal(np.flatnonzero(red), [0, 6, 9])
    both = index.where([("color", "red"), ("note", 'with "quotes", and\na line 6')])
    np.testing.assert_array_equal(np.flatnonzero(both), [6])
    with pytest.raises(UsageError, match=r"no attribute size .*choose from: color, note"):
        index.where([("size", "3")])
    with pytest.raises(UsageError, match="no item has color=pink; choose from: blue, green, red"):
        index.where([("color", "pink")])


def test_refuses_another_model(tmp_path):
    catalogue, _ = files(tmp_path / "images", 3)
    index = embed(catalogue, tmp_path / "index").index
    index.check(embedder().fingerprint)
    with pytest.raises(UsageError, match=r"another model.*weights is \w+ there and \w+ here"):
        index.check(embedder(seed=1).fingerprint)
    with pytest.raises(UsageError, match=r"preprocessing is .*\(6, 5\) there.*\(5, 6\) here"):
        index.check(embedder(size=(5, 6)).fingerprint)
    with pytest.raises(UsageError, match="network is Small"):
        embed(catalogue, tmp_path / "index", model=embedder(gain=2.0))


@pytest.fixture
def index(tmp_path):
    return embed(files(tmp_path / "images", 5)[0], tmp_path / "index").index


@pytest.mark.parametrize("name", Segment.FILES)
def test_refuses_files_cut_short_or_missing(index, name):
    path = index.segments[0].folder / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        UsageError, match=rf"{name} has \d+ bytes in place of \d+: the index is dam"
    ):
        Index.open(index.folder)
    path.unlink()
    with pytest.raises(UsageError, match=f"{name} is missing"):
        Index.open(index.folder)


def test_refuses_a_damaged_table(index):
    path = index.segments[0].folder / "items.csv"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(UsageError, match=r"items.csv: line 1 has 1 columns"):
        Index.open(without_checksums(index.folder)).where([("color", "red")])


def test_a_run_is_no_index(tmp_path):
    run, neither = tmp_path / "a run", tmp_path / "no index"
    (run / "checkpoints").mkdir(parents=True)
    (run / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(
        UsageError, match=r"is a run and not an index; .* embed .* '\S+/a run' --out"
    ):
        Index.open(run)
    with pytest.raises(UsageError, match=r"is not an index \(.*--run RUN --out '\S+/no index'"):
        Index.open(neither)


def test_an_index_is_no_run(index):
    with pytest.raises(
        UsageError, match=r"manifest.json is that of a siamjax catalogue index and of no"
    ):
        Finished.open(index.folder)


def test_refuses_a_broken_manifest_and_other_versions(index, tmp_path):
    path = index.folder / "manifest.json"
    content = path.read_text()
    for broken in ("", content[:40], "[]", "{}", content.replace("catalogue index", "x")):
        path.write_text(broken)
        with pytest.raises(UsageError, match=r"manifest.json: not the manifest of an index"):
            Index.open(index.folder)
    path.write_text(content.replace('"version": 1', '"version": 2'))
    with pytest.raises(UsageError, match="an index of version 2, this siamjax reads version 1"):
        Index.open(index.folder)
    with pytest.raises(UsageError, match="is not an index"):
        Index.open(tmp_path)


def test_refuses_a_folder_of_other_things(tmp_path):
    catalogue, _ = files(tmp_path / "images", 3)
    with pytest.raises(UsageError, match="images exists and is not an index"):
        embed(catalogue, tmp_path / "images")
    assert len(list((tmp_path / "images").iterdir())) == 3


def test_attributes_of_segments_may_differ(tmp_path):
    index = Index.create(tmp_path / "index", fingerprint={}, features=2)
    for number, name in enumerate(("color", "size")):
        with writing(index.folder):
            making = Making(index, catalogue="c", attributes=(name,))
            making.append([Item(f"i{number}", "", "", "c", {name: "1"})], np.ones((1, 2), "f4"))
            index = making.commit()
    np.testing.assert_array_equal(index.where([("size", "1")]), [False, True])
    np.testing.assert_array_equal(index.where([("color", "1"), ("size", "")]), [True, False])


def test_a_stop_in_the_first_write_leaves_a_folder_that_can_be_used(tmp_path, monkeypatch):
    catalogue, pixels = files(tmp_path / "images", 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed(catalogue, tmp_path / "index")
    assert (tmp_path / "index" / "manifest.json.tmp").exists()
    same_as(embed(catalogue, tmp_path / "index").index, catalogue, pixels)


def test_the_manifest_is_on_the_disk_before_it_has_its_name(index, monkeypatch):
    done = []
    replace_, sync = os.replace, os.fsync

    def synced(number):
        done.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        sync(number)

    monkeypatch.setattr(os, "replace", lambda *a: done.append("replace") or replace_(*a))
    monkeypatch.setattr(os, "fsync", synced)
    index.with_segments(index.segments)
    assert done == ["manifest.json.tmp", "replace", "index"]


def test_removing_asks_for_the_ids_once_and_tells_of_a_full_disk(index, monkeypatch):
    class Counted(list):
        asked = 0

        def __iter__(self):
            self.asked += 1
            return super().__iter__()

    ids = Counted(["p001", "p003"])
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(full))
        with pytest.raises(UsageError, match=r"index: cannot be written \(No space left"):
            index.remove(ids)
    assert len(Index.open(index.folder)) == 5
    assert len(index.remove(ids)) == 3
    assert ids.asked == 2


def test_a_commit_keeps_no_row_in_memory(tmp_path):
    index, rows = Index.create(tmp_path / "index", fingerprint={}, features=1), 4000
    keys = [f"product-{n}" for n in range(rows)]
    with writing(index.folder):
        making = Making(index, catalogue="c", attributes=("name", "color"))
        attributes = {"name": "a shirt " * 20, "color": "blue"}
        making.append([Item(k, k, "", "c", attributes) for k in keys], np.ones((rows, 1), "f4"))
        making = Making(index, catalogue="c", attributes=("name", "color"))
        tracemalloc.start()
        assert sum(1 for _ in making.written()) == rows
        index = making.commit([rows - 1])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(index) == rows - 1
    assert index.segments[0].removed == (rows - 1,)
    assert peak < 50 * rows
