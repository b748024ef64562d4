"""Triplets of images: drawn at random, taken from a list, or mined."""

from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from siamjax.checks import require_names
from siamjax.data.catalogue import Catalogue
from siamjax.data.images import ImageSet
from siamjax.data.nearest_others import Layout, nearest_others
from siamjax.data.pairs import EpochOrder, generator
from siamjax.errors import UsageError
from siamjax.exact_distances import require_embeddings

# Streams of random numbers, other than those of pairs (0, 2) and augmentation (1, 3, 6).
_DRAWN, _LISTED = 4, 5


class TripletStream(Protocol):
    """An endless stream of training triplets, with random access."""

    def __getitem__(self, position: int) -> tuple[int, int, int]:
        """The image indices of anchor, positive and negative at a position >= 0."""
        ...


class ListedTriplets:
    """All triplets of a list once an epoch, in an order drawn anew from the seed for each epoch."""

    def __init__(self, rows: Int[np.ndarray, "triplets 3"], *, seed: int) -> None:
        if not len(rows):
            raise UsageError("a list without triplets; give at least one")
        self.rows = rows
        self._order = EpochOrder(len(rows), seed=seed, stream=_LISTED)

    @property
    def epoch(self) -> int:
        """Number of triplets in an epoch."""
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[int, int, int]:
        anchor, positive, negative = self.rows[self._order[position]].tolist()
        return anchor, positive, negative


