"""Where the patches of one picture find their best match in another, by normalised correlation.

Contract: feature maps are ``height width channels``, both of one shape, x's patches searched in y
as in :func:`siamjax.correlation.normxcorr`. Pictures are ``height width 3``, uint8 or float in
[0, 1], as the network that made the features was given them. Pixel coordinates count from 0, a
pixel's centre being a whole number, as Matplotlib shows a picture.
"""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from matplotlib.patheffects import withStroke

from siamjax.correlation import normxcorr
from siamjax.errors import UsageError

Features = Float[Array, "height width channels"]
Picture = Shaped[np.ndarray, "height width 3"]

# Neither SAME nor DIFFERENT: a correlation is no verdict. The outline is in no photograph.
_COLORS = colormaps["plasma"]
_CHOSEN = "#00e5ff"


class Field(NamedTuple):
    """The pixels that a feature is made of: feature i is centred at ``stride * i + offset``."""

    stride: int
    offset: float
    size: int


def receptive_field(layers: Sequence[tuple[int, int]]) -> Field:
    """The field of a chain of unpadded windows (size, stride), the one next to the pixels first.

    A window of k features that lie ``stride`` pixels apart adds (k - 1) * stride pixels to the
    size and half of them to the offset; its own stride multiplies.
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
    """For each patch of x, the patch of y that it correlates best with."""

    row_offset: Int[Array, "height width"]  # rows further down in y; within +-row_search
    column: Int[Array, "height width"]  # in y; outside the map only with column_search
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

    These include, as there, centres up to ``row_search`` rows above or below the map. Of places
    that correlate equally the nearest counts, so that a patch of one value, which correlates 0
    with everything, stays where it is.

    Options are normxcorr's; ``channel`` None takes the mean correlation of all channels (one that
    is flat, or dead, counts as 0), a number that channel alone.
    """
    searched = _searched(x, y, patch_size, row_search, column_search, epsilon, channel)
    return _best(searched, column_search)


def _searched(x, y, patch_size, row_search, column_search, epsilon, channel) -> Array:
    """Correlations, (height, width, rows searched, columns searched)."""
    if x.ndim != 3 or y.shape != x.shape:
        raise UsageError(
            f"features of shape {x.shape} and {y.shape}: two maps (height, width, channels) of "
            "one shape are needed; take one picture out of the batch"
        )
    if channel is not None:
        if not 0 <= channel < x.shape[-1]:
            raise UsageError(f"channel {channel}: the features have 0 to {x.shape[-1] - 1}")
        x, y = (u[..., channel : channel + 1] for u in (x, y))
    wide = jnp.promote_types(jnp.result_type(x, y), jnp.float32)
    mapped = normxcorr(
        jnp.asarray(x, wide),
        jnp.asarray(y, wide),
        patch_size=patch_size,
        row_search=row_search,
        column_search=column_search,
        epsilon=epsilon,
    )
    return mapped.reshape(*x.shape, 2 * row_search + 1, -1).mean(axis=2)


def _best(searched: Array, column_search: int | None) -> Matches:
    height, width, rows, columns = searched.shape
    offset = jnp.arange(rows) - rows // 2
    own = jnp.arange(width)[:, None]
    column = jnp.arange(columns) + (0 if column_search is None else own - column_search)
    column = jnp.broadcast_to(column, (width, columns))
    distance = offset[:, None] ** 2 + ((column - own) ** 2)[:, None]
    highest = searched.max(axis=(2, 3))
    nearest = jnp.where(searched == highest[..., None, None], distance, jnp.inf)
    row, place = jnp.divmod(nearest.reshape(height, width, -1).argmin(axis=-1), columns)
    return Matches(offset[row], column[jnp.arange(width), place], highest)


