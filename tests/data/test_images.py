import io

import numpy as np
import pytest
from PIL import Image

from siamjax.data import of_arrays, of_files
from siamjax.data.images import ImageSet, decode, images_of
from siamjax.errors import UsageError


def encoded(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def test_rgb_grey_and_transparent():
    rgb = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(decode(encoded(rgb), name="x"), rgb)
    grey = rgb[..., 0]
    np.testing.assert_array_equal(
        decode(encoded(grey), name="x"), np.repeat(grey[..., None], 3, axis=-1)
    )
    clear = np.concatenate([rgb, np.zeros((4, 5, 1), np.uint8)], axis=-1)
    np.testing.assert_array_equal(decode(encoded(clear), name="x"), 255)


def test_sixteen_bits_keep_their_upper_half():
    wide = np.array([[0, 257 * 7], [257 * 128, 65535]], np.uint16)
    np.testing.assert_array_equal(decode(encoded(wide), name="x")[..., 0], [[0, 7], [128, 255]])


def test_exif_rotation_is_applied():
    image = np.zeros((2, 3, 3), np.uint8)
    image[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    upright = decode(encoded(image, exif=exif), name="x")
    assert upright.shape == (3, 2, 3)
    np.testing.assert_array_equal(upright[0, 1], 255)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_is_an_error_that_names_the_image(faces, share):
    content = encoded(faces.image(0), "JPEG")
    with pytest.raises(UsageError, match=r"anna/1.jpg.*broken"):
        decode(content[: int(len(content) * share)], name="anna/1.jpg")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(content):
    with pytest.raises(UsageError, match=r"anna/1.jpg: (not an|broken) image"):
        decode(content, name="anna/1.jpg")


def test_embedded_faces(faces):
    assert len(faces) == 400
    assert len(set(faces.identities)) == 40
    assert faces.keys[10] == "s02/01.png"
    assert faces.image(0).shape == (112, 92, 3)
    assert faces.checksum() == faces.checksum()


class TestArrays:
    """Images in memory."""

    def test_colour_grey_and_one_channel(self, rng):
        colour = rng.integers(0, 256, (2, 4, 5, 3), np.uint8)
        images = of_arrays(colour, ["b", "a"], name="mine")
        assert (images.name, images.keys, len(images)) == ("mine", ("0", "1"), 2)
        assert images.identities.tolist() == ["b", "a"]
        np.testing.assert_array_equal(images.image(1), colour[1])
        for grey in (colour[..., 0], colour[..., :1]):
            shown = of_arrays(grey).image(1)
            assert shown.shape == (4, 5, 3)
            np.testing.assert_array_equal(shown, colour[1, ..., [0, 0, 0]].transpose(1, 2, 0))

    def test_list_of_different_sizes(self, rng):
        shapes = [(4, 5, 3), (2, 7), (1, 1, 1)]
        arrays = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
        images = of_arrays(arrays)
        for index, array in enumerate(arrays):
            height, width = array.shape[:2]
            expected = np.broadcast_to(array.reshape(height, width, -1), (height, width, 3))
            np.testing.assert_array_equal(images.image(index), expected)
        assert images.identities.tolist() == [""] * 3

    def test_numbers_and_strings_are_the_same_identities(self):
        images = np.zeros((3, 2, 2), np.uint8)
        assert of_arrays(images, [1, 2, 1]).identities.tolist() == ["1", "2", "1"]
        assert of_arrays(images, np.array(["1", "2", "1"])).identities.tolist() == ["1", "2", "1"]

    @pytest.mark.parametrize(
        ("second", "message"),
        [
            (np.zeros((4, 4, 3), np.float32), "image 1 of mine is float32; expected uint8"),
            (np.zeros((4, 4), np.int64), "image 1 of mine is int64"),
            (np.zeros((4, 4, 4), np.uint8), r"image 1 of mine has shape \(4, 4, 4\)"),
            (np.zeros((4, 4, 2), np.uint8), r"image 1 of mine has shape \(4, 4, 2\)"),
            (np.zeros((4,), np.uint8), r"image 1 of mine has shape \(4,\)"),
            (np.zeros((1, 4, 4, 3), np.uint8), r"image 1 of mine has shape \(1, 4, 4, 3\)"),
            (np.zeros((0, 4), np.uint8), r"image 1 of mine has shape \(0, 4\)"),
        ],
    )
    def test_the_first_wrong_image_is_named(self, second, message):
        good = np.zeros((4, 4, 3), np.uint8)
        with pytest.raises(UsageError, match=message):
            of_arrays([good, second, good, second.astype(np.float64)], name="mine")

    @pytest.mark.parametrize(
        "identities", [["a"], ["a", "b", "c"], [[1], [2]], [0.5, 1.0], [True, False]], ids=str
    )
    def test_wrong_identities(self, identities):
        with pytest.raises(
            UsageError, match=r"identities of mine.* (all as text or|one for each of 2 images)"
        ):
            of_arrays(np.zeros((2, 4, 4), np.uint8), identities, name="mine")

    def test_checksum_tells_pixels_shapes_and_identities_apart(self):
        pixels = np.arange(24, dtype=np.uint8)
        sets = [
            of_arrays(pixels.reshape(2, 3, 4), [0, 1]),
            of_arrays(pixels.reshape(2, 4, 3), [0, 1]),
            of_arrays(pixels.reshape(2, 3, 4), [0, 2]),
            of_arrays(pixels[::-1].reshape(2, 3, 4), [0, 1]),
        ]
        assert len({one.checksum() for one in sets}) == 4
        assert sets[0].checksum() == of_arrays(pixels.reshape(2, 3, 4), ["0", "1"]).checksum()


def test_joined_sets_keep_names_identities_and_order(rng, tmp_path):
    arrays = rng.integers(0, 256, (3, 4, 5, 3), np.uint8)
    path = tmp_path / "one.png"
    Image.fromarray(arrays[2]).save(path)
    memory, files = of_arrays(arrays[:2], ["a", "b"]), of_files([path], name="files")
    for first, second, order in ((memory, files, [0, 1, 2]), (files, memory, [2, 0, 1])):
        joined = first.joined(second, name="both")
        assert (joined.name, joined.keys) == ("both", first.keys + second.keys)
        assert joined.identities.tolist() == [["a", "b", ""][index] for index in order]
        for place, index in enumerate(order):
            np.testing.assert_array_equal(joined.image(place), arrays[index])
        part = joined.take(np.array([2, 0]))
        np.testing.assert_array_equal(part.image(0), arrays[order[2]])


def test_joined_files_are_still_named_by_their_paths(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    one, other = (of_files([tmp_path / name], name="x") for name in ("a.png", "broken.png"))
    with pytest.raises(UsageError, match=rf"{tmp_path}/broken.png: not an image"):
        one.joined(other, name="both").image(1)


def set_of(identities):
    count = len(identities)
    keys = tuple(map(str, range(count)))
    return ImageSet(name="mine", credit="", keys=keys, identities=identities, source=[b""] * count)


def test_identities_become_text_where_a_set_is_made():
    assert set_of(np.array([3, 1])).identities.tolist() == ["3", "1"]
    assert set_of(["a", ""]).identities.tolist() == ["a", ""]  # "" is not known
    assert set_of(np.array([b"a"])).identities.tolist() == ["a"]
    assert images_of(set_of([3, 1, 3]), [3]).tolist() == [0, 2]
    assert images_of(set_of(["3", "1"]), ["3"]).tolist() == [0]


@pytest.mark.parametrize(
    "identities",
    [[1.0, 2.0], [1, np.nan], ["a", None], [1, "1"], [True, False], [float("nan"), "a"]],
    ids=str,
)
def test_identities_without_a_certain_equal_are_refused(identities):
    for make in (
        set_of,
        lambda wrong: of_arrays(np.zeros((2, 4, 4), np.uint8), wrong, name="mine"),
    ):
        with pytest.raises(
            UsageError, match=r"identities of mine: . of 2 are not known or of another"
        ):
            make(identities)
    with pytest.raises(UsageError, match="people"):
        images_of(set_of(["a", "b"]), identities)