class SampledTriplets:
    """Triplets drawn at random; the one at a position depends only on the seed and the position.

    Anchor and positive are two different images of an item, uniform over the items with two
    images or more. The negative is an image of another item, uniform over the images that qualify:
    of the same category at a share ``in_class`` of the positions, evenly spread, else of another.

    An item's category is that of its first image; "" means that it is not known. An item that is
    alone in its category, or whose category is not known, gets negatives of other categories at
    every position. ``alone`` is the number of such items with two images or more.
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
        """``indices`` are the training images; ``category`` is the name of an attribute.

        With ``category`` None, or an ``ImageSet``, which has no attributes, the negative is of
        any other item. Raises ``UsageError`` if the images cannot make such triplets.
        """
        if not 0 <= in_class <= 1:
            raise UsageError(f"in_class {in_class} must lie in [0, 1]: a share of the triplets")
        if isinstance(catalogue, ImageSet):
            catalogue, category = Catalogue(images=catalogue, attributes={}), None
        name = catalogue.images.name
        if category is not None and category not in catalogue.attributes:
            known = ", ".join([*catalogue.attributes, "None"])
            raise UsageError(
                f"{name}: no attribute {category!r}; choose category from: {known} (negatives of "
                "any other item)"
            )
        self._seed = seed
        self._share = 1.0 if category is None else in_class
        self._lay_out(catalogue, indices, category)
        self._repeated = np.flatnonzero(self._stop - self._start >= 2)
        if len(self._start) < 2 or not len(self._repeated):
            raise UsageError(
                f"{name}: {len(self._start)} items to train on, {len(self._repeated)} of them with "
                "two images or more; give at least two items, and two images of one of them"
            )
        peers = (self._last - self._first) - (self._stop - self._start)
        self.alone = int((peers[self._repeated] == 0).sum())
        if self._share < 1 and self._last[0] == len(indices):
            raise UsageError(
                f"{name}: all training images are of one {category}, so that in_class "
                f"{in_class} leaves some triplets without a negative; choose 1"
            )
        if self._share == 1 and self.alone and self._last[0] != len(indices) and (peers == 0).all():
            raise UsageError(
                f"{name}: every item is alone in its {category}, so that there is no in-class "
                "negative; choose in_class 0"
            )

    def _lay_out(
        self, catalogue: Catalogue, indices: Int[np.ndarray, " n"], category: str | None
    ) -> None:
        """Sort the images by category and item, so that both are ranges of places.

        Item i is at places start[i] to stop[i], its category at first[i] to last[i].
        """
        _, opening, item = np.unique(
            require_names(
                f"identities of {catalogue.images.name}", catalogue.images.identities[indices]
            ),
            return_index=True,
            return_inverse=True,
        )
        if category is None:
            kind = np.zeros(len(opening), np.int64)
        else:
            column = catalogue.attributes[category][indices[opening]]
            kind = np.unique(column, return_inverse=True)[1]
            unknown = np.flatnonzero(column == "")
            kind[unknown] = len(kind) + unknown  # each a category of its own
        order = np.lexsort((item, kind[item]))  # by the last key first
        self._order, self._images = order, indices[order]
        ordered = item[order]
        self._start = np.flatnonzero(np.diff(ordered, prepend=-1))
        self._stop = np.append(self._start[1:], len(order))
        kinds = kind[ordered[self._start]]  # of the items in their new order, ascending
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
        # Spread evenly instead of drawn, so that every batch holds just this share.
        within = int((position + 1) * self._share) > int(position * self._share)
        within = bool(within and peers > 0)
        negative = self._negative(rng, position, int(item), within)
        anchor, positive = self._images[anchor], self._images[positive]
        return int(anchor), int(positive), negative

    def _negative(self, rng: np.random.Generator, position: int, item: int, within: bool) -> int:
        """An image of another item of the same category (``within``), or of another category."""
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
    """Sampled triplets, some of whose negatives are the nearest in a recent embedding.

    From the step on at which a table is used (:meth:`use`), a negative is with probability
    ``hard`` one of the ``neighbours`` images nearest to the item, within its category or outside,
    by the share ``in_class``. Before that step, and for an item without such an image, it is drawn
    as by :class:`SampledTriplets`.

    The triplet at a position depends on the seed, the position and the tables. Batches are read
    ahead, so a table must start at a step that has not been read yet. Worker processes copy the
    stream when the batches begin, and do not see later tables. A resumed run needs the tables that
    it used: keep them, or mine them anew from the checkpoints of their steps.
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
        """``batch_size`` is the triplets of a step; ``hard`` in [0, 1], ``neighbours`` at least 1.

        The other arguments are those of :class:`SampledTriplets`.
        """
        super().__init__(catalogue, indices, seed=seed, in_class=in_class, category=category)
        if not 0 <= hard <= 1:
            raise UsageError(f"hard {hard} must lie in [0, 1]: a share of the negatives")
        if neighbours < 1:
            raise UsageError(f"neighbours {neighbours} must be at least 1")
        self.hard, self._neighbours, self._batch_size = hard, neighbours, batch_size
        # (first position, table), the latest first. Replaced as a whole, as threads read it.
        self._tables: tuple[tuple[int, np.ndarray], ...] = ()

    def nearest_others(
        self, embeddings: Float[np.ndarray, "n features"], *, block: int = 1024
    ) -> Int[np.ndarray, "items 2 neighbours"]:
        """Make a table for :meth:`use` from the embeddings of the training images, in their order.

        It holds int32 image indices for each item, nearest first, -1 where there are fewer: [:, 0]
        of other categories, [:, 1] of its own. The nearest images have the least Euclidean
        distance, as float64 has it, to the mean of the item's embeddings; ties are in the order of
        category, item and image. Distances are computed for ``block`` items and ``block`` images
        at a time; the work is items x images x features. Raises
        ``UsageError`` for embeddings that are not finite.
        """
        embeddings = require_embeddings("embeddings", embeddings)
        if len(embeddings) != len(self._images):
            raise UsageError(f"{embeddings.shape} embeddings of {len(self._images)} images")
        layout = Layout(self._order, self._start, self._stop, self._first, self._last)
        nearest = nearest_others(layout, embeddings, count=self._neighbours, block=block)
        return np.where(nearest < 0, -1, self._images[nearest]).astype(np.int32)

    def use(self, table: Int[np.ndarray, "items 2 neighbours"], *, start: int) -> None:
        """Draw hard negatives from a table, from step ``start`` to that of the next table.

        All tables are kept, so that any position can be read again; a table may be a memory map.
        Raises ``UsageError`` for a table of other items or images.
        """
        expected = (len(self._start), 2, self._neighbours)
        if table.shape != expected or not np.isin(table[table >= 0], self._images).all():
            raise UsageError(
                f"table of nearest others, shape {table.shape}; expected shape {expected} and the "
                "training images: it was made for other data or options, so make it anew"
            )
        begin = start * self._batch_size
        kept = [one for one in self._tables if one[0] != begin]
        self._tables = tuple(sorted([*kept, (begin, table)], key=lambda one: -one[0]))

    def _negative(self, rng: np.random.Generator, position: int, item: int, within: bool) -> int:
        table = next((table for begin, table in self._tables if begin <= position), None)
        # Drawn, as an even spread would fall on the same positions as that of in_class.
        if rng.random() < self.hard and table is not None:
            nearest = table[item, int(within)]
            if count := int((nearest >= 0).sum()):
                return int(nearest[rng.integers(count)])
        return super()._negative(rng, position, item, within)
