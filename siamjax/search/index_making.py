"""A segment that is being written; what was done survives a kill.

It is a folder that the index's manifest does not name yet. Its ``progress.json`` says how much of
its files counts. A chunk goes to the files, to the disk, and only then into ``progress.json``,
which is replaced at once. What a kill leaves behind that is overwritten.
"""

import csv
import io
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from siamjax.errors import UsageError
from siamjax.exact_distances import row_squares
from siamjax.files import write_json
from siamjax.search.index import Index
from siamjax.search.index_segment import Item, Segment, row_bytes

_PROGRESS = "progress.json"


class Making:
    """A segment that grows until :meth:`commit`; the caller holds ``siamjax.search.index.writing``.

    An unfinished segment is resumed; ``UsageError`` if it is of another catalogue. Otherwise
    nothing is written before the first :meth:`append`.
    """

    def __init__(self, index: Index, *, catalogue: str, attributes: tuple[str, ...]) -> None:
        last = max((int(one.folder.name.split("-")[1]) for one in index.segments), default=0)
        self._index = index
        self._folder = index.folder / f"segment-{last + 1:04d}"
        self._about = {"catalogue": catalogue, "attributes": list(attributes)}
        self._rows = self._text = 0
        self._row_bytes = row_bytes(index.features, index.dtype)
        if (self._folder / _PROGRESS).exists():
            self._resume()
        elif (self._folder / "embeddings.npy").exists():
            raise UsageError(
                f"{self._folder} is neither part of the index nor an unfinished segment; remove it"
            )

    def ids(self) -> Iterator[str]:
        """Ids of the rows written so far, in order, read lazily."""
        return self._segment({}).ids() if self._rows else iter(())

    def append(self, items: Sequence[Item], rows: Float[np.ndarray, "n features"]) -> None:
        """Add rows; they are on the disk when this returns."""
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(rows, self._index.dtype)
        if not np.isfinite(stored).all():
            raise UsageError(
                f"the embedding of {items[int(np.argwhere(~np.isfinite(stored))[0, 0])].id} does "
                f"not fit {self._index.dtype}; embed into a new folder with --dtype float32"
            )
        text = io.StringIO(newline="")
        csv.writer(text).writerows(
            [*one[:3], *(one.attributes[name] for name in self._about["attributes"])]
            for one in items
        )
        encoded = text.getvalue().encode()
        if not self._rows:
            self._folder.mkdir(exist_ok=True)
            self._note(0, 0)  # first, or a kill would leave a folder that nothing explains
        for name, content in (("embeddings.npy", stored), ("squares.npy", row_squares(stored))):
            place = len(self._header(name, 0)) + self._rows * self._row_bytes[name]
            write_at(self._folder / name, place, content.tobytes())
        write_at(self._folder / "items.csv", self._text, encoded)
        self._note(self._rows + len(rows), self._text + len(encoded))

    def commit(self, wanted: Collection[str]) -> tuple[Index, int]:
        """Make it a part of the index, and return how many items that added.

        Rows of ids that are not ``wanted`` (any more) are marked as removed. Rows that the given
        index marks as removed are written by the same replacement of the manifest.
        """
        if not self._rows:
            for name in (*Segment.FILES, _PROGRESS + ".tmp", _PROGRESS):
                (self._folder / name).unlink(missing_ok=True)
            if self._folder.exists():
                self._folder.rmdir()
            return self._index.with_segments(self._index.segments), 0
        for name, each in self._row_bytes.items():
            header = self._header(name, self._rows)
            write_at(self._folder / name, 0, header, end=len(header) + self._rows * each)
        write_at(self._folder / "items.csv", 0, b"", end=self._text)
        made = self._segment({name: (self._folder / name).stat().st_size for name in Segment.FILES})
        segment = replace(
            made, removed=tuple(row for row, one in enumerate(made.ids()) if one not in wanted)
        )
        index = self._index.with_segments([*self._index.segments, segment])
        (self._folder / _PROGRESS).unlink()
        return index, self._rows - len(segment.removed)

    def _segment(self, sizes: dict[str, int]) -> Segment:
        return Segment(
            folder=self._folder,
            count=self._rows,
            features=self._index.features,
            dtype=self._index.dtype,
            catalogue=str(self._about["catalogue"]),
            attributes=tuple(self._about["attributes"]),
            bytes=sizes,
        )

    def _header(self, name: str, rows: int) -> bytes:
        """Header of a .npy file; of one length for any number of rows, as NumPy leaves room."""
        if name == "squares.npy":
            shape, dtype = (rows,), np.dtype(np.float64)
        else:
            shape, dtype = (rows, self._index.features), np.dtype(self._index.dtype)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": dtype.str, "fortran_order": False, "shape": shape}
        )
        return header.getvalue()

    def _note(self, rows: int, text: int) -> None:
        done = {"rows": rows, "items_bytes": text}
        write_json(self._folder / _PROGRESS, {**self._about, **done})
        self._rows, self._text = rows, text

    def _resume(self) -> None:
        path = self._folder / _PROGRESS
        try:
            content = json.loads(path.read_text())
            self._rows, self._text = int(content["rows"]), int(content["items_bytes"])
            before = {name: content[name] for name in self._about}
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: damaged ({type(error).__name__}: {error}); remove {self._folder} to "
                "embed its items again"
            ) from None
        for name, now in self._about.items():
            if before[name] != now:
                raise UsageError(
                    f"{self._folder} is an unfinished embedding with {name} {before[name]}, not "
                    f"{now}: finish it by its own command, or remove {self._folder}"
                )
        least = {name: each * self._rows for name, each in self._row_bytes.items()}
        for name, size in {**least, "items.csv": self._text}.items():
            file = self._folder / name
            if self._rows and (not file.is_file() or file.stat().st_size < size):
                raise UsageError(
                    f"{file} is missing or cut short; remove {self._folder} to embed again"
                )
        if self._rows:  # cut what a kill left behind, so that the table can be read to its end
            write_at(self._folder / "items.csv", 0, b"", end=self._text)


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
