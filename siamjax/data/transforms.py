"""Resize and augment decoded images for the network."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from siamjax.errors import UsageError

Size = int | tuple[int, int]
"""Size of a network's images in pixels: the side of a square, or (height, width)."""


def sides(size: Size) -> tuple[int, int]:
    """(height, width) of a size."""
    alone = isinstance(size, (int, np.integer))
    return (int(size), int(size)) if alone else (int(size[0]), int(size[1]))


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
    """Resize without keeping the proportions: bilinear, antialiased when shrinking."""
    height, width = sides(size)
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


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
