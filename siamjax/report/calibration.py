"""The page of a calibration: what the threshold does to people whom it was not made on."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit, ndtri

from siamjax.aligned import measured
from siamjax.errors import shown
from siamjax.inference.calibration import Calibration
from siamjax.inference.digests import readable
from siamjax.inference.halves import Compared, Pairs
from siamjax.metrics import calibration as metric
from siamjax.metrics import verification
from siamjax.report import figures
from siamjax.report.drawing import Figure
from siamjax.report.figures import DIFFERENT, NETWORK
from siamjax.report.page import drawn, write_page
from siamjax.report.tables import title

PAGE = "calibration.html"

_TICKS = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
_WAYS = {
    "squared_euclidean": "search, by squared distance",
    "cosine": "search, by cosine distance",
    "compare": "rank, by the network's value",
}
_RULES = {
    "people": "in 95 % of calibrations",
    "conformal": "on average over calibrations",
}


def text_of(found: Calibration) -> list[str]:
    """What a terminal shows."""
    side = "above" if found.rises else "below"
    pairs = f"{found.fmr.comparisons + found.fnmr.comparisons:,} pairs"
    lines = [
        f"{found.data}: {found.images:,} images{_divided(found)}",
        f"{found.measure} threshold {found.threshold:.4f} (same: at or {side}), made for a false "
        f"match rate of {found.wanted:g}; the smallest for so many people is {found.smallest:.2g}",
        f"on the others: false match rate {found.fmr}, false non-match rate {found.fnmr}",
        ", ".join(f"{name} {value}" for name, value in measures_table(found)),
        f"likelihood ratio: Cllr {found.cllr:.3f} bits (1: it says nothing), at best "
        f"{found.cllr_min:.3f}, of {pairs}",
    ]
    for way, gallery, wanted, threshold, fpir, fnir in searches_table(found):
        lines += [
            f"{way}, {gallery}: threshold {threshold}, made for an FPIR of {wanted}",
            f"  on the others: FPIR {fpir}, FNIR {fnir}",
        ]
    if found.open_set:
        lines.append(
            "FPIR: share of searches by strangers that find someone; FNIR: by people of the "
            "gallery that do not find them"
        )
    lines += [f"note: {one}" for one in found.notes]
    return [*lines, f"in brackets: 95 % intervals {_over(found)}"]


def _over(found: Calibration) -> str:
    return "of pairs taken as independent" if found.people is None else "over people"


def _divided(found: Calibration) -> str:
    if found.people is None:
        return f", pairs divided in two (seed {found.seed})"
    setting, judging = found.people
    return (
        f" of {setting + judging:,} people, divided in two (seed {found.seed}): {setting:,} set "
        f"the threshold, {judging:,} gave the rates"
    )


def measures_table(found: Calibration) -> list[tuple[str, str]]:
    """Measures that are known, with their intervals, as rows."""
    rows = []
    for name, value in found.measures.items():
        if value is not None and name in found.intervals:
            rows.append((title(name), measured(value, found.intervals[name])))
    return rows


def searches_table(found: Calibration) -> list[list[str]]:
    """A row for each threshold of a search."""
    return [
        [
            _WAYS[one.searched],
            f"{one.images:,} images"
            + (f" ({shown(one.index)})" if one.index else "")
            + (f", with {one.data}" if one.data != found.data else ""),
            f"{one.wanted:g} {_RULES[one.rule]}",
            f"{one.threshold:.4g}",
            str(one.fpir),
            "not known" if one.fnir is None else str(one.fnir),
        ]
        for one in found.open_set
    ]


def write_calibration(path: Path, found: Calibration, compared: Compared, *, heading: str) -> None:
    """Write the page: the answers, tables, and how the numbers came about.

    Raises ``UsageError`` if it cannot be written.
    """
    judging = compared.half(True)
    where = f"{found.data}, {_who(found)}"
    shown_figures = [
        (
            "Errors and likelihood ratios",
            partial(det_and_reliability, judging, found, data=where),
            "Left: every threshold is a point of the curve, and further down and to the left is "
            "better; scores of two normal distributions make a straight line. Right: where the "
            "likelihood ratio is true, the points lie on the line.",
        ),
        (
            f"{found.measure.capitalize()} of same and different pairs",
            partial(
                figures.histogram,
                judging.score if found.rises else -judging.score,
                judging.same,
                threshold=found.threshold,
                measure=found.measure,
                data=where,
            ),
            "The further apart the two, the fewer errors any threshold makes.",
        ),
    ]
    values = {
        "title": heading,
        "found": found,
        "network": readable(found.fingerprint["network"]),
        "divided": text_of(found)[0],
        "who": _who(found),
        "over": _over(found),
        "percent": _percent,
        "measures": measures_table(found),
        "searches": searches_table(found),
        "figures": [(head, *drawn(head, figure), about) for head, figure, about in shown_figures],
    }
    write_page(path, "calibration.html", values)


def _percent(rate: float) -> str:
    return f"{100 * rate:.2g} %" if rate < 0.1 else f"{100 * rate:.1f} %"


def _who(found: Calibration) -> str:
    if found.people is None:
        return f"{found.fmr.comparisons + found.fnmr.comparisons:,} pairs"
    return f"{found.people[1]} people who did not set the threshold"


def det_and_reliability(pairs: Pairs, found: Calibration, *, data: str) -> Figure:
    """The errors of every threshold, and whether the likelihood ratios are true."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    figure.suptitle(f"Calibration on {data}")
    left, right = figure.subplots(1, 2)
    _det(left, pairs, found)
    _reliability(right, pairs, found)
    return figure


