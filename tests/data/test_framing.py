"""How an image comes to a network's size, against the rules of torchvision written out."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from siamjax.data import transforms
from siamjax.data.transforms import Framing, resize
from siamjax.errors import UsageError
from siamjax.files import typed
from siamjax.training.manifest import Manifest


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


@pytest.mark.parametrize("shape", [(50, 83), (54, 83), (83, 50)])
def test_half_a_pixel_as_in_transformers(shape, rng):
    """Of an odd number around the centre the smaller part is above and left, as ``//`` has it."""
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    tall, wide = (int(29 * side / min(shape)) for side in shape)
    whole = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR))
    top, left = (tall - 20) // 2, (wide - 21) // 2
    framing = Framing(size=(20, 21), shorter=29, half="down")
    np.testing.assert_array_equal(resize(image, framing), whole[top : top + 20, left : left + 21])


@pytest.mark.parametrize("shape", [(3, 90), (90, 3), (2, 301)])
def test_of_a_long_image_the_centre_alone_is_resized(shape, rng, monkeypatch):
    smooth = Image.fromarray(rng.integers(0, 256, (1 + shape[0] // 9, 1 + shape[1] // 9), np.uint8))
    image = np.asarray(smooth.resize(shape[::-1], Image.Resampling.BICUBIC).convert("RGB"))
    for name in ("bilinear", "bicubic"):
        framing = Framing(size=(20, 24), shorter=29, filter=name)
        centre = resize(image, framing).astype(int)
        monkeypatch.setattr(transforms, "_LONG", 10**6)
        assert np.abs(centre - resize(image, framing)).max() <= 2
        monkeypatch.undo()
    tracemalloc.start()
    resize(np.zeros((1, 8000, 3), np.uint8), Framing(size=(99, 99), shorter=99))
    assert tracemalloc.get_traced_memory()[1] < 2**21  # resized whole: 235 MB
    tracemalloc.stop()


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


def interpolated(pixels, axis, new):
    """Along one axis: a triangle around each place, as wide as a pixel of the smaller image."""
    old = pixels.shape[axis]
    centres, reach = (np.arange(new) + 0.5) * old / new, max(1.0, old / new)
    weights = 1 - np.abs(np.arange(old) + 0.5 - centres[:, None]) / reach
    weights = weights.clip(0) / weights.clip(0).sum(axis=1, keepdims=True)
    return np.moveaxis(np.tensordot(weights, pixels, axes=(1, axis)), 0, axis)


@pytest.mark.parametrize(
    ("shape", "size", "above", "left"),  # and below and right one more of an odd number
    [
        ((113, 90), (31, 31), (0, 0), (11, 12)),
        ((90, 113), (131, 131), (11, 12), (0, 0)),
        ((17, 17), (31, 31), (0, 0), (0, 0)),
        ((41, 50), (20, 60), (0, 0), (36, 37)),
    ],
)
def test_black_at_the_sides(rng, shape, size, above, left):
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    expected = np.pad(image.astype(float), (above, left, (0, 0)))
    for axis, side in enumerate(size):
        expected = interpolated(expected, axis, side)
    framed = resize(image, Framing(size=size, pad=True))
    assert framed.dtype == np.uint8
    assert np.abs(framed - expected).max() < 1.01
    assert "black at the sides" in str(Framing(size=size, pad=True))


def test_a_long_image_takes_little_memory_to_pad():
    long = np.zeros((1, 8000, 3), np.uint8)
    tracemalloc.start()
    assert resize(long, Framing(size=(9, 9), pad=True)).shape == (9, 9, 3)
    assert tracemalloc.get_traced_memory()[1] < 2**23  # a square of it: 192 MB
    tracemalloc.stop()


def test_a_manifest_of_before_there_was_padding_opens():
    framing = {"size": [8, 8], "shorter": 9, "filter": "bicubic", "box": [0, 0, 1, 1]}
    about = {"network": {}, "size": [8, 8], "step": 0, "framing": framing}
    assert typed(about, Manifest, where="").images == Framing(
        size=(8, 8), shorter=9, filter="bicubic"
    )


def test_what_cannot_be():
    for option, choices in (("filter", "bilinear, bicubic"), ("half", "even, down")):
        with pytest.raises(UsageError, match=f"{option} up: choose one of {choices}"):
            Framing(size=(8, 8), **{option: "up"})
    for options, message in (
        ({"size": (8.0, 8)}, "size 8.0: must be a whole number"),
        ({"size": (0, 8)}, "size 0: must be at least 1"),
        ({"size": 8}, "size 8: must be a list of 2"),
        ({"size": (8, 8), "shorter": 9.5}, "shorter 9.5: must be a whole number"),
    ):
        with pytest.raises(UsageError, match=message):
            Framing(**options)
    for shorter in (223, 1793):  # of more than 8 sides, gigabytes would be resized
        with pytest.raises(UsageError, match=rf"shorter side {shorter}: must be from 224 to 1792"):
            Framing(size=(200, 224), shorter=shorter)
    for box in (
        (0.5, 0.0, 0.5, 1.0),
        (0.0, 0.0, 3.0, 1.0),
        (float("nan"), 0.0, 1.0, 1.0),
        (1.1, 0, 1.5, 1),
        (0, -0.5, 1, 0),
    ):
        with pytest.raises(UsageError, match="must be top, left, bottom, right"):
            Framing(size=(8, 8), box=box)


def test_in_words():
    assert str(Framing(size=(8, 9))) == "bilinear to (8, 9)"
    assert "bicubic to 9 at the shorter side, the central (8, 8)" in str(
        Framing(size=(8, 8), shorter=9, filter="bicubic", box=(0.1, 0, 1, 1))
    )


@pytest.mark.parametrize(
    ("published", "side", "expected"),
    [
        ((256, 128), 96, Framing(size=(192, 96))),  # a person stays twice as high as wide
        ((100, 299), 49, Framing(size=(49, 147))),
        (Framing(size=(224, 224), shorter=248), 112, Framing(size=(112, 112), shorter=124)),
        (Framing(size=(150, 150), pad=True), 37, Framing(size=(37, 37), pad=True)),
    ],
)
def test_another_side_keeps_the_proportions(published, side, expected):
    assert Framing.of(published, side=side) == expected
    assert Framing.of(published) == Framing.of(published, side=min(Framing.of(published).size))
