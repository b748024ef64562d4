"""One segment of an index: files with rows of embeddings, and the table of their items."""

import csv
import io
import itertools
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from siamjax.array_files import read_header
from siamjax.errors import UsageError, shown
from siamjax.files import open_regular
from siamjax.search.index_manifest import Dtype, is_missing
from siamjax.search.row_checks import row_checks
from siamjax.search.stamps import Stamp

LONGEST_CELL = 131_072
"""Characters of a cell of ``items.csv``; Python's reader of CSV takes no more."""

_BLOCK = 1 << 16  # bytes read at a time
_REMEDY = "restore the file, or embed the catalogue into another folder"
_ROWS = 1024  # stamps read at a time


class RowFile(NamedTuple):
    """An array with a row for each item."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of a row."""
        return self.dtype.itemsize * int(np.prod(self.shape))


def row_files(features: int, dtype: Dtype) -> dict[str, RowFile]:
    """What a row is in each .npy file of a segment."""
    return {
        "embeddings.npy": RowFile(np.dtype(dtype), (features,)),
        "squares.npy": RowFile(np.dtype(np.float64), ()),
        "checks.npy": RowFile(np.dtype(np.uint64), ()),
        "stamps.npy": RowFile(np.dtype(np.int64), (3,)),
    }


class Item(NamedTuple):
    """What the index knows of a row.

    Attributes:
        id: unique among the rows that are not removed.
        item: what the image shows; images of one item match.
        image: absolute path of the file; "" if the catalogue is not a folder of files.
        catalogue: what was embedded: a path, or the name of a data set.
        attributes: values by name; "" where a value is not known.
        stamp: what the image was when it was embedded; None: not known.
    """

    id: str
    item: str
    image: str
    catalogue: str
    attributes: dict[str, str]
    stamp: Stamp | None = None


