"""Read MATLAB's two file formats: version 5 by SciPy, and version 7.3, which is HDF5, by h5py.

Both run in a child process (:mod:`siamjax.isolation`), as damaged files crash them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import Int, Shaped

from siamjax.errors import UsageError, shown
from siamjax.isolation import isolated


class Variable(msgspec.Struct):
    """What a variable, a cell or a field of a file of version 5 holds; one of these is not None.

    Attributes:
        numbers: of an array, with its last axis varying fastest.
        text: of an array of characters.
        cells: of a cell array, with its last axis varying fastest.
        fields: names and values of a structure; of the first, in an array of them.
        other: the name of anything else.
    """

    numbers: list[int | float] | None = None
    text: str | None = None
    cells: "list[Variable] | None" = None
    fields: "list[tuple[str, Variable]] | None" = None
    other: str | None = None

    @property
    def kind(self) -> str:
        """What it is, in a word or two."""
        for name in ("numbers", "text", "cells", "fields"):
            if getattr(self, name) is not None:
                return name
        return self.other or "nothing"


def load_v5(path: Path, *names: str) -> dict[str, Variable]:
    """Those of the variables ``names`` that a file of version 5 to 7 has."""
    answers = isolated("siamjax.isolation.matlab5.variables", path, *names)
    return {name: msgspec.convert(tree, Variable) for (name, tree), _ in answers}


def cells_of(variable: Variable, where: str) -> list[Variable]:
    """The cells of a cell array; ``UsageError`` that begins with ``where`` for anything else."""
    if variable.cells is None:
        raise UsageError(f"{where}: expected cells, found {shown(variable.kind)}; fetch it again")
    return variable.cells


def whole_numbers_of(variable: Variable, where: str) -> Int[np.ndarray, " n"]:
    """The numbers of an array, which must be whole and of at most 32 bits; errors as `cells_of`."""
    if variable.numbers is None:
        raise UsageError(f"{where}: expected numbers, found {shown(variable.kind)}; fetch it again")
    for place, number in enumerate(variable.numbers, start=1):
        if not (-(2**31) <= number < 2**31 and number == int(number)):
            raise UsageError(
                f"{where}: value {place} is {number}, expected a whole number; fetch it again"
            )
    return np.array(variable.numbers, np.int64)


def cells_v73(path: Path, name: str) -> list[Shaped[np.ndarray, "..."]]:
    """The arrays of a cell array of numbers, of a file of version 7.3, with axes as in MATLAB."""
    answers = isolated("siamjax.isolation.matlab73.cells", path, name)
    return [array for _, array in answers if array is not None]


@contextlib.contextmanager
def cells_of_cells_v73(
    path: Path, name: str
) -> Iterator[tuple[list[tuple[int, ...]], Iterator[Shaped[np.ndarray, "..."]]]]:
    """The shapes of the cell arrays in a cell array, and the arrays of all their cells in turn.

    Each comes with its axes as in MATLAB, an empty one with shape (0,), and the cells of an inner
    cell array with its last axis varying fastest. One array at a time is in memory.
    """
    answers = isolated("siamjax.isolation.matlab73.cells_of_cells", path, name)
    with contextlib.closing(answers):
        shapes = [tuple(shape) for shape in next(answers).value]
        yield shapes, (array for _, array in answers if array is not None)
