"""The commands that look over runs: which there are, and how two of them differ."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from siamjax.aligned import duration, measured, size_on_disk, text_table
from siamjax.commands.arguments import Strict, Trust
from siamjax.commands.output import Answer, answers, calibrate
from siamjax.errors import shown
from siamjax.options import Count, Source

if TYPE_CHECKING:
    from siamjax.inference.seeds import Change
    from siamjax.runs import ListedRun

_LONGEST = 70  # characters of why a run is damaged
_FIRST = "train one: python -m experiments.lfw_contrastive"


@answers
def runs(folder: tyro.conf.Positional[Path] = Path("runs"), /) -> Answer:
    """List the runs of a folder, the finished ones with their test results.

    Args:
        folder: The folder that the runs are in, or in whose sub-folders they are.
    """
    from siamjax.runs import list_runs

    found = list_runs(folder)
    finished = [one for one in found if one.state == "finished"]
    groups = [list(same) for _, same in groupby(finished, key=_kind)]
    others = [one for one in found if one.state != "finished"]
    tables = [_table(same, folder) for same in groups] + (
        [_others(others, folder)] if others else []
    )
    listed = [{**asdict(one), "run": str(one.run)} for one in found]
    return Answer(
        values={"folder": str(folder), "runs": listed},
        text=["\n\n".join(tables) or f"no runs in {shown(folder)}; {_FIRST}"],
        then=_then(finished),
    )


def _then(finished: "list[ListedRun]") -> list[object]:
    """The command for two runs with the same measure on the same data, of one seed if possible."""
    pairs = [
        pair
        for pair in combinations(finished, 2)
        if (pair[0].data, pair[0].measure) == (pair[1].data, pair[1].measure)
    ]
    if pairs:
        chosen = min(pairs, key=lambda pair: pair[0].seed != pair[1].seed)
        then: list[object] = ["compare", *(one.run for one in chosen)]
    elif finished:
        chosen = finished[:1]
        then = ["evaluate", "--run", finished[0].run]
    else:
        return []
    trust = sorted({module for one in chosen for module in one.trust})
    return [*then, *(["--trust", *trust] if trust else [])]


@answers
def compare(
    runs: tyro.conf.Positional[list[Path]],
    /,
    *,
    data: Source | None = None,
    limit: Count = 100_000,
    strict: Strict = False,
    out: Path | None = None,
    trust: Trust = (),
) -> Answer:
    """Compare runs on the same test: which differences are clear, and how the runs differ.

    Runs that differ in the seed alone are one row: their mean, and its standard error. All are
    compared with the first, over the same people.

    Args:
        runs: Folders of finished runs, the one to compare with first.
        data: Data to test all of them on, as evaluate takes it; None: their own test data, which
            must be the same.
        limit: Most pairs to take of a set without a list of pairs; drawn with seed 0.
        out: HTML page to write.
    """
    from siamjax.inference.comparison import compare_runs
    from siamjax.report import comparison as told
    from siamjax.report.results import check_page
    from siamjax.training.finished import Described

    check_page(out)
    found = compare_runs(runs, data=data, limit=limit, strict=strict, trust=trust)
    if out is not None:
        told.write_comparison(out, found)
    text = [told.text_of(found), *([f"page: {out}"] if out else [])]
    values = {
        "measure": found.chosen,
        "tests": [
            {
                "test": one.test.name,
                "task": one.test.task,
                "protocol": one.test.protocol or None,
                "people": one.judged.people,
                "runs": list(one.scores),
            }
            for one in found.tests
        ],
        "rows": [
            {
                "name": row.name,
                "runs": row.runs,
                "seeds": row.seeds,
                "results": found.judged.results[row.name],
                "intervals": found.judged.intervals[row.name],
                "standard_errors": found.errors.get(row.name, {}),
                "difference": _difference(found.changes.get(row.name)),
            }
            for row in found.rows
        ],
        "options": found.options,
        "warnings": found.warnings,
        "summary": told.sentences(found),
        "page": out,
    }
    again = ["compare", *runs, *(["--data", data] if data else []), "--out", "compared.html"]
    then = again if out is None else calibrate(Described.read(runs[0]))
    return Answer(values=values, text=text, then=then)


def _difference(changes: "Mapping[str, Change] | None") -> dict[str, dict[str, Any]] | None:
    """A row's measures minus the first row's; None for the first row itself."""
    if changes is None:
        return None
    return {
        measure: {**one._asdict(), "over_seeds": one.over_seeds, "clear": one.clear}
        for measure, one in changes.items()
    }


def _kind(one: "ListedRun") -> tuple[str, ...]:
    return one.data, one.experiment, one.chosen_by, one.measure


def _table(listed: "list[ListedRun]", folder: Path) -> str:
    """The finished runs of one experiment on one data set."""
    first = listed[0]
    rows = [
        (
            _name(one.run, folder),
            [
                "" if one.seed is None else str(one.seed),
                f"{one.step}" + ("" if one.steps is None else f"/{one.steps}"),
                measured(one.value, one.interval, missing="unknown"),
                "" if one.seconds is None else duration(one.seconds),
                size_on_disk(one.bytes or 0),
            ],
        )
        for one in listed
    ]
    experiment = shown(first.experiment or "an experiment of an earlier version")
    chosen = f"; checkpoints chosen by {shown(first.chosen_by)}" if first.chosen_by else ""
    columns = ["seed", "step", shown(first.measure or "result"), "training", "disk"]
    return f"{experiment} on {shown(first.data)}{chosen}\n{text_table(columns, rows)}"


def _others(listed: "list[ListedRun]", folder: Path) -> str:
    """What cannot be used, and why."""
    rows = []
    for one in listed:
        size = "" if one.bytes is None else size_on_disk(one.bytes)
        why = f": {shown(one.why, longest=_LONGEST)}" if one.why else ""
        rows.append((_name(one.run, folder), [size, one.state + why]))
    return f"not finished\n{text_table(['disk', ''], rows)}"


def _name(run: Path, folder: Path) -> str:
    return "." if run == folder else str(run.relative_to(folder))
