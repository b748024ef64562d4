"""From the bytes of an image file to RGB: which formats are read, and how they become 8 bits.

No other format is tried, whatever a file contains or is called: some of Pillow's other readers run
programs that the file names.
"""

import functools
import io
import re
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, UnidentifiedImageError, features

from siamjax.errors import UsageError, shown

_AVIF = "avif" in features.modules and features.check_module("avif")  # from Pillow 11.3 on
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    **({"AVIF": (".avif", ".avifs")} if _AVIF else {}),
}
"""Pillow's name of each format that is read, and its suffixes in lower case."""

IMAGE_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

MOST_PIXELS = 89_000_000
"""Pixels of an image; decoding one of so many takes 0.7 GB. Pillow itself warns of more."""

MOST_BYTES = 2**30
"""Bytes of an image's file."""

_LONGEST_SIDE = 2**16
_BAND = 2**20  # pixels that are converted at a time
_AS_SRGB = 2  # of 255: profiles that change no colour by more are taken for sRGB's

# As Pillow's documentation proposes: an image of too many pixels is an error, not a warning.
warnings.simplefilter("error", Image.DecompressionBombWarning)


_one_header = threading.Lock()
"""Python 3.11 cannot parse literals, as NumPy does a header, in two threads (CPython 106905)."""


class EncodedArray(bytes):
    """An image in memory as an .npy file holds it; whoever makes one has checked the array."""


def decode(content: bytes, *, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image to RGB in 8 bits, upright by its EXIF orientation.

    * Of several frames the first is read.
    * What is transparent shows white behind it.
    * 16-bit grey is its value over 65535, and floats are in [0, 1].
    * Colours are converted to sRGB by the image's colour profile. A profile that is broken, or
      that is of another kind of image (grey for colour, say), is ignored, as browsers do.

    ``name`` is for the message. Raises ``UsageError`` for what is none of :data:`FORMATS`, for
    more than :data:`MOST_PIXELS` (before memory is taken), for a truncated file (never a half-grey
    image), for floats outside [0, 1], and for whole numbers of 32 bits, whose white is not known.
    """
    if isinstance(content, EncodedArray):
        with _one_header:
            array = np.load(io.BytesIO(content), allow_pickle=False)
        return np.repeat(array[..., None], 3, axis=-1) if array.ndim == 2 else array
    try:
        return _decode(content)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise UsageError(
            f"{name}: not an image that is read ({', '.join(FORMATS)}); replace or remove it"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = int(re.findall(r"\d+", str(error))[0])  # Pillow names the image's size first
        raise UsageError(f"{name}: {_too_large(f'{pixels:,}')}") from None
    except Exception as error:  # on damaged bytes Pillow's readers raise almost anything
        raise UsageError(f"{name}: broken image ({shown(error)}); replace or remove it") from None


def _too_large(pixels: str) -> str:
    return f"an image of {pixels} pixels, and at most {MOST_PIXELS:,} are read; make it smaller"


def _decode(content: bytes) -> UInt8[np.ndarray, "height width 3"]:
    image: Image.Image = Image.open(io.BytesIO(content), formats=tuple(FORMATS))
    width, height = image.size
    if width * height > MOST_PIXELS or max(width, height) > _LONGEST_SIDE:
        raise UsageError(_too_large(f"{width:,} x {height:,}"))
    image.load()
    if image.mode == "I" and image.format == "TIFF":  # elsewhere this mode has 16 bits
        raise UsageError("whole numbers of 32 bits, whose white is not known; save it in 16 bits")
    profile = image.info.get("icc_profile")
    turn = _TURNS.get(image.getexif().get(0x0112, 1))
    if turn is not None:
        image = image.transpose(turn)
    rows = max(1, _BAND // width)
    if rows >= image.height:
        return _rgb(image, profile)
    # By bands, so that a large image needs little memory beside itself.
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        below = min(top + rows, image.height)
        pixels[top:below] = _rgb(image.crop((0, top, image.width, below)), profile)
    return pixels


def _rgb(image: Image.Image, profile: bytes | None) -> UInt8[np.ndarray, "height width 3"]:
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    alpha = None
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        alpha = transparent.getchannel("A")
        image = image.convert("L") if image.mode in ("L", "LA") else transparent.convert("RGB")
    if profile and (convert := _to_srgb(profile, image.mode)) is not None:
        image = convert(image)
    image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return np.asarray(image)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits or of floats as 8 bits; what is marked as transparent becomes white."""
    values = np.asarray(image)
    if image.mode == "F":
        wrong = ~((values >= 0) & (values <= 1))
        if wrong.any():
            value = values[tuple(np.argwhere(wrong)[0])]
            raise UsageError(
                f"a float image with the value {value:g}; expected 0 (black) to 1 (white), so "
                "divide it by its white"
            )
        return Image.fromarray((values * 255).round().astype(np.uint8))
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257
    if isinstance(clear := image.info.get("transparency"), int):
        grey[values == clear] = 255
    return Image.fromarray(grey)


@functools.lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """Converts images of a mode by a profile; None where there is nothing to convert."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        about: Any = source.profile  # Pillow's types do not know what is in it
        space = about.xcolor_space.strip()
        taken = {"GRAY": "L", "CMYK": "CMYK", "RGB": "RGB"}.get(space)
        if taken is None or (mode != taken and (taken != "RGB" or mode in ("CMYK", "LAB"))):
            return None
        transform = ImageCms.buildTransform(source, _SRGB, taken, "RGB")
        tried = Image.fromarray(np.indices((16, 16, 16), np.uint8).reshape(3, -1).T[None] * 17)
        if taken != "CMYK":
            tried = tried.convert(taken)
            before, after = np.asarray(tried.convert("RGB")), np.asarray(transform.apply(tried))
            if np.abs(before.astype(int) - after).max() <= _AS_SRGB:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return lambda image: transform.apply(image if image.mode == taken else image.convert(taken))


_SRGB = ImageCms.createProfile("sRGB")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
