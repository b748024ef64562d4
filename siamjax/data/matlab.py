"""Read MATLAB's two file formats: version 5 by SciPy, and version 7.3, which is HDF5, by h5py."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from jaxtyping import Shaped

from siamjax.errors import UsageError


def load_v5(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Those of the variables ``names`` that a file of version 5 to 7 has."""
    if h5py.is_hdf5(path):
        raise UsageError(
            f"{path}: MATLAB 7.3 (HDF5), but this file was published in version 5; fetch it "
            "again, or save it in MATLAB with '-v7'"
        )
    try:
        return scipy.io.loadmat(path, variable_names=names)
    except Exception as error:  # SciPy's parser may raise anything on broken bytes
        raise UsageError(f"{path}: not a readable MATLAB file ({error}); fetch it again") from None


@contextlib.contextmanager
def open_v73(path: Path, *names: str) -> Iterator[Any]:
    """Open a file of version 7.3; raises ``UsageError`` unless it has the variables ``names``."""
    if not h5py.is_hdf5(path):
        with path.open("rb") as file:
            older = file.read(10) == b"MATLAB 5.0"
        remedy = (
            "MATLAB version 5, but this file was published in version 7.3 (HDF5); fetch it "
            "again, or save it in MATLAB with '-v7.3'"
        )
        raise UsageError(f"{path}: {remedy if older else 'not an HDF5 file; fetch it again'}")
    try:
        with h5py.File(path, "r") as opened:
            file: Any = opened  # h5py's types do not distinguish data sets from groups
            if missing := [name for name in names if name not in file]:
                raise UsageError(
                    f"{path}: no variable {', '.join(missing)} in it, only "
                    f"{', '.join(n for n in file if not n.startswith('#'))}; fetch it again"
                )
            yield file
    except UsageError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # h5py raises these for broken files, and for a variable that is not a cell array.
        raise UsageError(
            f"{path}: cannot be read as the published HDF5 file ({error}); fetch it again"
        ) from None


def array(file: Any, name_or_reference: Any) -> Shaped[np.ndarray, "..."]:
    """A variable, or what a cell refers to, with its axes as in MATLAB.

    A cell array comes as the references to its cells; an empty array has shape (0,).
    """
    stored = file[name_or_reference]
    if stored.attrs.get("MATLAB_empty", 0):  # then the stored values are its dimensions
        return np.empty(0)
    return np.asarray(stored[()]).T  # MATLAB is column-major, so HDF5 has the axes reversed
