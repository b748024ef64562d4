"""Distances in float64 on the host, on which the order of a gallery rests.

From differences nothing cancels: the relative error of a squared distance is below 1e-15 times the
features, a duplicate is at 0, and equal rows are equally far, to the last bit. The products of
``|x|^2 + |y|^2 - 2 <x, y>`` are several times faster and cancel: they decide only what their error
bound lets them decide. A cosine distance is half the squared distance of the vectors scaled to
length 1, which keeps its digits at small angles: its absolute error is that of the vectors' last
digit, so that its relative error is below 1e-15 features / angle. Lengths may lie between 1e-150
and 1e150.
"""

import hashlib
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from siamjax.checks import require_finite
from siamjax.errors import UsageError

Metric = Literal["squared_euclidean", "cosine"]
"""As in ``siamjax.distances``: ``sum_i (x_i - y_i)^2``, and 1 - the cosine."""

_ROWS = 256  # rows in float64 at a time, so that they stay in the cache
_BLOCK = 4096  # rows that are multiplied at a time
_DIGITS = 1e6  # a distance below so many times the products' error is computed from differences


def require_embeddings(name: str, rows: Any) -> Float[np.ndarray, "n features"]:
    """``rows`` as an array (n, features) of at least one number, finite and below 1e150."""
    remedy = "the network has diverged: use an earlier checkpoint"
    array = require_finite(name, rows, axes=2, remedy=remedy)
    if not array.size:
        raise UsageError(f"{name} of shape {array.shape}; give at least one row and one feature")
    if array.dtype == np.float64 and (most := greatest(array)) > 1e150:
        raise UsageError(f"{name}: up to {most:.3g}; scale to below 1e150")
    return array


def greatest(rows: Float[np.ndarray, "n features"]) -> float:
    """The largest absolute value, without an array of all absolute values."""
    return max(float(rows.max()), -float(rows.min()))


