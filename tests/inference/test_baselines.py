"""Features that are not learned: equal images are equal, and one colour is nothing."""

import numpy as np
import pytest

from siamjax.data import of_arrays
from siamjax.data.pairs import PairList
from siamjax.errors import UsageError
from siamjax.inference import hsv_stripe_features, pixel_features, pixel_scores


def test_equal_images_score_1_and_tie(rng):
    images = rng.integers(0, 256, (20, 40, 40, 3), np.uint8)
    images = of_arrays(np.concatenate([images, images]))
    every = np.arange(20)
    pairs = PairList(name="x", first=every, second=every + 20, same=np.ones(20, bool))
    np.testing.assert_array_equal(pixel_scores(images, pairs), 1.0)


def test_the_score_is_the_cosine_of_centred_pixels(rng):
    images = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
    first, second = np.triu_indices(6, 1)
    pairs = PairList(name="x", first=first, second=second, same=first == 0)
    wide = images.reshape(6, -1).astype(np.float64)
    wide -= wide.mean(axis=1, keepdims=True)
    right = [
        wide[a] @ wide[b] / np.linalg.norm(wide[a]) / np.linalg.norm(wide[b])
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(pixel_scores(of_arrays(images), pairs), right, atol=1e-6)


@pytest.mark.parametrize("size", [5, 300])
def test_an_image_of_one_colour_is_nothing(size):
    """Its mean must be its colour: a rounding error would be scaled to length 1."""
    images = of_arrays(np.stack([np.full((4, 4), grey, np.uint8) for grey in (7, 77, 201)]))
    assert not pixel_features(images, np.arange(3), size=size).any()
    pairs = PairList(
        name="x", first=np.array([0, 1]), second=np.array([1, 1]), same=np.array([False, True])
    )
    np.testing.assert_array_equal(pixel_scores(images, pairs, size=size), 0.0)


def test_no_image_and_no_pair():
    images, none = of_arrays(np.zeros((2, 4, 4), np.uint8)), np.zeros(0, np.int64)
    for features in (pixel_features, hsv_stripe_features):
        with pytest.raises(UsageError, match="no image to describe"):
            features(images, none)
    pairs = PairList(name="empty.txt", first=none, second=none, same=none.astype(bool))
    with pytest.raises(UsageError, match=r"empty\.txt: a list without pairs"):
        pixel_scores(images, pairs)