def distinctive_patches(x: Features, *, count: int, patch_size: int = 5) -> list[tuple[int, int]]:
    """Up to ``count`` patches (row, column) that vary most, one in each of as many bands of rows.

    A match lies at nearly its patch's height, so arrows stay apart if their rows do: a band's
    last third is left out. So are patches that reach beyond the map, whose padding is no content,
    unless there are no others. Variation is the mean over channels of the standard deviation; the
    patch that varies most comes first.
    """
    if count < 1:
        raise UsageError(f"count is {count}: at least 1 patch is needed")
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
    first_picture: Picture,
    second_picture: Picture,
    x: Features,
    y: Features,
    *,
    data: str,
    names: tuple[str, str] = ("first picture", "second picture"),
    patch: tuple[int, int] | None = None,
    count: int = 8,
    patch_size: int = 5,
    row_search: int = 2,
    column_search: int | None = None,
    epsilon: float = 1e-2,
    channel: int | None = None,
    field: Field = NORMXCORR_NET,
) -> Figure:
    """Both pictures, arrows from patches of the first to their best matches, and one patch's map.

    Arrows start at the patches that :func:`distinctive_patches` finds. Beside them stand the
    correlations of one patch with all places where it is searched, and what it and its best match
    show. Both are outlined in the pictures, with all the pixels that they are made of.

    Args:
        first_picture: what ``x`` was made of.
        second_picture: what ``y`` was made of.
        x: features whose patches search.
        y: features that are searched, with the options of :func:`best_matches`.
        data: names the data set, and what made the features.
        names: of both pictures.
        patch: (row, column) in x of the patch whose map is shown, in place of the nearest arrow's.
            None shows that of the arrows' patches that varies most.
        count: number of arrows.
        patch_size: as in :func:`best_matches`, as all options up to ``channel``.
        row_search: as there.
        column_search: as there.
        epsilon: as there.
        channel: as there.
        field: the pixels that a feature is made of; that of ``NormXCorrNet`` unless told.
    """
    searched = _searched(x, y, patch_size, row_search, column_search, epsilon, channel)
    pictures = [np.asarray(first_picture), np.asarray(second_picture)]
    for picture in pictures:
        _check_picture(picture.shape, searched.shape[:2], field)
    starts = distinctive_patches(x, count=count, patch_size=patch_size)
    if patch is not None:
        if not (0 <= patch[0] < x.shape[0] and 0 <= patch[1] < x.shape[1]):
            raise UsageError(f"patch {patch}: the features have {x.shape[0]} x {x.shape[1]} places")
        starts.remove(min(starts, key=lambda start: abs(start[0] - patch[0])))
        starts.insert(0, patch)
    found = Matches(*map(np.asarray, _best(searched, column_search)))
    ends = [(i + int(found.row_offset[i, j]), int(found.column[i, j])) for i, j in starts]
    values = [float(found.correlation[start]) for start in starts]

    panels = _panels(*(picture.shape for picture in pictures))
    panels.figure.suptitle(f"Best matches of patches: {data}")
    colors = ScalarMappable(Normalize(min(values), max(values)), _COLORS)
    panels.figure.colorbar(colors, cax=panels.bar, label="correlation of the best match")
    for n in reversed(range(len(starts))):  # the outlined one last, above the others
        tips = [
            _pixels(place[n], 0, picture.shape, field)[::2]
            for place, picture in zip((starts, ends), pictures, strict=True)
        ]
        halo = "white" if n else _CHOSEN
        panels.figure.add_artist(_arrow(tips, panels.pictures, colors.to_rgba(values[n]), halo))
    across = field.size + field.stride * (patch_size - 1)
    whats = (f"the patch, {across}x{across} pixels", f"its best match, correlation {values[0]:.2f}")
    for n, (row, column) in enumerate((starts[0], ends[0])):
        box = _pixels((row, column), across, pictures[n].shape, field)
        for axes in (panels.pictures[n], panels.crops[n]):
            axes.imshow(pictures[n])
            _outline(axes, *box)
        panels.pictures[n].set_title("\n".join(textwrap.wrap(names[n], 34)[:2]), fontsize=9)
        panels.crops[n].set(xlim=box[:2], ylim=box[:1:-1])
        panels.crops[n].set_title(f"{whats[n]}\n(row {row}, column {column})", fontsize=9)

    left = -0.5 if column_search is None else starts[0][1] - column_search - 0.5
    extent = (left, left + searched.shape[3], row_search + 0.5, -row_search - 0.5)
    shown = np.asarray(searched[starts[0]])
    shown = panels.map.imshow(shown, cmap=_COLORS, extent=extent, aspect="auto")
    panels.figure.colorbar(shown, cax=panels.map_bar, orientation="horizontal")
    offset, column = ends[0][0] - starts[0][0], ends[0][1]
    _outline(panels.map, column - 0.5, column + 0.5, offset - 0.5, offset + 0.5)
    of = f"mean of {x.shape[-1]} channels" if channel is None else f"channel {channel}"
    panels.map.set_title(f"correlation of the patch wherever it is searched ({of})", fontsize=9)
    panels.map.set(xlabel="column", ylabel="row offset")
    return panels.figure