def _det(axes: Any, pairs: Pairs, found: Calibration) -> None:
    """False non-match rate over false match rate, both as normal deviates, and the threshold."""
    x, y = metric.det_points(verification.roc(pairs.score, pairs.same))
    cells = np.round(100 * np.stack([x, y]))  # no more points than can be seen
    kept = np.append(True, np.diff(cells, axis=1).any(axis=0))
    axes.step(x[kept], y[kept], where="post", color=NETWORK, lw=1.8)
    crosses = []
    for rate in (found.fmr, found.fnmr):
        stop = 1 / (2 * rate.comparisons)  # a rate of 0 has no place
        crosses.append(ndtri(np.clip([rate.low, rate.value, rate.high], stop, 1 - stop)))
    (low, at, high), (below, up, above) = crosses
    axes.plot([low, high], [up, up], color=DIFFERENT, lw=2.2)
    axes.plot([at, at], [below, above], color=DIFFERENT, lw=2.2)
    label = f"threshold {found.threshold:.4g}, 95 % intervals {_over(found)}"
    axes.plot(at, up, "o", color=DIFFERENT, label=label)
    wanted = f"wanted false match rate {found.wanted:g}"
    axes.axvline(ndtri(found.wanted), color="black", lw=1, ls="--", label=wanted)
    names = [f"{100 * rate:g} %" for rate in _TICKS]
    axes.set_xticks(ndtri(_TICKS), names)
    axes.set_yticks(ndtri(_TICKS), names)
    middle = ndtri(0.6)
    axes.set(
        title="DET curve",
        xlabel="false match rate",
        ylabel="false non-match rate",
        xlim=(min(x.min(), low) - 0.1, max(middle, high) + 0.1),
        ylim=(min(y.min(), below) - 0.1, max(middle, above) + 0.1),
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)


def _reliability(axes: Any, pairs: Pairs, found: Calibration) -> None:
    """Likelihood ratios that are said, in bins of equal count, over those that are seen."""
    prior = logit(pairs.same.mean())
    value = pairs.score if found.rises else -pairs.score
    said = np.array([found.ratio(one) for one in value.tolist()])
    count = int(np.clip(len(said) // 100, 5, 20))
    bins = metric.reliability(
        expit(said + prior), pairs.same, pairs.first, pairs.second, bins=count
    )

    def ratios(shares: list[float]) -> np.ndarray:
        least = 1 / (2 * len(said))
        return np.exp(logit(np.clip(shares, least, 1 - least)) - prior)

    across = ratios([one.said for one in bins])
    low, up, high = (
        ratios(list(ends))
        for ends in zip(
            *((one.seen.interval.low, one.seen.value, one.seen.interval.high) for one in bins),
            strict=True,
        )
    )
    limits = [min(across.min(), up.min()) / 2, 2 * max(across.max(), up.max())]
    axes.plot(limits, limits, color="#cccccc", lw=1, zorder=0, label="said = seen")
    axes.errorbar(
        across,
        up,
        yerr=np.stack([up - low, high - up]).clip(0),
        fmt="o",
        color=NETWORK,
        lw=1.4,
        capsize=3,
        label=f"bins of equal count, 95 % intervals {_over(found)}",
    )
    axes.set(
        title=f"Reliability: Cllr {found.cllr:.3f} bits, at best {found.cllr_min:.3f}",
        xlabel="likelihood ratio that is said",
        ylabel="likelihood ratio that is seen",
        xscale="log",
        yscale="log",
        xlim=limits,
        ylim=limits,
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
