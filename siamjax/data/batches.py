"""Batches of pairs and triplets: read, decode, resize and augment beside the training step."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairStream, generator
from siamjax.data.transforms import (
    Augmentation,
    Size,
    Symmetry,
    augment,
    color_table,
    recolored,
    resize,
    sides,
)
from siamjax.data.triplets import TripletStream
from siamjax.errors import UsageError

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Images:
    """Reads the images of one example as the network sees them."""

    images: ImageSet
    size: Size
    augmentation: Augmentation | None
    seed: int

    def __call__(
        self, position: int, indices: Sequence[int], same: Sequence[bool]
    ) -> list[np.ndarray]:
        """The images; ``same``: does each after the first show what the first shows?"""
        rng = generator(self.seed, position, stream=1)
        symmetry = None
        if self.augmentation is not None and self.augmentation.symmetries:
            symmetry = Symmetry.draw(generator(self.seed, position, stream=6))
        seen = []
        for index, table in zip(indices, self._tables(position, same), strict=True):
            image = resize(self.images.image(index), self.size)
            if self.augmentation is not None:
                image = augment(image, self.augmentation, rng)
            if symmetry is not None:
                image = symmetry(image)
            if table is not None:
                image = recolored(image, table)
            seen.append(image)
        return seen

    def _tables(self, position: int, same: Sequence[bool]) -> list[np.ndarray | None]:
        """Random colours: one table for all, or another for half of the images not ``same``."""
        if self.augmentation is None or not self.augmentation.recolor:
            return [None] * (1 + len(same))
        rng = generator(self.seed, position, stream=3)
        table = color_table(rng)
        return [table, *(table if s or rng.random() < 0.5 else color_table(rng) for s in same)]


@dataclass(frozen=True)
class _Rows:
    """What was computed of each image once, in place of the image."""

    rows: np.ndarray

    def __call__(
        self, position: int, indices: Sequence[int], same: Sequence[bool]
    ) -> list[np.ndarray]:
        """A row for each image of the example."""
        return [self.rows[index] for index in indices]


@dataclass(frozen=True)
class _LoadPair:
    """Position -> the pair that the network sees."""

    pairs: PairStream
    read: _Images | _Rows

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        first, second, same = self.pairs[position]
        x1, x2 = self.read(position, (first, second), (same,))
        return {"x1": x1, "x2": x2, "same": np.asarray(same, np.bool_)}


@dataclass(frozen=True)
class _LoadTriplet:
    """Position -> the triplet that the network sees."""

    triplets: TripletStream
    read: _Images | _Rows
    identity: np.ndarray  # a number for whom or what each image of the set shows

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        indices = self.triplets[position]
        images = self.read(position, indices, (True, False))
        return {
            **dict(zip(("anchor", "positive", "negative"), images, strict=True)),
            "identity": self.identity[indices[0]],
            "negative_identity": self.identity[indices[2]],
        }


class Reading(Protocol):
    """How many batches of what size are read, and by whom; every ``RunConfig`` says it."""

    @property
    def seed(self) -> int:
        """Of the augmentation."""
        ...

    @property
    def batch_size(self) -> int:
        """Examples a batch, over all devices."""
        ...

    @property
    def steps(self) -> int:
        """Batches."""
        ...

    @property
    def workers(self) -> int:
        """Processes that read; 0 reads in threads, which is enough while a step takes longer
        than decoding a batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Batches of training examples; called with a step, they begin there.

    Every batch depends on (seed, its number) alone: beginning at step s gives what a straight run
    has there.

    Attributes:
        unit: what an example is called, such as ``pairs``.
        reading: number and size of the batches.
        indices: indices of the images of the example at a position.
        load: a function that makes the example at a position, called when a first batch is asked
            for and not before.
        names: of the images.
    """

    unit: str
    reading: Reading
    indices: Callable[[int], Sequence[int]]
    load: Callable[[], Callable[[int], dict[str, np.ndarray]]]
    names: Sequence[str]

    def __call__(self, start: int = 0) -> Iterator[Batch]:
        """The batches from step ``start`` to the last."""
        return _batches(self, start)

    def describe(self, step: int, *, shown: int = 4) -> str:
        """The names of the first images of a batch, for a message."""
        size = self.reading.batch_size
        batch = [self.indices(step * size + place) for place in range(size)]
        named = ", ".join(
            " + ".join(self.names[index] for index in example) for example in batch[:shown]
        )
        return f"{named}, ... ({size} {self.unit})" if size > shown else named


def pair_batches(
    images: ImageSet,
    pairs: PairStream,
    reading: Reading,
    *,
    size: Size,
    augmentation: Augmentation | None = None,
    rows: Callable[[], np.ndarray] | None = None,
) -> Batches:
    """Batches of ``x1, x2`` and ``same``.

    Images are uint8 (batch, height, width, 3), ``same`` is bool (batch,).

    ``rows`` returns one row for each of ``images``, such as the feature map of a frozen trunk. A
    row takes the place of its image. The function is called when training begins; no image is
    read then, so that an augmentation raises ``UsageError``.
    """
    read = _reader(images, size, augmentation, reading.seed, rows)
    return Batches(
        unit="pairs",
        reading=reading,
        indices=lambda position: pairs[position][:2],
        load=lambda: _LoadPair(pairs, read()),
        names=images.keys,
    )


def triplet_batches(
    images: ImageSet,
    triplets: TripletStream,
    reading: Reading,
    *,
    size: Size,
    augmentation: Augmentation | None = None,
    rows: Callable[[], np.ndarray] | None = None,
) -> Batches:
    """Batches of ``anchor, positive`` and ``negative``.

    Each is uint8 (batch, height, width, 3). ``identity`` and ``negative_identity``, int (batch,),
    are equal numbers for equal identities: for mining within the batch. Options and promises are
    those of :func:`pair_batches`; of an augmentation that recolors, anchor and positive get the
    same colours, and half of the negatives their own.
    """
    read = _reader(images, size, augmentation, reading.seed, rows)
    identity = np.unique(images.identities, return_inverse=True)[1]
    return Batches(
        unit="triplets",
        reading=reading,
        indices=lambda position: triplets[position],
        load=lambda: _LoadTriplet(triplets, read(), identity),
        names=images.keys,
    )


def _reader(
    images: ImageSet,
    size: Size,
    augmentation: Augmentation | None,
    seed: int,
    rows: Callable[[], np.ndarray] | None,
) -> Callable[[], _Images | _Rows]:
    if min(sides(size)) < 1:
        raise UsageError(f"size {size} must be at least 1")
    if rows is None:
        return lambda: _Images(images, size, augmentation, seed)
    if augmentation is not None:
        raise UsageError("rows stand for images and cannot be augmented; leave one of them out")

    def computed() -> _Rows:
        found = rows()
        if len(found) != len(images):
            raise UsageError(f"{len(found)} rows for {len(images)} images; give one for each")
        return _Rows(found)

    return computed


def _batches(batches: Batches, start: int) -> Iterator[Batch]:
    """What ``load`` makes of the positions from step ``start`` on, batch by batch."""
    import grain
    from absl import flags

    reading = batches.reading
    if reading.workers < 0:
        raise UsageError(f"workers {reading.workers} must be 0 (threads) or a number of processes")
    size = reading.batch_size
    positions = grain.MapDataset.range(start * size, reading.steps * size)
    dataset = positions.map(batches.load()).batch(size)
    threads = min(4, os.cpu_count() or 1)
    iterable = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=0 if reading.workers else threads, prefetch_buffer_size=4)
    )
    if reading.workers:
        if not flags.FLAGS.is_parsed():  # grain's worker processes read flags of absl
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=reading.workers)
        iterable = iterable.mp_prefetch(options, worker_init_fn=_leave_interrupts_to_the_parent)
    return iter(iterable)


def _leave_interrupts_to_the_parent(worker: int, workers: int) -> None:
    """Ctrl-C reaches every process of a terminal; the training process answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def image_batches(
    images: ImageSet, indices: np.ndarray, *, batch_size: int, size: Size
) -> Iterator[Batch]:
    """``image`` and ``weight`` of the images, in order, once each.

    ``image`` is uint8 (batch, height, width, 3).
    The last batch is filled up with images of weight 0, so that its shape stays the same and
    nothing is dropped.
    """

    import grain

    def load(index: int) -> np.ndarray:
        return resize(images.image(index), size)

    dataset = grain.MapDataset.source(indices.tolist()).map(load).batch(batch_size)
    threads = min(4, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2)
    for loaded in dataset.to_iter_dataset(options):
        counted = len(loaded)
        filling = ((0, batch_size - counted), (0, 0), (0, 0), (0, 0))
        weight = (np.arange(batch_size) < counted).astype(np.float32)
        yield {"image": np.pad(loaded, filling), "weight": weight}
