"""MATLAB files of both versions: what they hold, and what damage makes of them."""

import h5py
import numpy as np
import pytest
import scipy.io

from siamjax.data.matlab import (
    cells_of,
    cells_of_cells_v73,
    cells_v73,
    load_v5,
    whole_numbers_of,
)
from siamjax.errors import UsageError


def column(*values):
    made = np.empty((len(values), 1), object)
    made[:, 0] = values
    return made


def test_version_5(tmp_path):
    path = tmp_path / "a.mat"
    written = {
        "matrix": np.array([[1, 2], [3, 4]], np.uint8),
        "flags": np.array([True, False]),
        "word": "words",
        "cells": column("one", np.array([1.5]), column(2, "x")),
        "structure": {"first": 1, "second": "two"},
        "complex": np.array([1j]),
        "empty": np.zeros((0, 0)),
    }
    scipy.io.savemat(path, written)
    found = load_v5(path, *written, "missing")
    assert found.keys() == written.keys()
    assert found["matrix"].numbers == [1, 2, 3, 4]
    assert found["flags"].numbers == [1, 0]
    assert found["word"].text == "words"
    assert found["empty"].numbers == []
    first, second, third = cells_of(found["cells"], "w")
    assert (first.text, second.numbers) == ("one", [1.5])
    assert third.cells[1].text == "x"
    fields = dict(found["structure"].fields)
    assert (fields["first"].numbers, fields["second"].text) == ([1], "two")
    assert found["complex"].kind == "values of type complex128"
    with pytest.raises(UsageError, match="w: expected cells, found text"):
        cells_of(found["word"], "w")
    with pytest.raises(UsageError, match="w: expected numbers, found fields"):
        whole_numbers_of(found["structure"], "w")


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, -np.inf, 2.0**31, 1e300])
def test_whole_numbers(tmp_path, value):
    scipy.io.savemat(tmp_path / "a.mat", {"good": [1.0, -7], "bad": [3, value]})
    found = load_v5(tmp_path / "a.mat", "good", "bad")
    assert whole_numbers_of(found["good"], "w").tolist() == [1, -7]
    with pytest.raises(UsageError, match=r"w: value 2 is .*, expected a whole number"):
        whole_numbers_of(found["bad"], "w")


@pytest.mark.parametrize("place", [144, 209, 236, 240])
def test_damage_that_crashes_scipy(tmp_path, place):
    """Class 9 in the flags of a cell array (byte 144): SciPy ends with a segmentation fault."""
    path = tmp_path / "a.mat"
    cells = np.empty((1, 2), object)
    cells[:] = [[np.arange(3), np.arange(3)]]
    scipy.io.savemat(path, {"x": cells})
    content = bytearray(path.read_bytes())
    content[place] = 9
    path.write_bytes(content)
    message = ""
    try:
        load_v5(path, "x")
    except UsageError as error:
        message = str(error)
    assert not message or message.startswith(str(path))
    assert place != 144 or "ended by SIG" in message or "not a readable" in message


def test_compressed_zeros_are_limited(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.zeros((40_000_000,))}, do_compression=True)
    with pytest.raises(UsageError, match=r"a\.mat: (.*takes more than 2\d\d,|not a readable)"):
        load_v5(tmp_path / "a.mat", "x")


def write_v73(path, cells, **more):
    """A cell array of rows of cells; a cell is an array, None for no reference, or a data set."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in more.items():
            file[name] = value
        outer = np.empty((1, len(cells)), h5py.ref_dtype)
        for place, rows in enumerate(cells):
            inner = np.empty((len(rows[0]), len(rows)), h5py.ref_dtype)
            for i, row in enumerate(rows):
                for j, cell in enumerate(row):
                    if cell is not None:
                        data = file.create_dataset(f"#refs#/{place}_{i}_{j}", data=cell.T)
                        inner[j, i] = data.ref
            stored = file.create_dataset(f"#refs#/{place}", data=inner)
            outer[0, place] = stored.ref
        file.create_dataset("x", data=outer)


def test_version_73(tmp_path):
    path = tmp_path / "a.mat"
    a, b = np.arange(6).reshape(2, 3), np.arange(24.0).reshape(4, 3, 2)
    write_v73(path, [[[a, b, None], [b, a, a]], [[b]]])
    with cells_of_cells_v73(path, "x") as (shapes, cells):
        assert shapes == [(2, 3), (1, 1)]
        for array, expected in zip(cells, [a, b, np.zeros(0), b, a, a, b], strict=True):
            np.testing.assert_array_equal(array, expected)
    with pytest.raises(UsageError, match="expected numbers, found values of type object"):
        cells_v73(path, "x")  # cells, where arrays are expected
    with pytest.raises(UsageError, match="no variable y in it, only x"):
        cells_v73(path, "y")


def test_a_reader_that_stops_early_ends_the_child(tmp_path):
    write_v73(tmp_path / "a.mat", [[[np.zeros((500, 500))] * 9]])
    with cells_of_cells_v73(tmp_path / "a.mat", "x") as (_, cells):
        assert next(cells).shape == (500, 500)


def test_more_than_is_stored(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        large = file.create_dataset("large", (10**6, 10**6), "u1", chunks=(1000, 1000))
        file.create_dataset("x", data=np.array([[large.ref]], h5py.ref_dtype))
        file.create_dataset("y", (1, 10**9), h5py.ref_dtype, chunks=(1, 10**5))
        file.create_dataset("z", (1, 10**5), h5py.ref_dtype, chunks=(1, 10**5))
    for name, message in (("x", "at most"), ("y", "at most"), ("z", "only some of them")):
        with pytest.raises(UsageError, match=rf"a\.mat: .*{message}"):
            cells_v73(tmp_path / "a.mat", name)
