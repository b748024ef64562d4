"""Distances of a query to a few rows, in float64 and from differences, without cancellation."""

from typing import Literal

import numpy as np
from jaxtyping import Float

Metric = Literal["squared_euclidean", "cosine"]
"""As in ``siamjax.distances``: ``sum_i (x_i - y_i)^2``, and 1 - the cosine."""

_ROWS = 256  # converted to float64 at a time


def distances_to(
    query: Float[np.ndarray, " features"],
    rows: Float[np.ndarray, "n features"],
    *,
    metric: Metric,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Distances of the query to the rows, and the sum of squares of each row.

    A duplicate has distance 0, and equal rows have equal distances, to the last bit. The cosine
    distance is half the squared distance of the vectors scaled to length 1, which keeps its
    precision at small angles.
    """
    found, squares = np.empty(len(rows)), np.empty(len(rows))
    query = np.asarray(query, np.float64)
    own = _squares(query[None])
    if metric == "cosine":
        query = query / _lengths(own)
    for start in range(0, len(rows), _ROWS):
        place = slice(start, start + _ROWS)
        wide = np.array(rows[place], np.float64, order="C")
        squares[place] = now = _squares(wide)
        if metric == "cosine":
            wide /= _lengths(now)[:, None]
        wide -= query
        found[place] = _squares(wide)
        if metric == "cosine":
            found[place] = np.where((now == 0) | (own == 0), 1.0, found[place] / 2)
    return found, squares


def row_squares(rows: Float[np.ndarray, "n features"]) -> Float[np.ndarray, " n"]:
    """The sum of squares of each row, in float64."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS):
        place = slice(start, start + _ROWS)
        found[place] = _squares(np.array(rows[place], np.float64, order="C"))
    return found


def unit_rows(rows: Float[np.ndarray, "n features"]) -> Float[np.ndarray, "n features"]:
    """Rows scaled to length 1; a zero vector stays zero."""
    return rows / _lengths(row_squares(rows))[:, None]


def _squares(wide: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", wide, wide)


def _lengths(squares: np.ndarray) -> np.ndarray:
    """Lengths to divide by: 1 for a zero vector."""
    return np.sqrt(np.where(squares == 0, 1.0, squares))
