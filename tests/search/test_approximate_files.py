"""What FAISS is given from the disk: the lists as they were written, or one line."""

import errno
import json
import os

import numpy as np
import pytest
from test_nearest import index_of

from siamjax.errors import UsageError
from siamjax.search.approximate import approximate
from siamjax.search.approximate_files import checksum
from siamjax.search.index import Index
from siamjax.search.nearest import nearest

faiss = pytest.importorskip("faiss", exc_type=ImportError)
FILES = ["centres.npy", "ranges.npy", "sizes.npy", "rows.npy", "codes.npy"]


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(3).normal(size=(400, 24)).astype("f4")


@pytest.fixture
def made(tmp_path, rows):
    """An index, the folder of its lists, and what they give."""
    index = index_of(tmp_path / "index", rows, segments=2)
    found = approximate(rows[:9], index, top=3, probes=2)
    (folder,) = (index.folder / "approximate").glob("squared_euclidean-*")
    return index, folder, found


def test_lists_read_back_are_those_that_were_made(made, rows):
    index, folder, found = made
    assert sorted(one.name for one in folder.iterdir()) == sorted([*FILES, "sums.json"])
    again = approximate(rows[:9], Index.open(index.folder), top=3, probes=2)
    np.testing.assert_array_equal(again.rows, found.rows)
    every = approximate(rows[:9], index, top=3, probes=1000)
    np.testing.assert_array_equal(every.rows, nearest(rows[:9], index, top=3).rows)
    assert np.load(folder / "sizes.npy").sum() == 400
    np.testing.assert_array_equal(np.sort(np.load(folder / "rows.npy")), np.arange(400))


@pytest.mark.parametrize("name", FILES)
def test_any_damage_of_a_file_is_told(made, rows, name):
    index, folder, _ = made
    path = folder / name
    before = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [9, 60, 128, len(before) - 1, *rng.integers(128, len(before), 20).tolist()]:
        content = bytearray(before)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        with pytest.raises(UsageError, match=name):
            approximate(rows[:1], index)
    for content in (b"", before[:-1], before + b"x", before[:40]):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=name):
            approximate(rows[:1], index)
    path.unlink()
    with pytest.raises(UsageError, match=rf"{name}: no such file"):
        approximate(rows[:1], index)


@pytest.mark.parametrize("content", [b"", b"[" * 50_000, b'{"rows.npy": "x"}', b"{}"])
def test_checksums_that_are_none(made, rows, content):
    index, folder, _ = made
    (folder / "sums.json").write_bytes(content)
    with pytest.raises(UsageError, match="squared_euclidean-"):
        approximate(rows[:1], index)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rows.npy", lambda array: array + 1),
        ("rows.npy", lambda array: array - 1),
        ("sizes.npy", lambda array: array * 2**40),
        ("sizes.npy", lambda array: np.r_[-1, array[0] + array[1] + 1, array[2:]]),
        ("sizes.npy", lambda array: array[:0]),
    ],
)
def test_lists_that_fit_their_checksums_and_not_the_index(made, rows, name, change):
    """As somebody could make them."""
    index, folder, _ = made
    array = change(np.load(folder / name))
    np.save(folder / name, array)
    if name == "sizes.npy" and not len(array):
        centres = np.load(folder / "centres.npy")[:0]
        np.save(folder / "centres.npy", centres)
    sums = {one: checksum(np.load(folder / one)) for one in FILES}
    (folder / "sums.json").write_text(json.dumps(sums))
    with pytest.raises(UsageError, match=rf"{name}: (not the sizes of 400|rows that the index)"):
        approximate(rows[:1], index)


def test_where_nothing_can_be_written_the_search_goes_on(tmp_path, rows, monkeypatch, capsys):
    index = index_of(tmp_path / "index", rows)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "rename", lambda *a: (_ for _ in ()).throw(full))
    found = approximate(rows[:5], index, top=1)
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(5))
    assert "cannot be written (No space left" in capsys.readouterr().err
    assert [one.name for one in (index.folder / "approximate").iterdir()] == ["lock"]


def test_a_file_of_an_earlier_version_is_replaced(tmp_path, rows):
    index = index_of(tmp_path / "index", rows)
    (index.folder / "approximate").mkdir()
    old = index.folder / "approximate" / "squared_euclidean-0123456789abcdef.faiss"
    old.write_bytes(b"any")
    other = index.folder / "approximate" / "cosine-0123456789abcdef.faiss"
    other.write_bytes(b"any")
    approximate(rows[:5], index)
    assert not old.exists()
    assert other.exists()


def test_few_and_odd_rows(tmp_path):
    for count, features in ((1, 3), (2, 1), (45, 5)):
        rows = np.random.default_rng(count).normal(size=(count, features)).astype("f4")
        index = index_of(tmp_path / f"{count}", rows)
        for _ in range(2):
            assert approximate(rows[:1], index, top=1).rows == [[0]]
