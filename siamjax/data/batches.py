"""Batches of training examples, which are read, decoded and augmented during training steps."""

import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from siamjax.checks import require_names, share_of_batch
from siamjax.data.images import ImageSet
from siamjax.data.labelled import SampledIdentities
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
from siamjax.errors import Hung, UsageError
from siamjax.messages import warn

Batch = dict[str, np.ndarray]
_THREADS = min(4, os.cpu_count() or 1)
_NOT_SAID = "ignore:resource_tracker:UserWarning"
_SAID_AFTER, _GIVEN_UP_AFTER = 30.0, 300.0
"""Seconds of waiting for one batch: then it is said, and then it is an error."""


@dataclass(frozen=True)
class _Images:
    """Reads the images of one example and prepares them for the network."""

    images: ImageSet
    size: Size
    augmentation: Augmentation | None
    seed: int
    alike: int = 1  # examples in a row that share symmetry and colours

    def __call__(
        self, position: int, indices: Sequence[int], same: Sequence[bool]
    ) -> list[np.ndarray]:
        """The images; ``same`` tells of each after the first whether it shows what that shows."""
        rng = generator(self.seed, position, stream=1)
        symmetry = None
        if self.augmentation is not None and self.augmentation.symmetries:
            symmetry = Symmetry.draw(generator(self.seed, position // self.alike, stream=6))
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
        """Random colours: one table for all, another for half of those that are not ``same``."""
        if self.augmentation is None or not self.augmentation.recolor:
            return [None] * (1 + len(same))
        rng = generator(self.seed, position // self.alike, stream=3)
        table = color_table(rng)
        return [table, *(table if s or rng.random() < 0.5 else color_table(rng) for s in same)]


@dataclass(frozen=True)
class _Rows:
    """Looks up what was computed once from each image, in place of the image."""

    rows: np.ndarray

    def __call__(
        self, position: int, indices: Sequence[int], same: Sequence[bool]
    ) -> list[np.ndarray]:
        """The rows of the example's images."""
        return [self.rows[index] for index in indices]


@dataclass(frozen=True)
class _LoadPair:
    """From a position to the pair that the network sees."""

    pairs: PairStream
    read: _Images | _Rows

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        first, second, same = self.pairs[position]
        x1, x2 = self.read(position, (first, second), (same,))
        return {"x1": x1, "x2": x2, "same": np.asarray(same, np.bool_)}


@dataclass(frozen=True)
class _LoadTriplet:
    """From a position to the triplet that the network sees."""

    triplets: TripletStream
    read: _Images | _Rows
    identity: np.ndarray  # of each image of the set, as a number

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        indices = self.triplets[position]
        images = self.read(position, indices, (True, False))
        return {
            **dict(zip(("anchor", "positive", "negative"), images, strict=True)),
            "identity": self.identity[indices[0]],
            "negative_identity": self.identity[indices[2]],
        }


@dataclass(frozen=True)
class _LoadLabelled:
    """From a position to the image that the network sees, and the number of its identity."""

    drawn: SampledIdentities
    read: _Images | _Rows
    identity: np.ndarray  # of each image of the set, as a number

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        index = self.drawn[position]
        return {"image": self.read(position, (index,), ())[0], "identity": self.identity[index]}


class Reading(Protocol):
    """How many batches of what size, and who reads them; every ``RunConfig`` says this."""

    @property
    def seed(self) -> int:
        """Seed of the augmentation."""
        ...

    @property
    def batch_size(self) -> int:
        """Examples a batch, over all devices."""
        ...

    @property
    def steps(self) -> int:
        """Number of batches."""
        ...

    @property
    def workers(self) -> int:
        """Processes that read; 0 reads in threads, which suffices where a step takes longer than
        decoding a batch."""
        ...


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Batches of training examples; a call with a step begins there.

    A batch depends only on the seed and its number, so that a resumed run sees the same batches
    as one that was never interrupted.

    Attributes:
        unit: what the examples are, such as ``pairs``.
        reading: number and size of the batches.
        indices: returns the indices of the images of the example at a position.
        load: returns the function that makes the example at a position. It is called when the
            first batch is read and not before, as it may have to compute rows.
        names: names of the images.
        part: number of this process, and how many processes share each batch.
    """

    unit: str
    reading: Reading
    indices: Callable[[int], Sequence[int]]
    load: Callable[[], Callable[[int], dict[str, np.ndarray]]]
    names: Sequence[str]
    part: tuple[int, int] = (0, 1)

    def __call__(self, start: int = 0) -> Iterator[Batch]:
        """The batches from step ``start`` on."""
        return _batches(self, start)

    def divided(self, index: int, count: int) -> "Batches":
        """What process ``index`` of ``count`` reads: its batch / count rows of every batch.

        Process 0 has the first rows, as on the axis of devices. Raises ``UsageError`` if a batch
        cannot be split evenly.
        """
        share_of_batch(self.reading.batch_size, self.unit, count, "processes")
        return replace(self, part=(index, count))

    def describe(self, step: int, *, shown: int = 4) -> str:
        """The names of the first images of a batch over all processes, for a message."""
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
    """Batches with ``x1``, ``x2`` and ``same``.

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
    """Batches with ``anchor``, ``positive`` and ``negative``.

    Each is uint8 (batch, height, width, 3). ``identity`` and ``negative_identity``, int (batch,),
    number the identities of anchor and negative, for mining within the batch. The options are
    those of :func:`pair_batches`. An augmentation that recolors gives anchor and positive the same
    colours, and half of the negatives colours of their own.
    """
    read = _reader(images, size, augmentation, reading.seed, rows)
    known = images.identities != ""
    # Where all are unknown, nothing is mined; where some are, they would be taken for one.
    shown = require_names("identities", images.identities, unknown=not known.any())
    identity = np.unique(shown, return_inverse=True)[1]
    return Batches(
        unit="triplets",
        reading=reading,
        indices=lambda position: triplets[position],
        load=lambda: _LoadTriplet(triplets, read(), identity),
        names=images.keys,
    )


def labelled_batches(
    images: ImageSet,
    indices: Int[np.ndarray, " n"],
    reading: Reading,
    *,
    size: Size,
    per_identity: int = 4,
    augmentation: Augmentation | None = None,
    rows: Callable[[], np.ndarray] | None = None,
) -> Batches:
    """Batches of P identities with K = ``per_identity`` images each: ``image`` and ``identity``.

    ``image`` is uint8 (P x K, height, width, 3), ``identity`` int (P x K,) numbers what it shows.
    ``indices`` are the training images, P x K is the batch size of ``reading``, and its seed draws
    identities and images (:class:`siamjax.data.labelled.SampledIdentities`, which says what becomes
    of identities with fewer than K images, and what is refused). Images of one identity may lie on
    different devices: :func:`siamjax.losses.info_nce` compares over all of them. The other options
    are those of :func:`pair_batches`; symmetries and colours are the same for the K images of an
    identity.
    """
    drawn = SampledIdentities(
        images,
        indices,
        seed=reading.seed,
        batch_size=reading.batch_size,
        per_identity=per_identity,
    )
    read = _reader(images, size, augmentation, reading.seed, rows, alike=per_identity)
    identity = np.unique(images.identities, return_inverse=True)[1]
    return Batches(
        unit="images",
        reading=reading,
        indices=lambda position: (drawn[position],),
        load=lambda: _LoadLabelled(drawn, read(), identity),
        names=images.keys,
    )


def _reader(
    images: ImageSet,
    size: Size,
    augmentation: Augmentation | None,
    seed: int,
    rows: Callable[[], np.ndarray] | None,
    *,
    alike: int = 1,
) -> Callable[[], _Images | _Rows]:
    if min(sides(size)) < 1:
        raise UsageError(f"size {size} must be at least 1")
    if rows is None:
        return lambda: _Images(images, size, augmentation, seed, alike)
    if augmentation is not None:
        raise UsageError("rows replace the images, so that nothing can be augmented; give only one")

    def computed() -> _Rows:
        found = rows()
        if len(found) != len(images):
            raise UsageError(f"{len(found)} rows for {len(images)} images; give one for each")
        return _Rows(found)

    return computed


def _batches(batches: Batches, start: int) -> Iterator[Batch]:
    """The examples from step ``start`` on, loaded ahead by threads or worker processes."""
    import grain
    from absl import flags

    reading = batches.reading
    if reading.workers < 0:
        raise UsageError(f"workers {reading.workers} must be 0 (threads) or a number of processes")
    size, (index, count) = reading.batch_size, batches.part
    share = size // count

    def of_all(place: int) -> int:
        """From a place among this process's examples to that among all."""
        step, row = divmod(place, share)
        return step * size + index * share + row

    places = grain.MapDataset.range(start * share, reading.steps * share)
    dataset = places.map(of_all).map(batches.load()).batch(share)
    iterable = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=0 if reading.workers else _THREADS, prefetch_buffer_size=4)
    )
    if reading.workers:
        if not flags.FLAGS.is_parsed():  # grain's worker processes read absl's flags
            flags.FLAGS.mark_as_parsed()
        # What a worker that died leaves in shared memory Python removes at the end, and would say.
        if _NOT_SAID not in sys.warnoptions:
            sys.warnoptions.append(_NOT_SAID)
        options = grain.MultiprocessingOptions(num_workers=reading.workers)
        iterable = iterable.mp_prefetch(options, worker_init_fn=_belong_to_the_parent)
    return _watched(batches, start, iter(iterable))


def _belong_to_the_parent(worker: int, workers: int) -> None:
    """A worker leaves signals to the training process, and ends with it however that ends.

    Ctrl-C reaches every process of a terminal, and a cluster's SIGTERM every process of a job: the
    training process needs its workers to finish the step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def end_with_the_parent() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_the_parent, daemon=True).start()


def _watched(batches: Batches, start: int, read: Any) -> Iterator[Batch]:
    """What grain reads from step ``start`` on; a read that hangs and a worker that dies are named.

    grain itself waits for ever for a read, and of a worker it tells no more than the exit status.
    """
    workers = batches.reading.workers

    def named(number: int) -> str:
        by = f" from data worker {(number - start) % workers + 1} of {workers}" if workers else ""
        return f"the batch of step {number + 1}{by} ({batches.describe(number)})"

    pool = ThreadPoolExecutor(1)
    ahead = pool.submit(next, read, None)
    try:
        for number in range(start, batches.reading.steps):
            try:
                batch = _in_time(ahead, partial(named, number))
            except RuntimeError as error:
                if (how := _end_of_worker(error)) is None:
                    raise
                raise UsageError(
                    f"{named(number)} does not come: the worker {how}; if the machine is short of "
                    "memory, use fewer --workers; run the same command to resume"
                ) from None
            ahead = pool.submit(next, read, None)
            yield batch
    finally:
        if workers and wait([ahead], 1).not_done:  # grain waits for 25 s before it kills
            for child in multiprocessing.active_children():
                if child.name.startswith("grain"):
                    child.kill()
            wait([ahead], 5)
        pool.shutdown(wait=False)
        read.close()


def _in_time(read: Future[Any], named: Callable[[], str]) -> Any:
    """What is read, with a warning where it takes long; :class:`Hung` if it does not end."""
    if not read.done() and wait([read], _SAID_AFTER).not_done:
        line = f"{_SAID_AFTER:.0f} s without {named()}; waiting up to {_GIVEN_UP_AFTER:.0f} s"
        warn(line, alone=True)
        if wait([read], _GIVEN_UP_AFTER - _SAID_AFTER).not_done:
            raise Hung(
                f"{_GIVEN_UP_AFTER:.0f} s without {named()}: the read hangs; look whether the disk "
                "of these images answers, and run the same command to resume"
            )
    return read.result()


def _end_of_worker(error: RuntimeError) -> str | None:
    """How a worker died, from what grain says of it; None: the error is another."""
    status = re.search(r"Worker process .* exit code (-?[0-9]+)", str(error))
    if status is None:
        return None
    code = int(status[1])
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def image_batches(
    images: ImageSet,
    indices: np.ndarray,
    *,
    batch_size: int,
    size: Size,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Batches with ``image``, uint8 (batch, height, width, 3), and ``weight``: each image once.

    The last batch is filled up with images of weight 0, so that all batches have one shape and no
    image is dropped. With ``part``, the number of a process and how many there are, each batch has
    this process's rows alone, batch / count of them: the parts of all processes, one after the
    other, are the batch.
    """
    index, count = part
    share = share_of_batch(batch_size, "images", count, "processes")

    def load(image: int) -> np.ndarray:
        return resize(images.image(image), size)

    def submitted() -> Iterator[list[tuple[str, Future[np.ndarray]]]]:
        for start in range(0, len(indices), batch_size):
            own = indices[start : start + batch_size][index * share : (index + 1) * share]
            yield [(images.keys[image], pool.submit(load, image)) for image in own.tolist()]

    # Threads of its own, because grain takes long to import where there are only two images.
    pool = ThreadPoolExecutor(_THREADS)
    try:
        blocks = submitted()
        ahead = next(blocks, None)
        while (block := ahead) is not None:
            ahead = next(blocks, None)  # read while the caller works
            filled = np.zeros((share, *sides(size), 3), np.uint8)
            for row, (key, image) in enumerate(block):
                filled[row] = _in_time(image, lambda key=key: f"the image {key} of {images.name}")
            yield {"image": filled, "weight": (np.arange(share) < len(block)).astype(np.float32)}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
