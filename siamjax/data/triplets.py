"""Triplets of images: drawn from (seed, position), taken from a list, or mined."""

from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from siamjax.data.catalogue import Catalogue
from siamjax.data.images import ImageSet
from siamjax.data.pairs import EpochOrder, generator
from siamjax.errors import UsageError

# Streams of random numbers beside those of pairs (0, 2) and of augmentation (1, 3, 6).
_DRAWN, _LISTED = 4, 5


class TripletStream(Protocol):
    """Random access to training triplets at any position, without end."""

    def __getitem__(self, position: int) -> tuple[int, int, int]:
        """Image indices of anchor, positive and negative at a position >= 0."""
        ...


class ListedTriplets:
    """The triplets of a list, whole, in an order drawn anew each epoch from (seed, epoch)."""

    def __init__(self, rows: Int[np.ndarray, "triplets 3"], *, seed: int) -> None:
        if not len(rows):
            raise UsageError("a list without triplets; at least one is needed")
        self.rows = rows
        self._order = EpochOrder(len(rows), seed=seed, stream=_LISTED)

    @property
    def epoch(self) -> int:
        """Triplets of an epoch."""
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[int, int, int]:
        anchor, positive, negative = self.rows[self._order[position]].tolist()
        return anchor, positive, negative


class SampledTriplets:
    """Triplets drawn from items: the one at a position depends on (seed, position) alone.

    Anchor and positive are two different images of an item (uniform over those with two
    images or more). The negative is an image of another item: of the same category for a
    share of ``in_class`` of the positions, evenly spread, else of another one; uniform over the
    images that qualify.

    An item's category is that of its first image; where that is "", it is not known and the
    item is alone. An item that is alone in its category has no in-class negative: it gets one of
    another category at every position. ``alone`` counts such items, of those that can be anchors.
    """

    def __init__(
        self,
        catalogue: Catalogue | ImageSet,
        indices: Int[np.ndarray, " n"],
        *,
        seed: int,
        in_class: float = 0.5,
        category: str | None = "category",
    ) -> None:
        """``indices`` are the training images; ``category`` names an attribute.

        A set of images has no attributes, and so no categories.
        With ``category`` None there are no categories: the negative is of any other item.
        Raises ``UsageError`` unless both an item with two images and what the negatives need
        are there.
        """
        if not 0 <= in_class <= 1:
            raise UsageError(f"in_class {in_class} must lie in [0, 1]: a share of the triplets")
        if isinstance(catalogue, ImageSet):
            catalogue, category = Catalogue(images=catalogue, attributes={}), None
        name = catalogue.images.name
        if category is not None and category not in catalogue.attributes:
            known = ", ".join(catalogue.attributes) or "none"
            raise UsageError(
                f"{name}: no attribute {category!r} (there are: {known}); name another as "
                "category, or None for negatives of any other item"
            )
        self._seed = seed
        self._share = 1.0 if category is None else in_class
        self._lay_out(catalogue, indices, category)
        self._repeated = np.flatnonzero(self._stop - self._start >= 2)
        if len(self._start) < 2 or not len(self._repeated):
            raise UsageError(
                f"{name}: {len(self._start)} items to train on, {len(self._repeated)} of them with "
                "two images or more; two items are needed, and two images of one of them"
            )
        peers = (self._last - self._first) - (self._stop - self._start)
        self.alone = int((peers[self._repeated] == 0).sum())
        if self._share < 1 and self._last[0] == len(indices):
            raise UsageError(
                f"{name}: all training images are of one {category}, so that in_class "
                f"{in_class} leaves some triplets without a negative; give 1"
            )
        if self._share == 1 and self.alone and self._last[0] != len(indices) and (peers == 0).all():
            raise UsageError(
                f"{name}: every item is alone in its {category}, so that no in-class negative "
                "exists; give in_class 0"
            )

    def _lay_out(
        self, catalogue: Catalogue, indices: Int[np.ndarray, " n"], category: str | None
    ) -> None:
        """Order images by category and item, so that both are ranges of places.

        Item i has places start[i] to stop[i], its category first[i] to last[i].
        """
        _, opening, item = np.unique(
            catalogue.images.identities[indices], return_index=True, return_inverse=True
        )
        if category is None:
            kind = np.zeros(len(opening), np.int64)
        else:
            column = catalogue.attributes[category][indices[opening]]
            kind = np.unique(column, return_inverse=True)[1]
            unknown = np.flatnonzero(column == "")
            kind[unknown] = len(kind) + unknown  # each a kind of its own
        order = np.lexsort((item, kind[item]))  # stable: the last key decides first
        self._order, self._images = order, indices[order]
        ordered = item[order]
        self._start = np.flatnonzero(np.diff(ordered, prepend=-1))
        self._stop = np.append(self._start[1:], len(order))
        kinds = kind[ordered[self._start]]  # of the items in their new order, rising
        ends = np.append(self._start, len(order))
        self._first = ends[np.searchsorted(kinds, kinds, side="left")]
        self._last = ends[np.searchsorted(kinds, kinds, side="right")]

    def __getitem__(self, position: int) -> tuple[int, int, int]:
        rng = generator(self._seed, position, stream=_DRAWN)
        item = self._repeated[rng.integers(len(self._repeated))]
        start, stop = self._start[item], self._stop[item]
        anchor, positive = start + rng.choice(stop - start, 2, replace=False)
        first, last = self._first[item], self._last[item]
        peers = (last - first) - (stop - start)
        # Spread evenly instead of tossed: every batch then holds the share itself.
        within = int((position + 1) * self._share) > int(position * self._share)
        within = bool(within and peers > 0)
        negative = self._negative(rng, position, int(item), within)
        anchor, positive = self._images[anchor], self._images[positive]
        return int(anchor), int(positive), negative

    def _negative(self, rng: np.random.Generator, position: int, item: int, within: bool) -> int:
        """An image of another item, ``within`` the same category or not."""
        start, stop = self._start[item], self._stop[item]
        first, last = self._first[item], self._last[item]
        if within:
            place = first + rng.integers((last - first) - (stop - start))
            place += (stop - start) * (place >= start)
        else:
            place = rng.integers(len(self._images) - (last - first))
            place += (last - first) * (place >= first)
        return int(self._images[place])


