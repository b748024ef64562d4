import io

import numpy as np
import pytest
from PIL import Image

from siamjax.data.images import decode
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
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    upright = decode(encoded(picture, exif=exif), name="x")
    assert upright.shape == (3, 2, 3)
    np.testing.assert_array_equal(upright[0, 1], 255)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated_is_an_error_that_names_the_picture(faces, share):
    content = encoded(faces.image(0), "JPEG")
    with pytest.raises(UsageError, match=r"anna/1.jpg.*broken"):
        decode(content[: int(len(content) * share)], name="anna/1.jpg")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
def test_not_a_picture(content):
    with pytest.raises(UsageError, match=r"anna/1.jpg: (not a|broken) picture"):
        decode(content, name="anna/1.jpg")


def test_embedded_faces(faces):
    assert len(faces) == 400
    assert len(set(faces.identities)) == 40
    assert faces.keys[10] == "s02/01.png"
    assert faces.image(0).shape == (112, 92, 3)
    assert faces.checksum() == faces.checksum()
