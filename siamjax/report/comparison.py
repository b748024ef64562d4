"""Runs side by side, in words, as tables, and on a page."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from siamjax.aligned import measured
from siamjax.errors import shown
from siamjax.files import dump_json
from siamjax.inference.comparison import Comparison
from siamjax.inference.judging import Difference
from siamjax.inference.seeds import Change, Row
from siamjax.report.first_screen import bars
from siamjax.report.page import drawn, write_page
from siamjax.report.tables import (
    Table,
    cell,
    certainty,
    measures_of,
    parted,
    reasons,
    signed,
    table_of,
    title,
)

_LOWER = ("eer",)  # measures of errors
_SAME = "No option differs; the code may."
_VALUE = 40  # characters of an option's value


def sentences(found: Comparison) -> list[str]:
    """What the comparison says: of each row but the first whether it is better or worse."""
    if len(found.rows) == 1:
        return [_alone(found)]
    return [_against(found, row) + _seen(found, row) for row in found.rows[1:]]


def _seen(found: Comparison, row: Row) -> str:
    """Which of the two were trained on some of the test, and so look better than they are."""
    names = [
        run
        for run in (*found.rows[0].runs, *row.runs)
        if any(line.startswith(f"{run}: CONTAMINATED") for line in found.warnings)
    ]
    return f" Too good, as trained on some of this test: {', '.join(names)}." if names else ""


def _alone(found: Comparison) -> str:
    (row,) = found.rows
    value = found.judged.results[row.name].get(found.chosen)
    interval = found.judged.interval(row.name, found.chosen)
    error = found.errors[row.name].get(found.chosen)
    if value is None or error is None:
        return f"{row.name} is one method: its runs differ in the seed alone."
    seeds = ", ".join(map(str, row.seeds))
    over = " over people, and" if interval else ""
    return (
        f"{row.name} is one method, as its runs differ in the seed alone: {title(found.chosen)} "
        f"{measured(value, interval)}{over} ± {error:.4f} (standard error) over the seeds {seeds}."
    )


def _against(found: Comparison, row: Row) -> str:
    first, change = found.rows[0], found.changes[row.name].get(found.chosen)
    name = title(found.chosen)
    if change is None:
        return f"{row.name} and {first.name}: {name} cannot be compared."
    behind = f" over {_people(found)}"
    if change.over_seeds is not None:
        behind += f", and {_both(_turned(change, change.over_seeds))} over {change.seeds} seeds"
    elif len(row.runs) + len(first.runs) > 2:
        behind += ", on the one seed that both have"
    if change.few:
        behind += ", who are too few to tell"
    if not change.clear:
        return (
            f"No clear difference: {row.name} minus {first.name} is {change.value:+.4f} {name} "
            f"{_both(change.interval)}{behind}."
        )
    better = (change.value > 0) != (found.chosen in _LOWER)
    return (
        f"{row.name} is {'better' if better else 'worse'} than {first.name} by "
        f"{abs(change.value):.4f} {name} {_both(_turned(change, change.interval))}{behind}."
    )


def _turned(change: Change, interval: Sequence[float]) -> list[float]:
    """The interval of a clear change's size; of any other as it is."""
    worse = change.clear and change.value < 0
    return sorted(-end for end in interval) if worse else list(interval)


def _people(found: Comparison) -> str:
    """Whom the intervals are over, without the numbers of pairs."""
    over, count = found.judged.over, len(found.tests)
    if found.judged.people is None:
        return over
    return over.partition(",")[0] + (f" in each of {count} tests" if count > 1 else "")


def _both(interval: Sequence[float]) -> str:
    low, high = interval
    sign = "" if low > 0 else "+"
    return f"[{low:{sign}.4f}, {high:{sign}.4f}]"


def tested_on(found: Comparison) -> list[str]:
    """A line for each test: what was asked, and of which runs."""
    lines = []
    for one in found.tests:
        runs = ", ".join(one.scores) if len(found.tests) > 1 else "all runs"
        lines.append(f"Tested on {one.test.name}: {runs}.")
    return lines


def measures_table(found: Comparison) -> Table:
    """A row for each measure; each method's value, then each difference to the first method."""
    columns, rows = table_of(found.judged)
    places = {title(measure): measure for measure in measures_of(found.judged)}
    for name, cells in rows:
        measure = places[name]
        for number, row in enumerate(found.rows):
            if (error := found.errors.get(row.name, {}).get(measure)) is not None:
                cells[number] += f" ± {error:.4f}"
        for row in found.rows[1:]:
            change = found.changes[row.name].get(measure)
            cells.append("" if change is None else _signed(change))
    minus = [f"{row.name} - {found.rows[0].name}" for row in found.rows[1:]]
    return [*columns, *map(shown, minus)], rows


