"""Batches of pairs and triplets: read, decode, resize and augment beside the training step."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags

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
)
from siamjax.data.triplets import TripletStream
from siamjax.errors import UsageError

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class _Positions:
    """Maps a process's own count of examples to positions of the global stream."""

    total: int
    batch_size: int
    process: int
    processes: int

    def __len__(self) -> int:
        return self.total // self.processes

    def __getitem__(self, index: int) -> int:
        local = self.batch_size // self.processes
        step, place = divmod(index, local)
        return step * self.batch_size + self.process * local + place


@dataclass(frozen=True)
class _Pictures:
    """Reads the pictures of one example as the network sees them."""

    images: ImageSet
    size: Size
    augmentation: Augmentation | None
    seed: int

    def __call__(
        self, position: int, indices: Sequence[int], same: Sequence[bool]
    ) -> list[np.ndarray]:
        """The pictures; ``same``: does each after the first show what the first shows?"""
        rng = generator(self.seed, position, stream=1)
        symmetry = None
        if self.augmentation is not None and self.augmentation.symmetries:
            symmetry = Symmetry.draw(generator(self.seed, position, stream=6))
        pictures = []
        for index, table in zip(indices, self._tables(position, same), strict=True):
            picture = resize(self.images.image(index), self.size)
            if self.augmentation is not None:
                picture = augment(picture, self.augmentation, rng)
            if symmetry is not None:
                picture = symmetry(picture)
            if table is not None:
                picture = recolored(picture, table)
            pictures.append(picture)
        return pictures

    def _tables(self, position: int, same: Sequence[bool]) -> list[np.ndarray | None]:
        """Random colours: one table for all, or another for half of the pictures not ``same``."""
        if self.augmentation is None or not self.augmentation.recolor:
            return [None] * (1 + len(same))
        rng = generator(self.seed, position, stream=3)
        table = color_table(rng)
        return [table, *(table if s or rng.random() < 0.5 else color_table(rng) for s in same)]


@dataclass(frozen=True)
class _Rows:
    """What was computed of each picture once, in place of the picture."""

    rows: np.ndarray

    def __call__(
        self, position: int, indices: Sequence[int], same: Sequence[bool]
    ) -> list[np.ndarray]:
        """A row for each picture of the example."""
        return [self.rows[index] for index in indices]


@dataclass(frozen=True)
class _LoadPair:
    """Position -> the pair that the network sees."""

    pairs: PairStream
    pictures: _Pictures | _Rows

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        first, second, same = self.pairs[position]
        x1, x2 = self.pictures(position, (first, second), (same,))
        return {"x1": x1, "x2": x2, "same": np.asarray(same, np.bool_)}


@dataclass(frozen=True)
class _LoadTriplet:
    """Position -> the triplet that the network sees."""

    triplets: TripletStream
    pictures: _Pictures | _Rows
    identity: np.ndarray  # a number for whom or what each picture of the set shows

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        indices = self.triplets[position]
        pictures = self.pictures(position, indices, (True, False))
        return {
            **dict(zip(("anchor", "positive", "negative"), pictures, strict=True)),
            "identity": self.identity[indices[0]],
            "negative_identity": self.identity[indices[2]],
        }


