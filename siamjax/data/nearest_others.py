"""The images of other items nearest to each item, for hard negatives.

Images lie sorted by category and item, so that both are ranges of places. Float32 products about
the mean of all embeddings sort out; where their error bound (:mod:`siamjax.exact_distances`) leaves
the order open, float64 distances decide it.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from siamjax.exact_distances import (
    RankedDistances,
    distances_to,
    greatest,
    nearest_places,
    product_error,
)

Allowed = np.ndarray | Literal[True] | None
"""A mask (items, places); True: all; None: none."""

_AGAIN = 64  # items whose distances to all images are in memory at a time


class Layout(NamedTuple):
    """Images sorted by category and item: item i is at places start[i] to stop[i].

    Attributes:
        order: (n,) the number of the image at each place.
        start, stop: (items,) the places of each item.
        first, last: (items,) the places of its category.
    """

    order: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " items"]
    stop: Int[np.ndarray, " items"]
    first: Int[np.ndarray, " items"]
    last: Int[np.ndarray, " items"]


def nearest_others(
    layout: Layout, embeddings: Float[np.ndarray, "n features"], *, count: int, block: int
) -> Int[np.ndarray, "items 2 count"]:
    """Places of the ``count`` images nearest to the mean of each item; -1 where there are fewer.

    [:, 0] are of other categories, [:, 1] of other items of its own. Of equal distances the
    smaller place comes first. Distances are computed for ``block`` items and images at a time.
    """
    table = np.empty((len(layout.start), 2, count), np.int64)
    mining = _Mining(layout, embeddings, count, block)
    for low in range(0, len(table), block):
        items = np.arange(low, min(low + block, len(table)))
        table[items], unclear = mining.first_pass(items)
        for again in range(0, len(unclear), _AGAIN):
            some = items[unclear[again : again + _AGAIN]]
            table[some] = mining.second_pass(some)
    return table


class _Mining:
    def __init__(self, layout: Layout, embeddings: np.ndarray, count: int, block: int) -> None:
        self._layout, self._embeddings = layout, embeddings
        self._count, self._block = count, block
        # A few more than asked for show how far the next one is.
        self._keep = count + 1 + max(4, count // 2)
        self._ranked: RankedDistances | None = None
        self._centre = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        most = greatest(embeddings)
        # Beyond this, float32 does not hold the squares.
        usual = most == 0 or 1e-12 < most < 1e12
        self._scale = 1.0 if usual else 2.0 ** -np.ceil(np.log2(most))

    def first_pass(
        self, items: Int[np.ndarray, " b"]
    ) -> tuple[Int[np.ndarray, "b 2 count"], Int[np.ndarray, " unclear"]]:
        """The table's rows of these items, and which of them float32 leaves unclear."""
        layout, count = self._layout, self._count
        means = self._means(items)
        about = ((means - self._centre) * self._scale).astype(np.float32)
        kept = np.full((2, len(items), self._keep), np.inf, np.float32)
        found = np.full(kept.shape, -1)
        longest = np.float32(0)
        for low in range(0, len(layout.order), self._block):
            vectors = self._narrow(low)
            squares = np.einsum("vf,vf->v", vectors, vectors)
            longest = max(longest, squares.max())
            # Without the squared length of the item's mean, which does not change the order.
            distance = about @ vectors.T
            distance *= -2.0
            distance += squares
            for within, allowed in enumerate(self._allowed(items, low, low + len(vectors))):
                if allowed is None:
                    continue
                far = distance if allowed is True else np.where(allowed, distance, np.inf)
                both = np.concatenate([kept[within], far], axis=1)
                best = np.argpartition(both, self._keep - 1, axis=1)[:, : self._keep]
                kept[within] = np.take_along_axis(both, best, axis=1)
                seen = np.take_along_axis(found[within], np.minimum(best, self._keep - 1), axis=1)
                found[within] = np.where(best < self._keep, seen, low + best - self._keep)
        order = np.argsort(kept, axis=2, kind="stable")
        kept, found = (np.take_along_axis(part, order, axis=2) for part in (kept, found))
        found[np.isinf(kept)] = -1
        lengths = np.sqrt(np.square(about, dtype=np.float64).sum(axis=1))
        error = product_error(about.shape[1], np.float32) * (lengths + np.sqrt(longest)) ** 2
        with np.errstate(invalid="ignore"):  # inf - inf, behind the last image
            close = np.diff(kept, axis=2) <= 2 * error[:, None]
            # What was dropped lies behind the last one kept: that must be clearly behind the last
            # one asked for.
            clear = kept[..., -1] - kept[..., count - 1] > 2 * error
        clear = (clear | np.isinf(kept[..., -1])).all(axis=0)
        open_ = close[..., :count].any(axis=2) & clear
        for within, number in np.argwhere(open_).tolist():
            places = found[within, number]
            places = np.sort(places[places >= 0])
            rows = self._embeddings[layout.order[places]]
            exact = distances_to(means[number], rows)[0]
            found[within, number, : len(places)] = places[np.argsort(exact, kind="stable")]
        return found[..., :count].swapaxes(0, 1), np.flatnonzero(~clear)

    def second_pass(self, items: Int[np.ndarray, " b"]) -> Int[np.ndarray, "b 2 count"]:
        """The table's rows of these items from all distances in float64."""
        table = np.full((len(items), 2, self._count), -1)
        self._ranked = self._ranked or RankedDistances(self._embeddings)
        exact = self._ranked(self._means(items))[:, self._layout.order]
        whole = self._allowed(items, 0, len(self._layout.order))
        for within, allowed in enumerate(whole):
            if allowed is None:
                continue
            for row, distance in enumerate(exact):
                places = np.arange(len(distance)) if allowed is True else allowed[row].nonzero()[0]
                nearest = places[nearest_places(distance[places], self._count)]
                table[row, within, : len(nearest)] = nearest
        return table

    def _allowed(self, items: np.ndarray, low: int, high: int) -> tuple[Allowed, Allowed]:
        """Which places from ``low`` to ``high`` are of other categories, and of its own.

        Most blocks are of one kind for all items.
        """
        layout, there = self._layout, np.arange(low, high)
        start, stop, first, last = (part[items] for part in layout[1:])
        if ((last <= low) | (first >= high)).all():
            return True, None
        own = (start[:, None] <= there) & (there < stop[:, None])
        if ((first <= low) & (last >= high)).all():
            return None, ~own if own.any() else True
        same = (first[:, None] <= there) & (there < last[:, None])
        return ~same, same & ~own

    def _means(self, items: Int[np.ndarray, " b"]) -> Float[np.ndarray, "b features"]:
        """The mean of each item's embeddings, in float64."""
        layout = self._layout
        means = np.empty((len(items), self._embeddings.shape[1]))
        for row, item in enumerate(items):
            rows = self._embeddings[layout.order[layout.start[item] : layout.stop[item]]]
            means[row] = rows.mean(axis=0, dtype=np.float64)
        return means

    def _narrow(self, low: int) -> Float[np.ndarray, "b features"]:
        """A block of embeddings about the mean; all at once would be a second copy."""
        vectors = self._embeddings[self._layout.order[low : low + self._block]]
        if vectors.dtype != np.float32 or self._scale != 1.0:
            wide = (vectors.astype(np.float64) - self._centre) * self._scale
            return wide.astype(np.float32)
        vectors -= self._centre
        return vectors
