"""From a decoded picture to the network's input: resize and augment."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from siamjax.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random mirror, rotation, translation and scale about the centre, each drawn uniformly.

    Attributes:
        mirror: mirror left-right with probability 1/2.
        rotation: greatest turn either way, in degrees.
        translation: greatest shift either way, as a share of the side.
        scale: greatest change of size either way, as a share (0.1: 0.9 to 1.1 times).
    """

    mirror: bool = True
    rotation: float = 5.0
    translation: float = 0.05
    scale: float = 0.1

    def __post_init__(self) -> None:
        limits = {"rotation": 180.0, "translation": 0.5, "scale": 0.9}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise UsageError(f"{name} {value} must lie in [0, {limit:g}]")

    def matrix(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Draw a map from output to input pixel coordinates, (2, 3), for a square of ``size``."""
        mirrored = rng.random() < 0.5
        turn, across, down, growth = rng.uniform(-1, 1, 4)
        flip = -1.0 if self.mirror and mirrored else 1.0
        angle = np.deg2rad(turn * self.rotation)
        zoom = 1.0 / (1.0 + growth * self.scale)
        linear = zoom * np.array(
            [[flip * np.cos(angle), -flip * np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        centre = np.full(2, size / 2)
        shift = np.array([across, down]) * self.translation * size
        return np.column_stack([linear, centre - linear @ (centre + shift)])


def resize(
    image: UInt8[np.ndarray, "height width 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Squeeze to a square, bilinear with the antialiasing that shrinking needs."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def augment(
    image: UInt8[np.ndarray, "size size 3"], augmentation: Augmentation, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
    """One random affine map, bilinear; what comes from outside shows the border's mean colour."""
    size = image.shape[0]
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    fill = tuple(int(value) for value in border.mean(axis=0).round())
    moved = Image.fromarray(image).transform(
        (size, size),
        Image.Transform.AFFINE,
        tuple(augmentation.matrix(rng, size).ravel()),
        resample=Image.Resampling.BILINEAR,
        fillcolor=fill,
    )
    return np.asarray(moved)
