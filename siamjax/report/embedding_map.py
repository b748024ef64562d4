"""A catalogue as a map: images with similar embeddings lie side by side."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from PIL import Image
from scipy.sparse.linalg import svds

from siamjax.data.images import ImageSet
from siamjax.errors import UsageError, shown
from siamjax.report.drawing import Figure

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
_REST = "#a8a8a8"
_NAME = 40  # characters of a label in the legend
_SIDE = 64  # pixels of a cell; its image has a frame of _FRAME pixels and a gap of 1
_FRAME = 4
_FEW = 16  # up to this side of the matrix a full decomposition is fast


class Projection(NamedTuple):
    """Points in a plane.

    Attributes:
        points: where each embedding lies, to the right and up.
        axes: labels of the two axes.
    """

    points: Float[np.ndarray, "n 2"]
    axes: tuple[str, str]


def principal_components(embeddings: Float[np.ndarray, "n features"]) -> Projection:
    """Project on the two directions of the largest variance; the axes name its shares.

    Distances on the map are at most those of the embeddings. The sign of a direction is chosen so
    that the farthest point is positive.
    """
    embeddings = np.asarray(embeddings, np.float32)
    centred = embeddings - embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    total = float(np.square(centred, dtype=np.float64).sum())
    if total == 0 or min(centred.shape) <= _FEW:
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
    else:
        start = np.random.default_rng(0).normal(size=min(centred.shape)).astype(np.float32)
        tolerance: Any = 1e-6  # SciPy's annotation says int
        found: Any = svds(centred, k=2, v0=start, tol=tolerance)
        left, values = found[0][:, ::-1], found[1][::-1]  # the larger first
    points, shares = np.zeros((len(centred), 2)), np.zeros(2)
    few = min(2, len(values))
    points[:, :few] = left[:, :few] * values[:few]
    shares[:few] = np.square(values[:few], dtype=np.float64) / (total or 1.0)
    farthest = points[np.abs(points).argmax(axis=0), [0, 1]]
    first, second = (
        f"principal component {k} ({share:.1%} of the variance)"
        for k, share in enumerate(shares, start=1)
    )
    return Projection(points * np.where(farthest < 0, -1.0, 1.0), (first, second))


def embedding_map(
    images: ImageSet,
    embeddings: Float[np.ndarray, "n features"],
    *,
    data: str,
    labels: Shaped[np.ndarray, " n"] | None = None,
    named: str = "label",
    cells: int = 20,
    project: Callable[[np.ndarray], Projection] = principal_components,
) -> Figure:
    """Embeddings in a plane: all as points, and some as images, as far as there is room.

    The plane is divided into squares. A square that holds points shows the image of the point
    nearest to its middle; no image hides another, and no other image is decoded. Both axes have
    the same scale. Points and frames are coloured by label: the eight most frequent labels have a
    colour each, all others and "" are grey.

    Args:
        images: one image for each embedding.
        embeddings: finite, in the order of the images.
        data: names the catalogue and the network.
        labels: label of each image, such as its category; None: one colour for all.
        named: what a label is; the title of the legend.
        cells: squares along each side.
        project: embeddings -> points.

    Raises ``UsageError`` for fewer than two images, another number of embeddings or labels,
    embeddings that are not finite, and an image that cannot be read.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or len(embeddings) != len(images) or len(images) < 2 or cells < 1:
        raise UsageError(
            f"embeddings of shape {embeddings.shape} for {len(images)} images, {cells} cells: "
            "give (images, features) for at least two images, and at least one cell"
        )
    if labels is not None and np.shape(labels) != (len(images),):
        raise UsageError(
            f"labels of shape {np.shape(labels)} for {len(images)} images; give one each"
        )
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if bad.size:
        raise UsageError(
            f"the embedding of {images.keys[bad[0]]} is not finite: the network has diverged"
        )
    points, axis_names = project(embeddings)
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.5 * float((high - low).max()) * (1 + 1e-6) or 1.0
    corner = (low + high) / 2 - half
    color, legend = _colors(labels, len(images))
    shown = _nearest((points - corner) / (2 * half / cells), cells)
    limits = (corner[0], corner[0] + 2 * half, corner[1], corner[1] + 2 * half)

    figure = Figure(figsize=(19, 10), layout="constrained")
    figure.suptitle(f"Embeddings of {data}: {len(images):,} images", fontsize=14)
    every, some = figure.subplots(1, 2)
    size = float(np.clip(40_000 / len(images), 4, 40))
    every.scatter(*points.T, s=size, c=color, alpha=0.7, lw=0, clip_on=False)
    every.set_title("All images, as points")
    some.imshow(_mosaic(images, shown, color, cells), extent=limits, interpolation="antialiased")
    some.set_title(f"{len(shown):,} of the images, one for each occupied square")
    for axes in (every, some):
        axes.set(xlim=limits[:2], ylim=limits[2:], aspect="equal")
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
        axes.tick_params(labelsize=8)
    if legend:
        handles = [
            Line2D([], [], color=tint, marker="o", ls="", label=label) for label, tint in legend
        ]
        figure.legend(
            handles=handles, title=named, loc="outside lower center", ncols=5, frameon=False
        )
    return figure


def _colors(labels: np.ndarray | None, total: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Colours (n, 3) in [0, 1], and the legend."""
    if labels is None:
        return np.tile(to_rgb(_COLORS[0]), (total, 1)), []
    names = [str(label) for label in labels]
    counts = Counter(name for name in names if name)
    # The most frequent first, equally frequent ones by name, whatever the order of the images.
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    tint = dict(zip(ordered, _COLORS, strict=False))
    legend = [
        (f"{shown(name, longest=_NAME)} ({counts[name]:,})", hue) for name, hue in tint.items()
    ]
    others, unknown = ordered[len(_COLORS) :], len(names) - counts.total()
    if others:
        number = sum(counts[name] for name in others)
        legend.append((f"{len(others)} other labels ({number:,})", _REST))
    if unknown:
        legend.append((f"no label ({unknown:,})", _REST))
    return np.array([to_rgb(tint.get(name, _REST)) for name in names]), legend


def _nearest(places: np.ndarray, cells: int) -> dict[tuple[int, int], int]:
    """For each cell (column, row from below), the point nearest to its middle; unit: a cell."""
    cell = np.clip(np.floor(places), 0, cells - 1).astype(int)
    distance = ((places - cell - 0.5) ** 2).sum(axis=1)
    shown: dict[tuple[int, int], int] = {}
    for index in np.argsort(distance, kind="stable").tolist():
        column, row = cell[index].tolist()
        shown.setdefault((column, row), index)
    return shown


def _mosaic(
    images: ImageSet, shown: dict[tuple[int, int], int], color: np.ndarray, cells: int
) -> np.ndarray:
    """All cells as one image; empty cells are white."""
    mosaic = np.full((cells * _SIDE, cells * _SIDE, 3), 255, np.uint8)
    room = _SIDE - 2 * (_FRAME + 1)
    for (column, row), index in shown.items():
        small = Image.fromarray(images.image(index))
        small.thumbnail((room, room))
        height, width = small.height, small.width
        top = (cells - 1 - row) * _SIDE + (_SIDE - height) // 2
        left = column * _SIDE + (_SIDE - width) // 2
        frame = np.s_[top - _FRAME : top + height + _FRAME, left - _FRAME : left + width + _FRAME]
        mosaic[frame] = (255 * color[index]).round().astype(np.uint8)
        mosaic[top : top + height, left : left + width] = np.asarray(small)
    return mosaic
