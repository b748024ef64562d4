"""Scores made tile by tile, in memory or on disk, where they survive a kill.

On disk, the manifest ``scores.npy.json`` and, until all is scored, ``scores.npy.features`` lie
beside ``scores.npy``. The order of writing makes a kill harmless. The manifest comes first, so
that a file without one is known to be someone else's. Then both arrays are written in full, so
that a disk that is too small says so before the work. Each part of the work then goes to its
array, to the disk, and only then to the manifest, which is replaced at once or not at all.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float, Int

from siamjax.array_files import map_npy
from siamjax.errors import UsageError, shown
from siamjax.files import Natural, dump_json, read_json, write_json
from siamjax.inference.digests import differing

Place = tuple[slice, slice]
_FILLING = 1 << 20  # numbers that create() writes at a time


class _Progress(msgspec.Struct):
    """The manifest of scores on disk."""

    scores_of: dict[str, Any]
    made: bool
    embedded: Natural
    tiles: Natural


class Record:
    """Scores (queries, columns) and features (images, ...) in memory, and how many are done.

    Attributes:
        embedded: images whose features are there, counted from the first.
        tiles: tiles whose scores are there, counted from the first.
    """

    def __init__(self, *, scores: tuple[int, int], features: tuple[int, ...]) -> None:
        self._scores: Any = np.full(scores, np.nan, np.float32)
        self._features: Any = np.empty(features, np.float32)
        self.embedded = self.tiles = 0

    def put_features(self, rows: np.ndarray) -> None:
        """Store the features of the next images."""
        self._features[self.embedded : self.embedded + len(rows)] = rows
        self.embedded += len(rows)

    def take_features(self, rows: Int[np.ndarray, "*n"]) -> Float[np.ndarray, "..."]:
        """A copy of the features of these images."""
        return self._features[rows]

    def put_scores(self, place: Place, scores: np.ndarray) -> None:
        """Store the scores of the next tile."""
        self._scores[place] = scores
        self.tiles += 1

    def finish(self) -> Float[np.ndarray, "queries columns"]:
        """All scores; the features are dropped."""
        return self._scores


class DiskRecord(Record):
    """A record in files, new or resumed; what a ``put`` method stores is on disk when it returns.

    Args:
        output: the .npy file of the scores.
        about: what they are scores of, by name; must be equal when they are resumed.
        scores: shape of the scores.
        features: shape of the features.
        total: number of all tiles.

    Raises ``UsageError`` for an ``output`` that holds something else, for damaged files, and where
    something cannot be written; what was written before is kept.
    """

    def __init__(
        self,
        output: Path,
        *,
        about: dict[str, Any],
        scores: tuple[int, int],
        features: tuple[int, ...],
        total: int,
    ) -> None:
        self.output, self.total = output, total
        self.manifest = output.with_name(output.name + ".json")
        self._scores = _DiskArray(output, scores)
        self._features = _DiskArray(output.with_name(output.name + ".features"), features)
        self._about = json.loads(dump_json(about))  # as it comes back from the file
        self._made, self.embedded, self.tiles = False, 0, 0
        with self._disk():
            if self.manifest.exists():
                self._resume()
            elif output.exists():
                raise UsageError(
                    f"{output} exists and {self.manifest.name} does not: these scores cannot be "
                    "resumed; give another output, or remove it"
                )
            else:
                output.parent.mkdir(parents=True, exist_ok=True)
                self._note(made=False)
        arrays = self._scores, self._features
        if not self._made:
            try:
                with self._disk():
                    for array in arrays:
                        array.create()
                    self._note()
            except UsageError:  # leave nothing behind
                for path in (output, self._features.path, self.manifest):
                    path.unlink(missing_ok=True)
                raise
        for array in arrays[: 1 if self.tiles == total else 2]:
            array.open()  # find damage now, not after the next tile

    def put_features(self, rows: np.ndarray) -> None:
        """Write the features of the next images to the disk."""
        after = self.embedded + len(rows)
        with self._disk():
            self._features.put(slice(self.embedded, after), rows)
            self._note(embedded=after, tiles=self.tiles)

    def take_features(self, rows: Int[np.ndarray, "*n"]) -> Float[np.ndarray, "..."]:
        """A copy, read from the file, of the features of these images."""
        return np.array(self._features.open()[rows])

    def put_scores(self, place: Place, scores: np.ndarray) -> None:
        """Write the scores of the next tile to the disk."""
        with self._disk():
            self._scores.put(place, scores)
            self._note(embedded=self.embedded, tiles=self.tiles + 1)

    def finish(self) -> Float[np.ndarray, "queries columns"]:
        """All scores, mapped read-only; the file of the features is removed."""
        with self._disk():
            self._features.path.unlink(missing_ok=True)
        return self._scores.open()

    def _note(self, *, made: bool = True, embedded: int = 0, tiles: int = 0) -> None:
        counts = {"made": made, "embedded": embedded, "tiles": tiles}
        write_json(self.manifest, {"scores_of": self._about, **counts})
        self._made, self.embedded, self.tiles = made, embedded, tiles

    def _resume(self) -> None:
        try:
            before = read_json(self.manifest, _Progress)
            counts = (before.embedded, self._features.shape[0]), (before.tiles, self.total)
            if before.scores_of == self._about and any(done > of for done, of in counts):
                raise UsageError(
                    f"{shown(self.manifest)}: {before.embedded} images and {before.tiles} tiles "
                    "are done, more than there are"
                )
        except UsageError as error:
            raise UsageError(
                f"{error}; restore it, or remove it and {self.output.name} to start again"
            ) from None
        self._made, self.embedded, self.tiles = before.made, before.embedded, before.tiles
        if different := differing(before.scores_of, self._about):
            raise UsageError(
                f"{self.output} has scores of something else: {'; '.join(different)}. Give "
                f"another output, or remove it and {self.manifest.name} to start again"
            )

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Turn errors of the disk into ``UsageError``: what is safe, and what to do."""
        try:
            yield
        except OSError as error:
            folder = self.output.parent
            free = shutil.disk_usage(folder).free if folder.is_dir() else 0
            needed = self._scores.bytes + self._features.bytes
            raise UsageError(
                f"{self.output}: cannot be written ({error.strerror or error}; its files take "
                f"{needed / 1e6:.1f} MB in all, {free / 1e6:.1f} MB are free now). {self.tiles} of "
                f"{self.total} tiles are done and safe: make room or fix the path, and call again"
            ) from None


