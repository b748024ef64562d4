"""What is taken from an HDF5 file: numbers that stand in this file, all of them, and no more.

An HDF5 file can point at others (external links, external storage, virtual data sets), and can
describe more values than it stores: those that are missing are filled in, whatever memory that
takes. All this is refused here, with the name of what does it.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from siamjax.array_files import NUMBERS, allowance
from siamjax.errors import UsageError, shown


class File:
    """An open HDF5 file, in a child process; raises ``UsageError`` naming file and data set.

    ``keeps`` says that the caller keeps all arrays: then all together are limited, and not each.
    """

    def __init__(self, path: Path, *, keeps: bool) -> None:
        self._path, self._keeps = path, keeps
        self._most = allowance(os.path.getsize(path))
        self.root: Any = h5py.File(path, "r")  # h5py's types: a group has data sets and groups

    def within(self, group: Any, name: str) -> Any:
        """The group or data set ``name`` (with ``/`` for one inside another) of a group."""
        for part in name.split("/"):
            link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
            if link is None:
                raise UsageError(f"{shown(self._path)}: no {shown(name)} in it; fetch it again")
            if not isinstance(link, h5py.HardLink):
                raise self._elsewhere(name)
            group = group[part]
        return group

    def numbers(self, stored: Any) -> np.ndarray:
        """The values of a data set of numbers."""
        self._check(stored)
        if stored.dtype.kind not in NUMBERS or stored.dtype.itemsize > 8:
            raise self._other(stored, "numbers", f"values of type {stored.dtype}")
        if self._keeps:
            self._most -= stored.nbytes
        return self._values(stored)

    def references(self, stored: Any, *, most: int) -> np.ndarray:
        """The references of a data set, such as a cell array of MATLAB is; at most so many."""
        self._check(stored)
        if stored.size > most:
            raise self._other(stored, f"at most {most:,} cells", f"{stored.size:,}")
        if h5py.check_ref_dtype(stored.dtype) is not h5py.Reference:
            raise self._other(stored, "references to cells", f"values of type {stored.dtype}")
        return self._values(stored)

    def texts(self, group: Any, name: str) -> list[str]:
        """An attribute that holds names, as bytes or as text."""
        if name not in group.attrs:
            raise self._other(group, f"an attribute {name}", "none")
        values = np.ravel(group.attrs[name]).tolist()
        if not all(isinstance(value, (bytes, str)) for value in values):
            raise self._other(group, f"names in its attribute {name}", "something else")
        return [value.decode() if isinstance(value, bytes) else value for value in values]

    def _check(self, stored: Any) -> None:
        if not isinstance(stored, h5py.Dataset):
            raise self._other(stored, "a data set", "a group or a type")
        if stored.is_virtual or stored.external:
            raise self._elsewhere(stored.name)
        if stored.shape is None:
            raise self._other(stored, "values", "none")
        if stored.nbytes > self._most:
            found = f"{stored.nbytes:,}, of shape {stored.shape}"
            raise self._other(stored, f"at most {self._most:,} bytes", found)

    def _values(self, stored: Any) -> np.ndarray:
        if not _is_whole(stored):
            raise self._other(stored, f"values of shape {stored.shape}", "only some of them")
        return stored[()]

    def _other(self, stored: Any, expected: str, found: str) -> UsageError:
        name = shown(getattr(stored, "name", None))
        return UsageError(
            f"{shown(self._path)}: {name}: expected {expected}, found {found}; fetch it again"
        )

    def _elsewhere(self, name: str | None) -> UsageError:
        return UsageError(
            f"{shown(self._path)}: {shown(name)} is not in this file, only a reference to another "
            "place or file, and those are not followed; write the values into this file"
        )


def _is_whole(stored: Any) -> bool:
    """Whether every value is stored, so that none is filled in."""
    if not stored.size:
        return True
    if stored.chunks is None:
        return stored.id.get_storage_size() == stored.nbytes
    chunks: Sequence[int] = stored.chunks
    wanted = math.prod(-(-n // m) for n, m in zip(stored.shape, chunks, strict=True))
    return stored.id.get_num_chunks() == wanted
