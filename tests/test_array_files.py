"""Arrays come as NumPy wrote them; what else a file holds is one line, before memory is taken."""

import io
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from siamjax.array_files import allowance, map_npy, read_npy, read_npz
from siamjax.errors import UsageError

ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.arange(6, dtype=">i2").reshape(2, 3, order="F"),
    np.float16(3),
    np.zeros((2, 0, 3), np.uint8),
    np.array([True, False]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=str)
def test_as_written(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", one=array, other=np.arange(3))
    for got in (
        read_npy(tmp_path / "a.npy"),
        map_npy(tmp_path / "a.npy"),
        read_npz(tmp_path / "a.npz")["one"],
    ):
        np.testing.assert_array_equal(got, array)
        assert got.shape == array.shape
    assert read_npy(tmp_path / "a.npy").dtype.isnative


def test_a_mapped_file_is_written_to(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    mapped = map_npy(tmp_path / "a.npy", write=True)
    mapped[1] = 5
    del mapped
    assert read_npy(tmp_path / "a.npy").tolist() == [0, 5, 0]


def npy(header, values=b"", *, version=b"\x01\x00"):
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + values


def described(descr="'<f8'", order="False", shape="(1,)", more=""):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}{more}}}"
    return npy(text.encode(), bytes(8))


WRONG = {
    "empty": (b"", "not an array"),
    "another file": (b"GIF89a" + bytes(50), "not an array"),
    "a pickle": (pickle.dumps(np.zeros(3)), "not an array"),
    "version 3": (npy(b"{}", version=b"\x03\x00"), "not an array"),
    "cut in its header": (described()[:30], "header is"),
    "brackets": (npy(b"[" * 5000), "header is"),
    "a call": (npy(b"__import__('os').getcwd()"), "header is"),
    "a list": (npy(b"[1]"), "header is"),
    "a key more": (described(more=", 'x': 1"), "header is"),
    "order as a number": (described(order="0"), "header is"),
    "shape of truth": (described(shape="(True,)"), "header is"),
    "negative": (described(shape="(-1,)"), "header is"),
    "no tuple": (described(shape="1"), "header is"),
    "huge": (described(shape="(99999999999, 3)"), "are needed for an array of shape"),
    "beyond all": (described(shape="(9999999999999999999, 3)"), "header is"),
    "many axes": (described(shape=str((1,) * 40)), "header is"),
    "too few values": (described(shape="(2,)"), "16 are needed|needed"),
    "too many values": (described(descr="'<f4'"), "needed"),
    "objects": (described(descr="'|O'"), "values of type"),
    "text": (described(descr="'<U2'"), "values of type"),
    "bytes": (described(descr="'|S8'"), "values of type"),
    "complex": (described(descr="'<c8'"), "values of type"),
    "times": (described(descr="'<M8[s]'"), "values of type"),
    "structures": (described(descr="[('a', '<f8')]"), "values of type"),
    "arrays of arrays": (described(descr="('<f4', (2,))"), "values of type"),
    "f1": (described(descr="'f1'"), "values of type"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_array_of_numbers(tmp_path, name):
    content, message = WRONG[name]
    (tmp_path / "a.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    tracemalloc.start()
    for read, path in ((read_npy, "a.npy"), (map_npy, "a.npy"), (read_npz, "a.npz")):
        with pytest.raises(UsageError, match=rf"{path}: .*({message})") as raised:
            read(tmp_path / path)
        assert len(str(raised.value)) < 600
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_kinds_are_the_callers(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3, np.float16))
    with pytest.raises(UsageError, match="values of type <f2"):
        read_npy(tmp_path / "a.npy", kinds="iu")
    np.savez(tmp_path / "a.npz", manifest=np.array("{}"), x=np.zeros(3))
    assert read_npz(tmp_path / "a.npz", texts=("manifest",))["manifest"] == "{}"
    with pytest.raises(UsageError, match=r"manifest.npy: values of type <U2"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(UsageError, match=r"x.npy: values of type <f8; expected text"):
        read_npz(tmp_path / "a.npz", texts=("manifest", "x"))


def save(path, members, *, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def array(value):
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives(tmp_path):
    path = tmp_path / "a.npz"
    for members, message in (
        ([("x.npy", array(1)), ("x.npy", array(2))], "two arrays of one name"),
        ([("notes.txt", b"hello")], "notes.txt is no array"),
        ([("x.npy", array(np.zeros(60_000_000)))], "its arrays take more than"),
    ):
        with pytest.raises(UsageError, match=message):
            read_npz(save(path, members))
    with pytest.raises(UsageError, match="packed as NumPy does not"):
        read_npz(save(path, [("x.npy", array(1))], compression=zipfile.ZIP_LZMA))
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UsageError, match=r"a.npz: damaged \(BadZipFile"):
        read_npz(path)


def test_any_byte_changed_is_found(tmp_path):
    """Each is the same arrays, or one line: the archive has checksums."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(50), y=np.zeros(3))
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            got = read_npz(path)
        except UsageError:
            continue
        np.testing.assert_array_equal(next(iter(got.values())), np.arange(50))


def test_no_files(tmp_path):
    for read in (read_npy, map_npy, read_npz):
        with pytest.raises(UsageError, match="no such file"):
            read(tmp_path / "none")
        with pytest.raises(UsageError, match="it is a folder"):
            read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="it is a named pipe"):
        map_npy(tmp_path / "pipe")


def test_large_files_pass():
    """VGG-16's 0.5 GB of float32, stored as float16 and compressed, say."""
    assert allowance(2_000_000) < 300_000_000
    assert allowance(180_000_000) > 553_000_000
