"""What a layer gives for one image, as a figure that names the layer, network and image."""

import textwrap
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from siamjax.errors import UsageError, shown
from siamjax.report.drawing import LINE, Figure
from siamjax.report.figures import DIFFERENT, NETWORK

_WIDTH, _HEIGHT = 14.0, 9.0  # largest size of the drawn values in inches, without titles
_NUMBERED = 64  # up to so many maps, each has its number above it
_BARS = 128  # up to so many features are drawn as bars
_GREY = "#a8a8a8"


def activation_figure(
    values: Float[np.ndarray, "*axes channels"],
    *,
    layer: str,
    network: str,
    name: str,
    image: UInt8[np.ndarray, "rows columns 3"] | None = None,
) -> Figure:
    """All channels of a layer for one image, numbered from 0, row by row.

    Maps stand side by side, each with its own colour scale, because a few channels would outshine
    the others; the bar below a map is its highest value relative to the layer's. Maps that are
    never above 0 are crossed out; those that are 0 everywhere are grey. Features without a place
    are drawn as bars or, if there are many, as cells with one colour scale; those of tokens as
    cells, a row for each token.

    Args:
        values: what the layer gives for one image: (height, width, channels), (tokens, features)
            or (features,).
        layer: name of the layer.
        network: names the network, or its run.
        name: names the image.
        image: the image to show beside the values; None: no image.

    Raises ``UsageError`` for values with other axes and for values that are not finite.
    """
    values = np.asarray(values, np.float32)
    if values.ndim not in (1, 2, 3) or not values.size:
        raise UsageError(
            f"layer {layer}, values of shape {values.shape}: give those of one image, (height, "
            "width, channels), (tokens, features) or (features,)"
        )
    if not np.isfinite(values).all():
        raise UsageError(
            f"layer {layer} gives values that are not finite for {name}: the network has diverged; "
            "use an earlier checkpoint"
        )
    if values.ndim == 3:
        shape = "{2} channels of {0}x{1}".format(*values.shape)
        figure, axes, said = _maps(values)
    elif values.ndim == 2:
        shape = "{} tokens of {} features".format(*values.shape)
        figure, axes, said = _cells(values)
    else:
        shape = f"{values.size} features"
        figure, axes, said = (_bars if values.size <= _BARS else _cells)(values)
    width, height = figure.get_size_inches()
    title = f"{layer} of {network}: {shape}, values from {values.min():.3g} to {values.max():.3g}"
    lines = [
        *textwrap.wrap(title, min(LINE, int(width * 9.5))),
        f"Image: {shown(name, longest=70)}",
    ]
    figure.text(0.1 / width, 1 - 0.1 / height, "\n".join(lines), va="top", fontsize=12)
    lines = textwrap.wrap(said, min(LINE, int(width * 13)))
    figure.text(0.1 / width, 0.1 / height, "\n".join(lines), va="bottom", fontsize=9)
    if image is not None:
        box = axes.get_position()
        side = figure.add_axes((0.1 / width, box.y0, 1.6 / width, box.height))
        side.imshow(image)
        side.set(anchor="N", xticks=[], yticks=[])
        side.set_title("image", fontsize=9)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with axes of this size in inches, and room for titles, image and colour scale."""
    left, right, top, bottom = 2.2, 1.15, 1.05, 0.75
    inches = np.array([max(left + width + right, 9.0), top + height + bottom])
    figure = Figure(figsize=tuple(inches))
    box = np.array([left, bottom, width, height]) / np.tile(inches, 2)
    return figure, figure.add_axes(tuple(box))


def _scale(values: np.ndarray) -> tuple[Colormap, float]:
    """Colours and the low end of the scale; if there are values below 0, these are blue."""
    return (colormaps["RdBu_r"], -1.0) if values.min() < 0 else (colormaps["magma"], 0.0)


class _Grid(NamedTuple):
    """Where maps stand, in pixels of the maps (enlarged if they are small)."""

    height: int
    width: int
    columns: int
    rows: int
    across: int  # from one map to the next
    down: int
    bar: int  # thickness of the bar below a map
    inch: float  # inches a pixel
    left: np.ndarray
    top: np.ndarray


def _grid(height: int, width: int, channels: int) -> _Grid:
    gap, bar = max(2, round(0.1 * max(height, width))), max(2, round(0.04 * max(height, width)))
    across, down = width + gap, height + bar + gap
    columns = _columns(channels, down / across)
    rows = -(-channels // columns)
    inch = min(_WIDTH / (columns * across), _HEIGHT / (rows * down))
    if channels <= _NUMBERED:
        down += round(0.16 / inch)  # for the number
    row, column = np.divmod(np.arange(channels), columns)
    return _Grid(height, width, columns, rows, across, down, bar, inch, column * across, row * down)


def _maps(values: np.ndarray) -> tuple[Figure, Axes, str]:
    channels = values.shape[-1]
    # Enlarge small maps, so that the gaps are narrow beside them.
    grown = max(1, 32 // max(values.shape[:2]))
    grid = _grid(values.shape[0] * grown, values.shape[1] * grown, channels)
    colors, lowest = _scale(values)
    flat = values.reshape(-1, channels)
    peaks, largest = flat.max(axis=0), np.abs(flat).max(axis=0)
    shown = values / np.where(largest > 0, largest, 1)
    # All maps in one image, because hundreds of axes or images take many seconds to draw.
    mosaic = np.full((grid.rows * grid.down, grid.columns * grid.across), np.nan, np.float32)
    for k, (x, y) in enumerate(zip(grid.left, grid.top, strict=True)):
        place = mosaic[y : y + grid.height, x : x + grid.width]
        place[:] = shown[..., k].repeat(grown, axis=0).repeat(grown, axis=1)
    figure, axes = _canvas(*(side * grid.inch for side in mosaic.shape[::-1]))
    extent = (0, mosaic.shape[1], mosaic.shape[0], 0)
    axes.imshow(mosaic, cmap=colors, vmin=lowest, vmax=1, extent=extent)
    nothing, dead = np.flatnonzero(largest == 0), np.flatnonzero(peaks <= 0)
    _mark(axes, grid, peaks, nothing=nothing, dead=dead)
    if channels <= _NUMBERED:
        axes.set_ylim(mosaic.shape[0] - 0.16 / grid.inch, -0.16 / grid.inch)
        for k in range(channels):
            at = grid.left[k], grid.top[k] - 0.03 / grid.inch
            axes.text(*at, str(k), fontsize=8, va="bottom")
        axes.set_axis_off()
    else:
        names = np.arange(grid.columns), np.arange(0, channels, grid.columns)
        centres = grid.left[names[0]] + grid.width / 2, grid.top[names[1]] + grid.height / 2
        _numbers(axes, *centres, names=names)
    scale = ScalarMappable(Normalize(lowest, 1), colors)
    _bar(figure, axes, scale, "value / largest magnitude of the map")
    signed = " (blue: below 0)" if lowest < 0 else ""
    said = (
        f"Each map has its own colour scale: 1 is its largest magnitude{signed}. The bar below a "
        "map is its highest value relative to the layer's highest. Crossed out: never above 0 for "
        f"this image, {dead.size} of {channels} channels; {nothing.size} of them are 0 "
        "everywhere (grey)."
    )
    return figure, axes, said


def _mark(
    axes: Axes, grid: _Grid, peaks: np.ndarray, *, nothing: np.ndarray, dead: np.ndarray
) -> None:
    """Draw frames, bars, and the marks of maps without positive values."""
    corners = list(zip(grid.left.tolist(), grid.top.tolist(), strict=True))
    boxes = [Rectangle(corner, grid.width, grid.height) for corner in corners]
    frames = PatchCollection(boxes, facecolor="none", edgecolor=_GREY, linewidth=0.5)
    grey = PatchCollection([boxes[k] for k in nothing], facecolor=_GREY, edgecolor="none")
    crosses = [
        [(x, y + begin), (x + grid.width, y + grid.height - begin)]
        for x, y in (corners[k] for k in dead)
        for begin in (0, grid.height)
    ]
    share = np.clip(peaks, 0, None) / max(float(peaks.max()), np.finfo(np.float32).tiny)
    below = grid.height + grid.bar
    bars = [
        [(x, y + below), (x + grid.width * part, y + below)]
        for (x, y), part in zip(corners, share.tolist(), strict=True)
    ]
    thick = grid.bar * grid.inch * 72
    for marks in (
        frames,
        grey,
        LineCollection(crosses, colors=DIFFERENT, linewidths=1.2),
        LineCollection(bars, colors=NETWORK, linewidths=thick, capstyle="butt"),
    ):
        axes.add_collection(marks, autolim=False)


def _columns(channels: int, slope: float) -> int:
    """Maps in a row, so that all fill the figure; a divisor of their number if one fits."""
    best = max(1.0, min(channels, (channels * slope * _WIDTH / _HEIGHT) ** 0.5))
    whole = [k for k in range(1, channels + 1) if channels % k == 0 and 0.7 < k / best < 1.45]
    return min(whole, key=lambda k: abs(k - best)) if whole else round(best)


def _numbers(
    axes: Axes, across: np.ndarray, down: np.ndarray, *, names: tuple[np.ndarray, np.ndarray]
) -> None:
    """Write the first number of each row beside it, and what to add above each column."""
    axes.set_xticks(across, [f"+{k}" for k in names[0]], fontsize=7)
    axes.set_yticks(down, [str(k) for k in names[1]], fontsize=8)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    for edge in axes.spines.values():
        edge.set_visible(False)


def _bar(figure: Figure, axes: Axes, colors: ScalarMappable, label: str) -> None:
    width = figure.get_size_inches()[0]
    box = axes.get_position()
    tall = min(box.height, 3.0 / figure.get_size_inches()[1])
    side = figure.add_axes((box.x1 + 0.2 / width, box.y1 - tall, 0.14 / width, tall))
    figure.colorbar(colors, cax=side, label=label, ticks=MaxNLocator(5))


def _bars(values: np.ndarray) -> tuple[Figure, Axes, str]:
    figure, axes = _canvas(_WIDTH * 0.7, 3.0)
    axes.bar(np.arange(values.size), values, color=np.where(values < 0, DIFFERENT, NETWORK))
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xlim=(-0.8, values.size - 0.2), xlabel="feature")
    axes.set_xticks(range(0, values.size, max(1, values.size // 16)))
    zero = np.flatnonzero(values == 0)
    axes.plot(zero, np.zeros(zero.size), "x", color=DIFFERENT, ms=5)
    return figure, axes, f"Crosses: exactly 0, {zero.size} of {values.size} features."


def _cells(values: np.ndarray) -> tuple[Figure, Axes, str]:
    """One cell a feature: a row for each token, or features alone in rows of equal length."""
    if values.ndim == 2:
        (rows, columns), cells = values.shape, values
    else:
        columns = 64 if values.size > 1024 else 32
        rows = -(-values.size // columns)
        cells = np.full(rows * columns, np.nan, np.float32)
        cells[: values.size] = values
        cells = cells.reshape(rows, columns)
    colors, lowest = _scale(values)
    scale = Normalize(lowest * float(np.abs(values).max()), float(np.abs(values).max()) or 1.0)
    inch = min(_WIDTH * 0.7 / columns, _HEIGHT / rows)
    figure, axes = _canvas(columns * inch, rows * inch)
    axes.imshow(np.ma.masked_where(cells != 0, cells), cmap=ListedColormap([_GREY]))
    axes.imshow(np.ma.masked_where(cells == 0, cells), cmap=colors, norm=scale)
    across, down = np.arange(0, columns, -(-columns // 32)), np.arange(0, rows, -(-rows // 40))
    _numbers(axes, across, down, names=(across, down if values.ndim == 2 else down * columns))
    _bar(figure, axes, ScalarMappable(scale, colors), "value")
    zero, below = int((values == 0).sum()), int((values < 0).sum())
    return figure, axes, f"Grey: exactly 0, {zero} of {values.size} features; {below} are below 0."
