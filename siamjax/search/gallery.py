"""What a search reads: the parts of a gallery, in memory or on the disk, block by block."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from siamjax.errors import UsageError
from siamjax.exact_distances import require_embeddings, row_squares


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
    return require_embeddings("queries", queries).astype(np.float64)


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


class Block(NamedTuple):
    """Rows ``start`` to ``stop`` of a part, and which of them may be found."""

    part: Part
    base: int  # number of the part's first row, over all parts
    start: int
    stop: int
    width: int  # rows on the devices; each width is compiled
    allowed: np.ndarray


def blocks_of(parts: Sequence[Part], allowed: np.ndarray, most: int) -> Iterator[Block]:
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
                yield Block(part, base, start, stop, width, shown)
        base += count