class _DiskArray:
    """A float32 .npy file, mapped only while in use, so that its pages do not stay in memory."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self.bytes = 4 * int(np.prod(shape))

    def create(self) -> None:
        """Fill it with NaN: this claims the disk space, and shows what is not done."""
        header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        # Not through a map: writing to one kills the process when the disk is full.
        with self.path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            count = self.bytes // 4
            nothing = np.full(min(count, _FILLING), np.nan, "<f4")
            for start in range(0, count, _FILLING):
                file.write(nothing[: count - start].tobytes())
            file.flush()
            os.fsync(file.fileno())

    def open(self, *, write: bool = False) -> Any:
        """Map the file; ``UsageError`` if it is missing or has another shape or type."""
        try:
            array = map_npy(self.path, write=write, kinds="f")
            if array.shape != self.shape or array.dtype != np.float32:
                raise UsageError(
                    f"{shown(self.path)}: {array.dtype} {array.shape} in place of float32 "
                    f"{self.shape}"
                )
        except UsageError as error:
            raise UsageError(
                f"{error}; the scores cannot be resumed without it: restore it, or remove it and "
                "the manifest (.npy.json) to start again"
            ) from None
        return array

    def put(self, place: Any, values: np.ndarray) -> None:
        """Write ``array[place] = values``, and wait until the disk has it."""
        array = self.open(write=True)
        array[place] = values
        array.flush()
