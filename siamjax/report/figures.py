"""Figures of a run: training curves, ROC, distributions, hardest pairs; each names its data."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.figure
import numpy as np

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.errors import shown
from siamjax.metrics.verification import Roc, auc
from siamjax.report.drawing import Figure
from siamjax.report.page import data_address

NETWORK, PIXELS = "#1f6f8b", "#b0b0b0"
SAME, DIFFERENT = "#2a9d5c", "#c44536"
_NAME = 36  # characters of a name in a legend or above an image of 2 inches


def as_png(figure: matplotlib.figure.Figure) -> str:
    """The figure as a ``data:`` address, so that a page needs no other file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, bbox_inches="tight")
    return data_address(content.getvalue(), kind="png")


class Line(NamedTuple):
    """A logged metric in a panel: its name in the metrics file, its name in words, its colour."""

    metric: str
    label: str
    color: str


Panels = Sequence[tuple[str, Sequence[Line]]]
"""For each panel its title and its lines."""

_LOSS = ("Loss, training", [Line("loss", "loss", NETWORK)])
_DISTANCES = (
    "Embedding distance, training pairs",
    [
        Line("distance_same", "same identity", SAME),
        Line("distance_different", "different identities", DIFFERENT),
    ],
)
VERIFICATION_PANELS: Panels = (
    _LOSS,
    ("AUC, validation", [Line("validation_auc", "AUC", NETWORK)]),
    _DISTANCES,
)
REID_PANELS: Panels = (
    _LOSS,
    (
        "mAP and rank-1, validation",
        [Line("validation_map", "mAP", NETWORK), Line("validation_rank1", "rank-1", SAME)],
    ),
    ("Accuracy, training pairs", [Line("accuracy", "accuracy", DIFFERENT)]),
)
RETRIEVAL_PANELS: Panels = (
    _LOSS,
    (
        "Recall@1 and MAP@R, validation",
        [
            Line("validation_recall_at_1", "recall@1", NETWORK),
            Line("validation_map_at_r", "MAP@R", SAME),
        ],
    ),
    _DISTANCES,
)


def training_curves(rows: Sequence[dict[str, float]], *, data: str, panels: Panels) -> Figure:
    """Logged metrics over the training steps, in three panels."""
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    figure.suptitle(f"Training on {data}")
    for axes, (title, lines) in zip(figure.subplots(1, 3), panels, strict=True):
        for metric, label, color in lines:
            points = [(row["step"], row[metric]) for row in rows if metric in row]
            if points:
                marker = "o" if len(points) < 20 else None
                axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker, ms=3)
        axes.set(title=title, xlabel="training step")
        axes.grid(alpha=0.3)
        if len(lines) > 1 and axes.lines:
            axes.legend(frameon=False)
    return figure


def roc_curves(curves: dict[str, Roc], *, data: str, unknown_to: float = 0.0) -> Figure:
    """ROC curves, with a linear and with a logarithmic axis of the false accept rate.

    Up to ``unknown_to`` the people are too few to know what the curve shows; that part is grey.
    """
    colors = [NETWORK, PIXELS, "#8d6b94", "#d9a441"]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(f"ROC curves on {data}")
    linear, logarithmic = figure.subplots(1, 2)
    lines = []  # named one by one: by itself a legend leaves out labels that begin with _
    for (name, curve), color in zip(curves.items(), colors, strict=False):
        lines += linear.plot(
            curve.false_accept,
            curve.true_accept,
            color=color,
            label=f"{shown(name, longest=_NAME)}: AUC {auc(curve):.4f}",
        )
        logarithmic.step(curve.false_accept, curve.true_accept, where="post", color=color)
    linear.plot([0, 1], [0, 1], color="#dddddd", lw=1, zorder=0)
    linear.legend(handles=lines, loc="lower right", frameon=False)
    fewest = min(1.0 / curve.negatives for curve in curves.values())
    logarithmic.set(xscale="log", xlim=(fewest, 1))
    if unknown_to > fewest:
        logarithmic.axvspan(fewest, unknown_to, color="#f1f3f4", lw=0, zorder=0)
        note = {"transform": logarithmic.get_xaxis_transform(), "color": "#5c666e", "fontsize": 8}
        logarithmic.text(fewest, 0.97, " too few people to know", va="top", **note)
    for axes in (linear, logarithmic):
        axes.set(xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.01))
        axes.grid(alpha=0.3)
    return figure


def histogram(
    values: np.ndarray, same: np.ndarray, *, threshold: float, measure: str, data: str
) -> Figure:
    """Distributions of the distance or logit of same and different pairs, and the threshold."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges(values, bins=60).tolist()
    names = (same, SAME, "same identity"), (~same, DIFFERENT, "different identities")
    for kind, color, name in names:
        label = f"{name} ({kind.sum():,} pairs)"
        axes.hist(values[kind], edges, density=True, color=color, alpha=0.6, label=label)
    axes.axvline(threshold, color="black", lw=1, ls="--", label=f"threshold {threshold:.3f}")
    axes.set(title=f"Distribution of the {measure} on {data}", xlabel=measure, ylabel="density")
    axes.legend(frameon=False)
    return figure


def hardest_pairs(
    images: ImageSet,
    pairs: PairList,
    values: np.ndarray,
    score: np.ndarray,
    *,
    measure: str,
    count: int = 6,
) -> Figure:
    """The same pairs of the lowest scores and the different pairs of the highest."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    figure.suptitle(f"Hardest pairs of {pairs.name}, {images.name}")
    rows = (
        ("same identity, least similar", np.flatnonzero(pairs.same), score, SAME),
        ("different identities, most similar", np.flatnonzero(~pairs.same), -score, DIFFERENT),
    )
    grid: Any = figure.subplots(2, count, squeeze=False)
    for line, (title, kind, order, color) in zip(grid, rows, strict=True):
        hardest = kind[np.argsort(order[kind], kind="stable")][:count]
        for axes in line:
            axes.set_axis_off()
        for place, index in enumerate(hardest):
            one, other = (images.image(int(i)) for i in (pairs.first[index], pairs.second[index]))
            line[place].imshow(_side_by_side(one, other))
            shown_keys = (images.keys[one[index]] for one in (pairs.first, pairs.second))
            names = "\n".join(shown(key, longest=_NAME) for key in shown_keys)
            line[place].set_title(
                f"{title}\n{measure} {values[index]:.3f}\n{names}", fontsize=7, color=color
            )
    return figure


def _side_by_side(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    height = max(len(one), len(other))
    padded = [
        np.pad(image, ((0, height - len(image)), (0, 4), (0, 0)), constant_values=255)
        for image in (one, other)
    ]
    return np.concatenate(padded, axis=1)