class _Panels(NamedTuple):
    figure: Figure
    pictures: list[Axes]
    crops: list[Axes]
    map: Axes
    map_bar: Axes
    bar: Axes


def _panels(*shapes: tuple[int, ...]) -> _Panels:
    """Axes at places worked out in inches: a layout engine would pull the pictures apart."""
    tall, gap, right = 5.4, 1.0, 4.4
    scale = min(min(tall / shape[0], 3.2 / shape[1]) for shape in shapes)
    (up, across), (other_up, other_across) = ((s[0] * scale, s[1] * scale) for s in shapes)
    second = 0.3 + across + gap
    beside = second + other_across + 1.5
    figure = Figure(figsize=(beside + right + 0.2, tall + 0.9))

    def axes(left: float, bottom: float, width: float, height: float) -> Axes:
        inches = np.array([left, bottom, width, height])
        left, bottom, width, height = inches / np.tile(figure.get_size_inches(), 2)
        return figure.add_axes((left, bottom, width, height))

    panels = _Panels(
        figure,
        [
            axes(0.3, 0.1 + (tall - up) / 2, across, up),
            axes(second, 0.1 + (tall - other_up) / 2, other_across, other_up),
        ],
        [axes(beside, 0.1, 2.0, 2.0), axes(beside + right - 2.0, 0.1, 2.0, 2.0)],
        axes(beside, tall - 1.65, right, 1.75),
        axes(beside, tall - 2.3, right, 0.12),
        axes(second + other_across + 0.15, 0.6, 0.12, tall - 1.0),
    )
    for bare in (*panels.pictures, *panels.crops):
        bare.set(xticks=[], yticks=[])
    return panels


def _check_picture(shape: tuple[int, ...], size: tuple[int, ...], field: Field) -> None:
    if len(shape) != 3 or shape[-1] != 3:
        raise UsageError(f"picture of shape {shape}: (height, width, 3) is needed")
    for pixels, features in zip(shape, size, strict=False):
        # Less than a stride of pixels may be left over at the end.
        covered = field.stride * (features - 1) + field.size
        if not covered <= pixels < covered + field.stride:
            raise UsageError(
                f"a picture of {shape[0]}x{shape[1]} does not give features of {size[0]}x{size[1]} "
                f"with a {field}: give the picture as the network was given it, or its field="
            )


def _pixels(
    place: tuple[int, int], across: float, shape: tuple[int, ...], field: Field
) -> tuple[float, float, float, float]:
    """(left, right, top, bottom) of ``across`` pixels round a feature, kept in the picture."""
    edges = []
    for at, size in zip(place[::-1], shape[1::-1], strict=True):
        centre = field.stride * at + field.offset
        edges += [min(max(centre + side * across / 2, -0.5), size - 0.5) for side in (-1, 1)]
    left, right, top, bottom = edges
    return left, right, top, bottom


def _outline(axes: Axes, left: float, right: float, top: float, bottom: float) -> None:
    size = right - left, bottom - top
    axes.add_patch(Rectangle((left, top), *size, fill=False, edgecolor=_CHOSEN, lw=2.5))


def _arrow(tips, axes: list[Axes], color, halo: str) -> ConnectionPatch:
    arrow = ConnectionPatch(*tips, "data", "data", axesA=axes[0], axesB=axes[1])
    arrow.set(arrowstyle="-|>", mutation_scale=13, lw=1.8, color=color)
    arrow.set_path_effects([withStroke(linewidth=3.6, foreground=halo)])
    return arrow
