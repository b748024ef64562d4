"""Where patches of one image find their best match in another, by normalised correlation.

Contract: feature maps are ``height width channels``, both of one shape; patches of x are searched
in y as by :func:`siamjax.correlation.normxcorr`. Images are uint8 or float in [0, 1], as given to
the network; the centre of their first pixel is (0, 0), as in Matplotlib.
"""

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import ConnectionPatch, Rectangle
from matplotlib.patheffects import withStroke

from siamjax.correlation import normxcorr
from siamjax.errors import UsageError, shown
from siamjax.report.drawing import Figure

Features = Float[Array, "height width channels"]
Pixels = Shaped[np.ndarray, "height width 3"]

# Not the colours SAME and DIFFERENT: a correlation is no decision. Photographs have no such cyan.
_COLORS = colormaps["plasma"]
_CHOSEN = "#00e5ff"


class Field(NamedTuple):
    """Receptive field of a feature: feature i is centred at pixel ``stride * i + offset``."""

    stride: int
    offset: float
    size: int


def receptive_field(layers: Sequence[tuple[int, int]]) -> Field:
    """The field of a chain of unpadded windows (size, stride), the one next to the pixels first.

    A window of k features that lie ``stride`` pixels apart adds (k - 1) * stride pixels to the
    size and half of that to the offset; its own stride multiplies the stride.
    """
    stride, offset, size = 1, 0.0, 1
    for window, step in layers:
        size += (window - 1) * stride
        offset += (window - 1) * stride / 2
        stride *= step
    return Field(stride, offset, size)


# conv 5, pool 2, conv 5, pool 2: feature i sees the pixels 4 i .. 4 i + 15, centred at 4 i + 7.5,
# and a patch of 5 x 5 features sees 32 x 32 pixels.
NORMXCORR_NET = receptive_field([(5, 1), (2, 2), (5, 1), (2, 2)])


class Matches(NamedTuple):
    """For each patch of x, the patch of y with which it correlates best."""

    row_offset: Int[Array, "height width"]  # rows further down in y, from -row_search to row_search
    column: Int[Array, "height width"]  # column in y; beyond the map only with column_search
    correlation: Float[Array, "height width"]


def best_matches(
    x: Features,
    y: Features,
    *,
    patch_size: int = 5,
    row_search: int = 2,
    column_search: int | None = None,
    epsilon: float = 1e-2,
    channel: int | None = None,
) -> Matches:
    """Where in y each patch of x correlates best, among the places that normxcorr searches.

    These include centres beyond the map if the patch around them reaches into it. Of places with
    equal correlation the nearest is taken: a patch of one value, which correlates 0 with all,
    stays where it is.

    Options are those of ``normxcorr``. ``channel`` is the channel to correlate; None takes the
    mean correlation of all channels (a flat or dead one counts as 0).
    """
    searched = _searched(x, y, patch_size, row_search, column_search, epsilon, channel)
    return _best(searched, patch_size, column_search)


def _searched(x, y, patch_size, row_search, column_search, epsilon, channel) -> Array:
    """Correlations (height, width, rows searched, columns searched)."""
    if x.ndim != 3 or y.shape != x.shape:
        raise UsageError(
            f"features of shape {x.shape} and {y.shape}: give two maps (height, width, channels) "
            "of one shape"
        )
    if channel is not None:
        if not 0 <= channel < x.shape[-1]:
            raise UsageError(
                f"channel {channel}: the features have channels 0 to {x.shape[-1] - 1}"
            )
        x, y = (u[..., channel : channel + 1] for u in (x, y))
    mapped = normxcorr(
        jnp.asarray(x, jnp.float32),
        jnp.asarray(y, jnp.float32),
        patch_size=patch_size,
        row_search=row_search,
        column_search=column_search,
        epsilon=epsilon,
    )
    return mapped.reshape(*x.shape, 2 * row_search + 1, -1).mean(axis=2)


