"""A catalogue: images of items, and what is known about each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from siamjax.data.images import Files, ImageSet

_WIDEST = 64  # characters of a fixed-width column: 256 bytes a row


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """Images of items, and a table with their attributes.

    Attributes:
        images: one image a row. ``images.keys`` are the unique ids of the rows;
            ``images.identities`` name the item that each shows. Images of one item match.
        attributes: by name, such as ``category``: a column (n,) of str, "" where unknown.
    """

    images: ImageSet
    attributes: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        for name, column in self.attributes.items():
            if column.shape != (len(self.images),):
                raise ValueError(f"{column.shape} values of {name}, {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.images)

    def parts(self, size: int) -> Iterator["Catalogue"]:
        """The catalogue, so many rows at a time."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            images = self.images.take(np.arange(len(self))[rows])
            if isinstance(self.images.source, Files):
                images = replace(images, source=Files(self.images.source.paths[rows]))
            yield Catalogue(
                images=images, attributes={k: v[rows] for k, v in self.attributes.items()}
            )


class Parts(Protocol):
    """A catalogue that need not be in memory: a :class:`Catalogue`, or one that the disk holds.

    Its ids are unique.
    """

    @property
    def attributes(self) -> Iterable[str]:
        """The names of the attributes."""
        ...

    def __len__(self) -> int: ...

    def parts(self, size: int) -> Iterator[Catalogue]:
        """The catalogue, so many rows at a time, in the same order in each call."""
        ...


def strings(values: Sequence[str]) -> np.ndarray:
    """Strings as a column (n,): of fixed width, or ``StringDType`` where one is long.

    At a fixed width a single description of 2,000 characters would cost 8 kB in every row.
    """
    if max(map(len, values), default=0) <= _WIDEST:
        return np.array(values, dtype=np.str_)
    try:
        # NumPy's type stubs do not list StringDType as a dtype.
        return np.array(values, dtype=cast(Any, np.dtypes.StringDType()))
    except UnicodeEncodeError:  # names of files that are not UTF-8, which StringDType is
        return np.array(values, dtype=np.str_)


@dataclass(frozen=True)
class PathsBelow(Sequence[Path]):
    """Paths in a folder, kept as strings: 757,630 ``Path`` objects would need far more memory.

    Attributes:
        folder: what the names are relative to.
        names: parts separated by "/"; an absolute path stays absolute.
    """

    folder: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return PathsBelow(self.folder, self.names[index])
        return self.folder / self.names[index]


def files_below(folder: Path, names: tuple[str, ...]) -> Files:
    """Images as files in a folder; none is opened before it is read."""
    return Files(PathsBelow(folder, names))
