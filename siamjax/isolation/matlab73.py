"""Reads cell arrays of MATLAB 7.3 files, which are HDF5, in a child process."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.isolation.hdf5 import File

_MOST_CELLS = 10**6  # CUHK03 has 14,670


def cells(path: Path, name: str) -> Iterator[tuple[Any, np.ndarray | None]]:
    """A cell array of numbers: first the number of its cells, then the array of each."""
    file = _opened(path, name, keeps=True)
    references = _references(file, file.within(file.root, name))
    yield len(references), None
    for reference in references.ravel():
        yield None, _array(file, reference)


def cells_of_cells(path: Path, name: str) -> Iterator[tuple[Any, np.ndarray | None]]:
    """A cell array of cell arrays: first the shapes of the inner ones, then the array of each cell.

    The inner ones come one after the other, each with its last axis varying fastest.
    """
    file = _opened(path, name, keeps=False)
    outer = _references(file, file.within(file.root, name))
    inner = [_references(file, _target(file, reference)) for reference in outer.ravel()]
    yield [one.shape for one in inner], None
    for one in inner:
        for reference in one.ravel():
            yield None, _array(file, reference)


def _opened(path: Path, name: str, *, keeps: bool) -> File:
    if not h5py.is_hdf5(path):
        with path.open("rb") as file:
            older = file.read(10) == b"MATLAB 5.0"
        found = (
            "MATLAB version 5, but this file was published in version 7.3 (HDF5); fetch it again, "
            "or save it in MATLAB with '-v7.3'"
        )
        raise UsageError(f"{shown(path)}: {found if older else 'not an HDF5 file; fetch it again'}")
    opened = File(path, keeps=keeps)
    names = list(opened.root)
    if name not in names:
        others = ", ".join(one for one in names if not one.startswith("#"))
        raise UsageError(
            f"{shown(path)}: no variable {name} in it, only {shown(others)}; fetch it again"
        )
    return opened


def _references(file: File, stored: Any) -> np.ndarray:
    """The references to the cells of a cell array, with its axes as in MATLAB."""
    # MATLAB is column-major, so HDF5 has the axes reversed.
    return file.references(stored, most=_MOST_CELLS).T


def _target(file: File, reference: Any) -> Any:
    return file.root[reference] if reference else None


def _array(file: File, reference: Any) -> np.ndarray:
    """What a cell holds, with its axes as in MATLAB; of shape (0,) for an empty one."""
    if not reference:
        return np.empty(0)
    stored = _target(file, reference)
    values = file.numbers(stored)
    # An empty array is marked as such; the stored values are its dimensions.
    return np.empty(0) if stored.attrs.get("MATLAB_empty", 0) else values.T
