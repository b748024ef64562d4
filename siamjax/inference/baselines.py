"""What a network must beat: features of images that are not learned."""

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.data.transforms import Size, resize
from siamjax.inference.pairs import in_blocks, shown_once


def pixel_features(
    images: ImageSet, indices: Int[np.ndarray, " n"], *, size: Size = 32
) -> Float[np.ndarray, "n features"]:
    """Raw pixels at ``size``, minus the image's mean, scaled to norm 1: products are cosines."""
    resized = [resize(images.image(int(index)), size) for index in indices]
    pixels = np.stack([image.ravel().astype(np.float32) for image in resized])
    pixels -= pixels.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(pixels, axis=1, keepdims=True)
    return pixels / np.where(norms > 0, norms, 1.0)  # an image of one colour scores 0 with all


def pixel_scores(
    images: ImageSet, pairs: PairList, *, size: Size = 32
) -> Float[np.ndarray, " pairs"]:
    """The baseline of raw pixels: cosine of the two images by :func:`pixel_features`."""
    shown, first, second = shown_once(pairs)
    pixels = pixel_features(images, shown, size=size)
    return in_blocks(
        lambda rows, others: np.einsum("pf,pf->p", pixels[rows], pixels[others]), first, second
    )


def hsv_stripe_features(
    images: ImageSet, indices: Int[np.ndarray, " n"], *, stripes: int = 6
) -> Float[np.ndarray, "n features"]:
    """Colour histograms of horizontal stripes, of norm 1: products are Bhattacharyya coefficients.

    Each stripe has 8 x 4 x 4 bins of hue, saturation and value; a feature is the square root of a
    bin's share. They describe clothes from head to feet: a classic re-identification baseline.
    """
    features = []
    for index in indices:
        hsv = np.asarray(Image.fromarray(images.image(int(index))).convert("HSV"))
        bins = (hsv[..., 0] // 32) * 16 + (hsv[..., 1] // 64) * 4 + hsv[..., 2] // 64
        counts = [
            np.bincount(stripe.ravel(), minlength=128) for stripe in np.array_split(bins, stripes)
        ]
        features.append(np.sqrt(np.concatenate(counts) / bins.size))
    return np.stack(features).astype(np.float32)
