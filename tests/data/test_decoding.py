"""How the values of every kind of image become RGB in 8 bits, and what is refused."""

import io
import struct
import subprocess
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageCms

from siamjax.data.decoding import FORMATS, IMAGE_SUFFIXES, decode
from siamjax.errors import UsageError


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def first(content):
    return decode(content, name="x")[0, 0].tolist()


@pytest.fixture
def smooth():
    """A ramp that formats with loss keep to a few of 255."""
    ramp = np.linspace(20, 230, 32)
    return np.stack(np.broadcast_arrays(ramp, ramp[:, None], 128), axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(smooth, kind):
    shown = decode(encoded(smooth, kind), name="x").astype(int)
    loss = {"JPEG": 12, "WEBP": 12, "AVIF": 12, "GIF": 60}.get(kind, 0)
    assert np.abs(shown - smooth).max() <= loss


def test_every_suffix_that_pillow_knows_of_these_formats_is_known():
    Image.init()
    known = Image.registered_extensions()
    assert {suffix for suffix, kind in known.items() if kind in FORMATS} <= IMAGE_SUFFIXES | {
        ".avifs"
    }


@pytest.mark.parametrize("kind", ["EPS", "PCX", "TGA", "ICO", "PDF", "SGI", "DDS"])
def test_no_other_format_is_tried(kind):
    with pytest.raises(UsageError, match=r"a.png: not an image that is read \(JPEG, PNG, "):
        decode(encoded(Image.new("RGB", (16, 16)), kind), name="a.png")


def test_an_image_runs_no_program(monkeypatch):
    def started(*words, **options):
        raise AssertionError(f"ran {words}")

    monkeypatch.setattr(subprocess, "Popen", started)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    for content in (postscript, b"\xc5\xd0\xd3\xc6" + postscript):
        with pytest.raises(UsageError, match="not an image"):
            decode(content, name="a.jpg")


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (200, 1), (32768, 128), (65535, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "big-endian TIFF", "PGM", "PGM of 1023"])
def test_grey_of_16_bits_is_over_65535_whatever_else_there_is(kind, value, expected):
    wide = np.full((3, 5), value, np.uint16)
    if kind == "big-endian TIFF":
        content = encoded(Image.frombytes("I;16B", (5, 3), wide.astype(">u2").tobytes()), "TIFF")
    elif kind.startswith("PGM"):
        most = 1023 if "1023" in kind else 65535
        scaled = np.rint(wide / 65535 * most)
        content = f"P5\n5 3\n{most}\n".encode() + scaled.astype(">u2").tobytes()
    else:
        content = encoded(wide, kind)
    assert first(content) == [expected] * 3
    assert decode(content, name="x").shape == (3, 5, 3)


