"""What may have happened to the files of an index: one line says it, and no neighbour is wrong."""

import json
import os

import numpy as np
import pytest
from test_index import embed, files, plain, without_checksums

from siamjax.errors import UsageError
from siamjax.search.index import Index
from siamjax.search.nearest import nearest


@pytest.fixture
def made(tmp_path):
    """An index of two segments, one row removed, and the pixels of its images."""
    embed(files(tmp_path / "images", 12)[0], tmp_path / "index")
    catalogue, pixels = files(tmp_path / "images", 20)
    return embed(catalogue, tmp_path / "index", without=("p003",)).index, pixels


def use(folder, queries):
    """All that a search reads, and what an embedding reads."""
    index = Index.open(folder)
    found = nearest(queries, index, top=5)
    index.lookup(found.rows.ravel())
    index.where([("color", "red")])
    list(index.places())
    return found


def flip(path, place, bits):
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(content)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_each_flipped_bit_of_a_row_is_found(tmp_path, dtype):
    catalogue, pixels = files(tmp_path / "images", 6)
    index = embed(catalogue, tmp_path / "index", dtype=dtype).index
    path, queries = index.segments[0].folder / "embeddings.npy", plain(pixels)[:2]
    nearest(queries, Index.open(index.folder))
    for place in range(128, path.stat().st_size):
        flip(path, place, 1 << place % 8)
        with pytest.raises(UsageError, match=r"embeddings.npy is damaged: of rows"):
            nearest(queries, Index.open(index.folder), top=1)
        flip(path, place, 1 << place % 8)


def test_a_row_that_damage_moves_away_is_not_missed_in_silence(made):
    """Its sum of squares stays, and it is no longer near the query that it equals."""
    index, pixels = made
    path = index.segments[1].folder / "embeddings.npy"
    rows = np.lib.format.open_memmap(path, mode="r+")
    rows[4] = -rows[4]
    rows.flush()
    with pytest.raises(UsageError, match=r"segment-0002.*damaged: of rows 4 to 4, 1 are not"):
        nearest(plain(pixels)[:3], Index.open(index.folder), top=1)


@pytest.mark.parametrize("name", ["squares.npy", "checks.npy"])
def test_damage_beside_the_rows_is_found(made, name):
    index, pixels = made
    flip(index.segments[0].folder / name, 128 + 8 * 5 + 6, 0x10)
    with pytest.raises(UsageError, match="damaged: of rows 5 to 5, 1 are not as they were"):
        use(index.folder, plain(pixels)[:1])


def test_any_change_of_the_table_is_found(made):
    index, pixels = made
    path = index.segments[0].folder / "items.csv"
    before = path.read_bytes()
    for place in range(0, len(before), 7):
        flip(path, place, 0x01)
        with pytest.raises(UsageError, match=r"items.csv is not as it was written"):
            use(index.folder, plain(pixels)[:1])
        path.write_bytes(before)
    use(index.folder, plain(pixels)[:1])


def test_each_row_is_compared_once_for_an_opened_index(made, monkeypatch):
    from siamjax.search import index_segment

    index, pixels = made
    index, rows = Index.open(index.folder), []
    checks = index_segment.row_checks
    monkeypatch.setattr(
        index_segment, "row_checks", lambda r, s: rows.append(len(r)) or checks(r, s)
    )
    for _ in range(3):
        nearest(plain(pixels)[:2], index, block=5)
    assert sum(rows) <= 20 + 2 * 5  # a last block may begin earlier and overlap
    before = len(rows)
    nearest(plain(pixels)[:2], index)
    assert len(rows) == before


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m.update(features="7"), r"Expected `int`, got `str` - at `\$.features`"),
        (lambda m: m.update(features=0), r"`\$\.features"),
        (lambda m: m.update(features=10**12), r"`\$\.features"),
        (lambda m: m.update(features=6), r"embeddings.npy holds float32 \(12, 7\) in place of"),
        (lambda m: m.update(dtype="float64"), r"`\$\.dtype"),
        (lambda m: m.update(dtype="float16"), "holds float32 .* in place of float16"),
        (lambda m: m.update(dtype=["float32"]), r"`\$\.dtype"),
        (lambda m: m.update(fingerprint=[1]), r"`\$\.fingerprint"),
        (lambda m: m.update(run=None), r"`\$\.run"),
        (lambda m: m.update(segments={}), r"`\$\.segments"),
        (lambda m: m.update(segments=[5]), r"`\$\.segments\[0\]"),
        (lambda m: m["segments"].append(m["segments"][0]), "names a segment twice"),
        (lambda m: m["segments"][0].pop("removed"), "missing required field `removed`"),
        (lambda m: m["segments"][1].update(count=10**15), r"holds float32 \(8, 7\) in place of"),
        (lambda m: m["segments"][1].update(count=-1), r"`\$\.segments\[[01]\]\.count"),
        (lambda m: m["segments"][1].update(count=7.5), r"`\$\.segments\[[01]\]\.count"),
        (lambda m: m["segments"][0].update(removed=[12]), "12 rows, and row 12 is removed"),
        (lambda m: m["segments"][0].update(removed=[5, 3]), "not in ascending order"),
        (lambda m: m["segments"][0].update(removed=[4, 4]), "not in ascending order"),
        (lambda m: m["segments"][0].update(removed=[10**20]), r"`\$\.segments\[[01]\]\.removed"),
        (lambda m: m["segments"][0].update(removed=["p001"]), r"`\$\.segments\[[01]\]\.removed"),
        (lambda m: m["segments"][0].update(attributes=["a", "a"]), "two attributes of one name"),
        (lambda m: m["segments"][0].update(attributes=["color"]), "line 1 has 5 columns in place"),
        (lambda m: m["segments"][0].update(attributes=[3]), r"`\$\.segments\[[01]\]\.attributes"),
        (lambda m: m["segments"][0].update(bytes={}), r"names the files \[\] in place of"),
        (lambda m: m["segments"][0]["bytes"].update(other=1), "names the files"),
        (lambda m: m["segments"][0]["bytes"].update({"items.csv": 10**9}), "bytes in place of"),
        (lambda m: m["segments"][0].update(items_crc=1), "items.csv is not as it was written"),
        (lambda m: m["segments"][0].update(items_crc=None), "names the files"),
        *(
            (
                lambda m, name=name: m["segments"][0].update(folder=name),
                r"`\$\.segments\[0\]\.folder`",
            )
            for name in ("../images", "/etc", "segment-x", "segment-1", "segment-0001\n", 5)
        ),
    ],
)
def test_a_manifest_that_says_something_else(made, change, problem):
    index, pixels = made
    path = index.folder / "manifest.json"
    content = json.loads(path.read_text())
    del content["crc"]
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=problem) as error:
        use(index.folder, plain(pixels)[:1])
    assert str(index.folder) in str(error.value)