def distances_to(
    query: Float[np.ndarray, " features"],
    rows: Float[np.ndarray, "n features"],
    *,
    metric: Metric = "squared_euclidean",
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Distances of the query to the rows, from differences, and the sum of squares of each row."""
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
            halved = np.minimum(found[place] / 2, 2.0)  # of opposite vectors rounding may add
            found[place] = np.where((now == 0) | (own == 0), 1.0, halved)
    return found, squares


def row_squares(rows: Float[np.ndarray, "n features"]) -> Float[np.ndarray, " n"]:
    """The sum of squares of each row."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS):
        place = slice(start, start + _ROWS)
        found[place] = _squares(np.array(rows[place], np.float64, order="C"))
    return found


def unit_rows(rows: Float[np.ndarray, "n features"]) -> Float[np.ndarray, "n features"]:
    """Rows scaled to length 1; a zero vector stays zero."""
    return rows / _lengths(row_squares(rows))[:, None]


def product_error(features: int, dtype: type[np.floating]) -> float:
    """What ``|x|^2 + |y|^2 - 2 <x, y>`` may be off in this type, as a share of ``(|x| + |y|)^2``.

    It holds for any data and any order of the sums: Higham, *Accuracy and Stability of Numerical
    Algorithms*, 2nd edition, equation 3.5 (n u / (1 - n u)). Eight roundings are added for those of
    the inputs and of the last sums. Numbers below 1e-38 of the longest must not matter.
    """
    share = (features + 8) * float(np.finfo(dtype).eps) / 2
    return share / (1 - share) if share < 0.5 else np.inf


class RankedDistances:
    """Distances to rows that rank them, ties included, as float64 differences do.

    A call takes queries (n, features) and returns float64 (n, rows). Those that are close to
    another one come from differences; the others, from products, have a relative error below
    1e-6. Equal rows are computed once. Memory is that of the result and ``_BLOCK`` rows.
    """

    def __init__(
        self, rows: Float[np.ndarray, "rows features"], *, metric: Metric = "squared_euclidean"
    ) -> None:
        rows = np.asarray(rows)
        self._metric: Metric = metric
        self._rows, self._place = _distinct(rows)
        # Sums of products of small whole numbers, such as binary codes, have no error at all.
        self._whole = metric != "cosine" and _whole(rows)
        self._centre = np.zeros(rows.shape[1])
        if not self._whole:  # products about the mean cancel less
            parts = [self._wide(n).sum(axis=0) for n in range(0, len(self._rows), _BLOCK)]
            self._centre = np.sum(parts, axis=0) / max(len(self._rows), 1)

    def __call__(
        self, queries: Float[np.ndarray, "queries features"]
    ) -> Float[np.ndarray, "queries rows"]:
        """The distances of the queries to all rows."""
        queries = np.asarray(queries, np.float64)
        compared = unit_rows(queries) if self._metric == "cosine" else queries
        exact = self._whole and _whole(queries)
        compared = compared - self._centre
        own, factor = _squares(compared), 0.5 if self._metric == "cosine" else 1.0
        found, longest = np.empty((len(queries), len(self._rows))), 0.0
        for start in range(0, len(self._rows), _BLOCK):
            wide = self._wide(start)
            squares = _squares(wide)
            part = found[:, start : start + _BLOCK]
            part[:] = compared @ wide.T
            part *= -2.0
            part += squares
            part += own[:, None]
            part *= factor
            longest = max(longest, float(squares.max()))
        # Twice, because the differences have an error too.
        error = 2 * factor * product_error(queries.shape[1], np.float64)
        slack = error * (np.sqrt(own) + np.sqrt(longest)) ** 2
        if self._metric == "cosine":
            np.minimum(found, 2.0, out=found)
            found[:, row_squares(self._rows) == 0] = 1.0
            found[_squares(queries) == 0] = 1.0
        if not exact:
            for query, values, off in zip(queries, found, slack, strict=True):
                self._settle(query, values, off)
        return found if self._place is None else found[:, self._place]

    def _wide(self, start: int) -> Float[np.ndarray, "n features"]:
        """A block of rows as they are multiplied."""
        wide = np.array(self._rows[start : start + _BLOCK], np.float64, order="C")
        return (unit_rows(wide) if self._metric == "cosine" else wide) - self._centre

    def _settle(
        self,
        query: Float[np.ndarray, " features"],
        values: Float[np.ndarray, " rows"],
        error: float,
    ) -> None:
        """Replace by differences what products cannot tell apart, or from 0."""
        order = np.argsort(values)
        ascending = values[order]
        close = np.diff(ascending) <= 2 * error
        doubtful = ascending <= _DIGITS * error
        doubtful[1:] |= close
        doubtful[:-1] |= close
        place = order[doubtful]
        values[place] = distances_to(query, self._rows[place], metric=self._metric)[0]


def nearest_places(distances: Float[np.ndarray, " n"], top: int) -> Int[np.ndarray, " top"]:
    """Places of the ``top`` least, ascending; of equal ones the smaller place comes first."""
    if top < len(distances):
        near = np.flatnonzero(distances <= np.partition(distances, top - 1)[top - 1])
        return near[np.argsort(distances[near], kind="stable")[:top]]
    return np.argsort(distances, kind="stable")


def _distinct(
    rows: Float[np.ndarray, "rows features"],
) -> tuple[Float[np.ndarray, "distinct features"], Int[np.ndarray, " rows"] | None]:
    """The rows without repeats, and the place of each row among them; None: there are none."""
    seen: dict[bytes, int] = {}
    digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows)
    place = np.array([seen.setdefault(one, len(seen)) for one in digests], np.int64)
    if len(seen) == len(rows):
        return rows, None
    return rows[np.unique(place, return_index=True)[1]], place


def _whole(rows: Float[np.ndarray, "n features"]) -> bool:
    """Whether all sums of products of such rows are exact in float64: small whole numbers."""
    if not rows.size:
        return False
    if 4 * greatest(rows) ** 2 * rows.shape[1] >= 2**53:
        return False
    return bool((rows == np.rint(rows)).all())


def _squares(wide: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", wide, wide)


def _lengths(squares: np.ndarray) -> np.ndarray:
    """Lengths to divide by: 1 for a zero vector."""
    return np.sqrt(np.where(squares == 0, 1.0, squares))