def pair_batches(
    images: ImageSet,
    pairs: PairStream,
    *,
    batch_size: int,
    steps: int,
    size: Size,
    augmentation: Augmentation | None,
    seed: int,
    start: int = 0,
    workers: int = 0,
    process: int = 0,
    processes: int = 1,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Batches ``start`` to ``steps`` of ``x1, x2`` and ``same``.

    Pictures are uint8 (batch, height, width, 3), ``same`` is bool (batch,).
    Every batch depends on (seed, its number) alone: starting at step s gives what a straight run
    has there. ``workers`` are processes; 0 reads in threads, which is enough while a step takes
    longer than decoding a batch. ``process`` of ``processes`` yields its part of each batch.

    ``rows`` (one a picture of ``images``) take the pictures' place, such as the map of a frozen
    trunk that was computed once; nothing is read then. ``UsageError`` with an augmentation.
    """
    positions = _positions("pairs", batch_size, steps, process, processes)
    load = _LoadPair(pairs, _pictures(images, size, augmentation, seed, rows))
    return _batches(positions, load, start=start, workers=workers)


def triplet_batches(
    images: ImageSet,
    triplets: TripletStream,
    *,
    batch_size: int,
    steps: int,
    size: Size,
    augmentation: Augmentation | None,
    seed: int,
    start: int = 0,
    workers: int = 0,
    process: int = 0,
    processes: int = 1,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Batches ``start`` to ``steps`` of ``anchor, positive`` and ``negative``.

    Each is uint8 (batch, height, width, 3). ``identity`` and ``negative_identity``, int (batch,),
    are equal numbers for equal identities: for mining within the batch. Options and promises are
    those of :func:`pair_batches`; of an augmentation that recolors, anchor and positive get the
    same colours, and half of the negatives their own.
    """
    positions = _positions("triplets", batch_size, steps, process, processes)
    identity = np.unique(images.identities, return_inverse=True)[1]
    load = _LoadTriplet(triplets, _pictures(images, size, augmentation, seed, rows), identity)
    return _batches(positions, load, start=start, workers=workers)


def _pictures(
    images: ImageSet,
    size: Size,
    augmentation: Augmentation | None,
    seed: int,
    rows: np.ndarray | None,
) -> _Pictures | _Rows:
    if rows is None:
        return _Pictures(images, size, augmentation, seed)
    if augmentation is not None or len(rows) != len(images):
        raise UsageError(
            f"{len(rows)} rows stand for {len(images)} pictures and cannot be augmented: give one "
            "a picture, and no augmentation"
        )
    return _Rows(rows)


def _positions(what: str, batch_size: int, steps: int, process: int, processes: int) -> _Positions:
    if batch_size % processes:
        raise UsageError(
            f"batch of {batch_size} {what} cannot be split over {processes} processes; "
            f"use a multiple of {processes}"
        )
    return _Positions(steps * batch_size, batch_size, process, processes)


def _batches(
    positions: _Positions,
    load: Callable[[int], dict[str, np.ndarray]],
    *,
    start: int,
    workers: int,
) -> Iterator[Batch]:
    """What ``load`` makes of the positions from step ``start`` on, batch by batch."""
    if workers < 0:
        raise UsageError(f"workers {workers} must be 0 (threads) or a number of processes")
    local = positions.batch_size // positions.processes
    dataset = grain.MapDataset.source(positions)[start * local :].map(load).batch(local)
    threads = min(4, os.cpu_count() or 1)
    iterable = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=0 if workers else threads, prefetch_buffer_size=4)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # grain's worker processes read flags of absl
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers)
        iterable = iterable.mp_prefetch(options, worker_init_fn=_leave_interrupts_to_the_parent)
    return iter(iterable)


def _leave_interrupts_to_the_parent(worker: int, workers: int) -> None:
    """Ctrl-C reaches every process of a terminal; the training process answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def image_batches(
    images: ImageSet, indices: np.ndarray, *, batch_size: int, size: Size
) -> Iterator[Batch]:
    """``image`` and ``weight`` of the pictures, in order, once each.

    ``image`` is uint8 (batch, height, width, 3).
    The last batch is filled up with pictures of weight 0, so that its shape stays the same and
    nothing is dropped.
    """

    def load(index: int) -> np.ndarray:
        return resize(images.image(index), size)

    dataset = grain.MapDataset.source(indices.tolist()).map(load).batch(batch_size)
    threads = min(4, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2)
    for pictures in dataset.to_iter_dataset(options):
        counted = len(pictures)
        filling = ((0, batch_size - counted), (0, 0), (0, 0), (0, 0))
        weight = (np.arange(batch_size) < counted).astype(np.float32)
        yield {"image": np.pad(pictures, filling), "weight": weight}
