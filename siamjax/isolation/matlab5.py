"""Reads MATLAB files of version 5 to 7 by SciPy, in a child process: as numbers, text and names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from siamjax.array_files import NUMBERS
from siamjax.errors import UsageError, shown

_DEEPEST = 8  # cells within cells


def variables(path: Path, *names: str) -> Iterator[tuple[Any, None]]:
    """Those of the variables ``names`` that the file has, each as its name and a tree.

    A tree has one key: ``numbers`` (a list, with the last axis varying fastest), ``text``,
    ``cells`` (a list of trees), ``fields`` (names and trees of a structure, the first of several),
    or ``other`` (what it is).
    """
    if h5py.is_hdf5(path):
        raise UsageError(
            f"{shown(path)}: MATLAB 7.3 (HDF5), but this file was published in version 5; fetch it "
            "again, or save it in MATLAB with '-v7'"
        )
    try:
        found = scipy.io.loadmat(path, variable_names=names)
    except MemoryError:
        raise
    except Exception as error:  # SciPy's parser may raise anything on broken bytes
        raise UsageError(
            f"{shown(path)}: not a readable MATLAB file ({error}); fetch it again"
        ) from None
    for name in names:
        if name in found:
            yield [name, _tree(found[name], 0)], None


def _tree(value: Any, depth: int) -> dict[str, Any]:
    if depth > _DEEPEST or not isinstance(value, np.ndarray):
        return {"other": f"a {type(value).__name__}"}
    if value.dtype.names:
        first = value.ravel()[0] if value.size else None
        if first is None:
            return {"other": "an empty structure"}
        return {"fields": [[name, _tree(first[name], depth + 1)] for name in value.dtype.names]}
    if value.dtype.kind == "O":
        return {"cells": [_tree(one, depth + 1) for one in value.ravel()]}
    if value.dtype.kind == "U":
        return {"text": "".join(value.ravel().tolist())}
    if value.dtype.kind in NUMBERS:
        return {"numbers": value.ravel().tolist()}
    return {"other": f"values of type {value.dtype}"}
