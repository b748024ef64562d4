"""Projections against a plain SVD; which image stands where, by hand; what is decoded."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from siamjax.data.images import ImageSet
from siamjax.errors import UsageError
from siamjax.report.embedding_map import Projection, embedding_map, principal_components


class Pngs:
    """Images of one colour each, that note which were asked for."""

    def __init__(self, colors, size=(30, 20)):
        self.contents, self.asked = [], []
        for color in colors:
            content = io.BytesIO()
            Image.new("RGB", size[::-1], tuple(color)).save(content, "png")
            self.contents.append(content.getvalue())

    def __len__(self):
        return len(self.contents)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.contents[index]


def plain_images(total):
    """Image k has the colour (k, 100, 50)."""
    keys = tuple(f"p{k}" for k in range(total))
    colors = [(k, 100, 50) for k in range(total)]
    return ImageSet(
        name="c", credit="", keys=keys, identities=np.asarray(keys), source=Pngs(colors)
    )


@pytest.mark.parametrize("shape", [(50, 7), (9, 40), (60, 30), (30, 60)])
def test_principal_components_are_those_of_a_plain_svd(shape, rng):
    embeddings = rng.normal(size=shape) * np.geomspace(3, 0.1, shape[1]) + 5
    found = principal_components(embeddings.astype(np.float32))
    centred = embeddings - embeddings.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * singular[:2]
    expected *= np.sign(expected[np.abs(expected).argmax(axis=0), [0, 1]])
    np.testing.assert_allclose(found.points, expected, atol=1e-4)
    shares = singular**2 / (singular**2).sum()
    assert found.axes[0] == f"principal component 1 ({shares[0]:.1%} of the variance)"
    assert found.axes[1] == f"principal component 2 ({shares[1]:.1%} of the variance)"


def test_principal_components_of_a_line_and_of_one_feature():
    """-2, 0, 2 along (3, 4) / 5: all of the variance, and the mean is left out."""
    line = np.outer([-2.0, 0.0, 2.0], [0.6, 0.8]) + 7
    for embeddings in (line, np.array([[1.0], [3.0], [5.0]])):
        points, axes = principal_components(embeddings)
        np.testing.assert_allclose(np.abs(points), [[2, 0], [0, 0], [2, 0]], atol=1e-5)
        assert [name.split()[3] for name in axes] == ["(100.0%", "(0.0%"]


def test_equal_embeddings_are_one_point():
    figure = embedding_map(plain_images(3), np.ones((3, 4)), data="c")
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_offsets(), np.zeros((3, 2)))


# Two cells a side over [0, 4]^2, whose middles are 1 and 3. In the left lower cell image 1 is
# the nearest, in the right upper one 3 alone, in the left upper one 4; none in the right lower.
PLACES = np.array([[0.0, 0.0], [1.2, 0.9], [0.5, 0.5], [4.0, 4.0], [1.0, 3.5]])
CELL = 64


def by_hand(embeddings):
    return Projection(embeddings, ("across", "up"))


def middle(mosaic, column, row):
    """Of a cell counted from below, in a mosaic whose first row is the upper one."""
    return mosaic[(1 - row) * CELL + CELL // 2, column * CELL + CELL // 2].tolist()


def drawn(images, **options):
    return embedding_map(images, PLACES, data="things", cells=2, project=by_hand, **options)


def test_each_cell_shows_the_image_nearest_to_its_middle():
    images = plain_images(5)
    figure = drawn(images)
    every, some = figure.axes
    np.testing.assert_array_equal(every.collections[0].get_offsets(), PLACES)
    (mosaic,) = some.images
    pixels = mosaic.get_array()
    assert middle(pixels, 0, 0) == [1, 100, 50]
    assert middle(pixels, 1, 1) == [3, 100, 50]
    assert middle(pixels, 0, 1) == [4, 100, 50]
    assert middle(pixels, 1, 0) == [255, 255, 255]
    assert sorted(images.source.asked) == [1, 3, 4]  # no other is decoded
    np.testing.assert_allclose(mosaic.get_extent(), [0, 4, 0, 4], atol=1e-4)
    assert mosaic.origin == "upper"
    for axes in (every, some):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("across", "up")
        assert axes.get_aspect() == 1
    assert "3 of the images" in some.get_title()
    assert "things: 5 images" in figure.get_suptitle()
    figure.savefig(io.BytesIO(), format="png", dpi=20)


def test_frames_have_the_colour_of_the_label():
    figure = drawn(
        plain_images(5), labels=np.array(["shoe", "hat", "hat", "", "shoe"]), named="kind"
    )
    every, some = figure.axes
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["hat (2)", "shoe (2)", "no label (1)"]
    assert legend.get_title().get_text() == "kind"
    hues = [to_rgb(handle.get_color()) for handle in legend.legend_handles]
    points = every.collections[0].get_facecolors()[:, :3]
    np.testing.assert_allclose(points, [hues[k] for k in (1, 0, 0, 2, 1)])
    # An image of 30 x 20 stands in rows 17 to 46 of its cell; above are 4 of the frame.
    pixels = some.images[0].get_array()
    for (column, row), hue in zip(
        [(0, 0), (1, 1), (0, 1)], (hues[0], hues[2], hues[1]), strict=True
    ):
        above = pixels[(1 - row) * CELL :, column * CELL + CELL // 2]
        np.testing.assert_array_equal(above[13:17], np.tile(np.round(255 * np.array(hue)), (4, 1)))
        assert above[12].tolist() == [255, 255, 255]
        assert above[17].tolist()[1:] == [100, 50]


def test_eight_labels_have_colours_and_all_others_are_grey():
    """Ten labels, of 3 and 2 images and of 1: I and J, last by name, are the rest."""
    names = np.array(list("JAABBBCDEFGHI"))
    figure = embedding_map(plain_images(13), np.eye(13), data="c", labels=names)
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == [
        *("B (3)", "A (2)", "C (1)", "D (1)", "E (1)", "F (1)", "G (1)", "H (1)"),
        "2 other labels (2)",
    ]
    colors = figure.axes[0].collections[0].get_facecolors()[:, :3]
    assert len({tuple(color) for color in colors}) == 9
    np.testing.assert_array_equal(colors[0], colors[12])
    assert len(set(colors[0])) == 1  # grey


def test_mistakes_are_told():
    images = plain_images(5)
    with pytest.raises(UsageError, match=r"shape \(4, 2\) for 5 images"):
        embedding_map(images, PLACES[:4], data="c")
    with pytest.raises(UsageError, match=r"labels of shape \(4,\) for 5"):
        embedding_map(images, PLACES, data="c", labels=np.zeros(4))
    broken = PLACES.copy()
    broken[2, 1] = np.nan
    with pytest.raises(UsageError, match="p2 is not finite"):
        embedding_map(images, broken, data="c")
    images.source.contents[3] = b"no image"
    with pytest.raises(UsageError, match="p3 of c"):
        drawn(images)
