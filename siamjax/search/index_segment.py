"""One segment of an index: rows of embeddings in files, and the table of what they are of."""

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


class Item(NamedTuple):
    """What the index knows of a row.

    Attributes:
        id: unique among those that are not removed.
        item: what the image shows; images of one item are matches.
        image: absolute path of the file; "" if the catalogue is no folder of files.
        catalogue: what was embedded: a path, or a data set's word.
        attributes: by name; "" where it is not known.
    """

    id: str
    item: str
    picture: str
    catalogue: str
    attributes: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Rows that were embedded by one call; a part that ``siamjax.search.nearest`` can search.

    Attributes:
        folder: where it lies.
        count: rows.
        features: length of an embedding.
        dtype: of the embeddings.
        catalogue: what was embedded.
        attributes: names, in the order of the columns of ``items.csv``.
        bytes: size of each file.
        removed: rows that are not to be found, counted within the segment.
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
        """The path of the embeddings."""
        return str(self.folder / "embeddings.npy")

    def check(self) -> None:
        """``UsageError`` for a file that is missing, cut short or longer than what was written."""
        for name in self.FILES:
            path, right = self.folder / name, self.bytes[name]
            found = path.stat().st_size if path.is_file() else None
            if found != right:
                problem = "is missing" if found is None else f"has {found} bytes, {right} are right"
                raise UsageError(
                    f"{path} {problem}: the index is damaged; put the file back, or embed the "
                    "catalogue into another folder"
                )

    def rows(self, start: int, stop: int) -> Float[np.ndarray, "n features"]:
        """A view of the file: mapped here and unmapped with it, so that no other page stays."""
        return np.memmap(
            self.folder / "embeddings.npy",
            self.dtype,
            "r",
            offset=self._begin("embeddings.npy", start * self._row_bytes),
            shape=(min(stop, self.count) - start, self.features),
        )

    def squares(self, start: int, stop: int) -> Float[np.ndarray, " n"]:
        """As they were written."""
        begin = self._begin("squares.npy", 8 * start)
        with (self.folder / "squares.npy").open("rb") as file:
            file.seek(begin)
            return np.frombuffer(file.read(8 * (min(stop, self.count) - start)), np.float64)

    def ahead(self, start: int, stop: int) -> None:
        """Have the system read these rows from the disk, without waiting for it."""
        if hasattr(os, "posix_fadvise"):
            with (self.folder / "embeddings.npy").open("rb") as file:
                begin = self._begin("embeddings.npy", start * self._row_bytes)
                length = (stop - start) * self._row_bytes
                os.posix_fadvise(file.fileno(), begin, length, os.POSIX_FADV_WILLNEED)

    @property
    def _row_bytes(self) -> int:
        return self.features * np.dtype(self.dtype).itemsize

    def _begin(self, name: str, place: int) -> int:
        """The place within a file, behind its header."""
        each = self._row_bytes if name == "embeddings.npy" else 8
        return self.bytes[name] - self.count * each + place

    def items(self) -> Iterator[Item]:
        """All, row by row, removed ones too."""
        for line in self._lines():
            attributes = dict(zip(self.attributes, line[3:], strict=True))
            yield Item(line[0], line[1], line[2], self.catalogue, attributes)

    def ids(self) -> Iterator[str]:
        """Of all, row by row, removed ones too."""
        return (line[0] for line in self._lines())

    def _lines(self) -> Iterator[list[str]]:
        path, seen = self.folder / "items.csv", 0
        with path.open(newline="", encoding="utf-8") as file:
            for seen, line in enumerate(csv.reader(file), start=1):
                if len(line) != 3 + len(self.attributes):
                    raise UsageError(
                        f"{path}: line {seen} has {len(line)} columns, {3 + len(self.attributes)} "
                        "are right: the index is damaged; embed the catalogue anew"
                    )
                yield line
        if seen != self.count:
            raise UsageError(
                f"{path} has {seen} lines for {self.count} embeddings: the index is damaged; "
                "embed the catalogue anew"
            )