def test_a_transparent_grey_of_16_bits_is_white():
    wide = np.array([[7, 300 * 257 // 2]], np.uint16)
    shown = decode(encoded(wide, transparency=7), name="x")
    np.testing.assert_array_equal(shown[0, :, 0], [255, 150])


@pytest.mark.parametrize(("value", "expected"), [(0.0, 0), (0.5, 128), (1.0, 255)])
def test_floats_are_from_0_to_1(value, expected):
    assert first(encoded(np.full((2, 2), value, np.float32), "TIFF")) == [expected] * 3


@pytest.mark.parametrize("value", [1.5, -0.25, 255, np.nan, np.inf])
def test_another_float_is_refused_with_its_value(value):
    pixels = np.full((3, 3), 0.5, np.float32)
    pixels[1, 2] = value
    with pytest.raises(UsageError, match=f"a.tif: a float image with the value {value:g}"):
        decode(encoded(pixels, "TIFF"), name="a.tif")


def test_whole_numbers_of_32_bits_are_refused():
    with pytest.raises(UsageError, match=r"a.tif: whole numbers of 32 bits, whose white is not"):
        decode(encoded(np.full((2, 2), 70_000, np.int32), "TIFF"), name="a.tif")


def test_transparency_of_every_kind_shows_white():
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0] = 10, 20, 30, 255
    for image in (Image.fromarray(clear), Image.fromarray(clear[..., [0, 3]])):
        shown = decode(encoded(image), name="x")
        assert shown[1, 1].tolist() == [255] * 3
        assert shown[0, 0, 0] == 10
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    shown = decode(encoded(palette, transparency=1), name="x")
    assert shown[0].tolist() == [[10, 20, 30], [255] * 3]
    shown = decode(encoded(Image.new("RGB", (1, 1), (9, 9, 9)), transparency=(9, 9, 9)), name="x")
    assert shown[0, 0].tolist() == [255] * 3


def test_cmyk_bits_and_the_first_frame():
    assert first(encoded(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF")) == [255, 0, 0]
    assert first(encoded(Image.new("1", (2, 2), 1))) == [255] * 3
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        more = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **more)
        assert first(content) == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_every_format_upright(kind, orientation):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255  # top left, as it is stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = decode(encoded(pixels, kind, exif=exif), name="x")
    assert shown.shape[:2] == ((16, 32) if orientation < 5 else (32, 16))
    rows, columns = (shown[..., 0] > 128).nonzero()
    top, left = rows.mean() < shown.shape[0] / 2, columns.mean() < shown.shape[1] / 2
    # EXIF 2.3, 4.6.4: where the stored 0th row and 0th column are when the image is upright.
    assert (top, left) == [
        (True, True),
        (True, False),
        (False, False),
        (False, True),
        (True, True),
        (True, False),
        (False, False),
        (False, True),
    ][orientation - 1]


def swapped(space="sRGB"):
    """sRGB whose red and blue primaries changed places: a red number means blue light."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    table = {bytes(profile[a : a + 4]): a + 4 for a in range(132, 132 + 12 * count, 12)}
    red, blue = table[b"rXYZ"], table[b"bXYZ"]
    profile[red : red + 8], profile[blue : blue + 8] = (
        profile[blue : blue + 8],
        profile[red : red + 8],
    )
    return bytes(profile)


def profile_of(space, pcs, tags):
    """A colour profile of version 2 (ICC.1:2001-04, section 6) with these tags."""
    tags = {"desc": b"desc" + bytes(8), "cprt": b"text" + bytes(8), **tags}
    table, data = b"", b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        place = 128 + 4 + 12 * len(tags) + len(data)
        table += struct.pack(">4sII", name.encode(), place, len(content))
        data += content
    header = struct.pack(">I4sI4s4s4s", 0, b"", 0x02400000, b"prtr", space, pcs)
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp").ljust(44, b"\0")
    header += struct.pack(">3i", 63190, 65536, 54061)  # D50 in 1 / 65536
    whole = bytearray(header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data)
    whole[:4] = struct.pack(">I", len(whole))
    return bytes(whole)


def linear_grey():
    """Grey whose numbers are light: a gamma of 1."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    return profile_of(
        b"GRAY", b"XYZ ", {"wtpt": white, "kTRC": struct.pack(">4sIIH", b"curv", 0, 1, 256)}
    )


def glowing_ink():
    """CMYK in which more black ink is lighter, and the other inks do nothing."""
    ramp = bytes(range(256))
    lab = b"".join(bytes([255 * (inks & 1), 128, 128]) for inks in range(16))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = struct.pack(">4sI4B", b"mft1", 0, 4, 3, 2, 0) + matrix + 4 * ramp + lab + 3 * ramp
    return profile_of(b"CMYK", b"Lab ", {"A2B0": table})


class TestProfiles:
    """Colours are converted to sRGB."""

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
    def test_grey_by_its_gamma(self, kind):
        # IEC 61966-2-1: 128/255 of light is 1.055 * 0.50196^(1/2.4) - 0.055 = 0.7366 of sRGB.
        content = encoded(np.full((8, 8), 128, np.uint8), kind, icc_profile=linear_grey())
        np.testing.assert_allclose(first(content), [188] * 3, atol=1)
        clear = np.full((8, 8, 2), 128, np.uint8)
        clear[..., 1] = 255
        if kind != "JPEG":
            content = encoded(clear, kind, icc_profile=linear_grey())
            np.testing.assert_allclose(first(content), [188] * 3, atol=1)

    def test_grey_of_16_bits_by_its_gamma(self):
        content = encoded(np.full((2, 2), 128 * 257, np.uint16), icc_profile=linear_grey())
        np.testing.assert_allclose(first(content), [188] * 3, atol=1)

    def test_a_profile_of_grey_is_none_for_colour(self):
        red = Image.new("RGB", (2, 2), (200, 10, 10))
        assert first(encoded(red, icc_profile=linear_grey())) == [200, 10, 10]

    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_inks(self, kind):
        for black, expected in ((0, 0), (255, 255)):
            image = Image.new("CMYK", (8, 8), (30, 60, 90, black))
            content = encoded(image, kind, icc_profile=glowing_ink())
            np.testing.assert_allclose(first(content), [expected] * 3, atol=3)

    @pytest.mark.parametrize("kind", [k for k in FORMATS if k not in ("BMP", "GIF", "PPM")])
    def test_numbers_are_read_by_the_profile(self, kind):
        red = Image.new("RGB", (24, 24), "red")
        more = {"lossless": True} if kind == "WEBP" else {}
        shown = first(encoded(red, kind, icc_profile=swapped(), **more))
        np.testing.assert_allclose(shown, [0, 0, 255], atol=4)
        upright = first(encoded(red, kind, **more))
        np.testing.assert_allclose(upright, [255, 0, 0], atol=4)

    def test_with_palette_transparency_and_grey(self):
        red = Image.new("RGBA", (2, 1), "red")
        red.putpixel((1, 0), (255, 0, 0, 0))
        shown = decode(encoded(red, icc_profile=swapped()), name="x")
        assert shown[0].tolist() == [[0, 0, 255], [255] * 3]
        palette = Image.new("P", (1, 1), 0)
        palette.putpalette([255, 0, 0])
        assert first(encoded(palette, icc_profile=swapped())) == [0, 0, 255]
        grey = first(encoded(np.full((2, 2), 90, np.uint8), icc_profile=swapped()))
        np.testing.assert_allclose(grey, [90] * 3, atol=1)

    def test_srgb_changes_nothing(self, smooth):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        content = encoded(smooth, icc_profile=profile)
        np.testing.assert_array_equal(decode(content, name="x"), smooth)

    @pytest.mark.parametrize("profile", [b"no profile", swapped()[:200], b"\0" * 4000])
    def test_a_broken_profile_is_ignored(self, smooth, profile):
        content = encoded(smooth, icc_profile=profile)
        np.testing.assert_array_equal(decode(content, name="x"), smooth)

    def test_a_profile_of_another_kind_of_image_is_ignored(self):
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        assert first(encoded(Image.new("RGB", (2, 2), "red"), icc_profile=lab)) == [255, 0, 0]
        cmyk = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
        assert first(encoded(cmyk, "TIFF", icc_profile=swapped())) == [255, 0, 0]


class TestLimits:
    """A small file must not take much memory."""

    @pytest.mark.parametrize(("mode", "side"), [("1", 9_500), ("L", 30_000), ("1", 14_000)])
    def test_too_many_pixels_are_refused_with_the_size(self, mode, side):
        content = encoded(Image.new(mode, (side, side)))
        with pytest.raises(UsageError, match=r"a.png: an image of [\d,]+0 ?.*at most 89,000,000"):
            decode(content, name="a.png")

    def test_a_very_long_image_is_refused(self):
        content = encoded(Image.new("1", (70_000, 1)))
        with pytest.raises(UsageError, match="an image of 70,000 x 1 pixels"):
            decode(content, name="a.png")

    @pytest.mark.parametrize("mode", ["RGBA", "I;16", "CMYK", "F"])
    def test_bands_give_what_the_whole_gives(self, mode, monkeypatch, rng):
        kind = "TIFF" if mode in ("CMYK", "F") else "PNG"
        if mode in ("RGBA", "CMYK"):
            image = Image.frombytes(mode, (50, 41), rng.bytes(50 * 41 * 4))
        elif mode == "F":
            image = Image.fromarray(rng.random((41, 50), np.float32))
        else:
            image = Image.fromarray(rng.integers(0, 65536, (41, 50), np.uint16))
        content = encoded(image, kind)
        whole = decode(content, name="x")
        monkeypatch.setattr("siamjax.data.decoding._BAND", 350)
        np.testing.assert_array_equal(decode(content, name="x"), whole)

    def test_memory_is_that_of_the_pixels(self):
        content = encoded(Image.new("RGBA", (4_000, 4_000)))
        tracemalloc.start()  # NumPy's memory, not Pillow's: 48 MB of pixels, and a band
        shown = decode(content, name="x")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert shown.nbytes == 48_000_000
        assert peak < 80_000_000

    def test_content_of_an_array_file_is_no_image(self):
        array = io.BytesIO()
        np.save(array, np.zeros((2, 2), np.uint8))
        huge = array.getvalue().replace(b"(2, 2), }   ", b"(9999999999,)}")
        for content in (array.getvalue(), huge):
            with pytest.raises(UsageError, match="not an image"):
                decode(content, name="a.png")
