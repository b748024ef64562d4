"""Finished runs on the same test: what each reaches, and which differences are clear."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamjax import messages
from siamjax.errors import UsageError, shown
from siamjax.files import dump_json
from siamjax.inference.evaluation import leaks, open_test, own_test, task_of
from siamjax.inference.judging import Judgement
from siamjax.inference.seeds import Change, Judged, Row, rows_of, standard_error
from siamjax.inference.tested import NETWORK, Test
from siamjax.runs import differences
from siamjax.training.finished import Described, Finished

_AGAIN = 0.01  # what another device or version may change of a measure
_CODE = ("git", "packages", "device")  # of the environment that a manifest tells


@dataclass(frozen=True, kw_only=True, eq=False)
class Tested:
    """Runs that were tested on the same.

    Attributes:
        test: what was asked.
        scores: what each run's network answered, by run.
        judged: the runs as methods, over the same draws of people.
    """

    test: Test
    scores: Mapping[str, Any]
    judged: Judgement


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Runs side by side; those that differ in the seed alone are one row.

    Attributes:
        chosen: the measure that comes first.
        rows: the methods, in the order of their first runs; all are compared with the first.
        judged: the rows' measures, means over their seeds, with intervals over people.
        errors: standard errors over seeds by row and measure, of rows with several seeds.
        changes: each row's measures minus the first row's, by row and measure; not of the first.
        options: what differs between the rows' configs, networks and code: for each name a value
            a row, None where a row has no such thing.
        tests: what was tested on, with the runs that were.
        warnings: of runs that have seen some of their test in training, and of runs that do not
            reach again what their manifest says.
    """

    chosen: str
    rows: Sequence[Row]
    judged: Judgement
    errors: Mapping[str, Mapping[str, float]]
    changes: Mapping[str, Mapping[str, Change]]
    options: Mapping[str, Sequence[Any]]
    tests: Sequence[Tested]
    warnings: Sequence[str]


def compare_runs(
    folders: Sequence[Path],
    *,
    data: str | None = None,
    limit: int = 100_000,
    strict: bool = False,
    trust: Collection[str] = (),
) -> Comparison:
    """Score runs on the same test again, each once, and compare them with the first.

    Each is tested on its own test split, or all on ``data``, as
    :func:`~siamjax.inference.evaluation.evaluate_run` does it. Raises ``UsageError`` for fewer than
    two runs, and before anything is scored for a row none of whose runs was tested on the same as
    one of the first row's, naming the difference.
    """
    runs = _described(folders)
    rows = rows_of({name: _config(run) for name, run in runs.items()})
    if data is None:
        _check_tasks(runs)
        tests = _own_tests(runs, strict=strict)
    else:
        prefer = task_of(next(iter(runs.values())))
        tests = dict.fromkeys(runs, open_test(data, prefer=prefer, limit=limit, strict=strict))
    keys = {name: _key(run, tests[name], own=data is None) for name, run in runs.items()}
    for row in rows[1:]:
        if not {keys[name] for name in rows[0].runs} & {keys[name] for name in row.runs}:
            raise UsageError(_told_apart(rows[0].runs[0], row.runs[0], runs, tests))
    tested = _score(runs, tests, keys, trust=trust)
    judged = Judged([one.judged for one in tested])
    whole = judged.mean(rows)
    measures = list(dict.fromkeys(name for one in whole.results.values() for name in one))
    first = next(iter(tests.values()))
    wanted = str(next(iter(runs.values())).manifest.get("best")).removeprefix("validation_")
    chosen = wanted if wanted in measures else first.chosen
    warnings = _leaks(runs, tests, content=data is not None)
    return Comparison(
        chosen=chosen,
        rows=rows,
        judged=whole,
        errors={row.name: _errors(judged, row, measures) for row in rows if len(row.runs) > 1},
        changes={row.name: _changes(judged, row, rows[0], measures) for row in rows[1:]},
        options=_options(rows, runs),
        tests=tested,
        warnings=warnings if data is not None else warnings + _changed(runs, tested, chosen),
    )


def _described(folders: Sequence[Path]) -> dict[str, Described]:
    """Runs by the names that tell them apart: their folders' own, or else their whole paths."""
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("give two runs or more, each of them once")
    own = [folder.absolute().name for folder in folders]
    runs = {}
    for name, folder in zip(own, folders, strict=True):
        runs[shown(name if own.count(name) == 1 else folder)] = Described.read(folder)
    return runs


def _config(run: Described) -> dict[str, Any]:
    """What makes a method; empty for a run of an earlier version that does not tell."""
    config = run.about.config
    return {**config, "network": run.about.network} if config else {}


def _key(run: Described, test: Test, *, own: bool) -> tuple[str, Any]:
    """Equal for equal tests. The images' checksum is that of the training: nothing is read."""
    return test.fingerprint, run.manifest.get("data_sha256") if own else None


def _check_tasks(runs: Mapping[str, Described]) -> None:
    tasks = {name: task_of(run) or "an unknown task" for name, run in runs.items()}
    first, task = next(iter(tasks.items()))
    for name, other in tasks.items():
        if other != task:
            raise UsageError(
                f"{first} is a run of {task} and {name} one of {other}; compare runs of one task, "
                "or give --data to test all on one set"
            )


