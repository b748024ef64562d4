"""A segment that is being written; what was done survives a kill.

It is a folder that the index's manifest does not name yet. Its ``progress.json`` says how much of
its files counts. A chunk goes to the files, to the disk, and only then into ``progress.json``,
which is replaced at once. What a kill leaves behind that is overwritten.
"""

import csv
import io
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import Float

from siamjax.errors import UsageError, shown
from siamjax.exact_distances import row_squares
from siamjax.files import Natural, open_regular, read_json, write_json
from siamjax.search.index import Index
from siamjax.search.index_manifest import Crc, Dtype
from siamjax.search.index_segment import LONGEST_CELL, Item, Segment, crc_of, row_files
from siamjax.search.row_checks import row_checks
from siamjax.search.stamps import Stamp

_PROGRESS = "progress.json"
_UNKNOWN = Stamp(-1, -1, -1)


class _Progress(msgspec.Struct):
    """What ``progress.json`` holds: whose items these are, and how much of the files counts."""

    catalogue: str
    attributes: tuple[str, ...]
    rows: Natural
    items_bytes: Natural
    items_crc: Crc


class Making:
    """A segment that grows until :meth:`commit`; the caller holds ``siamjax.search.index.writing``.

    An unfinished segment is resumed; ``UsageError`` if it is of another catalogue. Otherwise
    nothing is written before the first :meth:`append`.
    """

    def __init__(self, index: Index, *, catalogue: str, attributes: tuple[str, ...]) -> None:
        last = max((int(one.folder.name.split("-")[1]) for one in index.segments), default=0)
        self._index = index
        self._folder = index.folder / f"segment-{last + 1:04d}"
        self._done = _Progress(catalogue, attributes, 0, 0, 0)
        self._files = row_files(index.features, index.dtype)
        if (self._folder / _PROGRESS).exists():
            self._resume()
        elif (self._folder / "embeddings.npy").exists():
            raise UsageError(
                f"{self._folder} is neither part of the index nor an unfinished segment; remove it"
            )

    def written(self) -> Iterator[tuple[str, Stamp | None]]:
        """Id and stamp of the rows written so far, in order, read lazily."""
        if not self._done.rows:
            return iter(())
        return ((key, stamp) for key, _, stamp in self._segment().places())

    def append(
        self,
        items: Sequence[Item],
        rows: Float[np.ndarray, "n features"],
        *,
        replaced: Collection[str] = (),
    ) -> None:
        """Add rows; they are on the disk when this returns.

        The index keeps its rows of the ids ``replaced`` until :meth:`commit`.
        """
        stored = as_stored(items, rows, self._index.dtype)
        encoded, done = self._table(items), self._done
        if not done.rows:
            self._folder.mkdir(exist_ok=True)
            self._note(done)  # first, or a kill would leave a folder that nothing explains
        squares = row_squares(stored)
        contents = {
            "embeddings.npy": stored,
            "squares.npy": squares,
            "checks.npy": row_checks(stored, squares),
            "stamps.npy": np.array([one.stamp or _UNKNOWN for one in items], np.int64),
        }
        for name, content in contents.items():
            write_at(self._folder / name, self._size(name), content.tobytes())
        write_at(self._folder / "items.csv", done.items_bytes, encoded)
        self._note(
            msgspec.structs.replace(
                done,
                rows=done.rows + len(rows),
                items_bytes=done.items_bytes + len(encoded),
                items_crc=zlib.crc32(encoded, done.items_crc),
            )
        )

    def _table(self, items: Sequence[Item]) -> bytes:
        """Lines of ``items.csv``."""
        text = io.StringIO(newline="")
        lines = [[*one[:3], *(one.attributes[n] for n in self._done.attributes)] for one in items]
        for line in lines:
            if len(longest := max(line, key=len)) > LONGEST_CELL:
                raise UsageError(
                    f"{line[0]}: {shown(longest, longest=40)} has {len(longest):,} characters, and "
                    f"an index holds texts of at most {LONGEST_CELL:,}; shorten it"
                )
        csv.writer(text).writerows(lines)
        try:
            return text.getvalue().encode(errors="surrogateescape")
        except UnicodeEncodeError as error:
            line = next(line for line in lines if error.object[error.start] in "".join(line))
            raise UsageError(
                f"{line[0]}: a text with the surrogate U+{ord(error.object[error.start]):04X}, "
                "which UTF-8 cannot hold; replace it"
            ) from None

    def commit(
        self,
        dropped: Collection[int] = (),
        removed: Mapping[str, int] | None = None,
        *,
        replaced: Collection[str] = (),
    ) -> Index:
        """Make it a part of the index, and return that.

        ``dropped`` are rows of the segment that do not count, ``removed`` those of the index that
        go, by id, and of these the ids ``replaced`` have a new row. All is written by the same
        replacement of the manifest.
        """
        index = replace(self._index, segments=self._index.thinned((removed or {}).values()))
        if self._done.rows == len(dropped):
            if dropped:  # first, or a kill would leave a progress without its files
                self._note(_Progress(self._done.catalogue, self._done.attributes, 0, 0, 0))
            for name in (*Segment.FILES, _PROGRESS + ".tmp", _PROGRESS):
                (self._folder / name).unlink(missing_ok=True)
            if self._folder.exists():
                self._folder.rmdir()
            return index.with_segments(index.segments) if removed else self._index
        for name in self._files:
            write_at(self._folder / name, 0, self._header(name), end=self._size(name))
        write_at(self._folder / "items.csv", 0, b"", end=self._done.items_bytes)
        segment = replace(self._segment(), removed=tuple(sorted(dropped)))
        index = index.with_segments([*index.segments, segment])
        (self._folder / _PROGRESS).unlink()
        return index

    def _segment(self) -> Segment:
        sizes = {name: self._size(name) for name in self._files}
        return Segment(
            folder=self._folder,
            count=self._done.rows,
            features=self._index.features,
            dtype=self._index.dtype,
            catalogue=self._done.catalogue,
            attributes=self._done.attributes,
            bytes={**sizes, "items.csv": self._done.items_bytes},
            items_crc=self._done.items_crc,
        )

    def _size(self, name: str) -> int:
        """Bytes of a .npy file's header and of the rows that count."""
        return len(self._header(name)) + self._done.rows * self._files[name].bytes

    def _header(self, name: str) -> bytes:
        """Header of a .npy file; of one length for any number of rows, as NumPy leaves room."""
        row, header = self._files[name], io.BytesIO()
        shape = (self._done.rows, *row.shape)
        np.lib.format.write_array_header_1_0(
            header, {"descr": row.dtype.str, "fortran_order": False, "shape": shape}
        )
        return header.getvalue()

    def _note(self, done: _Progress) -> None:
        write_json(self._folder / _PROGRESS, msgspec.to_builtins(done))
        self._done = done

    def _resume(self) -> None:
        now, self._done = self._done, self._progress()
        for name in ("catalogue", "attributes"):
            before, asked = getattr(self._done, name), getattr(now, name)
            if before != asked:
                raise UsageError(
                    f"{self._folder} is an unfinished embedding with {name} {before}, not "
                    f"{asked}: finish it by its own command, or remove {self._folder}"
                )
        if not self._done.rows:
            return
        for name, size in self._segment().bytes.items():
            file = self._folder / name
            if not file.is_file() or file.stat().st_size < size:
                raise UsageError(
                    f"{file} is missing or cut short; remove {self._folder} to embed again"
                )
        table = self._folder / "items.csv"
        # What a kill left behind is cut off, so that the table can be read to its end.
        write_at(table, 0, b"", end=self._done.items_bytes)
        with open_regular(table) as opened:
            if crc_of(opened) != self._done.items_crc:
                raise UsageError(
                    f"{table} is not as it was written; remove {self._folder} to embed again"
                )

    def _progress(self) -> _Progress:
        try:
            return read_json(self._folder / _PROGRESS, _Progress)
        except UsageError as error:
            raise UsageError(
                f"{error}: damaged, or of an earlier version; remove {self._folder} to embed its "
                "items again"
            ) from None


def as_stored(
    items: Sequence[Item], rows: Float[np.ndarray, "n features"], dtype: Dtype
) -> Float[np.ndarray, "n features"]:
    """The embeddings of items in another dtype; ``UsageError`` with the id of one too large."""
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(rows, dtype)
    if not np.isfinite(stored).all():
        raise UsageError(
            f"the embedding of {items[int(np.argwhere(~np.isfinite(stored))[0, 0])].id} does not "
            f"fit {dtype}; embed into a new folder with --dtype float32"
        )
    return stored


def write_at(path: Path, place: int, content: bytes, *, end: int | None = None) -> None:
    """Write into a file, made if there is none, and wait until the disk has it.

    ``end`` cuts the file at this size.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        file.seek(place)
        file.write(content)
        if end is not None:
            file.truncate(end)
        file.flush()
        os.fsync(file.fileno())
