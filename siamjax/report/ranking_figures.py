"""Figures of a ranking: ranked lists as images, and CMC curves; each names its data.

Contract: ``score``, ``match`` and ``valid`` are (queries, gallery), as in
:mod:`siamjax.metrics.reid`. Equal scores are listed in the gallery's order, and the figure says so
if any that it shows are equal.
"""

from collections.abc import Mapping
from itertools import cycle, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes

from siamjax.data.images import ImageSet
from siamjax.errors import UsageError, shown
from siamjax.metrics.reid import Mask, Scores, Valid, average_precision
from siamjax.report.drawing import Figure
from siamjax.report.figures import DIFFERENT, NETWORK, PIXELS, SAME

_LONGEST = 320  # pixels of an image's longer side that a cell can show


class _Row(NamedTuple):
    query: int  # row of the score
    title: str
    precision: float
    order: np.ndarray  # columns of the score, best first, without junk
    first: int  # rank of the first correct image, from 1

    def shown(self, top: int) -> list[int]:
        """Columns of the score: the first ``top``, and the first correct one."""
        further = [self.order[self.first - 1]] if self.first > top else []
        return [int(column) for column in (*self.order[:top], *further)]

    def words(self) -> str:
        place = f"first correct:\nrank {self.first} of {self.order.size}"
        return f"{self.title}\nAP {self.precision:.3f}\n{place}"


def ranked_lists(
    images: ImageSet,
    query: Int[np.ndarray, " queries"],
    gallery: Int[np.ndarray, " gallery"],
    score: Scores,
    match: Mask,
    *,
    data: str,
    valid: Valid = None,
    count: int = 6,
    top: int = 10,
) -> Figure:
    """Queries and the images that rank first for each: correct ones framed green, wrong ones red.

    The first half of the rows are the hardest queries: those whose first correct image ranks
    worst. The others are typical: the rest is ordered by average precision and sampled evenly. A
    first correct image further down is added at the end of its row. Junk is left out, and so are
    queries without a match.

    Args:
        images: the image set that ``query`` and ``gallery`` refer to.
        query: indices of the queries.
        gallery: indices of the gallery images.
        score: rises with similarity.
        match: True = same identity.
        data: names the data set and what made the score.
        valid: False = junk for that query; None: there is no junk.
        count: number of queries.
        top: images shown of each list.
    """
    if count < 1 or top < 1:
        raise UsageError(f"count {count}, top {top}: give at least 1 of each")
    score, match = np.asarray(score), np.asarray(match)
    if score.shape != (len(query), len(gallery)):
        raise UsageError(
            f"score of shape {score.shape} for {len(query)} queries, {len(gallery)} gallery images"
        )
    precision = average_precision(score, match, valid=valid)  # checks shapes, masks and NaN too
    if np.isnan(precision).all():
        raise UsageError(f"none of the {len(query)} queries has a valid match in the gallery")
    valid = np.broadcast_to(True, match.shape) if valid is None else np.asarray(valid)
    rows = _rows(score, match, valid, precision, count)

    further = any(row.first > top for row in rows)
    across = min(top, max(row.order.size for row in rows))
    thumbnails = {
        index: _thumbnail(images.image(index))
        for row in rows
        for index in (int(query[row.query]), *(int(gallery[k]) for k in row.shown(top)))
    }
    slope = float(np.median([len(shown) / shown.shape[1] for shown in thumbnails.values()]))
    widths = [1.7, 1.0, 0.1, *[1.0] * across, *[0.1, 1.0] * further]
    height = 0.75 * min(max(slope, 0.5), 3.0) + 0.4
    size = (0.85 * sum(widths), len(rows) * height + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"Ranked lists: {data}")
    figure.supxlabel(_legend(score, rows, top), fontsize=9)
    grid = figure.add_gridspec(len(rows), len(widths), width_ratios=widths)
    for line, row in enumerate(rows):
        words = figure.add_subplot(grid[line, 0])
        words.set_axis_off()
        words.text(0, 0.5, row.words(), va="center", fontsize=9)
        axes = figure.add_subplot(grid[line, 1])
        _show(axes, thumbnails[int(query[row.query])], "query", "black")
        for place in row.shown(top):
            rank = int(np.flatnonzero(row.order == place)[0])
            column = 3 + rank if rank < top else len(widths) - 1
            right = bool(match[row.query, place])
            value = f"{score[row.query, place]:#.3g}".rstrip(".")
            title = f"{rank + 1} {'✓' if right else '✗'} {value}"
            axes = figure.add_subplot(grid[line, column])
            _show(axes, thumbnails[int(gallery[place])], title, SAME if right else DIFFERENT)
    return figure


