"""A judgement as a table, and in words: what a terminal, a page and other commands show of it."""

from collections.abc import Sequence

from siamjax.aligned import measured, text_table
from siamjax.errors import shown
from siamjax.inference.judging import FEWEST, Difference, Judgement
from siamjax.metrics.intervals import FARS
from siamjax.metrics.reid import RANKS
from siamjax.metrics.retrieval import RECALLS

Table = tuple[list[str], list[tuple[str, list[str]]]]
"""Columns, and for each row its name and its cells, as text."""

TITLES = {
    "auc": "AUC",
    "eer": "EER",
    "accuracy": "accuracy at the threshold",
    **{f"tar_at_far_{far:g}": f"TAR at FAR {far:g}" for far in FARS},
    "fold_accuracy": "k-fold accuracy",
    **{f"rank{k}": f"rank-{k}" for k in RANKS},
    "map": "mAP",
    "map_trapezoid": "mAP (trapezoid)",
    "minp": "mINP",
    "rank1_deviation": "rank-1, standard deviation over trials",
    **{f"recall_at_{k}": f"recall@{k}" for k in RECALLS},
    "map_at_r": "MAP@R",
}
"""Measures that tables show, and their names in print; a measure that is not here has its own."""

_BESIDE = {  # counts, which sentences tell, and what stands in another measure's cell
    *("pairs_same", "pairs_different", "queries", "queries_without_match", "gallery", "trials"),
    *("fold_standard_error", "fold_standard_deviation"),
}
_ACROSS = 100  # characters of a line
_FEW = 20  # people; one of them who is unlike the others decides


def title(measure: str) -> str:
    """The name of a measure in print."""
    return TITLES.get(measure, measure)


def table_of(judged: Judgement, *, against: str | None = None) -> Table:
    """A row for each measure that is known, a column for each method, intervals in brackets.

    ``against`` is a method: a last column then holds the first method minus it.
    """
    own, unknown = next(iter(judged.results), ""), _unknown(judged)
    rows = []
    for measure in (name for name in measures_of(judged) if name not in unknown):
        cells = [cell(judged, method, measure) for method in judged.results]
        if against is not None:
            cells.append(signed(judged.difference(measure, own, against)))
        rows.append((title(measure), cells))
    columns = [shown(method) for method in judged.results]
    return columns + ([f"{own} - {shown(against)}"] if against is not None else []), rows


def measures_of(judged: Judgement) -> list[str]:
    """All measures, in the order of the titles; those without a title come last."""
    named = {measure: None for values in judged.results.values() for measure in values}
    listed = [measure for measure in named if measure not in _BESIDE]
    places = {measure: place for place, measure in enumerate(TITLES)}
    return sorted(listed, key=lambda measure: places.get(measure, len(places)))


def _unknown(judged: Judgement) -> dict[str, str]:
    """Measures without a number for any method, and why."""
    return {
        measure: judged.unknown.get(measure, "it cannot be measured here")
        for measure in measures_of(judged)
        if all(values.get(measure) is None for values in judged.results.values())
    }


def cell(judged: Judgement, method: str, measure: str) -> str:
    """A measure of a method with its interval, as tables show it."""
    values = judged.results[method]
    if measure == "fold_accuracy" and values.get(measure) is not None:
        error, deviation = values["fold_standard_error"], values["fold_standard_deviation"]
        return f"{values[measure]:.4f} ± {error:.4f} (deviation {deviation:.4f})"
    return measured(values.get(measure), judged.interval(method, measure))


def signed(difference: Difference | None) -> str:
    """A difference with its sign and its interval; empty if there is none.

    Draws that are all the same, as of two people, tell no interval.
    """
    if difference is None:
        return ""
    value, (low, high) = difference
    if low == high:
        return f"{value:+.4f}"
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def verdict(judged: Judgement, difference: Difference) -> str:
    """What the interval of a difference says, higher values being better."""
    low, high = difference.interval
    if low <= 0 <= high:
        return "not clearly different: the interval contains 0"
    words = "better" if low > 0 else "worse"
    side = f"the whole interval lies {'above' if low > 0 else 'below'} 0"
    few = _few(judged)
    if few and judged.people is not None and judged.people < FEWEST:
        return f"{words} here, but {few} are too few to tell"
    if few:
        return f"{words}, as far as {few} can tell: {side}"
    return f"clearly {words}: {side}"


def _few(judged: Judgement) -> str:
    """The number of people or items, in words, where it is small."""
    if judged.people is None or judged.people >= _FEW:
        return ""
    return judged.over.partition(",")[0]


def reasons(judged: Judgement) -> list[str]:
    """A sentence for each reason why measures are not known."""
    by_reason: dict[str, list[str]] = {}
    for measure, reason in _unknown(judged).items():
        by_reason.setdefault(reason, []).append(title(measure))
    return [f"Not known: {', '.join(names)}; {reason}." for reason, names in by_reason.items()]


def certainty(judged: Judgement) -> list[str]:
    """Sentences on what the intervals are over, and where they may mislead."""
    if not judged.draws:
        return []
    said = [f"In brackets: 95 % intervals over {judged.over} (bootstrap, seed 0)."]
    if few := _few(judged):
        said.append(f"{few} are few: such intervals may still be too narrow.")
    return said


def chosen_measure(judged: Judgement, best: str) -> str | None:
    """The measure that chose the checkpoint, or the first one if the test lacks it; None: none."""
    own = next(iter(judged.results.values()), {})
    wanted = [best.removeprefix("validation_"), *measures_of(judged)]
    return next((measure for measure in wanted if own.get(measure) is not None), None)


def text_of(judged: Judgement, *, chosen: str | None = None) -> str:
    """Table and sentences for a terminal of 100 columns.

    ``chosen`` is the measure by which the first method is compared with the best baseline.
    """
    own = next(iter(judged.results), "")
    said = [*parted(*table_of(judged)), *reasons(judged), *certainty(judged)]
    if chosen is not None and (other := judged.best_baseline(chosen)) is not None:
        found = judged.difference(chosen, own, other)
        if found is not None:
            difference = f"{title(chosen)} of {own} - {shown(other)}: {signed(found)}"
            said.append(f"{difference}, {verdict(judged, found)}.")
    return "\n".join(said)


def parted(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """A table as text, in as many parts as a terminal of 100 columns asks for."""
    width = max((len(name) for name, _ in rows), default=0)
    return [
        text_table([columns[k] for k in part], [(n, [cells[k] for k in part]) for n, cells in rows])
        for part in _parts(columns, rows, room=_ACROSS - width)
    ]


def _parts(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], *, room: int
) -> list[list[int]]:
    """Columns that fit side by side, those that do not in further parts."""
    parts, left = [], 0
    for place, column in enumerate(columns):
        width = 2 + max([len(column), *(len(cells[place]) for _, cells in rows)])
        if not parts or width > left:
            parts.append([])
            left = room
        parts[-1].append(place)
        left -= width
    return parts
