"""Best matches against a map shifted by hand; pixels against the network itself; what is drawn."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.patches import ConnectionPatch, Rectangle

from siamjax.correlation import normxcorr_by_definition
from siamjax.errors import UsageError
from siamjax.models.normxcorr_net import NormXCorrNet
from siamjax.report.match_figure import (
    NORMXCORR_NET,
    Field,
    best_matches,
    distinctive_patches,
    match_figure,
    receptive_field,
)

SMALL = Field(stride=2, offset=1.5, size=4)  # 13 x 9 features of an image of 28 x 20


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pair(*, rows, columns):
    """(x, y) with y[i + rows, j + columns] = x[i, j], of 13 x 9 features."""
    wide = noise(0, 21, 17, 3)
    return wide[4:17, 4:13], wide[4 - rows : 17 - rows, 4 - columns : 13 - columns]


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (-2, -1), (0, 3)])
@pytest.mark.parametrize("column_search", [None, 3])
def test_best_matches_find_a_shift(rows, columns, column_search):
    x, y = pair(rows=rows, columns=columns)
    found = best_matches(x, y, column_search=column_search)
    inner = np.s_[4:-4, 5:-5]  # patches that the shift leaves inside both maps
    column = np.broadcast_to(np.arange(9) + columns, (13, 9))
    np.testing.assert_array_equal(found.row_offset[inner], rows)
    np.testing.assert_array_equal(found.column[inner], column[inner])
    # Equal patches of deviation s correlate s^2 / (s + epsilon)^2, 0.98 at s = 1, epsilon = 0.01.
    np.testing.assert_allclose(found.correlation[inner], 0.98, atol=0.012)


@pytest.mark.parametrize("channel", [None, 1])
@pytest.mark.parametrize("column_search", [None, 2])
def test_best_matches_by_loops(channel, column_search):
    """x is y moved by (1, 1), with noise: matches are at (-1, -1), be that beyond the map."""
    x, y = 0.2 * noise(1, 5, 4, 2), noise(2, 5, 4, 2)
    x[1:, 1:] += y[:-1, :-1]
    options = {"patch_size": 3, "row_search": 1, "column_search": column_search, "epsilon": 0.1}
    found = best_matches(x, y, channel=channel, **options)
    by_definition = jax.jit(functools.partial(normxcorr_by_definition, **options))
    mapped = np.asarray(by_definition(x, y)).reshape(5, 4, 2, 3, -1)
    mapped = mapped.mean(axis=2) if channel is None else mapped[:, :, channel]
    beyond = 0
    for i in range(5):
        for j in range(4):
            places = {}
            for r in range(3):
                for k in range(mapped.shape[-1]):
                    column = k if column_search is None else j + k - 2
                    if -1 <= column <= 4:  # column -2 holds nothing of y
                        places[r - 1, column] = mapped[i, j, r, k]
            best = max(places, key=places.__getitem__)
            assert (int(found.row_offset[i, j]), int(found.column[i, j])) == best
            assert float(found.correlation[i, j]) == pytest.approx(places[best], abs=1e-5)
            beyond += not (0 <= i + best[0] < 5 and 0 <= best[1] < 4)
    assert beyond > 0


def test_flat_patches_stay_where_they_are():
    x, y = np.ones((9, 9, 2), np.float32), noise(3, 9, 9, 2)
    inner = np.s_[2:-2, 2:-2]
    found = best_matches(x, y)
    np.testing.assert_array_equal(found.row_offset[inner], 0)
    np.testing.assert_array_equal(found.column[inner], np.tile(np.arange(2, 7), (5, 1)))
    np.testing.assert_array_equal(found.correlation[inner], 0)


def test_what_lies_wholly_in_the_padding_is_no_match():
    """Everything in the map correlates below 0, what is all padding would correlate 0."""
    x = np.tile(np.arange(9.0, dtype=np.float32)[:, None, None], (1, 5, 1))
    found = best_matches(x, 100 - x, row_search=8, column_search=8)
    row = np.arange(9)[:, None] + np.asarray(found.row_offset)
    assert row.min() >= -2
    assert row.max() <= 10
    assert np.min(found.column) >= -2
    assert np.max(found.column) <= 6


def test_best_matches_under_jit_vmap_and_bfloat16():
    pairs = pair(rows=1, columns=2), pair(rows=0, columns=-1)
    x, y = (jnp.stack(maps) for maps in zip(*pairs, strict=True))
    plain = best_matches(x[1], y[1])
    mapped = jax.jit(jax.vmap(best_matches))(x, y)
    for one, other in zip(plain, mapped, strict=True):
        np.testing.assert_allclose(one, other[1], atol=1e-6)
    half = best_matches(x[1].astype(jnp.bfloat16), y[1].astype(jnp.bfloat16))
    assert half.correlation.dtype == jnp.float32
    np.testing.assert_array_equal(half.column[5:-5, 4:-4], plain.column[5:-5, 4:-4])


def test_receptive_field_by_hand():
    assert receptive_field([]) == (1, 0, 1)
    assert receptive_field([(3, 2)]) == (2, 1, 3)
    # conv 5: 0..4; pool 2: 0..5; conv 5: 0..13; pool 2: 0..15, centred between 7 and 8.
    assert NORMXCORR_NET == (4, 7.5, 16)


def test_receptive_field_is_that_of_the_network():
    """Weights of 1: each pool passes on the corner that is larger, of a ramp up and a ramp down."""
    net = NormXCorrNet()
    ramp = jnp.arange(48 * 44, dtype=jnp.float32).reshape(1, 48, 44, 1) / 1e3
    params = jax.eval_shape(net.init, jax.random.key(0), *[jnp.zeros((1, 48, 44, 3))] * 2)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)

    @jax.jit
    @jax.grad
    def gradient(image):
        return net.apply(params, image, method=net.embed)[0, 3, 5, 0]

    images = [jnp.repeat(image, 3, axis=-1) for image in (ramp, 2.2 - ramp)]
    seen = sum(jnp.abs(gradient(image)) for image in images)
    rows, columns = np.nonzero(np.asarray(seen)[0].sum(axis=-1))
    for place, pixels in ((3, rows), (5, columns)):
        centre, half = 4 * place + NORMXCORR_NET.offset, (NORMXCORR_NET.size - 1) / 2
        assert (pixels.min(), pixels.max()) == (centre - half, centre + half)


def test_distinctive_patches():
    x = 0.1 * noise(4, 30, 9, 2)
    x[14, 3] = 50.0  # what holds it varies most
    found = distinctive_patches(x, count=5)
    assert abs(found[0][0] - 14) <= 2
    assert abs(found[0][1] - 3) <= 2
    rows = sorted(row for row, _ in found)
    assert len(rows) == 5
    assert np.diff(rows).min() >= 2  # bands of 5 or 6 rows, of each the last third left out
    assert all(2 <= row < 28 and 2 <= column < 7 for row, column in found)
    assert len(distinctive_patches(x[:3, :3], count=5)) == 3  # smaller than a patch: one a row


def drawn(**options):
    x, y = pair(rows=1, columns=2)
    images = np.random.default_rng(5).integers(0, 256, (2, 28, 20, 3), dtype=np.uint8)
    options = {"data": "noise", "field": SMALL, "count": 4} | options
    return match_figure(*images, x, y, **options)


def arrows(figure):
    return [artist for artist in figure.artists if isinstance(artist, ConnectionPatch)]


def outline(axes):
    (box,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return box.get_bbox().extents.tolist()


def test_figure_of_a_chosen_patch():
    figure = drawn(patch=(6, 4), names=("one.jpg", "other.jpg"))
    first, second, *crops, searched, _map_bar, bar = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["one.jpg", "other.jpg"]
    assert "noise" in figure.get_suptitle()
    assert bar.get_ylabel() == "correlation of the best match"
    # (6, 4) matches (7, 6); centres at (x, y) = 2 (column, row) + 1.5. The last arrow is its.
    assert len(arrows(figure)) == 4
    assert (arrows(figure)[-1].xy1, arrows(figure)[-1].xy2) == ((9.5, 13.5), (13.5, 15.5))
    # 5 features of 4 pixels, 2 apart, are made of 4 + 2 * 4 = 12 pixels; the second reaches the
    # border of an image of 20 columns: 13.5 + 6 = 19.5.
    assert outline(first) == [3.5, 7.5, 15.5, 19.5]
    assert outline(second) == [7.5, 9.5, 19.5, 21.5]
    assert (crops[1].get_xlim(), crops[1].get_ylim()) == ((7.5, 19.5), (21.5, 9.5))
    (image,) = searched.images
    assert image.get_array().shape == (5, 9)
    assert np.unravel_index(image.get_array().argmax(), (5, 9)) == (1 + 2, 6)
    assert outline(searched) == [5.5, 0.5, 6.5, 1.5]
    assert image.get_extent() == [-0.5, 8.5, 2.5, -2.5]


def test_figure_starts_at_the_distinctive_patches():
    x, _ = pair(rows=1, columns=2)
    figure = drawn(column_search=3)
    starts = distinctive_patches(x, count=4)
    tails = [arrow.xy1 for arrow in arrows(figure)]
    assert tails[::-1] == [(2 * column + 1.5, 2 * row + 1.5) for row, column in starts]
    assert len({arrow.get_facecolor() for arrow in arrows(figure)}) > 1
    (image,) = figure.axes[4].images
    assert image.get_array().shape == (5, 7)
    left = starts[0][1] - 3.5
    assert image.get_extent() == [left, left + 7, 2.5, -2.5]


def overlapping(figure):
    """Pairs of texts, of all axes and the figure, that are drawn over each other."""
    figure.savefig(io.BytesIO(), format="png", dpi=50)
    texts = [figure._suptitle]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, two in boxes[:i] if one.overlaps(two)]


@pytest.mark.parametrize("size", [(160, 60), (48, 100), (100, 100)])
def test_images_of_any_shape(size):
    image = np.zeros((*size, 3), np.float32)
    rows, columns = ((side - 16) // 4 + 1 for side in size)
    x = noise(6, rows, columns, 1)
    options = {"column_search": 2, "count": 1, "patch": (0, columns - 1)}
    names = ("a/very/long/name/of/a/image " * 3, "b.jpg")
    figure = match_figure(image, image, x, x, data="black", names=names, **options)
    assert overlapping(figure) == []
    for axes in figure.axes:
        box = axes.get_position()
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
    # The patch in the corner is outlined so far as the image has it.
    left, top, right, bottom = outline(figure.axes[0])
    assert (right, top) == (size[1] - 0.5, -0.5)
    assert (left, bottom) == (4 * (columns - 1) + 7.5 - 16, 7.5 + 16)


def test_mistakes_are_told():
    x, y = pair(rows=0, columns=0)
    with pytest.raises(UsageError, match="one shape"):
        best_matches(x[None], y[None])
    with pytest.raises(UsageError, match="channel 3: the features have channels 0 to 2"):
        best_matches(x, y, channel=3)
    with pytest.raises(UsageError, match="count is 0"):
        drawn(count=0)
    with pytest.raises(UsageError, match=r"patch \(13, 0\) is not one of the 13x9"):
        drawn(patch=(13, 0))
    with pytest.raises(UsageError, match=r"image of shape \(28, 20, 3\) does not give features"):
        drawn(field=NORMXCORR_NET)
