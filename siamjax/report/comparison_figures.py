"""Figures of runs side by side: differences, DET and ROC curves, and hits over ranks."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from scipy.special import ndtri

from siamjax.errors import shown
from siamjax.inference.comparison import Comparison
from siamjax.inference.seeds import Change
from siamjax.inference.tested import VerificationTest
from siamjax.metrics.calibration import det_points
from siamjax.metrics.verification import roc
from siamjax.report.drawing import Figure
from siamjax.report.tables import title

COLORS = ("#1f6f8b", "#c8702a", "#7a5c99", "#5d8c3a", "#b0485e", "#6b7780")
"""Of the rows, the first row's first; they begin anew after the last."""

_NAME = 48  # characters of a row's name
_TICKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)


def difference_figure(changes: Mapping[str, Mapping[str, Change]], *, first: str) -> Figure:
    """Each row's measures minus the first row's, with intervals over people, and over seeds."""
    measures = list(dict.fromkeys(name for one in changes.values() for name in one))
    figure = Figure(figsize=(10, 0.8 + 0.32 * len(measures) * len(changes)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", lw=1)
    for row, (name, found) in enumerate(changes.items()):
        color = COLORS[(row + 1) % len(COLORS)]
        for place, measure in enumerate(measures):
            if measure not in found:
                continue
            change, y = found[measure], place + 0.7 * (row + 0.5) / len(changes) - 0.35
            if change.over_seeds is not None:
                axes.plot(change.over_seeds, [y, y], color=color, lw=1)
            axes.plot(change.interval, [y, y], color=color, lw=4, alpha=0.45)
            label = shown(name, longest=_NAME) if place == 0 else None
            axes.plot(change.value, y, "o", color=color, label=label)
    # Two seeds make intervals so wide that nothing else could be seen.
    widest = max(abs(end) for one in changes.values() for c in one.values() for end in c.interval)
    axes.set_xlim(*np.clip(axes.get_xlim(), -3 * widest, 3 * widest) if widest else (-1, 1))
    axes.set_yticks(range(len(measures)), [title(measure) for measure in measures])
    axes.set(ylim=(len(measures) - 0.4, -0.6), xlabel=f"minus {shown(first, longest=_NAME)}")
    axes.grid(alpha=0.3, axis="x")
    if len(changes) > 1:
        axes.legend(frameon=False, loc="best")
    return figure


def det_and_roc(found: Comparison) -> Figure:
    """The curves of every run, in the colour of its row: errors on normal deviates, and the ROC."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    det, other = figure.subplots(1, 2)
    lines, lowest = [], np.zeros(2)
    kinds = [(one.scores, one.test) for one in found.tests]
    tested = [(each, test.pairs.same) for each, test in kinds if isinstance(test, VerificationTest)]
    for row, color, name in _named(found):
        for run in row:
            curve = roc(*next((scores[run], same) for scores, same in tested if run in scores))
            points = det_points(curve)
            det.step(*points, where="post", color=color, lw=1.6)
            lowest = np.minimum(lowest, [values.min() for values in points])
            drawn = other.step(
                curve.false_accept, curve.true_accept, where="post", color=color, lw=1.6, label=name
            )
            lines += drawn if run == row[0] else []
    for axis in (det.xaxis, det.yaxis):
        axis.set_ticks(ndtri(_TICKS).tolist(), [f"{100 * tick:g} %" for tick in _TICKS])
    det.set(xlim=(lowest[0] - 0.1, ndtri(0.7)), ylim=(lowest[1] - 0.1, ndtri(0.97)))
    det.set(title="DET: lower is better", xlabel="false match rate", ylabel="false non-match rate")
    other.set(title="ROC: higher is better", xlabel="false accept rate", ylabel="true accept rate")
    other.set(xlim=(0, 1), ylim=(0, 1.01))
    other.legend(handles=lines, frameon=False, loc="lower right")
    for axes in (det, other):
        axes.grid(alpha=0.3)
    return figure


def hits_over_ranks(found: Comparison) -> Figure:
    """Rank-k or recall@k over k for every row, with intervals over people."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes: Axes = figure.subplots()
    lines = []
    for row, (_, color, name) in enumerate(_named(found)):
        method = found.rows[row].name
        values = found.judged.results[method]
        known = sorted(
            (int(at[1]), values[key], found.judged.interval(method, key) or (values[key],) * 2)
            for key in values
            if (at := re.fullmatch(r"(?:rank|recall_at_)(\d+)", key)) and values[key] is not None
        )
        heights = np.array([value for _, value, _ in known])
        low, high = np.array([ends for _, _, ends in known]).T
        off = np.maximum([heights - low, high - heights], 0)
        places = np.array([k for k, *_ in known]) * 1.03**row  # side by side
        lines.append(
            axes.errorbar(places, heights, off, color=color, marker="o", capsize=3, label=name)
        )
    every = [k for k, *_ in known]
    axes.set(xscale="log", xlabel="first k images", ylabel="share of queries that are answered")
    axes.set_xticks(every, [str(k) for k in every])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend(handles=lines, frameon=False, loc="lower right")
    return figure


def _named(found: Comparison) -> list[tuple[Sequence[str], str, str]]:
    """Of each row its runs, its colour, and its name as a legend shows it."""
    return [
        (row.runs, COLORS[number % len(COLORS)], shown(row.name, longest=_NAME))
        for number, row in enumerate(found.rows)
    ]
