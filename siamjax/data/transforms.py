"""Resize and augment decoded images for the network."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from siamjax.errors import UsageError
from siamjax.options import Count, plain

Filter = Literal["bilinear", "bicubic"]
Half = Literal["even", "down"]
_LONG = 8  # times the shorter side: a row of 2,000 pixels would become 518 x 1,036,000
_WHOLE = (0.0, 0.0, 1.0, 1.0)  # top, left, bottom, right


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How an image of any size becomes one of a network's: as a published network has it.

    The ``box`` is cut out, resized, and of that the centre is kept. All is rounded as in
    torchvision's ``Resize`` and ``CenterCrop``, and antialiased when shrinking. Of an image whose
    longer side would become more than 8 times the ``shorter``, only the centre is resized.

    Attributes:
        size: (height, width) of the network's images.
        shorter: pixels of the shorter side before the centre is cut out, with the proportions kept;
            None: the image is stretched to ``size``, or padded.
        pad: put black at both sides, as much as the proportions of ``size`` ask for, in place of
            stretching.
        filter: bilinear or bicubic.
        box: top, left, bottom and right of the part that is used, as shares of the image's height
            and width; outside of the image its border is repeated. Such as the face in an aligned
            portrait.
        half: to which side the centre is cut where an odd number of pixels is left: to the even
            number (torchvision), or down (transformers).
    """

    size: tuple[int, int]
    shorter: int | None = None
    pad: bool = False
    filter: Filter = "bilinear"
    box: tuple[float, float, float, float] = _WHOLE
    half: Half = "even"

    def __post_init__(self) -> None:
        plain("size", self.size, tuple[Count, Count])
        plain("shorter", self.shorter, int | None)
        plain("filter", self.filter, Filter)
        plain("half", self.half, Half)
        top, left, bottom, right = self.box
        ends = ((top, bottom), (left, right))
        if not all(-1 <= start < end <= 2 and start < 1 and end > 0 for start, end in ends):
            raise UsageError(
                f"box {self.box}: must be top, left, bottom, right in [-1, 2], as shares of the "
                "image's height and width, and hold a part of the image"
            )
        most = _LONG * max(self.size)
        if self.shorter is not None and not max(self.size) <= self.shorter <= most:
            raise UsageError(
                f"the shorter side {self.shorter}: must be from {max(self.size)} to {most}, as "
                f"{self.size[0]}x{self.size[1]} are cut out"
            )

    @classmethod
    def of(
        cls,
        size: "Size",
        *,
        side: int | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> "Framing":
        """A published framing whose shorter side is ``side`` pixels, or of a ``box`` of each image.

        The longer side, and the part of which the centre is used, grow and shrink with it.
        """
        own = size if isinstance(size, Framing) else cls(size=sides(size))
        if side is not None:
            share = side / min(own.size)
            shorter = None if own.shorter is None else max(side, round(own.shorter * share))
            height, width = (round(share * one) for one in own.size)
            own = replace(own, size=(height, width), shorter=shorter)
        return own if box is None else replace(own, box=box)

    def __str__(self) -> str:
        """In words."""
        how = f"{self.filter} to {self.size}{', black at the sides' if self.pad else ''}"
        if self.shorter is not None:
            how = f"{self.filter} to {self.shorter} at the shorter side, the central {self.size}"
        return how if self.box == _WHOLE else f"the part {self.box}, {how}"

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The image in the network's size."""
        image = image if self.box == _WHOLE else _cut(image, self.box)
        (height, width), (rows, columns) = image.shape[:2], self.size
        if self.shorter is None:
            image = _padded(image, rows, columns, self.filter) if self.pad else image
            return _resized(image, rows, columns, self.filter)
        short = min(height, width)
        tall, wide = int(self.shorter * height / short), int(self.shorter * width / short)
        whole = math.floor if self.half == "down" else round
        top, left = whole((tall - rows) / 2), whole((wide - columns) / 2)
        if max(tall, wide) > _LONG * self.shorter:
            across, down = width / wide, height / tall
            ends = (left + columns) * across, (top + rows) * down
            part = (left * across, top * down, *ends)
            return _resized(image, rows, columns, self.filter, part)
        image = _resized(image, tall, wide, self.filter)
        return image[top : top + rows, left : left + columns]


def _cut(
    image: UInt8[np.ndarray, "height width 3"], box: tuple[float, float, float, float]
) -> UInt8[np.ndarray, "h w 3"]:
    ends = []
    for side, (start, end) in zip(image.shape, (box[::2], box[1::2]), strict=False):
        places = np.arange(round(start * side), max(round(start * side) + 1, round(end * side)))
        ends.append(places.clip(0, side - 1))
    return image[np.ix_(*ends)]


def _padded(
    image: UInt8[np.ndarray, "height width 3"], rows: int, columns: int, by: Filter
) -> UInt8[np.ndarray, "h w 3"]:
    """With black at both sides; the longer side is resized already, which saves memory."""
    height, width = image.shape[:2]
    tall, wide = round(width * rows / columns), round(height * columns / rows)
    image = _resized(image, *((rows, width) if wide > width else (height, columns)), by)
    lacking = max(0, tall - height), max(0, wide - width)
    return np.pad(image, [*((most // 2, most - most // 2) for most in lacking), (0, 0)])


def _resized(
    image: UInt8[np.ndarray, "height width 3"],
    rows: int,
    columns: int,
    by: Filter,
    part: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """``part`` of the image (left, top, right, bottom in its pixels), or all of it."""
    if part is None and image.shape[:2] == (rows, columns):
        return image
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[by]
    return np.asarray(Image.fromarray(image).resize((columns, rows), resample, part))


Size = int | tuple[int, int] | Framing
"""Size of a network's images in pixels: the side of a square, or (height, width).

Images of another size are stretched to it, unless a :class:`Framing` says more.
"""


def sides(size: Size) -> tuple[int, int]:
    """(height, width) of a size."""
    if isinstance(size, (int, np.integer)):
        return int(size), int(size)
    height, width = size.size if isinstance(size, Framing) else size
    return int(height), int(width)


def framed(size: Size) -> str:
    """In words, how images come to a size."""
    return str(size) if isinstance(size, Framing) else f"bilinear to {sides(size)}"


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random mirror, rotation, translation and scale about the centre, each drawn uniformly.

    Attributes:
        mirror: mirror left-right with probability 1/2.
        rotation: largest rotation either way, in degrees.
        translation: largest shift either way, as a share of height and width.
        scale: largest change of size either way, as a share (0.1: 0.9 to 1.1 times).
        recolor: change the colours of both images of a pair by one random table
            (:func:`color_table`), and in half of the negative pairs by two. A few people then
            stand for many, and the network must compare colours instead of memorising them.
        symmetries: apply one random :class:`Symmetry` to all images of an example. A few items
            then stand for many; for artwork and patterns.
    """

    mirror: bool = True
    rotation: float = 5.0
    translation: float = 0.05
    scale: float = 0.1
    recolor: bool = False
    symmetries: bool = False

    def __post_init__(self) -> None:
        limits = {"rotation": 180.0, "translation": 0.5, "scale": 0.9}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise UsageError(f"{name} {value} must lie in [0, {limit:g}]")

    def matrix(self, rng: np.random.Generator, size: Size) -> np.ndarray:
        """Draw a (2, 3) affine map from output to input pixel coordinates (x, y)."""
        height, width = sides(size)
        mirrored = rng.random() < 0.5
        turn, across, down, growth = rng.uniform(-1, 1, 4)
        flip = -1.0 if self.mirror and mirrored else 1.0
        angle = np.deg2rad(turn * self.rotation)
        zoom = 1.0 / (1.0 + growth * self.scale)
        linear = zoom * np.array(
            [[flip * np.cos(angle), -flip * np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        centre = np.array([width, height]) / 2
        shift = np.array([across * width, down * height]) * self.translation
        return np.column_stack([linear, centre - linear @ (centre + shift)])


@dataclass(frozen=True)
class Symmetry:
    """One of the 8 symmetries of the square, and an order of the colour channels.

    Attributes:
        mirror: mirror left-right before turning.
        quarters: number of counterclockwise quarter turns; rounded down to an even number for an
            image that is not square, which so keeps its shape.
        channels: the channels that become red, green and blue.
    """

    mirror: bool
    quarters: int
    channels: tuple[int, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Symmetry":
        """Draw one of the 8 uniformly; half the time also a random order of the channels."""
        mirror, quarters = bool(rng.random() < 0.5), int(rng.integers(4))
        channels = rng.permutation(3) if rng.random() < 0.5 else np.arange(3)
        return cls(mirror, quarters, tuple(channels.tolist()))

    def __call__(
        self, image: UInt8[np.ndarray, "height width 3"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The image mirrored, turned, and with its channels reordered."""
        quarters = self.quarters if image.shape[0] == image.shape[1] else self.quarters // 2 * 2
        mirrored = image[:, ::-1] if self.mirror else image
        return np.ascontiguousarray(np.rot90(mirrored, quarters)[..., list(self.channels)])


def resize(image: UInt8[np.ndarray, "height width 3"], size: Size) -> UInt8[np.ndarray, "h w 3"]:
    """Resize without keeping the proportions, bilinear, or as a :class:`Framing` says."""
    return size(image) if isinstance(size, Framing) else _resized(image, *sides(size), "bilinear")


def augment(
    image: UInt8[np.ndarray, "height width 3"], augmentation: Augmentation, rng: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """Apply one random affine map, bilinear; outside the image is the border's mean colour."""
    height, width = image.shape[:2]
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    fill = tuple(int(value) for value in border.mean(axis=0).round())
    moved = Image.fromarray(image).transform(
        (width, height),
        Image.Transform.AFFINE,
        tuple(augmentation.matrix(rng, (height, width)).ravel()),
        resample=Image.Resampling.BILINEAR,
        fillcolor=fill,
    )
    return np.asarray(moved)


def color_table(rng: np.random.Generator) -> np.ndarray:
    """Draw random colours: for each channel a table of 256 values and the channel to look up.

    (3, 257) uint8; the last column is the channel to look up. A table is a random gamma, a gain
    from 1/2 to 1, and an offset within the remaining range.
    """
    values = np.arange(256) / 255
    lines = []
    for source in rng.permutation(3):
        gain, gamma = rng.uniform(0.5, 1.0), np.exp(rng.uniform(-0.5, 0.5))
        line = gain * values**gamma + rng.uniform(0, 1 - gain)
        lines.append(np.append((255 * line).round(), source))
    return np.stack(lines).astype(np.uint8)


def recolored(
    image: UInt8[np.ndarray, "height width 3"], table: np.ndarray
) -> UInt8[np.ndarray, "height width 3"]:
    """The image in the colours of a :func:`color_table`."""
    return np.stack([line[:256][image[..., line[256]]] for line in table], axis=-1)