@dataclass
class _Verified:
    """What has been compared with its checksum since the index was opened."""

    rows: np.ndarray | None = None  # (count,) bool
    items: bool = False


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Rows that one call embedded; a part that ``siamjax.search.nearest`` can search.

    Rows and items are compared with their checksums when they are first read. A segment of an
    earlier version of siamjax has no checksums and no stamps.

    Attributes:
        folder: the folder of its files.
        count: number of rows.
        features: length of an embedding.
        dtype: type of the embeddings.
        catalogue: what was embedded.
        attributes: names, in the order of the columns of ``items.csv``.
        bytes: size of each file.
        removed: rows that cannot be found any more, counted within the segment.
        items_crc: CRC-32 of ``items.csv``; None: made by an earlier version.
    """

    FILES: ClassVar = ("embeddings.npy", "squares.npy", "checks.npy", "stamps.npy", "items.csv")
    _FIRST_FILES: ClassVar = ("embeddings.npy", "squares.npy", "items.csv")  # no checksums

    folder: Path
    count: int
    features: int
    dtype: Dtype
    catalogue: str
    attributes: tuple[str, ...]
    bytes: dict[str, int]
    removed: tuple[int, ...] = ()
    items_crc: int | None = None
    _verified: _Verified = field(default_factory=_Verified, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return self.count

    @property
    def name(self) -> str:
        """The path of the embeddings, for messages."""
        return str(self.folder / "embeddings.npy")

    @property
    def checked(self) -> bool:
        """Whether it has checksums."""
        return self.items_crc is not None

    def check(self) -> None:
        """Raise ``UsageError`` for a file that is missing, or not as the manifest describes it."""
        names = self.FILES if self.checked else self._FIRST_FILES
        if set(self.bytes) != set(names):
            raise UsageError(
                f"{shown(self.folder)}: the manifest names the files {sorted(self.bytes)} in place "
                f"of {sorted(names)}; restore it, or embed the catalogue into a new folder"
            )
        expected = row_files(self.features, self.dtype)
        for name in names:
            path, right = self.folder / name, self.bytes[name]
            if is_missing(path):
                raise self._damaged(f"{shown(path)} is missing")
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size != right:
                    raise self._damaged(f"{shown(path)} has {size} bytes in place of {right}")
                if name in expected:
                    header = read_header(file, size, where=shown(path))
                    shape = (self.count, *expected[name].shape)
                    if header[:3] != (shape, expected[name].dtype, False):
                        raise self._damaged(
                            f"{shown(path)} holds {header.dtype} {header.shape} in place of "
                            f"{expected[name].dtype} {shape}"
                        )

    def rows(self, start: int, stop: int) -> Float[np.ndarray, "n features"]:
        """A map of these rows only, so that no other page of the file stays in memory.

        Raises ``UsageError`` for rows that are not as they were written.
        """
        stop = min(stop, self.count)
        mapped = self._map("embeddings.npy", start, stop)
        if self.checked:
            if self._verified.rows is None:
                self._verified.rows = np.zeros(self.count, bool)
            if not (verified := self._verified.rows[start:stop]).all():
                self._verify(np.arange(start, stop), mapped)
                verified[:] = True
        return mapped

    def take(self, places: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n features"]:
        """A copy of these rows, given in ascending order; errors as :meth:`rows`."""
        first, stop = int(places[0]), int(places[-1]) + 1
        taken = self._map("embeddings.npy", first, stop)[places - first]
        if self.checked:
            self._verify(places, taken)
        return taken

    def squares(self, start: int, stop: int) -> Float[np.ndarray, " n"]:
        """The sums of squares of these rows, as they were written."""
        return self._read("squares.npy", start, stop)

    def ahead(self, start: int, stop: int) -> None:
        """Ask the system to read these rows from the disk, without waiting for it."""
        if hasattr(os, "posix_fadvise"):
            with (self.folder / "embeddings.npy").open("rb") as file:
                begin, end = (self._begin("embeddings.npy", row) for row in (start, stop))
                os.posix_fadvise(file.fileno(), begin, end - begin, os.POSIX_FADV_WILLNEED)

    def stamps(self) -> Iterator[Stamp | None]:
        """What the image of each row was; None: not known."""
        if not self.checked:
            yield from itertools.repeat(None, self.count)
            return
        for start in range(0, self.count, _ROWS):
            for row in self._read("stamps.npy", start, start + _ROWS).tolist():
                yield Stamp(*row) if row[0] >= 0 else None

    def items(self) -> Iterator[Item]:
        """All items, row by row, removed ones too."""
        for line, stamp in zip(self._lines(), self.stamps(), strict=True):
            attributes = dict(zip(self.attributes, line[3:], strict=True))
            yield Item(line[0], line[1], line[2], self.catalogue, attributes, stamp)

    def ids(self) -> Iterator[str]:
        """All ids, row by row, removed ones too."""
        return (line[0] for line in self._lines())

    def places(self) -> Iterator[tuple[str, str, Stamp | None]]:
        """Id, image and stamp of each row, removed ones too."""
        lines = zip(self._lines(), self.stamps(), strict=True)
        return ((line[0], line[2], stamp) for line, stamp in lines)

    def _begin(self, name: str, row: int) -> int:
        """The place of a row in a file; what is not rows is the header."""
        return self.bytes[name] - (self.count - row) * self._row(name).bytes

    def _row(self, name: str) -> RowFile:
        return row_files(self.features, self.dtype)[name]

    def _map(self, name: str, start: int, stop: int) -> np.ndarray:
        row, offset = self._row(name), self._begin(name, start)
        shape = (stop - start, *row.shape)
        return np.memmap(self.folder / name, row.dtype, "r", offset=offset, shape=shape)

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        row, count = self._row(name), min(stop, self.count) - start
        with (self.folder / name).open("rb") as file:
            file.seek(self._begin(name, start))
            content = file.read(count * row.bytes)
        return np.frombuffer(content, row.dtype).reshape(count, *row.shape)

    def _verify(self, places: Int[np.ndarray, " n"], rows: np.ndarray) -> None:
        """Compare rows with their checksums; ``places`` are theirs, ascending."""
        first, stop = int(places[0]), int(places[-1]) + 1
        squares, written = (
            self._map(name, first, stop)[places - first] for name in ("squares.npy", "checks.npy")
        )
        wrong = places[row_checks(rows, squares) != written]
        if len(wrong):
            raise UsageError(
                f"{shown(self.name)} is damaged: of rows {wrong[0]} to {wrong[-1]}, {len(wrong)} "
                f"are not as they were written; {_REMEDY}"
            )

    def _lines(self) -> Iterator[list[str]]:
        path, seen = self.folder / "items.csv", 0
        # Names of files need not be UTF-8; earlier versions could not write those that are not.
        errors = "surrogateescape" if self.checked else "strict"
        with open_regular(path) as file:
            if self.checked and not self._verified.items:
                if crc_of(file) != self.items_crc:
                    raise self._damaged(f"{shown(path)} is not as it was written")
                self._verified.items = True
                file.seek(0)
            with io.TextIOWrapper(file, encoding="utf-8", errors=errors, newline="") as text:
                reader = csv.reader(text, strict=True)
                try:
                    for seen, line in enumerate(reader, start=1):
                        if len(line) != 3 + len(self.attributes):
                            raise self._damaged(
                                f"{shown(path)}: line {seen} has {len(line)} columns in place of "
                                f"{3 + len(self.attributes)}"
                            )
                        if seen > self.count:
                            break
                        yield line
                except UnicodeDecodeError:
                    raise self._damaged(f"{shown(path)}: not UTF-8") from None
                except csv.Error as error:
                    where = f"{shown(path)}, line {reader.line_num}"
                    raise self._damaged(f"{where}: {error}") from None
        if seen != self.count:
            raise self._damaged(
                f"{shown(path)} has {'more' if seen > self.count else seen} lines for "
                f"{self.count} embeddings"
            )

    def _damaged(self, problem: str) -> UsageError:
        return UsageError(f"{problem}: the index is damaged; {_REMEDY}")


def crc_of(file: BinaryIO) -> int:
    """CRC-32 of what follows in a file."""
    crc = 0
    while block := file.read(_BLOCK):
        crc = zlib.crc32(block, crc)
    return crc
