"""A segment of an index in the making: what was done outlives a kill.

It is a folder that the manifest does not name yet, with ``progress.json``: how much of its files
counts. A chunk goes to the files, to the disk, and only then into ``progress.json``, which is
replaced at once; what a kill leaves behind that is written over.
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
from siamjax.files import write_json
from siamjax.search.exact_distances import row_squares
from siamjax.search.index import Index
from siamjax.search.index_segment import Item, Segment

_PROGRESS = "progress.json"


class Making:
    """A segment that grows until :meth:`commit`. For who holds ``siamjax.search.index.writing``.

    Taken up if there is one already; ``UsageError`` if that is of another catalogue. Otherwise
    nothing is written before the first :meth:`append`.
    """

    def __init__(self, index: Index, *, catalogue: str, attributes: tuple[str, ...]) -> None:
        last = max((int(one.folder.name.split("-")[1]) for one in index.segments), default=0)
        self._index = index
        self._folder = index.folder / f"segment-{last + 1:04d}"
        self._about = {"catalogue": catalogue, "attributes": list(attributes)}
        self._rows = self._text = 0
        if (self._folder / _PROGRESS).exists():
            self._take_up()
        elif (self._folder / "embeddings.npy").exists():
            raise UsageError(
                f"{self._folder} is no part of the index and not unfinished either; remove it"
            )

    def ids(self) -> Iterator[str]:
        """Of the rows that it has, in order; read as it is asked for."""
        return self._segment({}).ids() if self._rows else iter(())

    def append(self, items: Sequence[Item], rows: Float[np.ndarray, "n features"]) -> None:
        """Add rows; on the disk when this returns."""
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
            self._note(0, 0)  # before the rest, or the folder would be taken for something else
        for name, shape, content in (
            ("embeddings.npy", stored.shape[1:], stored.tobytes()),
            ("squares.npy", (), row_squares(stored).tobytes()),
        ):
            header = self._header(name, 0)
            each = len(content) // len(rows) if shape else 8
            write_at(self._folder / name, len(header) + self._rows * each, content)
        write_at(self._folder / "items.csv", self._text, encoded)
        self._note(self._rows + len(rows), self._text + len(encoded))

    def commit(self, wanted: Collection[str]) -> tuple[Index, int]:
        """Make it a part of the index, and say how many items that added.

        Rows of ids that are not ``wanted`` (any more) count as removed. The index is written as
        it was given here, so that rows that were marked as removed are gone with the same write.
        """
        if not self._rows:
            for name in (*Segment.FILES, _PROGRESS + ".tmp", _PROGRESS):
                (self._folder / name).unlink(missing_ok=True)
            if self._folder.exists():
                self._folder.rmdir()
            return self._index.with_segments(self._index.segments), 0
        for name, each in (
            ("embeddings.npy", self._index.features * np.dtype(self._index.dtype).itemsize),
            ("squares.npy", 8),
        ):
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
        """Of a .npy file; as long for any number of rows (NumPy leaves room for it)."""
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

    def _take_up(self) -> None:
        path = self._folder / _PROGRESS
        try:
            content = json.loads(path.read_text())
            self._rows, self._text = int(content["rows"]), int(content["items_bytes"])
            before = {name: content[name] for name in self._about}
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: damaged ({type(error).__name__}: {error}); remove {self._folder} to "
                "embed anew"
            ) from None
        for name, now in self._about.items():
            if before[name] != now:
                raise UsageError(
                    f"{self._folder} is an unfinished embedding with {name} {before[name]}, and "
                    f"not {now}: finish that by its own command, or remove {self._folder}"
                )
        row = self._index.features * np.dtype(self._index.dtype).itemsize
        least = {"embeddings.npy": row * self._rows, "squares.npy": 8 * self._rows}
        for name, size in {**least, "items.csv": self._text}.items():
            file = self._folder / name
            if self._rows and (not file.is_file() or file.stat().st_size < size):
                raise UsageError(
                    f"{file} is missing or cut short; remove {self._folder} to embed anew"
                )
        if self._rows:  # what a kill left behind, so that the table can be read to its end
            write_at(self._folder / "items.csv", 0, b"", end=self._text)


def write_at(path: Path, place: int, content: bytes, *, end: int | None = None) -> None:
    """Write into a file, made if there is none, and wait until the disk has it.

    ``end``: cut what lies behind.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        file.seek(place)
        file.write(content)
        if end is not None:
            file.truncate(end)
        file.flush()
        os.fsync(file.fileno())
