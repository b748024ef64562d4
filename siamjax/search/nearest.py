"""Exact nearest neighbours among embeddings that need not fit into memory.

The devices multiply one block of rows at a time with all queries, which gives distances to
float32's rounding. Every row that could be among the nearest by these is compared again in float64.
So the result is exact: a duplicate of the query has distance 0, equal distances are truly equal,
and of these the smaller row comes first. At most two blocks are in memory.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from siamjax.errors import UsageError
from siamjax.exact_distances import Metric, distances_to, row_squares, unit_rows
from siamjax.parallel import data_parallel_map, replicate, shard

_BLOCK_BYTES = 128 << 20  # of float32 rows
_GROUP = 512  # queries in one multiplication
_EPSILON = float(np.finfo(np.float32).eps)


class Part(Protocol):
    """Rows that lie together, in memory or in a file."""

    @property
    def name(self) -> str:
        """What messages call this part."""
        ...

    def __len__(self) -> int: ...

    def rows(self, start: int, stop: int) -> Float[np.ndarray, "n features"]:
        """These rows, float32 or float16; preferably a view of the file, not a copy."""
        ...

    def squares(self, start: int, stop: int) -> Float[np.ndarray, " n"]:
        """The sum of squares of each of these rows, float64."""
        ...

    def ahead(self, start: int, stop: int) -> None:
        """A hint that these rows will be read next."""
        ...


class Gallery(Protocol):
    """What can be searched, such as an ``Index``."""

    @property
    def segments(self) -> Sequence[Part]:
        """The parts, in order."""
        ...

    @property
    def kept(self) -> Bool[np.ndarray, " rows"]:
        """False = the row was removed and cannot be found."""
        ...


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
        blocks = list(_blocks(parts, allowed, most))
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


class _InMemory:
    """An array as a part."""

    name = "the gallery"

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._array[start:stop]

    def squares(self, start: int, stop: int) -> np.ndarray:
        return row_squares(self._array[start:stop])

    def ahead(self, start: int, stop: int) -> None:
        """Nothing to read: the rows are in memory."""


def checked_gallery(
    gallery: Gallery | np.ndarray, where: np.ndarray | None
) -> tuple[Sequence[Part], Bool[np.ndarray, " rows"]]:
    """The parts of a gallery, and the rows that may be found; ``UsageError`` as of ``nearest``."""
    whole: Any = gallery
    if hasattr(whole, "segments"):
        parts, kept = whole.segments, np.asarray(whole.kept)
    else:
        array = np.asanyarray(whole)
        if array.ndim != 2:
            raise UsageError(f"gallery of shape {array.shape}: give (rows, features)")
        parts, kept = [_InMemory(array)], np.ones(len(array), bool)
    if where is None:
        return parts, kept
    where = np.asarray(where)
    if where.shape != kept.shape or where.dtype != bool:
        raise UsageError(
            f"where: {where.dtype} of shape {where.shape}; give a bool for each of {len(kept)} "
            "rows, removed ones too"
        )
    return parts, kept & where


def checked_queries(queries: Any, parts: Sequence[Part]) -> Float[np.ndarray, "queries features"]:
    """Queries in float64; ``UsageError`` as of ``nearest``."""
    queries = np.asarray(queries)
    if queries.ndim != 2 or not len(queries):
        raise UsageError(f"queries of shape {queries.shape}: give (queries, features)")
    for part in parts:
        features = part.rows(0, 1).shape[1]
        if features != queries.shape[1]:
            raise UsageError(
                f"queries of {queries.shape[1]} features, {part.name} has {features}: embed both "
                "by the same model"
            )
    if not np.isfinite(queries).all():
        row = int(np.argwhere(~np.isfinite(queries))[0, 0])
        raise UsageError(
            f"query {row} is not finite: the model has diverged; use an earlier checkpoint"
        )
    return queries.astype(np.float64)


def check_undamaged(
    name: str,
    places: Int[np.ndarray, " n"],
    found: Float[np.ndarray, " n"],
    written: Float[np.ndarray, " n"],
) -> None:
    """Raise ``UsageError`` unless rows have the sums of squares that they were written with."""
    wrong = places[~(np.abs(found - written) <= 1e-5 * written)]
    if len(wrong):
        raise UsageError(
            f"{name} is damaged: of rows {wrong[0]} to {wrong[-1]}, {len(wrong)} are not finite or "
            "not as written; embed the catalogue into another folder"
        )


class _Block(NamedTuple):
    """Rows ``start`` to ``stop`` of a part, and which of them may be found."""

    part: Part
    base: int  # number of the part's first row, over all parts
    start: int
    stop: int
    width: int  # rows on the devices; each width is compiled
    allowed: np.ndarray


def _blocks(parts: Sequence[Part], allowed: np.ndarray, most: int) -> Iterator[_Block]:
    """Blocks of all parts, except those in which no row may be found."""
    devices, base = jax.local_device_count(), 0
    for part in parts:
        count = len(part)
        if count > most:  # about equal, so that the last block repeats little
            width = -(-count // -(-count // most))
        else:  # a power of 2, so that many small parts share few widths
            width = 1 << max(0, count - 1).bit_length()
        width = -(-min(width, most) // devices) * devices
        for first in range(0, count, width):
            # The last block starts earlier, so that it is full; rows seen before are left out.
            start, stop = max(0, min(first, count - width)), min(first + width, count)
            shown = allowed[base + start : base + stop].copy()
            shown[: first - start] = False
            if shown.any():
                yield _Block(part, base, start, stop, width, shown)
        base += count


@lru_cache(maxsize=1)
def _values() -> Any:
    """Pmapped ``offset - scale <query, row>``: (devices, queries, rows / devices) float32."""

    def values(queries: Array, batch: dict[str, Array]) -> Array:
        rows = batch["rows"].astype(jnp.float32)
        products = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
        return batch["offset"] - batch["scale"] * products

    return data_parallel_map(values)


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

    def begin(self, block: _Block) -> tuple[np.ndarray, np.ndarray, list[Any]]:
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
        offset = np.where(block.allowed, offset, np.inf).astype(np.float32)
        batch = {
            "rows": np.pad(rows, ((0, filling), (0, 0))) if filling else rows,
            "offset": np.pad(offset, (0, filling)),
            "scale": np.pad(scale.astype(np.float32), (0, filling)),
        }
        split = shard(batch)
        return rows, squares, [_values()(queries, split) for queries in self._placed]

    def finish(
        self, block: _Block, rows: np.ndarray, squares: np.ndarray, begun: list[Any]
    ) -> None:
        """Wait for the devices, and compare the possible rows again in float64."""
        for group, values in zip(self._groups, begun, strict=True):
            found = np.moveaxis(np.asarray(values), 0, 1)
            found = found.reshape(len(found), -1)[: group.stop - group.start, : len(rows)]
            greatest = 1.0 if self.metric == "cosine" else squares[block.allowed].max()
            possible = self._possible(found, group, greatest)
            for query, row in enumerate(possible, start=group.start):
                place = np.flatnonzero(row)
                place = place[block.allowed[place]]
                if len(place):
                    self._merge(query, block, place, rows[place], squares[place])

    def _possible(self, values: np.ndarray, group: slice, greatest: float) -> np.ndarray:
        """(queries, rows) bool: rows that may be among the nearest, given float32's rounding.

        ``values`` lack the query's own square. Their error is at most about
        sqrt(features) epsilon |x| |y|, twice that for the factor 2, and a few roundings more.
        """
        own = self._squares[group]
        length = np.sqrt(own * greatest)
        slack = _EPSILON * (2 * np.sqrt(self._queries.shape[1]) * length + 8 * (own + greatest))
        missing = 0.0 if self.metric == "cosine" else own
        limit = self.distances[group, -1] - missing + slack
        # NaN counts as possible: check_undamaged() names it.
        possible = ~(values > limit.astype(np.float32)[:, None])
        for row in np.flatnonzero(possible.sum(axis=1) > 4 * self.top + 16):
            if self.top <= values.shape[1]:
                least = np.partition(values[row], self.top - 1)[self.top - 1]
                limit = np.float32(least + 2 * slack[row])
                possible[row] &= ~(values[row] > limit)
        return possible

    def _merge(
        self, query: int, block: _Block, place: np.ndarray, rows: np.ndarray, squares: np.ndarray
    ) -> None:
        distance, own = distances_to(self._queries[query], rows, metric=self.metric)
        check_undamaged(block.part.name, block.start + place, own, squares)
        distance = np.concatenate([self.distances[query], distance])
        number = np.concatenate([self.rows[query], block.base + block.start + place])
        order = np.lexsort((number, distance))[: self.top]
        self.distances[query], self.rows[query] = distance[order], number[order]
