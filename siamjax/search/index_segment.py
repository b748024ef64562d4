"""One segment of an index: files with rows of embeddings, and the table of their items."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from siamjax.errors import UsageError

Dtype = Literal["float32", "float16"]


def row_bytes(features: int, dtype: Dtype) -> dict[str, int]:
    """Bytes of a row in each .npy file of a segment."""
    return {"embeddings.npy": features * np.dtype(dtype).itemsize, "squares.npy": 8}


class Item(NamedTuple):
    """What the index knows of a row.

    Attributes:
        id: unique among the rows that are not removed.
        item: what the image shows; images of one item match.
        image: absolute path of the file; "" if the catalogue is not a folder of files.
        catalogue: what was embedded: a path, or the name of a data set.
        attributes: values by name; "" where a value is not known.
    """

    id: str
    item: str
    image: str
    catalogue: str
    attributes: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Rows that one call embedded; a part that ``siamjax.search.nearest`` can search.

    Attributes:
        folder: the folder of its files.
        count: number of rows.
        features: length of an embedding.
        dtype: type of the embeddings.
        catalogue: what was embedded.
        attributes: names, in the order of the columns of ``items.csv``.
        bytes: size of each file.
        removed: rows that cannot be found any more, counted within the segment.
    """

    FILES: ClassVar = ("embeddings.npy", "squares.npy", "items.csv")

    folder: Path
    count: int
    features: int
    dtype: Dtype
    catalogue: str
    attributes: tuple[str, ...]
    bytes: dict[str, int]
    removed: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.count

    @property
    def name(self) -> str:
        """The path of the embeddings, for messages."""
        return str(self.folder / "embeddings.npy")

    def check(self) -> None:
        """Raise ``UsageError`` for a file that is missing, or shorter or longer than it was."""
        for name in self.FILES:
            path, right = self.folder / name, self.bytes[name]
            found = path.stat().st_size if path.is_file() else None
            if found != right:
                problem = (
                    "is missing" if found is None else f"has {found} bytes in place of {right}"
                )
                raise UsageError(
                    f"{path} {problem}: the index is damaged; restore the file, or embed the "
                    "catalogue into another folder"
                )

    def rows(self, start: int, stop: int) -> Float[np.ndarray, "n features"]:
        """A map of these rows only, so that no other page of the file stays in memory."""
        return np.memmap(
            self.folder / "embeddings.npy",
            self.dtype,
            "r",
            offset=self._begin("embeddings.npy", start),
            shape=(min(stop, self.count) - start, self.features),
        )

    def squares(self, start: int, stop: int) -> Float[np.ndarray, " n"]:
        """The sums of squares of these rows, as they were written."""
        with (self.folder / "squares.npy").open("rb") as file:
            file.seek(self._begin("squares.npy", start))
            return np.frombuffer(file.read(8 * (min(stop, self.count) - start)), np.float64)

    def ahead(self, start: int, stop: int) -> None:
        """Ask the system to read these rows from the disk, without waiting for it."""
        if hasattr(os, "posix_fadvise"):
            with (self.folder / "embeddings.npy").open("rb") as file:
                begin, end = (self._begin("embeddings.npy", row) for row in (start, stop))
                os.posix_fadvise(file.fileno(), begin, end - begin, os.POSIX_FADV_WILLNEED)

    def _begin(self, name: str, row: int) -> int:
        """The place of a row in a file; what is not rows is the header."""
        return self.bytes[name] - (self.count - row) * row_bytes(self.features, self.dtype)[name]

    def items(self) -> Iterator[Item]:
        """All items, row by row, removed ones too."""
        for line in self._lines():
            attributes = dict(zip(self.attributes, line[3:], strict=True))
            yield Item(line[0], line[1], line[2], self.catalogue, attributes)

    def ids(self) -> Iterator[str]:
        """All ids, row by row, removed ones too."""
        return (line[0] for line in self._lines())

    def _lines(self) -> Iterator[list[str]]:
        path, seen = self.folder / "items.csv", 0
        with path.open(newline="", encoding="utf-8") as file:
            for seen, line in enumerate(csv.reader(file), start=1):
                if len(line) != 3 + len(self.attributes):
                    raise UsageError(
                        f"{path}: line {seen} has {len(line)} columns in place of "
                        f"{3 + len(self.attributes)}: the index is damaged; embed the catalogue "
                        "into another folder"
                    )
                yield line
        if seen != self.count:
            raise UsageError(
                f"{path} has {seen} lines for {self.count} embeddings: the index is damaged; "
                "embed the catalogue into another folder"
            )
