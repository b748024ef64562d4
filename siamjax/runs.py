"""The runs of a folder, and how their options differ: read from JSON files alone, without JAX."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from siamjax.errors import UsageError, shown
from siamjax.files import Finite, Natural, read_json, typed
from siamjax.training.trusted import modules_to_trust

FORMAT = 2
"""Format of ``config.json`` and ``manifest.json``; files without a number have format 1."""

State = Literal["finished", "unfinished", "damaged", "of a later version", "not a run"]

_Interval = Annotated[list[Finite], msgspec.Meta(min_length=2, max_length=2)]


class _Session(msgspec.Struct):
    seconds: Finite = 0.0


class _Manifest(msgspec.Struct):
    """What the list shows of ``manifest.json``; without ``network`` it is that of an index."""

    network: dict[str, Any]
    step: Natural
    best: str = ""
    data: str = ""
    config: dict[str, Any] = {}
    results: dict[str, dict[str, Finite | None]] = {}
    intervals: dict[str, dict[str, _Interval | None]] = {}
    sessions: list[_Session] = []


class _Format(msgspec.Struct):
    format: Natural = 1


def format_of(content: Mapping[str, Any], *, where: str) -> int:
    """The format of a ``config.json`` or ``manifest.json``; ``UsageError`` if it is no number."""
    return typed(content, _Format, where=where).format


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A folder among the runs.

    Attributes:
        run: the folder.
        state: one of :data:`State`.
        why: what is damaged, or how far an unfinished run has come; else empty.
        experiment, data: their names; empty where they are not known.
        seed: None where it is not known, and so for the numbers that follow.
        step, steps: of the chosen checkpoint, and of the whole training.
        chosen_by: the validation metric that chose the checkpoint.
        measure: that metric on the test, if the run has it there, or else its first measure.
        value, interval: of the network on the test; the interval of 95 %.
        seconds: of training, over all sessions.
        bytes: on the disk, of a run.
        trust: modules that its network is imported from only if ``--trust`` names them.
    """

    run: Path
    state: State
    why: str = ""
    experiment: str = ""
    data: str = ""
    seed: int | None = None
    step: int | None = None
    steps: int | None = None
    chosen_by: str = ""
    measure: str = ""
    value: float | None = None
    interval: list[float] | None = None
    seconds: float | None = None
    bytes: int | None = None
    trust: Sequence[str] = ()


def list_runs(folder: Path) -> list[ListedRun]:
    """The runs in a folder and in its sub-folders, or the one that the folder is itself.

    Finished ones come first, those of one experiment on one data set together and the best first.
    A folder that is no run, or a damaged one, is listed as that. Raises ``UsageError`` if there is
    no such folder, or it may not be read.
    """
    try:
        os.listdir(folder)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        remedy = "give the folder that the runs are in, or train one"
        raise UsageError(f"{shown(folder)}: {why}; {remedy}") from None
    found = [_listed(one) for one in ([folder] if _is_run(folder) else _folders(folder))]
    return sorted(found, key=_place)


def _place(one: ListedRun) -> tuple[Any, ...]:
    state, value = get_args(State).index(one.state), -1.0 if one.value is None else one.value
    return state, one.data, one.experiment, one.chosen_by, one.measure, -value, str(one.run)


def _folders(folder: Path) -> Iterator[Path]:
    """Sub-folders, and in place of one that holds runs its own sub-folders."""
    for one in _sub_folders(folder):
        inner = [] if _is_run(one) else _sub_folders(one)
        yield from inner if any(map(_is_run, inner)) else [one]


def _sub_folders(folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # it is listed as one that is no run
        return []
    paths = [folder / name for name in names if not name.startswith(".")]
    return [path for path in paths if os.path.isdir(path)]


def _is_run(folder: Path) -> bool:
    return any(os.path.lexists(folder / name) for name in ("config.json", "manifest.json"))


def _listed(folder: Path) -> ListedRun:
    if not _is_run(folder):
        return ListedRun(run=folder, state="not a run")  # it may be large: it is not measured
    state: State = "damaged"
    facts: dict[str, Any]
    try:
        state, facts = _facts(folder)
    except UsageError as error:
        facts = {"why": str(error).removeprefix(f"{shown(folder)}/")}
    return ListedRun(run=folder, state=state, bytes=_size(folder), **facts)


def _facts(folder: Path) -> tuple[State, dict[str, Any]]:
    """State of a run, and what is known of it; ``UsageError`` for a file that is damaged."""
    path = folder / "manifest.json"
    if not os.path.lexists(path):
        return _unfinished(folder)
    whole = read_json(path, dict[str, Any])
    if "network" not in whole and not os.path.lexists(folder / "config.json"):
        return "not a run", {}  # such as an index
    if format_of(whole, where=path.name) > FORMAT:
        return "of a later version", {}
    manifest = typed(whole, _Manifest, where=path.name)
    if not os.path.isdir(folder / "checkpoints" / str(manifest.step)):
        raise UsageError(f"the checkpoint of step {manifest.step} is gone")
    own = "network" if "network" in manifest.results else next(iter(manifest.results), "")
    results = manifest.results.get(own, {})
    measure = manifest.best.removeprefix("validation_")
    if measure not in results:
        measure = next(iter(results), "")
    return "finished", {
        **_of_config(manifest.config),
        "data": manifest.data,
        "step": manifest.step,
        "chosen_by": manifest.best,
        "measure": measure,
        "value": results.get(measure),
        "interval": manifest.intervals.get(own, {}).get(measure),
        "trust": modules_to_trust(manifest.network),
        "seconds": sum(one.seconds for one in manifest.sessions) if manifest.sessions else None,
    }


def _unfinished(folder: Path) -> tuple[State, dict[str, Any]]:
    config = read_json(folder / "config.json", dict[str, Any])
    if format_of(config, where="config.json") > FORMAT:
        return "of a later version", {}
    names = [path.name for path in _sub_folders(folder / "checkpoints")]
    step = max((int(name) for name in names if name.isdecimal()), default=0)
    facts = _of_config(config)
    why = f"step {step}" + ("" if facts["steps"] is None else f" of {facts['steps']}")
    return "unfinished", {**facts, "why": why, "step": step}


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "experiment": str(config.get("experiment", "")),
        "data": str(config.get("data", "")),
        "seed": _whole(config.get("seed")),
        "steps": _whole(config.get("steps")),
    }


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _size(folder: Path) -> int:
    """Bytes of all files in a folder, links not followed; what cannot be looked at counts 0."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # deleted meanwhile, as a run in training does with checkpoints
                continue
    return total


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """What differs between options or other objects of JSON: for each name the value of each.

    Names of inner values are joined by dots. A name that one of them lacks has the value None
    there. Raises ``UsageError`` for too many objects within objects.
    """
    try:
        flat = [dict(_flat(config)) for config in configs]
    except RecursionError:
        raise UsageError("options: too many objects within objects") from None
    names = dict.fromkeys(name for one in flat for name in one)
    values = {name: [one.get(name) for one in flat] for name in names}
    return {name: each for name, each in values.items() if any(one != each[0] for one in each)}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        yield name, value
        return
    for key, one in value.items():
        # A network is described by its class and, a level deeper, its fields; so are tuples.
        inner = name if key in ("fields", "tuple") else f"{name}.{key}".lstrip(".")
        yield from _flat(one, inner)
