"""Images of things with what is known about each: a catalogue."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from siamjax.data.images import Files, ImageSet

_WIDEST = 64  # characters of a fixed-width column: 256 bytes a row


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """Images of items, and a table of attributes beside them.

    Attributes:
        images: the images. ``images.keys`` are the unique ids of the rows,
            ``images.identities`` the item that each shows: images of one item are matches.
        attributes: (n,) str by name, such as ``category``; "" where it is not known.
    """

    images: ImageSet
    attributes: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        for name, column in self.attributes.items():
            if column.shape != (len(self.images),):
                raise ValueError(f"{column.shape} values of {name}, {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.images)


def strings(values: Sequence[str]) -> np.ndarray:
    """Strings as a column (n,): of fixed width, or ``StringDType`` where one is long.

    A single description of 2,000 characters would else cost 8 kB in every row.
    """
    if max(map(len, values), default=0) <= _WIDEST:
        return np.array(values, dtype=np.str_)
    # The stubs know no StringDType among the dtypes.
    return np.array(values, dtype=cast(Any, np.dtypes.StringDType()))


@dataclass(frozen=True)
class PathsBelow(Sequence[Path]):
    """Paths below a folder. Each is a string until it is asked for: of 757,630, that counts.

    Attributes:
        folder: what the names are relative to.
        names: with "/"; an absolute one stays what it is.
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
    """Images as files below a folder, which are looked at when they are read."""
    return Files(PathsBelow(folder, names))
