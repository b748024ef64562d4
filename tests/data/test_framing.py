"""How an image comes to a network's size, against the rules of torchvision written out."""

import numpy as np
import pytest
from PIL import Image

from siamjax.data.transforms import Framing, resize
from siamjax.errors import UsageError


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (50, 83, 3), np.uint8)


def test_shorter_side_then_the_centre(image):
    """50x83, the shorter side to 29: 29x48 (48.14 rounded down); of these the central 20x24."""
    framing = Framing(size=(20, 24), shorter=29, filter="bicubic")
    whole = np.asarray(Image.fromarray(image).resize((48, 29), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(image, framing), whole[4:24, 12:36])  # 4.5 to even
    upright = np.ascontiguousarray(np.swapaxes(image, 0, 1))
    whole = np.asarray(Image.fromarray(upright).resize((29, 48), Image.Resampling.BICUBIC))
    framing = Framing(size=(24, 20), shorter=29, filter="bicubic")
    np.testing.assert_array_equal(resize(upright, framing), whole[12:36, 4:24])


def test_an_image_of_the_networks_size_is_framed_too(image):
    framing = Framing(size=(50, 50), shorter=60)
    assert resize(image[:, :50], framing).shape == (50, 50, 3)
    assert (resize(image[:, :50], framing) != image[:, :50]).any()
    np.testing.assert_array_equal(resize(image, Framing(size=(50, 83))), image)


def test_stretched(image):
    for name, resample in (("bilinear", 2), ("bicubic", 3)):
        expected = np.asarray(Image.fromarray(image).resize((30, 40), resample))
        np.testing.assert_array_equal(resize(image, Framing(size=(40, 30), filter=name)), expected)
    np.testing.assert_array_equal(
        resize(image, (40, 30)), resize(image, Framing(size=(40, 30), filter="bilinear"))
    )


def test_a_box_beyond_the_image_repeats_its_border(image):
    framing = Framing(size=(50, 83), box=(0.2, -0.1, 1.2, 0.9))
    padded = np.pad(image, ((0, 10), (8, 0), (0, 0)), mode="edge")
    np.testing.assert_array_equal(resize(image, framing), padded[10:, :83])


def test_what_cannot_be():
    with pytest.raises(UsageError, match=r"the shorter side 223: must be 224 or more"):
        Framing(size=(200, 224), shorter=223)
    for box in ((0.5, 0.0, 0.5, 1.0), (0.0, 0.0, 3.0, 1.0), (float("nan"), 0.0, 1.0, 1.0)):
        with pytest.raises(UsageError, match="must be top, left, bottom, right"):
            Framing(size=(8, 8), box=box)


def test_in_words():
    assert str(Framing(size=(8, 9))) == "bilinear to (8, 9)"
    assert "bicubic to 9 at the shorter side, the central (8, 8)" in str(
        Framing(size=(8, 8), shorter=9, filter="bicubic", box=(0.1, 0, 1, 1))
    )