class MinedTriplets(SampledTriplets):
    """Sampled triplets, a share of whose negatives are the nearest in a current embedding.

    From the step on that a table is used (:meth:`use`), a negative is with probability ``hard``
    one of the ``neighbours`` images nearest to the item: in its category or outside, as the
    share of ``in_class`` says. Before that, and for an item without any such image, it is
    drawn as ever.

    What a position gives depends on (seed, position) and the tables. Batches are read ahead: give
    a table a start that none has been read for. Worker processes have copies of the stream as it
    was when the batches began, and see no later table. A run that is taken up again needs the
    tables that it used; keep them, or mine them anew from the checkpoints of their steps.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        indices: Int[np.ndarray, " n"],
        *,
        seed: int,
        batch_size: int,
        in_class: float = 0.5,
        category: str | None = "category",
        hard: float = 0.5,
        neighbours: int = 10,
    ) -> None:
        """As :class:`SampledTriplets`.

        ``batch_size`` is the triplets of a step, over all processes; ``hard`` in [0, 1];
        ``neighbours`` at least 1.
        """
        super().__init__(catalogue, indices, seed=seed, in_class=in_class, category=category)
        if not 0 <= hard <= 1:
            raise UsageError(f"hard {hard} must lie in [0, 1]: a share of the negatives")
        if neighbours < 1:
            raise UsageError(f"neighbours {neighbours} must be at least 1")
        self.hard, self._neighbours, self._batch_size = hard, neighbours, batch_size
        # (first position, table), the latest first; replaced whole, as threads read it.
        self._tables: tuple[tuple[int, np.ndarray], ...] = ()

    def nearest_others(
        self, embeddings: Float[np.ndarray, "n features"], *, block: int = 1024
    ) -> Int[np.ndarray, "items 2 neighbours"]:
        """A table for :meth:`use` from the embeddings of the training images, in their order.

        int32 image indices for each item, nearest first, -1 where there are fewer: [:, 0] of
        other categories, [:, 1] of the same. An item is at the mean of its images; the nearest
        are those of the least Euclidean distance to that. Distances are taken ``block`` items by
        ``block`` images at a time; the work is items x images x features. Raises
        ``UsageError`` for embeddings that are not finite.
        """
        if embeddings.ndim != 2 or len(embeddings) != len(self._images):
            raise ValueError(f"{embeddings.shape} embeddings of {len(self._images)} images")
        centres = self._centres(embeddings, block)
        table = np.full((len(self._start), 2, self._neighbours), -1, np.int32)
        for low in range(0, len(table), block):
            rows = slice(low, low + block)
            nearest = self._nearest(rows, centres[rows], embeddings, block)
            table[rows] = np.where(nearest < 0, -1, self._images[nearest])
        return table

    def use(self, table: Int[np.ndarray, "items 2 neighbours"], *, start: int) -> None:
        """Draw hard negatives from a table, from step ``start`` on until a later one's.

        All tables are kept, so that any position can be asked for; a memory map will do. Raises
        ``UsageError`` for a table of other items or images.
        """
        expected = (len(self._start), 2, self._neighbours)
        if table.shape != expected or not np.isin(table[table >= 0], self._images).all():
            raise UsageError(
                f"a table of nearest others of shape {table.shape}, expected is {expected} of the "
                "training images: it belongs to other data or other options"
            )
        begin = start * self._batch_size
        kept = [one for one in self._tables if one[0] != begin]
        self._tables = tuple(sorted([*kept, (begin, table)], key=lambda one: -one[0]))

    def _ordered(
        self, embeddings: Float[np.ndarray, "n features"], low: int, block: int
    ) -> Float[np.ndarray, "b features"]:
        """Those of the places from ``low``: a block at a time, as all would be a second copy."""
        return embeddings[self._order[low : low + block]].astype(np.float32, copy=False)

    def _centres(
        self, embeddings: Float[np.ndarray, "n features"], block: int
    ) -> Float[np.ndarray, "items features"]:
        """The mean of each item's embeddings."""
        centres = np.zeros((len(self._start), embeddings.shape[1]), np.float32)
        for low in range(0, len(embeddings), block):
            vectors = self._ordered(embeddings, low, block)
            if not np.isfinite(vectors).all():
                raise UsageError("embeddings are not finite: has training diverged?")
            there = np.arange(low, low + len(vectors))
            item = np.searchsorted(self._start, there, side="right") - 1
            begin = np.flatnonzero(np.diff(item, prepend=-1))
            centres[item[begin]] += np.add.reduceat(vectors, begin, axis=0)
        centres /= (self._stop - self._start)[:, None]
        return centres

    def _nearest(
        self,
        items: slice,
        centres: Float[np.ndarray, "b features"],
        embeddings: Float[np.ndarray, "n features"],
        block: int,
    ) -> Int[np.ndarray, "b 2 neighbours"]:
        """Places of the images nearest to each item outside and within its category; -1: none."""
        count = self._neighbours
        kept = np.full((2, len(centres), count), np.inf, np.float32)
        found = np.full(kept.shape, -1)
        start, stop = self._start[items, None], self._stop[items, None]
        first, last = self._first[items, None], self._last[items, None]
        for low in range(0, len(embeddings), block):
            vectors = self._ordered(embeddings, low, block)
            there = np.arange(low, low + len(vectors))
            # Without the centre's own square, which orders nothing.
            distance = (vectors**2).sum(axis=1) - 2 * (centres @ vectors.T)
            same = (first <= there) & (there < last)
            own = (start <= there) & (there < stop)
            there = np.broadcast_to(there, distance.shape)
            for within, allowed in enumerate((~same, same & ~own)):
                far = np.where(allowed, distance, np.inf)
                both = np.concatenate([kept[within], far], axis=1)
                best = np.argpartition(both, count - 1, axis=1)[:, :count]
                places = np.concatenate([found[within], there], axis=1)
                kept[within] = np.take_along_axis(both, best, axis=1)
                found[within] = np.take_along_axis(places, best, axis=1)
        order = np.argsort(kept, axis=2, kind="stable")
        kept, found = (np.take_along_axis(part, order, axis=2) for part in (kept, found))
        return np.where(np.isinf(kept), -1, found).swapaxes(0, 1)

    def _negative(self, rng: np.random.Generator, position: int, item: int, within: bool) -> int:
        table = next((table for begin, table in self._tables if begin <= position), None)
        # Tossed: spread evenly too, it would fall on the same positions as in_class.
        if rng.random() < self.hard and table is not None:
            nearest = table[item, int(within)]
            if count := int((nearest >= 0).sum()):
                return int(nearest[rng.integers(count)])
        return super()._negative(rng, position, item, within)
