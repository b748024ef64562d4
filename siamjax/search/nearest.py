"""Exact nearest neighbours among embeddings that need not fit into memory.

The devices multiply one block of rows at a time with all queries, which gives distances to
float32's rounding. Every row that could be among the nearest by these is compared again in float64.
So the result is exact: a duplicate of the query has distance 0, equal distances are truly equal,
and of these the smaller row comes first; :mod:`siamjax.exact_distances` tells the accuracy of a
distance. Where float32 cannot tell many rows apart (tight groups far from the origin, lengths
beyond its range), a block is multiplied again in float64. At most two blocks are in memory.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from siamjax.errors import UsageError
from siamjax.exact_distances import (
    Metric,
    RankedDistances,
    distances_to,
    nearest_places,
    product_error,
    row_squares,
    unit_rows,
)
from siamjax.parallel import data_parallel_map, replicate, shard
from siamjax.search.gallery import (
    Block,
    Gallery,
    blocks_of,
    check_undamaged,
    checked_gallery,
    checked_queries,
)

_BLOCK_BYTES = 128 << 20  # of float32 rows
_GROUP = 512  # queries in one multiplication
_AGAIN = 64  # queries multiplied again in float64 at a time
_TINY = float(np.finfo(np.float32).tiny)


class Nearest(NamedTuple):
    """The rows nearest to each query, nearest first.

    Attributes:
        rows: (queries, k) int64, numbered over all rows of the gallery.
        distances: (queries, k) float64, ascending; of equal ones the smaller row comes first.
    """

    rows: Int[np.ndarray, "queries k"]
    distances: Float[np.ndarray, "queries k"]


def nearest(
    queries: Float[np.ndarray, "queries features"],
    gallery: Gallery | Float[np.ndarray, "rows features"],
    *,
    top: int = 10,
    metric: Metric = "squared_euclidean",
    where: Bool[np.ndarray, " rows"] | None = None,
    block: int | None = None,
) -> Nearest:
    """The ``top`` rows nearest to each query, exactly.

    Args:
        queries: finite embeddings.
        gallery: an index, or an array (mapped from a file if it is large).
        top: how many, at least 1; a smaller gallery is returned in full.
        metric: a cosine distance is 1 if either vector is zero.
        where: True = this row may be found; None: all rows.
        block: rows on the devices at a time; None: 128 MiB of them. Does not change the result.

    Raises ``UsageError`` for shapes that do not fit, values that are not finite, and rows whose
    sums of squares differ from the written ones (a damaged file).
    """
    parts, allowed = checked_gallery(gallery, where)
    queries = checked_queries(queries, parts)
    if top < 1 or (block is not None and block < 1):
        raise UsageError(f"top {top}, block {block}: each must be 1 or more")
    search = _Search(queries, min(top, int(allowed.sum())), metric)
    if search.top:
        pending = None
        most = block or max(1, _BLOCK_BYTES // (4 * queries.shape[1]))
        blocks = list(blocks_of(parts, allowed, most))
        for number, one in enumerate(blocks):
            begun = search.begin(one)  # the devices work on it while the block before is searched
            if number + 1 < len(blocks):
                blocks[number + 1].part.ahead(blocks[number + 1].start, blocks[number + 1].stop)
            if pending is not None:
                search.finish(*pending)
            pending = (one, *begun)
        if pending is not None:
            search.finish(*pending)
    return Nearest(search.rows, search.distances)


@lru_cache(maxsize=1)
def _values() -> Any:
    """Pmapped ``offset - scale <query, row>``: (devices, queries, rows / devices) float32."""

    def values(queries: Array, batch: dict[str, Array]) -> Array:
        rows = batch["rows"].astype(jnp.float32)
        products = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
        return batch["offset"][None] - batch["scale"][None] * products

    return data_parallel_map(values, devices=jax.local_devices())


def _above(limit: np.ndarray | float) -> np.ndarray:
    """The limit as float32, not rounded down."""
    with np.errstate(over="ignore"):
        return np.nextafter(np.asarray(limit).astype(np.float32), np.float32(np.inf))


class _Search:
    """The nearest rows so far, block by block."""

    def __init__(self, queries: np.ndarray, top: int, metric: Metric) -> None:
        self.top = top
        self.metric: Metric = metric
        self.rows = np.full((len(queries), top), -1, np.int64)
        self.distances = np.full((len(queries), top), np.inf)
        self._queries = queries
        compared = unit_rows(queries) if metric == "cosine" else queries
        self._squares = np.square(compared).sum(axis=1)
        even = -(-len(queries) // -(-len(queries) // _GROUP))
        self._groups = [slice(n, min(n + even, len(queries))) for n in range(0, len(queries), even)]
        narrow = compared.astype(np.float32)
        # All groups have one shape: the last repeats queries to fill it.
        self._placed = [
            replicate(narrow[np.arange(group.start, group.start + even) % len(queries)])
            for group in self._groups
        ]

    def begin(self, block: Block) -> tuple[np.ndarray, np.ndarray, list[Any]]:
        """Start the devices; returns the rows, their sums of squares, and values to wait for."""
        rows = block.part.rows(block.start, block.stop)
        squares = block.part.squares(block.start, block.stop)
        if self.metric == "cosine":
            lengths = np.sqrt(squares)
            scale = np.where(lengths == 0, 0.0, 1 / np.where(lengths == 0, 1.0, lengths))
            offset = np.ones_like(squares)
        else:
            offset, scale = squares, np.full_like(squares, 2.0)
        filling = block.width - len(rows)
        with np.errstate(over="ignore"):  # _slack() then says that float32 decides nothing
            offset = np.where(block.allowed, offset, np.inf).astype(np.float32)
            scale = scale.astype(np.float32)
        batch = {
            "rows": np.pad(rows, ((0, filling), (0, 0))) if filling else rows,
            "offset": np.pad(offset, (0, filling)),
            "scale": np.pad(scale, (0, filling)),
        }
        split = shard(batch)
        return rows, squares, [_values()(queries, split) for queries in self._placed]

    def finish(self, block: Block, rows: np.ndarray, squares: np.ndarray, begun: list[Any]) -> None:
        """Wait for the devices, and compare the possible rows again in float64."""
        for group, values in zip(self._groups, begun, strict=True):
            found = np.moveaxis(np.asarray(values), 0, 1)
            found = found.reshape(len(found), -1)[: group.stop - group.start, : len(rows)]
            possible = self._possible(found, group, self._slack(group, squares[block.allowed]))
            unclear = np.flatnonzero(possible.sum(axis=1) > 4 * self.top + 16)
            if len(unclear):
                possible[unclear] = self._told_apart(
                    block, rows, squares, possible[unclear], self._queries[group][unclear]
                )
            for query, row in enumerate(possible, start=group.start):
                place = np.flatnonzero(row)
                place = place[block.allowed[place]]
                if len(place):
                    self._merge(query, block, place, rows[place], squares[place])

    def _slack(self, group: slice, squares: np.ndarray) -> np.ndarray:
        """What the devices' values may be off for each query; infinite beyond float32's range."""
        features = self._queries.shape[1]
        share, lost = product_error(features, np.float32), 4 * features * _TINY  # flushed to 0
        if self.metric == "cosine":
            least = np.sqrt(squares[squares > 0].min(initial=1.0))
            off = 2 * share + lost / least if np.sqrt(squares.max()) < 1e37 else np.inf
            return np.full(group.stop - group.start, off)
        reach = np.sqrt(self._squares[group]) + np.sqrt(squares.max())
        return np.where(reach < 1e18, share * reach**2 + lost * (1 + reach), np.inf)

    def _possible(self, values: np.ndarray, group: slice, slack: np.ndarray) -> np.ndarray:
        """(queries, rows) bool: rows that may be among the nearest by the devices' values.

        ``values`` lack the query's own square.
        """
        missing = 0.0 if self.metric == "cosine" else self._squares[group]
        # NaN counts as possible: check_undamaged() names it.
        possible = ~(values > _above(self.distances[group, -1] - missing + slack)[:, None])
        for row in np.flatnonzero(possible.sum(axis=1) > 4 * self.top + 16):
            if self.top <= values.shape[1]:
                least = np.partition(values[row], self.top - 1)[self.top - 1]
                possible[row] &= ~(values[row] > _above(least + 2 * slack[row]))
        return possible

    def _told_apart(
        self,
        block: Block,
        rows: np.ndarray,
        squares: np.ndarray,
        possible: np.ndarray,
        queries: np.ndarray,
    ) -> np.ndarray:
        """The ``top`` nearest of the possible rows, where float32 leaves too many."""
        place = np.flatnonzero(possible.any(axis=0) & block.allowed)
        some = rows[place]
        check_undamaged(block.part.name, block.start + place, row_squares(some), squares[place])
        nearest_ones = np.zeros_like(possible)
        ranked = RankedDistances(some, metric=self.metric)
        for start in range(0, len(queries), _AGAIN):
            for query, distances in enumerate(ranked(queries[start : start + _AGAIN]), start):
                nearest_ones[query, place[nearest_places(distances, self.top)]] = True
        return nearest_ones

    def _merge(
        self, query: int, block: Block, place: np.ndarray, rows: np.ndarray, squares: np.ndarray
    ) -> None:
        distance, own = distances_to(self._queries[query], rows, metric=self.metric)
        check_undamaged(block.part.name, block.start + place, own, squares)
        distance = np.concatenate([self.distances[query], distance])
        number = np.concatenate([self.rows[query], block.base + block.start + place])
        order = np.lexsort((number, distance))[: self.top]
        self.distances[query], self.rows[query] = distance[order], number[order]
