"""HDF5 files that point elsewhere, or describe more than they store, are refused by name."""

import fcntl
import time

import h5py
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.isolation import isolated
from siamjax.isolation.hdf5 import File


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(4.0)
        file["group/x"] = np.arange(4.0)
    return path


def external(file, secret):
    file["x"] = h5py.ExternalLink(str(secret), "/x")


def external_group(file, secret):
    file["y"] = h5py.ExternalLink(str(secret), "/group")
    return "y/x"


def soft(file, secret):
    file["real"] = np.arange(4.0)
    file["x"] = h5py.SoftLink("/real")


def external_storage(file, secret):
    file.create_dataset("x", (4,), "f8", external=[(str(secret), 0, 32)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
    file.create_virtual_dataset("x", layout)


def no_chunk(file, secret):
    file.create_dataset("x", (4096, 4096), "f4", chunks=(64, 64))


def half_of_the_chunks(file, secret):
    file.create_dataset("x", (4, 4), "f4", chunks=(2, 4))[:2] = 1


def nothing_stored(file, secret):
    file.create_dataset("x", (4,), "f4")


def compressed_bomb(file, secret):
    file.create_dataset("x", (10**5, 10**4), "f4", chunks=(10**4, 10**4), compression=9)


def huge(file, secret):
    file.create_dataset("x", (10**9, 10**9), "f8", chunks=(1, 1))


def group(file, secret):
    file["x/inside"] = 1


def committed_type(file, secret):
    file["x"] = np.dtype("f8")


def text(file, secret):
    file["x"] = "hello"


def bytes_(file, secret):
    file["x"] = np.array([b"a", b"b"])


def complex_(file, secret):
    file["x"] = np.zeros(3, complex)


def structure(file, secret):
    file["x"] = np.zeros(3, [("a", "f4")])


def empty(file, secret):
    file["x"] = h5py.Empty("f4")


def long_double(file, secret):
    file["x"] = np.zeros(3, np.longdouble)


def missing(file, secret):
    file["X"] = 1


def inside_a_data_set(file, secret):
    file["x"] = np.arange(3)
    return "x/y"


ELSEWHERE = "is not in this file, only a reference to another place or file"
WRONG = {
    external: f"x {ELSEWHERE}",
    external_group: f"y/x {ELSEWHERE}",
    soft: ELSEWHERE,
    external_storage: ELSEWHERE,
    virtual: ELSEWHERE,
    no_chunk: r"/x: expected values of shape \(4096, 4096\), found only some of them",
    half_of_the_chunks: "found only some of them",
    nothing_stored: "found only some of them",
    compressed_bomb: r"/x: expected at most 268,.* bytes, found 4,000,000,000, of shape",
    huge: "expected at most",
    group: "/x: expected a data set, found a group or a type",
    committed_type: "expected a data set",
    text: "expected numbers, found values of type object",
    bytes_: "expected numbers, found values of type .S1",
    complex_: "expected numbers",
    structure: "expected numbers",
    empty: "expected values, found none",
    long_double: "expected numbers, found values of type float128",
    missing: "no x in it",
    inside_a_data_set: "no x/y in it",
}


@pytest.mark.parametrize("write", WRONG, ids=lambda write: write.__name__)
def test_refused(tmp_path, secret, write):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        name = write(file, secret) or "x"
    opened = File(tmp_path / "a.h5", keeps=True)
    with pytest.raises(UsageError, match=rf"a\.h5: .*{WRONG[write]}"):
        opened.numbers(opened.within(opened.root, name))


@pytest.mark.parametrize("options", [{}, {"chunks": (3, 2)}, {"compression": 4, "shuffle": True}])
@pytest.mark.parametrize("dtype", ["f2", ">f8", "i4", "?"])
def test_read(tmp_path, dtype, options):
    array = np.arange(35).reshape(7, 5).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a/b/x", data=array, **options)
        file["none"] = np.zeros((0, 3))
        file["one"] = 5.0
    opened = File(tmp_path / "a.h5", keeps=True)
    np.testing.assert_array_equal(opened.numbers(opened.within(opened.root, "a/b/x")), array)
    assert opened.numbers(opened.root["none"]).shape == (0, 3)
    assert opened.numbers(opened.root["one"]) == 5


def test_all_together_are_limited(tmp_path):
    """One data set under many names takes its memory as often."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("0", data=np.zeros((50_000_000,), "u1"), compression=9)
        for number in range(1, 30):
            file[str(number)] = data
    opened = File(tmp_path / "a.h5", keeps=False)
    for _ in range(8):
        opened.numbers(opened.root["0"])
    opened = File(tmp_path / "a.h5", keeps=True)
    for number in range(5):
        opened.numbers(opened.root[str(number)])
    with pytest.raises(UsageError, match="/5: expected at most"):
        opened.numbers(opened.root["5"])


def test_names_in_attributes(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["bytes"] = [b"one", b"two"]
        file.attrs["text"] = ["one", "two"]
        file.attrs["numbers"] = [1, 2]
        file.attrs["none"] = np.array([], "S1")
    opened = File(tmp_path / "a.h5", keeps=True)
    assert opened.texts(opened.root, "bytes") == opened.texts(opened.root, "text") == ["one", "two"]
    assert opened.texts(opened.root, "none") == []
    with pytest.raises(UsageError, match="expected names in its attribute numbers"):
        opened.texts(opened.root, "numbers")
    with pytest.raises(UsageError, match="expected an attribute layers, found none"):
        opened.texts(opened.root, "layers")


def test_damage_that_never_ends(tmp_path):
    """A heap of names whose object has no size: reading the attribute loops inside libhdf5."""
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["a", "b"]
    content = bytearray(path.read_bytes())
    place = content.index(b"GCOL") + 24
    assert content[place] == 1
    content[place] = 0
    path.write_bytes(content)
    began = time.monotonic()
    with pytest.raises(UsageError, match=r"w\.h5: damaged: its reader did not end within 1 s"):
        list(isolated("siamjax.isolation.keras_h5.tensors", path, seconds=1))
    assert time.monotonic() - began < 60


def test_a_file_that_cannot_be_locked_is_read(tmp_path):
    """As on some network disks; HDF5 asks for a lock, which somebody has here."""
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
        file.create_group("dense").attrs["weight_names"] = [b"kernel"]
        file["dense/kernel"] = np.arange(3.0)
    with path.open("rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        first, last = isolated("siamjax.isolation.keras_h5.tensors", path)
    assert (first.value, last.value) == (["dense", "kernel"], True)
    np.testing.assert_array_equal(first.array, np.arange(3.0))