def _own_tests(runs: Mapping[str, Described], *, strict: bool) -> dict[str, Test]:
    """The test of each run; those that were asked for by the same words are made once.

    What is left out of their data is told once, whatever number of seeds divide it.
    """
    made: dict[str, Test] = {}
    tests, told = {}, set()
    for name, run in runs.items():
        about = run.about
        words = dump_json([about.splits, about.trials, about.config.get("symmetric")])
        if words not in made:
            data = str(about.splits.get("data"))
            with messages.quiet() if data in told else contextlib.nullcontext():
                made[words] = own_test(run, strict=strict)
            told.add(data)
        tests[name] = made[words]
    return tests


def _told_apart(
    one: str, other: str, runs: Mapping[str, Described], tests: Mapping[str, Test]
) -> str:
    """How the tests of two runs differ."""
    remedy = "train one of them with the other's options, or give --data to test all on one set"
    requests = [runs[name].about.splits for name in (one, other)]
    said = [f"{name} {shown(a)} and {shown(b)}" for name, (a, b) in differences(requests).items()]
    if not said and tests[one].fingerprint != tests[other].fingerprint:
        said = [f"{tests[one].name} and {tests[other].name}"]
    said = said or ["the same names, but the images have changed between the trainings"]
    return f"{one} and {other} were tested on different data ({'; '.join(said)}); {remedy}"


def _score(
    runs: Mapping[str, Described],
    tests: Mapping[str, Test],
    keys: Mapping[str, Any],
    *,
    trust: Collection[str],
) -> list[Tested]:
    """Each run's scores, one network in memory at a time, judged with the others of its test."""
    scores: dict[Any, dict[str, Any]] = {}
    limits: dict[str, float | None] = {}
    for name, run in runs.items():
        found, limits[name] = _answers(run.folder, tests[name], trust=trust)
        scores.setdefault(keys[name], {})[name] = found
    tested = []
    for answers in scores.values():
        test = tests[next(iter(answers))]
        judged = test.judge(answers, thresholds={name: limits[name] for name in answers})
        tested.append(Tested(test=test, scores=answers, judged=judged))
    return tested


def _answers(folder: Path, test: Test, *, trust: Collection[str]) -> tuple[Any, float | None]:
    """A run's scores and its threshold, if it has one."""
    opened = Finished.open(folder, trust=trust)
    return test.scores(opened), test.thresholds(opened, {}).get(NETWORK)


def _leaks(runs: Mapping[str, Described], tests: Mapping[str, Test], *, content: bool) -> list[str]:
    found = {name: leaks(run, tests[name], content=content) for name, run in runs.items()}
    return [f"{name}: {said}" for name, (said, contaminated) in found.items() if contaminated]


def _changed(runs: Mapping[str, Described], tested: Sequence[Tested], measure: str) -> list[str]:
    said = []
    for one in tested:
        for name in one.scores:
            before, now = _told(runs[name], measure), one.judged.results[name].get(measure)
            if before is not None and now is not None and abs(before - now) > _AGAIN:
                said.append(
                    f"{name}: {measure} is {now:.4f} now, and {before:.4f} in its manifest; the "
                    "images or the code have changed since"
                )
    return said


def _told(run: Described, measure: str) -> float | None:
    """What the manifest says; None for a result that no code of this project wrote."""
    found: Any = run.manifest.get("results")
    for key in (NETWORK, measure):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, float) else None


def _errors(judged: Judged, row: Row, measures: Sequence[str]) -> dict[str, float]:
    found = {measure: judged.values(row.runs, measure) for measure in measures}
    return {
        measure: error
        for measure, each in found.items()
        if each is not None and not isinstance(each[0], int)  # a number of queries, say
        if (error := standard_error(each)) is not None
    }


def _changes(judged: Judged, row: Row, first: Row, measures: Sequence[str]) -> dict[str, Change]:
    found = {measure: judged.change(measure, row, first) for measure in measures}
    return {measure: change for measure, change in found.items() if change is not None}


def _options(rows: Sequence[Row], runs: Mapping[str, Described]) -> dict[str, list[Any]]:
    """What differs; of the network only what no option of the same name and values tells."""
    configs = []
    for row in rows:
        manifest = runs[row.runs[0]].manifest
        judged = manifest.get("judged")
        known = judged if isinstance(judged, dict) else {}
        code = {name: known.get(name) for name in _CODE}
        if isinstance(code["git"], dict):
            code["git"] = {**code["git"], "commit": str(code["git"].get("commit"))[:12]}
        configs.append({**row.config, "parameters": manifest.get("parameters"), **code})
    found = differences(configs)
    options = {name: each for name, each in found.items() if not name.startswith("network.")}

    def told(name: str, each: list[Any]) -> bool:
        return any(options.get(part) == each for part in name.split(".")[1:])

    network = {name: each for name, each in found.items() if name not in options}
    return options | {name: each for name, each in network.items() if not told(name, each)}
