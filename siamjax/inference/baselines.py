"""What a network must beat: features of images that are not learned."""

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.data.transforms import Size, resize
from siamjax.errors import UsageError
from siamjax.exact_distances import row_squares, unit_rows
from siamjax.inference.pairs import in_blocks, shown_once

_BLOCK = 1024  # pairs compared at a time


def pixel_features(
    images: ImageSet, indices: Int[np.ndarray, " n"], *, size: Size = 32
) -> Float[np.ndarray, "n features"]:
    """Raw pixels at ``size``, minus the image's mean, scaled to norm 1: products are cosines."""
    _require_some(images, indices)
    resized = [resize(images.image(int(index)), size) for index in indices]
    # In float64 the mean of one colour is that colour: such an image is 0, not noise of length 1.
    centred = ((image - image.mean(dtype=np.float64)).reshape(1, -1) for image in resized)
    return np.concatenate([unit_rows(one).astype(np.float32) for one in centred])


def pixel_scores(
    images: ImageSet, pairs: PairList, *, size: Size = 32
) -> Float[np.ndarray, " pairs"]:
    """The baseline of raw pixels: cosine of the two images by :func:`pixel_features`.

    In [-1, 1], and exactly 1 for equal images; an image of one colour scores 0 with all.
    """
    shown, first, second = shown_once(pairs)
    pixels = pixel_features(images, shown, size=size)
    lengths = np.sqrt(row_squares(pixels))

    def cosine(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        # From differences, because a product of equal rows of length 1 is not quite 1.
        one, other = (
            pixels[index] / np.where(lengths[index] == 0, 1.0, lengths[index])[:, None]
            for index in (rows, others)
        )
        flat = (lengths[rows] == 0) | (lengths[others] == 0)
        return np.where(flat, 0.0, 1.0 - row_squares(one - other) / 2)

    return in_blocks(cosine, first, second, block=_BLOCK)


def hsv_stripe_features(
    images: ImageSet, indices: Int[np.ndarray, " n"], *, stripes: int = 6
) -> Float[np.ndarray, "n features"]:
    """Colour histograms of horizontal stripes, of norm 1: products are Bhattacharyya coefficients.

    Each stripe has 8 x 4 x 4 bins of hue, saturation and value; a feature is the square root of a
    bin's share. They describe clothes from head to feet: a classic re-identification baseline.
    """
    _require_some(images, indices)
    features = []
    for index in indices:
        hsv = np.asarray(Image.fromarray(images.image(int(index))).convert("HSV"))
        bins = (hsv[..., 0] // 32) * 16 + (hsv[..., 1] // 64) * 4 + hsv[..., 2] // 64
        counts = [
            np.bincount(stripe.ravel(), minlength=128) for stripe in np.array_split(bins, stripes)
        ]
        features.append(np.sqrt(np.concatenate(counts) / bins.size))
    return np.stack(features).astype(np.float32)


def _require_some(images: ImageSet, indices: np.ndarray) -> None:
    if not len(indices):
        raise UsageError(f"{images.name}: no image to describe; give at least one")
