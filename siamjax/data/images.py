"""Pictures with the identity each one shows."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError

from siamjax.errors import UsageError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
)


class ImageSource(Protocol):
    """Random access to encoded pictures."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes: ...


@dataclass(frozen=True)
class Files:
    """Pictures as files, read when they are asked for."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> bytes:
        return read_file(self.paths[index])


@dataclass(frozen=True)
class _Part:
    """Some pictures of a source."""

    source: ImageSource
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> bytes:
        return self.source[int(self.indices[index])]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """Pictures, what each is called and whom it shows.

    Attributes:
        name: what the set is called on every figure, such as ``orl_faces`` or ``lfw/funneled``.
        credit: source and licence, or the path it was read from.
        keys: (n,) a picture's path as people know it; unique.
        identities: (n,) whom it shows.
        source: the encoded pictures.
    """

    name: str
    credit: str
    keys: tuple[str, ...]
    identities: np.ndarray
    source: ImageSource

    def __post_init__(self) -> None:
        if not len(self.keys) == len(self.identities) == len(self.source):
            raise ValueError(f"{len(self.keys)} keys, {len(self.identities)} identities")

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """Picture ``index`` as RGB; ``UsageError`` with its name if it cannot be read."""
        if isinstance(self.source, Files):
            name = str(self.source.paths[index])
        else:
            name = f"{self.keys[index]} of {self.name}"
        return decode(self.source[index], name=name)

    def take(self, indices: Int[np.ndarray, " n"]) -> "ImageSet":
        """The set of these pictures, in this order."""
        keys = tuple(self.keys[index] for index in indices.tolist())
        return ImageSet(
            name=self.name,
            credit=self.credit,
            keys=keys,
            identities=self.identities[indices],
            source=_Part(self.source, indices),
        )

    def checksum(self) -> str:
        """sha256 over names, identities and the pictures' bytes: the set that was really used."""
        digest = hashlib.sha256()
        for index, (key, identity) in enumerate(zip(self.keys, self.identities, strict=True)):
            digest.update(f"{key}\0{identity}\0".encode())
            digest.update(self.source[index])
        return digest.hexdigest()


def read_file(path: Path) -> bytes:
    """The bytes of a file, or a ``UsageError`` that names it."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such picture; check the path") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def decode(content: bytes, *, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a picture to RGB: EXIF rotation applied, transparency on white.

    A file that is cut short is an error, never a half-grey picture.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            orientation = picture.getexif().get(0x0112, 1)
            picture = _upright(picture, orientation)
            if picture.mode.startswith(("I", "F")):  # 16 bits a channel: keep the upper 8
                wide = np.asarray(picture).astype(np.float64)
                grey = (wide / (257.0 if wide.max() > 255 else 1.0)).round().clip(0, 255)
                return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture)
            return np.asarray(picture.convert("RGB"))
    except UnidentifiedImageError:
        raise UsageError(
            f"{name}: not a picture that Pillow can read; replace or remove it"
        ) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name}: broken picture ({error}); replace or remove it") from None


_TURNS = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    for turn in _TURNS.get(orientation, ()):
        picture = picture.transpose(turn)
    return picture


def images_of(images: ImageSet, people: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Indices of the pictures that show one of ``people``."""
    return np.flatnonzero(np.isin(images.identities, list(people)))


def of_files(paths: Sequence[Path], *, name: str) -> ImageSet:
    """A set of picture files of unknown identity, called by their paths."""
    return ImageSet(
        name=name,
        credit="",
        keys=tuple(map(str, paths)),
        identities=np.full(len(paths), ""),
        source=Files(tuple(paths)),
    )


def pictures_in(folder: Path) -> list[Path]:
    """The picture files (by suffix) anywhere in a folder, sorted by path.

    Raises ``UsageError`` if it is no folder or has none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of pictures; check the path")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"{folder} holds no picture ({known}); give the folder that does")
    return sorted(found)