@partial(jax.jit, static_argnums=(1, 2))
def _best(searched: Array, patch_size: int, column_search: int | None) -> Matches:
    height, width, rows, columns = searched.shape
    offset, own = jnp.arange(rows) - rows // 2, jnp.arange(width)[:, None]
    row = jnp.arange(height)[:, None] + offset
    column = jnp.arange(columns) + (0 if column_search is None else own - column_search)
    column = jnp.broadcast_to(column, (width, columns))
    half = patch_size // 2  # centres further out have nothing but padding around them
    inside_row = (-half <= row) & (row < height + half)
    inside_column = (-half <= column) & (column < width + half)
    inside = inside_row[:, None, :, None] & inside_column[:, None]
    searched = jnp.where(inside, searched, -jnp.inf)
    highest = searched.max(axis=(2, 3))
    distance = offset[:, None] ** 2 + ((column - own) ** 2)[:, None]
    nearest = jnp.where(searched == highest[..., None, None], distance, jnp.inf)
    place = nearest.reshape(height, width, -1).argmin(axis=-1)
    return Matches(offset[place // columns], column[own[:, 0], place % columns], highest)


def distinctive_patches(x: Features, *, count: int, patch_size: int = 5) -> list[tuple[int, int]]:
    """Up to ``count`` patches (row, column) of the largest variation, one in each band of rows.

    A match has nearly the same row as its patch, so that arrows stay apart if the patches' rows
    do; the last third of each band is left out for that. Patches that reach into the padding are
    left out too, unless there are no others. Variation is the standard deviation, averaged over
    channels; the patch of the largest variation comes first.
    """
    if count < 1:
        raise UsageError(f"count is {count}: give at least 1")
    half = patch_size // 2
    padded = np.pad(np.asarray(x, np.float32), [(half, half), (half, half), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (patch_size,) * 2, axis=(0, 1))
    variation = windows.std(axis=(-2, -1)).mean(axis=-1)
    rows, columns = (
        np.arange(half, size - half) if size >= patch_size else np.arange(size)
        for size in variation.shape
    )
    found = []
    for band in np.array_split(rows, min(count, rows.size)):
        kept = variation[np.ix_(band[: len(band) - len(band) // 3], columns)]
        row, column = np.unravel_index(kept.argmax(), kept.shape)
        found.append((int(band[row]), int(columns[column])))
    return sorted(found, key=lambda place: -variation[place])


def match_figure(
    first_image: Pixels,
    second_image: Pixels,
    x: Features,
    y: Features,
    *,
    data: str,
    names: tuple[str, str] = ("first image", "second image"),
    patch: tuple[int, int] | None = None,
    count: int = 8,
    patch_size: int = 5,
    row_search: int = 2,
    column_search: int | None = None,
    epsilon: float = 1e-2,
    channel: int | None = None,
    field: Field = NORMXCORR_NET,
) -> Figure:
    """Both images, arrows from patches of the first to their best matches, and one patch's map.

    Arrows start at the patches of :func:`distinctive_patches`. Beside the images stand the
    correlations of one patch with all places where it is searched, and close-ups of it and of its
    best match. Both are outlined in the images, with all pixels of their receptive field.

    Args:
        first_image: the image of ``x``, whose patches are searched for.
        second_image: the image of ``y``, which is searched.
        x: features of the first image.
        y: features of the second image.
        data: names the data set, and what made the features.
        names: names of the two images.
        patch: (row, column) in x of the patch whose map is shown; replaces the nearest arrow.
            None: the arrows' patch of the largest variation.
        count: number of arrows.
        patch_size: as in :func:`best_matches`, and so are the options up to ``channel``.
        field: receptive field of a feature; by default that of ``NormXCorrNet``.
    """
    searched = _searched(x, y, patch_size, row_search, column_search, epsilon, channel)
    images = [np.asarray(first_image), np.asarray(second_image)]
    for image in images:
        _check_image(image.shape, searched.shape[:2], field)
    starts = distinctive_patches(x, count=count, patch_size=patch_size)
    if patch is not None:
        if not (0 <= patch[0] < x.shape[0] and 0 <= patch[1] < x.shape[1]):
            raise UsageError(f"patch {patch} is not one of the {x.shape[0]}x{x.shape[1]} patches")
        starts.remove(min(starts, key=lambda start: abs(start[0] - patch[0])))
        starts.insert(0, patch)
    offsets, columns, highest = map(np.asarray, _best(searched, patch_size, column_search))
    ends = [(i + int(offsets[i, j]), int(columns[i, j])) for i, j in starts]
    values = np.array([highest[start] for start in starts])

    figure, panels = _panels(*(image.shape for image in images))
    first, second, *crops, searched_map, map_bar, bar = panels
    figure.suptitle(f"Best matches of patches: {data}")
    colors = ScalarMappable(Normalize(values.min(), values.max()), _COLORS)
    figure.colorbar(colors, cax=bar, label="correlation of the best match")
    # The outlined one last, on top.
    for n, color in reversed(list(enumerate(colors.to_rgba(values)))):
        tail = _pixels(starts[n], 0, images[0].shape, field)
        head = _pixels(ends[n], 0, images[1].shape, field)
        arrow = ConnectionPatch((tail[0], tail[2]), (head[0], head[2]), "data", "data")
        arrow.set(arrowstyle="-|>", mutation_scale=13, lw=1.8, color=color)
        arrow.axesA, arrow.axesB = first, second
        arrow.set_path_effects([withStroke(linewidth=3.6, foreground="white" if n else _CHOSEN)])
        figure.add_artist(arrow)
    across = field.size + field.stride * (patch_size - 1)
    whats = (f"patch, {across}x{across} pixels", f"best match, correlation {values[0]:.2f}")
    for n, (row, column) in enumerate((starts[0], ends[0])):
        box = _pixels((row, column), across, images[n].shape, field)
        for axes in (whole := (first, second)[n], crops[n]):
            axes.imshow(images[n])
            _outline(axes, *box)
        whole.set_title("\n".join(textwrap.wrap(shown(names[n], longest=68), 34)), fontsize=9)
        crops[n].set(xlim=box[:2], ylim=box[:1:-1])
        crops[n].set_title(f"{whats[n]}\n(row {row}, column {column})", fontsize=9)

    left = (0 if column_search is None else starts[0][1] - column_search) - 0.5
    extent = (left, left + searched.shape[3], row_search + 0.5, -row_search - 0.5)
    mapped = searched_map.imshow(searched[starts[0]], cmap=_COLORS, extent=extent, aspect="auto")
    figure.colorbar(mapped, cax=map_bar, orientation="horizontal")
    offset, column = ends[0][0] - starts[0][0], ends[0][1]
    _outline(searched_map, column - 0.5, column + 0.5, offset - 0.5, offset + 0.5)
    of = f"mean of {x.shape[-1]} channels" if channel is None else f"channel {channel}"
    searched_map.set_title(f"Correlation of the outlined patch ({of})", fontsize=9)
    searched_map.set(xlabel="column", ylabel="row offset")
    return figure


def _panels(*shapes: tuple[int, ...]) -> tuple[Figure, list[Axes]]:
    """Axes placed in inches, because a layout engine would pull the images apart.

    They are: both images, both patches, the map, its colour bar, and that of the arrows.
    """
    tall, gap, right = 5.4, 1.0, 4.4
    scale = min(min(tall / shape[0], 3.2 / shape[1]) for shape in shapes)
    (up, across), (other_up, other) = ((s[0] * scale, s[1] * scale) for s in shapes)
    second, beside = 0.3 + across + gap, across + gap + other + 1.8
    figure = Figure(figsize=(beside + right + 0.2, tall + 0.9))

    def axes(*inches: float) -> Axes:
        left, bottom, width, height = inches / np.tile(figure.get_size_inches(), 2)
        return figure.add_axes((left, bottom, width, height))

    made = [
        axes(0.3, 0.1 + (tall - up) / 2, across, up),
        axes(second, 0.1 + (tall - other_up) / 2, other, other_up),
        axes(beside, 0.1, 2.0, 2.0),
        axes(beside + right - 2.0, 0.1, 2.0, 2.0),
    ]
    for bare in made:
        bare.set(xticks=[], yticks=[])
    made += [axes(beside, tall - 1.65, right, 1.75), axes(beside, tall - 2.3, right, 0.12)]
    return figure, [*made, axes(second + other + 0.15, 0.6, 0.12, tall - 1.0)]


def _check_image(shape: tuple[int, ...], size: tuple[int, ...], field: Field) -> None:
    covered = [field.stride * (features - 1) + field.size for features in size]
    left_over = [pixels - end for pixels, end in zip(shape, covered, strict=False)]
    if len(shape) != 3 or shape[-1] != 3 or not all(0 <= n < field.stride for n in left_over):
        raise UsageError(
            f"an image of shape {shape} does not give features of {size[0]}x{size[1]} with "
            f"{field}: give the image (height, width, 3) that the network was given, or its field"
        )


def _pixels(
    place: tuple[int, int], across: float, shape: tuple[int, ...], field: Field
) -> tuple[float, float, float, float]:
    """(left, right, top, bottom) of ``across`` pixels around a feature, clipped to the image."""
    reach = np.array([-across / 2, across / 2])
    (left, right), (top, bottom) = (
        np.clip(field.stride * at + field.offset + reach, -0.5, size - 0.5).tolist()
        for at, size in zip(place[::-1], shape[1::-1], strict=True)
    )
    return left, right, top, bottom


def _outline(axes: Axes, left: float, right: float, top: float, bottom: float) -> None:
    style = {"fill": False, "edgecolor": _CHOSEN, "lw": 2.5}
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, **style))
