"""Figures of a verification run; each names its data set."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.metrics.verification import Roc, auc

NETWORK, PIXELS = "#1f6f8b", "#b0b0b0"
SAME, DIFFERENT = "#2a9d5c", "#c44536"


def as_png(figure: Figure) -> str:
    """The figure as a ``data:`` address, so that a page needs no other file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
    return "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()


Panels = Sequence[tuple[str, dict[str, str]]]
"""Title of each panel, and colours of the metrics in it."""

VERIFICATION_PANELS: Panels = (
    ("loss (training)", {"loss": NETWORK}),
    ("AUC (validation people)", {"validation_auc": NETWORK}),
    (
        "distance of embeddings (training)",
        {"distance_same": SAME, "distance_different": DIFFERENT},
    ),
)
REID_PANELS: Panels = (
    ("loss (training)", {"loss": NETWORK}),
    ("mAP and rank-1 (validation)", {"validation_map": NETWORK, "validation_rank1": SAME}),
    ("accuracy (training pairs)", {"accuracy": DIFFERENT}),
)
RETRIEVAL_PANELS: Panels = (
    ("loss (training)", {"loss": NETWORK}),
    (
        "recall@1 and MAP@R (validation items)",
        {"validation_recall_at_1": NETWORK, "validation_map_at_r": SAME},
    ),
    (
        "distance of embeddings (training)",
        {"distance_same": SAME, "distance_different": DIFFERENT},
    ),
)


def training_curves(rows: Sequence[dict[str, float]], *, data: str, panels: Panels) -> Figure:
    """Loss, what validation measured, and what the training pairs show, over the steps."""
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    figure.suptitle(f"Training on {data}")
    for axes, (title, lines) in zip(figure.subplots(1, 3), panels, strict=True):
        for name, color in lines.items():
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                marker = "o" if len(points) < 20 else None
                axes.plot(*zip(*points, strict=True), color=color, label=name, marker=marker, ms=3)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(frameon=False)
    return figure


def roc_curves(curves: dict[str, Roc], *, data: str) -> Figure:
    """ROC curves, linear and with a logarithmic false accept rate."""
    colors = [NETWORK, PIXELS, "#8d6b94", "#d9a441"]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(f"ROC on {data}")
    linear, logarithmic = figure.subplots(1, 2)
    for (name, curve), color in zip(curves.items(), colors, strict=False):
        linear.plot(
            curve.false_accept,
            curve.true_accept,
            color=color,
            label=f"{name}: AUC {auc(curve):.4f}",
        )
        logarithmic.step(curve.false_accept, curve.true_accept, where="post", color=color)
    linear.plot([0, 1], [0, 1], color="#dddddd", lw=1, zorder=0)
    linear.legend(loc="lower right", frameon=False)
    fewest = min(1.0 / curve.negatives for curve in curves.values())
    logarithmic.set(xscale="log", xlim=(fewest, 1))
    for axes in (linear, logarithmic):
        axes.set(xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.01))
        axes.grid(alpha=0.3)
    return figure


def histogram(
    values: np.ndarray, same: np.ndarray, *, threshold: float, measure: str, data: str
) -> Figure:
    """Distribution of the head's value for same and different pairs, and the threshold."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges(values, bins=60).tolist()
    for kind, color, name in ((same, SAME, "same"), (~same, DIFFERENT, "different")):
        label = f"{name} ({kind.sum():,} pairs)"
        axes.hist(values[kind], edges, density=True, color=color, alpha=0.6, label=label)
    axes.axvline(threshold, color="black", lw=1, ls="--", label=f"threshold {threshold:.3f}")
    axes.set(title=f"{measure} on {data}", xlabel=measure, ylabel="density")
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
    """The same pairs that score lowest and the different pairs that score highest."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    figure.suptitle(f"Hardest pairs of {pairs.name}, {images.name}")
    rows = (
        ("same, but far", np.flatnonzero(pairs.same), score, SAME),
        ("different, but near", np.flatnonzero(~pairs.same), -score, DIFFERENT),
    )
    grid: Any = figure.subplots(2, count, squeeze=False)
    for line, (title, kind, order, color) in zip(grid, rows, strict=True):
        hardest = kind[np.argsort(order[kind], kind="stable")][:count]
        for axes in line:
            axes.set_axis_off()
        for place, index in enumerate(hardest):
            one, other = (images.image(int(i)) for i in (pairs.first[index], pairs.second[index]))
            line[place].imshow(_side_by_side(one, other))
            names = f"{images.keys[pairs.first[index]]}\n{images.keys[pairs.second[index]]}"
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