def _signed(change: Change) -> str:
    error = "" if change.error is None else f" ± {change.error:.4f}"
    return signed(Difference(change.value, change.interval)) + error


def options_table(found: Comparison) -> Table:
    """What differs between the methods' options, networks and code."""
    rows = [(name, list(map(_option, each))) for name, each in found.options.items()]
    return [shown(row.name) for row in found.rows], rows


def _option(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else dump_json(value)
    return shown(text, longest=_VALUE)


def remarks(found: Comparison) -> list[str]:
    """What the numbers of the table mean."""
    said = [*reasons(found.judged), *certainty(found.judged)]
    if found.errors:
        said.append("Behind ±: standard errors over seeds.")
    if found.changes:
        lower = " A lower EER is better." if "eer" in measures_of(found.judged) else ""
        said.append(f"Both sides of a difference have the same draws.{lower}")
    if len(found.changes) > 1:
        said.append("Of 20 comparisons without a difference one seems clear, by these intervals.")
    return said


def text_of(found: Comparison) -> str:
    """Tables and sentences for a terminal of 100 columns, the answer last."""
    parts = [[*tested_on(found), *(f"warning: {one}" for one in found.warnings)]]
    parts += [[part] for part in parted(*options_table(found)) if found.options]
    parts += [[_SAME]] if not found.options and len(found.rows) > 1 else []
    parts += [[part] for part in parted(*measures_table(found))]
    return "\n\n".join("\n".join(part) for part in (*parts, remarks(found), sentences(found)))


def write_comparison(path: Path, found: Comparison) -> None:
    """Write the page; ``UsageError`` if it cannot be written."""
    from siamjax.report import comparison_figures as figures

    first, title_ = found.rows[0].name, " against ".join(r.name for r in found.rows[:2][::-1])
    if len(found.rows) > 2:
        title_ = f"{len(found.rows)} methods compared"
    none = [] if found.options or len(found.rows) == 1 else [_SAME]
    shown_figures = []
    thin = " Thin: 95 % over seeds." if found.errors else ""
    if found.changes:
        shown_figures.append(
            (
                "Differences",
                partial(figures.difference_figure, found.changes, first=first),
                f"Thick: 95 % over {_people(found)}.{thin} What lies off 0 is clear.",
            )
        )
    if found.tests[0].test.task == "verification":
        curves = ("Curves", partial(figures.det_and_roc, found), "Every threshold is a point.")
    else:
        about = f"With 95 % intervals over {_people(found)}."
        curves = ("Hits over ranks", partial(figures.hits_over_ranks, found), about)
    values = {
        "title": title_,
        "tests": tested_on(found),
        "warnings": found.warnings,
        "cards": _cards(found),
        "first": {"measure": title(found.chosen), **bars(found.judged, found.chosen)},
        "tables": [
            ("Measures", *measures_table(found), remarks(found)),
            ("What differs", *options_table(found), none),
            ("Runs", *runs_table(found), []),
        ],
        "figures": [(h, *drawn(h, figure), about) for h, figure, about in (*shown_figures, curves)],
    }
    write_page(path, "comparison.html", values)


def _cards(found: Comparison) -> list[dict[str, str]]:
    """What the first screen says."""
    said, name = sentences(found), title(found.chosen)
    if len(found.rows) == 1:
        row = found.rows[0].name
        value = measured(found.judged.results[row].get(found.chosen), None)
        return [{"name": row, "value": value, "measure": name, "sentence": said[0]}]
    cards = []
    for row, sentence in zip(found.rows[1:], said, strict=True):
        change = found.changes[row.name].get(found.chosen)
        value = "" if change is None else f"{change.value:+.4f}"
        heading = f"{row.name} - {found.rows[0].name}"
        cards.append({"name": heading, "value": value, "measure": name, "sentence": sentence})
    return cards


def runs_table(found: Comparison) -> Table:
    """Every run by itself: its method, seed, and the measure that comes first."""
    judged = {run: one.judged for one in found.tests for run in one.scores}
    rows = []
    for row in found.rows:
        for run, seed in zip(row.runs, row.seeds, strict=True):
            value = cell(judged[run], run, found.chosen)
            rows.append((run, [row.name, _option(seed), value]))
    return ["method", "seed", title(found.chosen)], rows