def cmc_curves(
    curves: Mapping[str, Float[np.ndarray, " ranks"]],
    *,
    data: str,
    ranks: int = 20,
    gallery: int | None = None,
) -> Figure:
    """CMC curves by name, rank-1 in the legend: ``curve[k - 1]`` = P(a match is among the first k).

    The axis ends at ``ranks``, at the end of the longest curve or at the size of the ``gallery``
    (None: not known), whichever comes first.
    """
    if not curves or ranks < 1 or (gallery is not None and gallery < 1):
        raise UsageError(
            f"{len(curves)} curves, ranks {ranks}, gallery {gallery}: give at least 1 of each"
        )
    for name, curve in curves.items():
        values = np.asarray(curve)
        if values.ndim != 1 or not values.size or not np.all((values >= 0) & (values <= 1)):
            raise UsageError(f"CMC curve {name!r}: give probabilities (ranks,) in [0, 1]")
    last = min(ranks, max(map(len, curves.values())), gallery or ranks)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    styles = product(("-", "--", ":", "-."), (NETWORK, PIXELS, "#8d6b94", "#d9a441"))
    lines = []
    for (name, curve), (dashes, color) in zip(curves.items(), cycle(styles), strict=False):
        values = np.asarray(curve)[:last]
        label = f"{shown(name, longest=40)}: rank-1 {values[0]:.4f}"
        ranked = np.arange(1, values.size + 1)
        lines += axes.plot(ranked, values, ls=dashes, color=color, label=label, marker="o", ms=3.5)
    axes.set(title=f"CMC curve on {data}", xlabel="rank", ylabel="matching rate")
    axes.set(xlim=(1 - 0.02 * last, last + 0.02 * last), ylim=(0, 1.02))
    axes.set_xticks(
        range(1, last + 1) if last <= 10 else [1, *range(5, last + 1, -(-last // 50) * 5)]
    )
    axes.grid(alpha=0.3)
    axes.legend(handles=lines, loc="lower right", frameon=False)
    return figure


def _rows(
    score: np.ndarray, match: np.ndarray, valid: np.ndarray, precision: np.ndarray, count: int
) -> list[_Row]:
    """The hardest queries, worst first, then typical ones, best first."""
    ranked = np.flatnonzero(~np.isnan(precision))
    first = np.array([_first_right(score[q], match[q], valid[q]) for q in ranked])
    count = min(count, len(ranked))
    by_first = ranked[np.argsort(-first, kind="stable")]
    hardest = by_first[: count // 2]
    rest = np.sort(by_first[count // 2 :])  # so that equal precisions keep the queries' order
    rest = rest[np.argsort(-precision[rest], kind="stable")]
    some = min(count - len(hardest), len(rest))
    # The middles of equal parts, so that neither the best nor the worst prevail.
    typical = rest[((np.arange(some) + 0.5) * len(rest) / max(some, 1)).astype(int)]
    place = dict(zip(ranked.tolist(), first.tolist(), strict=True))
    rows = []
    for title, chosen in (("hardest", hardest), ("typical", typical)):
        for number, q in enumerate(chosen.tolist(), start=1):
            kept = np.flatnonzero(valid[q])
            order = kept[np.argsort(-score[q, kept], kind="stable")]
            rows.append(_Row(q, f"{title} {number}", float(precision[q]), order, place[q]))
    return rows


def _first_right(score: np.ndarray, match: np.ndarray, valid: np.ndarray) -> int:
    """Rank, from 1, of the first correct image, without a sort: it runs for every query."""
    right = np.flatnonzero(match & valid)
    best = right[np.argmax(score[right])]  # the first of equal ones
    above = valid & (score > score[best])
    return 1 + int(above.sum()) + int((valid & (score == score[best]))[:best].sum())


def _legend(score: np.ndarray, rows: list[_Row], top: int) -> str:
    tied = 0
    for row in rows:  # one more than is shown: the last may tie with one cut off
        values = score[row.query, row.order[: max(top, row.first) + 1]]
        tied += bool((values[1:] == values[:-1]).any())
    said = "Above each image: rank, ✓ correct (green) or ✗ wrong (red), score. Junk is left out."
    if tied:
        said += f"\nEqual scores, in {tied} of the {len(rows)} lists, keep the gallery's order."
    return said


def _thumbnail(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Every n-th pixel of a large image, because 60 photographs in full take gigabytes."""
    step = -(-max(image.shape[:2]) // _LONGEST)
    return np.ascontiguousarray(image[::step, ::step])


def _show(axes: Axes, image: np.ndarray, title: str, color: str) -> None:
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8, color=color, pad=4)
    for edge in axes.spines.values():
        edge.set(color=color, linewidth=3)
