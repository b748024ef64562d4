"""Images with the identity each one shows."""

import dataclasses
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8

from siamjax.checks import require_names
from siamjax.data.decoding import MOST_BYTES, EncodedArray, decode
from siamjax.data.names import as_bytes, on_disk
from siamjax.errors import UsageError
from siamjax.files import read_bytes

_CONTENT = 16  # characters of the sha256 of an image's pixels: 64 bits


class ImageSource(Protocol):
    """Random access to encoded images."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes: ...


@dataclass(frozen=True)
class Files:
    """Images as files, each read when it is needed."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:
        return read_file(self.paths[index])


@dataclass(frozen=True)
class Arrays:
    """Images in memory, each uint8 (height, width, 3) or grey (height, width)."""

    images: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> bytes:
        content = io.BytesIO()
        np.save(content, self.images[index], allow_pickle=False)
        return EncodedArray(content.getvalue())


@dataclass(frozen=True)
class _Part:
    """Some images of a source."""

    source: ImageSource
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> bytes:
        return self.source[int(self.indices[index])]


@dataclass(frozen=True)
class _Joined:
    """The images of two sources, one after the other."""

    first: ImageSource
    second: ImageSource

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> bytes:
        count = len(self.first)
        return self.first[index] if index < count else self.second[index - count]


def public_credit(credit: str) -> str:
    """A set's source and licence; "" in place of a path, which says where one's own images lie."""
    return "" if os.path.isabs(credit) else credit


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Images, with the name of each and the identity that it shows.

    Attributes:
        name: of the set, as figures show it, such as ``orl_faces`` or ``lfw/funneled``.
        credit: source and licence, or the path that the set was read from.
        keys: (n,) unique names of the images: their paths, as people know them.
        identities: (n,) whom or what each image shows, as text; "" is not known. Whole numbers
            become text; what has no certain equal (NaN, None, 1.0) is refused.
        source: the encoded images.
    """

    name: str
    credit: str
    keys: tuple[str, ...]
    identities: np.ndarray
    source: ImageSource

    def __post_init__(self) -> None:
        if not len(self.keys) == len(self.identities) == len(self.source):
            raise ValueError(f"{len(self.keys)} keys, {len(self.identities)} identities")
        named = require_names(f"identities of {self.name}", self.identities, unknown=True)
        if named.dtype.kind in "iu":
            named = named.astype(np.str_)
        object.__setattr__(self, "identities", named)  # 1 and "1" are the same

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Image ``index`` as RGB; raises ``UsageError`` with its name if it cannot be read."""
        if isinstance(self.source, Files):
            name = str(self.source.paths[index])
        else:
            name = f"{self.keys[index]} of {self.name}"
        return decode(self.source[index], name=name)

    def take(self, indices: Int[np.ndarray, " n"]) -> "ImageSet":
        """The set of these images, in this order."""
        return dataclasses.replace(
            self,
            keys=tuple(self.keys[index] for index in indices.tolist()),
            identities=self.identities[indices],
            source=_Part(self.source, indices),
        )

    def joined(self, others: "ImageSet", *, name: str) -> "ImageSet":
        """These images followed by the others, under their own names."""
        source: ImageSource = _Joined(self.source, others.source)
        if isinstance(self.source, Files) and isinstance(others.source, Files):
            source = Files((*self.source.paths, *others.source.paths))
        keys = self.keys + others.keys
        identities = np.concatenate([self.identities, others.identities])
        return dataclasses.replace(self, name=name, keys=keys, identities=identities, source=source)

    def content(self, indices: Int[np.ndarray, " n"]) -> list[str]:
        """A hash of the upright RGB pixels of each of these images, in their order.

        An image that was saved again without loss, in another format or under another name, has
        the same; one that cannot be read has "". Several threads read.
        """
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self._content, indices.tolist()))

    def _content(self, index: int) -> str:
        try:
            pixels = self.image(index)
        except UsageError:
            return ""
        digest = hashlib.sha256(repr(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).data)
        return digest.hexdigest()[:_CONTENT]

    def checksum(self) -> str:
        """sha256 over names, identities and the bytes of the images."""
        digest = hashlib.sha256()
        for index, (key, identity) in enumerate(zip(self.keys, self.identities, strict=True)):
            digest.update(as_bytes(f"{key}\0{identity}\0"))
            digest.update(self.source[index])
        return digest.hexdigest()


