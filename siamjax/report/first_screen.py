"""The first screen of a run's page: how good, how sure, against what."""

import math
from typing import Any

from siamjax.inference.judging import Judgement
from siamjax.report.tables import certainty, signed, title, verdict

_MEANINGS = {
    "auc": "How often two images of one person get a higher score than two images of two people: "
    "1 is always, 0.5 is chance",
    "map": "Mean average precision: 1 if all right images are listed before any wrong one",
    "rank1": "Share of the queries whose first answer is right",
    "recall_at_1": "Share of the queries whose nearest image shows the same item",
}


def first_screen(judged: Judgement, chosen: str, *, seed: int) -> dict[str, Any]:
    """What the page says before anything else, of the measure that chose the checkpoint."""
    own, *_ = judged.results
    other = judged.best_baseline(chosen)
    found = judged.difference(chosen, own, other) if other is not None else None
    interval = judged.interval(own, chosen)
    return {
        "measure": title(chosen),
        "value": f"{judged.results[own][chosen]:.4f}",
        "meaning": _MEANINGS.get(chosen, ""),
        "interval": interval and f"{interval.low:.3f} to {interval.high:.3f}",
        "over": judged.over,
        "few": certainty(judged)[1:],
        "seed": seed,
        "baseline": other,
        "baseline_value": other and f"{judged.results[other][chosen]:.4f}",
        "difference": found and f"{found.value:+.4f}",
        "difference_interval": found and signed(found).partition(" ")[2],
        "verdict": found and verdict(judged, found).capitalize(),
        **bars(judged, chosen),
    }


def bars(judged: Judgement, chosen: str) -> dict[str, Any]:
    """A bar for each method on one axis; places and widths in percent of it."""
    known = {
        method: (value, judged.interval(method, chosen) or (value, value))
        for method, values in judged.results.items()
        if (value := values.get(chosen)) is not None
    }
    ends = [end for value, interval in known.values() for end in (value, *interval)]
    low, high = float(min(ends)), float(max(ends))
    step = _step(high - low)
    start, stop = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)

    def place(value: float) -> float:
        return round(100 * (value / step - start) / (stop - start), 2)

    return {
        "bars": [
            {
                "name": method,
                "dot": place(value),
                "left": place(interval[0]),
                "width": round(place(interval[1]) - place(interval[0]), 2),
                "text": f"{value:.4f}",
            }
            for method, (value, interval) in known.items()
        ],
        "ticks": [
            (place(k * step), f"{k * step:.{_digits(step)}f}") for k in range(start, stop + 1)
        ],
    }


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten: four to ten steps for the span."""
    power = 10.0 ** math.floor(math.log10(max(span, 1e-3) / 4))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= max(span, 1e-3) / 7)


def _digits(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))