def test_any_changed_number_or_letter_of_the_manifest_is_found(made):
    """One more row removed, say, is a neighbour that is missed."""
    index, pixels = made
    path = index.folder / "manifest.json"
    before = path.read_bytes()
    own = before.index(b'"crc"')  # without this name it is a manifest of an earlier version
    for place, byte in enumerate(before):
        if chr(byte).isalnum() and not own <= place < own + 5:
            flip(path, place, 0x01)
            with pytest.raises(UsageError):
                Index.open(index.folder)
            path.write_bytes(before)
    use(index.folder, plain(pixels)[:1])


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff{}", b'{"format": 1e999}', b"null"])
def test_a_manifest_that_is_none(made, content):
    index, _ = made
    (index.folder / "manifest.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"manifest.json: not the manifest.*restore it"):
        Index.open(index.folder)


@pytest.mark.parametrize("name", ["manifest.json", "segment-0001/items.csv"])
def test_a_pipe_in_place_of_a_file(made, name):
    index, _ = made
    (index.folder / name).unlink()
    os.mkfifo(index.folder / name)
    with pytest.raises(UsageError, match="expected a file, and it is a named pipe"):
        Index.open(index.folder)


@pytest.mark.parametrize("name", ["manifest.json", "segment-0001/items.csv"])
def test_a_file_that_cannot_be_looked_at(made, name):
    index, _ = made
    (index.folder / name).unlink()
    (index.folder / name).symlink_to(index.folder / name)
    with pytest.raises(UsageError, match=r"cannot be read \(Too many levels"):
        Index.open(index.folder)


def test_folders_that_cannot_be(made, tmp_path):
    index, _ = made
    for folder, problem in (
        (tmp_path / ("x" * 5000), "File name too long"),
        (index.folder / "manifest.json", "is not an index"),
        (tmp_path / "nul\0", "not a path"),
    ):
        with pytest.raises(UsageError, match=problem):
            Index.open(folder)


def test_an_array_of_another_shape_of_the_same_size(made):
    index, _ = made
    path = index.segments[0].folder / "embeddings.npy"
    np.save(path, np.load(path).reshape(7, 12))
    with pytest.raises(UsageError, match=r"holds float32 \(7, 12\) in place of float32 \(12, 7\)"):
        Index.open(index.folder)


def test_an_index_of_the_first_version_is_searched_as_before(made):
    index, pixels = made
    right = use(index.folder, plain(pixels)[:4])
    old = Index.open(without_checksums(index.folder))
    assert not old.checked
    assert Index.open(index.folder).items() is not None
    np.testing.assert_array_equal(use(old.folder, plain(pixels)[:4]).rows, right.rows)
    table = old.segments[0].folder / "items.csv"
    before = table.read_bytes()
    for wrong, problem in (
        (before.replace(b"p001", b"p\xff01"), "items.csv: not UTF-8"),
        (before.replace(b"p001", b"p002"), "two items have the id p002"),
        (before.replace(b'"with ""q', b'"with "xq'), "items.csv, line 1:"),
    ):
        table.write_bytes(wrong)
        with pytest.raises(UsageError, match=problem):
            use(old.folder, plain(pixels)[:1])


def test_a_first_version_goes_on_with_checksums(tmp_path):
    embed(files(tmp_path / "images", 6)[0], tmp_path / "index")
    without_checksums(tmp_path / "index")
    catalogue, pixels = files(tmp_path / "images", 9)
    done = embed(catalogue, tmp_path / "index")
    assert (done.added, done.present) == (3, 6)
    assert [segment.checked for segment in done.index.segments] == [False, True]
    found = nearest(plain(pixels), Index.open(done.index.folder), top=1)
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(9))