def read_file(path: Path) -> bytes:
    """The bytes of an image's file; a name is found in either way in which Unicode writes it.

    Raises ``UsageError`` that names it.
    """
    try:
        return read_bytes(path, limit=MOST_BYTES)
    except UsageError:
        found = on_disk(path)
        if found == path:
            raise
        return read_bytes(found, limit=MOST_BYTES)


def images_of(images: ImageSet, people: Sequence[str] | Sequence[int]) -> Int[np.ndarray, " n"]:
    """Indices of the images that show one of ``people``; 1 and "1" are the same."""
    names = require_names("people", list(people)).astype(np.str_)
    return np.flatnonzero(np.isin(images.identities, names))


def of_files(paths: Sequence[Path], *, name: str) -> ImageSet:
    """A set of image files, named by their paths; what they show is not known."""
    return ImageSet(
        name=name,
        credit="",
        keys=tuple(map(str, paths)),
        identities=np.full(len(paths), ""),
        source=Files(tuple(paths)),
    )


def of_arrays(
    images: Sequence[np.ndarray],
    identities: Sequence[object] | np.ndarray | None = None,
    *,
    name: str = "arrays",
) -> ImageSet:
    """A set of images in memory: an array (n, height, width[, 3]) or a list of single ones.

    They are uint8, RGB or grey; those of a list may differ in size. ``identities`` tells whom or
    what each shows, as strings or whole numbers (1 and "1" are the same); None: not known. The
    images are named by their numbers, and are not copied. Raises ``UsageError`` that names the
    first image of another type or shape, or if there is not one identity for each image.
    """
    checked = []
    for number, image in enumerate(images):
        array = np.asarray(image)
        if array.ndim == 3 and array.shape[-1] == 1:
            array = array[..., 0]
        if array.dtype != np.uint8:
            raise UsageError(
                f"image {number} of {name} is {array.dtype}; expected uint8, 0 to 255 (from floats "
                "in [0, 1]: (255 * images).round().astype(np.uint8))"
            )
        if 0 in array.shape or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
            raise UsageError(
                f"image {number} of {name} has shape {array.shape}; expected (height, width, 3) or "
                "(height, width)"
            )
        checked.append(array)
    labels = np.full(len(checked), "") if identities is None else identities
    labels = require_names(f"identities of {name}", labels, count=len(checked), unknown=True)
    return ImageSet(
        name=name,
        credit="arrays in memory",
        keys=tuple(map(str, range(len(checked)))),
        identities=labels,
        source=Arrays(checked),
    )


def fingerprint(
    images: ImageSet,
    *columns: np.ndarray,
    words: Sequence[str] = (),
    named: Mapping[str, np.ndarray] | None = None,
) -> str:
    """sha256 over names and identities of the images and all that defines the splits; no pixels.

    ``columns`` are whole numbers or booleans, such as indices; ``words`` and the ``named``
    columns of strings are what else the splits depend on. Lengths count, so that ``[1] [2]``
    differs from ``[1, 2] []``.
    """
    digest = hashlib.sha256(as_bytes(repr((images.keys, tuple(words)))))
    for name, column in sorted({"": images.identities, **(named or {})}.items()):
        digest.update(as_bytes(f"\1{name}\1") + as_bytes("\0".join(column.tolist())))
    for column in columns:
        digest.update(f"\1{len(column)}\1".encode())
        digest.update(np.ascontiguousarray(column, np.int64).tobytes())
    return digest.hexdigest()
