"""Rows of ``benchmarks.faults`` beside the kills at random moments: a fault at a known place."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fault_processes import (
    LIMIT,
    LONGEST,
    Command,
    Ended,
    Row,
    differences,
    free_port,
    saved_steps,
    unfinished,
)

if TYPE_CHECKING:
    from benchmarks.faults import Faults, Task

TRAINING = ("while training", "siamjax.training.loop:shard", 5)
COMPILING = ("in the first compilation", "siamjax.training.loop:shard", 1)
STARTING = ("before the loop", "siamjax.data.verification:load_verification", 1)
MEETING = ("before it met the other", "siamjax.processes:start", 1)
VALIDATION = ("in validation", "siamjax.inference.pairs:PairScorer.scores", 2)
SAVING = ("in a save", "siamjax.training.checkpoints:Checkpoints.save", 2)
CHOSEN = ("after training", "siamjax.training.run:Run.best_variables", 1)
REPORT = ("in the report", "siamjax.report.page:write_report", 1)

Place = tuple[str, str, int]


def other_rows(faults: "Faults", count: int) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Name and function of every row for so many processes."""
    for place in (STARTING, COMPILING, TRAINING, VALIDATION, SAVING, CHOSEN, REPORT):
        for index in range(count if place not in (SAVING, REPORT) else 1):
            yield f"SIGTERM {place[0]}", _at(faults, place, count, index, signal.SIGTERM)
    if count == 1:
        for how in ("byte", "cut", "gone"):
            yield "damaged checkpoint", lambda how=how: damaged(faults, how)
        for name in ("training", "embedding"):
            yield "second command", lambda name=name: twice(faults, faults.tasks[name])
        yield "worker killed", lambda: worker(faults, signal.SIGKILL)
        yield "worker hanging", lambda: worker(faults, signal.SIGSTOP)
        yield "orphaned workers", lambda: orphaned(faults)
        yield "full disk", lambda: full_disk(faults)
    else:
        for place in (MEETING, STARTING, COMPILING, TRAINING, VALIDATION, SAVING, CHOSEN, REPORT):
            for index in range(count if place not in (SAVING, REPORT) else 1):
                yield f"dies {place[0]}", _at(faults, place, count, index, signal.SIGKILL)
        for index in range(count):
            yield "hangs", _at(faults, TRAINING, count, index, signal.SIGSTOP)
        yield (
            "options differ",
            lambda: mistake(faults, "started with different options", {1: ("--seed", "1")}, None),
        )
        port = free_port()
        for name, places in {
            "nobody listens at the address": [f"localhost:{port},2,1"],
            "the others do not come": [f"localhost:{port},2,0"],
            "index 2 of 2": [f"localhost:{port},2,2"],
            "index 1 twice": [f"localhost:{port},2,1", f"localhost:{port},2,1"],
            "index 0 twice": [f"localhost:{port},2,0", f"localhost:{port},2,0"],
            "counts 2 and 3": [f"localhost:{port},2,0", f"localhost:{port},3,1"],
        }.items():
            yield name, lambda name=name, places=places: mistake(faults, name, {}, places)


def _at(faults: "Faults", place: Place, count: int, index: int, number: int) -> Callable[[], Row]:
    return lambda: strike(faults, place, count, index, number)


def strike(faults: "Faults", place: Place, count: int, index: int, number: int) -> Row:
    """A signal to one process at a place; then the command again, to the undisturbed end."""
    name, where, call = place
    task, folder = faults.tasks["training"], faults.new_folder()
    which = f", process {index}" if count > 1 else ""
    row = Row(f"{signal.Signals(number).name} {name}{which}", count, times=1)
    words = {index: (where, str(call), signal.Signals(number).name)}
    command = Command(task.words(folder), faults.scratch, count, faults=words).start()
    if not command.wait_for(lambda: f" at {where}" in command.said(index)):
        row.problems.append(f"never got there: {command.said(index)[-800:]}")
    ended = command.ends(LIMIT + 10, since=time.monotonic())
    struck = ended.pop(index)
    complete = (folder / "manifest.json").exists()
    if number == signal.SIGSTOP:
        row.seen = "stopped"
    else:
        faults.victim_ended(row, struck, number)
        row.seen = f"ended after {struck.seconds:.1f} s with {_status(struck)}"
    if number == signal.SIGTERM and place in (COMPILING, TRAINING, VALIDATION, SAVING):
        found = re.search(r"saved after step (\d+)", struck.said + "".join(x.said for x in ended))
        if found is None or int(found[1]) not in saved_steps(folder):
            row.problems.append(f"not saved: {struck.said[-800:]}")
        else:
            row.seen += f", step {found[1]} saved"
    for one in ended:
        faults.other_ended(row, one, complete=complete)
        row.seen += f"; the other after {one.seconds:.1f} s with {_status(one)}: {one.line[:120]}"
    if left := command.orphans():
        row.problems.append(f"processes {left} were left behind")
    faults.finish(row, task, folder, count)
    return row


def _status(ended: Ended) -> str:
    if ended.status is None:
        return "no end"
    return f"status {ended.status if ended.status >= 0 else 128 - ended.status}"


def damaged(faults: "Faults", how: str) -> Row:
    """A run that was killed, whose newest checkpoint is then damaged."""
    task, folder = faults.tasks["training"], faults.new_folder()
    said = {"byte": "a byte changed", "cut": "a file cut short", "gone": "a file missing"}[how]
    row = Row(f"newest checkpoint: {said}", 1, times=1)
    command = Command(task.words(folder), faults.scratch).start()
    command.wait_for(lambda: len(saved_steps(folder)) > 1 and not unfinished(folder))
    command.send(0, signal.SIGKILL)
    command.ends()
    *_, before, newest = saved_steps(folder)
    arrays = (folder / "checkpoints" / str(newest) / "training").rglob("d/*")
    victim = max(arrays, key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    if how == "byte":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif how == "cut":
        victim.write_bytes(content[: len(content) // 2])
    else:
        victim.unlink()
    command = Command(task.words(folder), faults.scratch).start()
    ended = command.ends()[0]
    warned = [
        line for line in ended.said.splitlines() if f"step {newest}" in line and "warning" in line
    ]
    resumed = re.search(r"resumed at step (\d+)", ended.said)
    row.seen = f"resumed at step {resumed[1] if resumed else None} of {before}, {newest}"
    row.seen += f": {warned[0][:200]}" if warned else ", nothing said"
    if not warned or resumed is None or int(resumed[1]) != before:
        row.problems.append(f"not found: {ended.said[-1500:]}")
    if ended.status != 0 or ended.crashed:
        row.problems.append(f"status {ended.status}: {ended.said[-1500:]}")
    else:
        wrong = differences(task.end(folder), faults.undisturbed(task, 1)[0])
        if wrong != ["damaged"]:
            row.problems.append(f"not as undisturbed: {', '.join(wrong)}")
    return row


def twice(faults: "Faults", task: "Task") -> Row:
    """The same command a second time while the first is at work."""
    folder = faults.new_folder()
    row = Row(f"the same command twice at once, {task.name}", 1, times=1)
    first = Command(task.words(folder), faults.scratch).start()
    first.wait_for(lambda: task.reached(folder) > 0)
    first.send(0, signal.SIGSTOP)  # else it could end before the second is there
    second = Command(task.words(folder), faults.scratch).start().ends()[0]
    row.seen = f"the second ended after {second.seconds:.1f} s: {second.line[:200]}"
    if second.status != 1 or second.crashed or not second.line.startswith("error: "):
        row.problems.append(f"the second: status {second.status}: {second.said[-1500:]}")
    first.send(0, signal.SIGCONT)
    faults.ended_well(row, task, folder, first, 0)
    return row


def worker(faults: "Faults", number: int) -> Row:
    """A process that reads images dies or hangs; of one that hangs a warning comes first."""
    task, folder = faults.tasks["training"], faults.new_folder()
    what = "killed" if number == signal.SIGKILL else "hanging"
    row = Row(f"a process that reads images: {what}", 1, times=1)
    command, workers = _with_workers(faults, folder)
    for pid in workers:
        os.kill(pid, number)
    since = time.monotonic()
    if number == signal.SIGSTOP and command.wait_for(lambda: "worker" in command.said(0), LIMIT):
        row.seen = f"a warning named it after {time.monotonic() - since:.0f} s; "
    ended = command.ends(LONGEST + 30, since=since)[0]
    row.seen += f"ended after {ended.seconds:.1f} s with {_status(ended)}: {ended.line[:200]}"
    if ended.status != 1 or ended.crashed or "worker" not in ended.line:
        row.problems.append(f"status {ended.status}: {ended.said[-1500:]}")
    if left := command.orphans():
        row.problems.append(f"processes {left} were left behind")
    faults.finish(row, task, folder, 1)
    return row


def orphaned(faults: "Faults") -> Row:
    """A run that is killed while other processes read its images: they end as well."""
    task, folder = faults.tasks["training"], faults.new_folder()
    row = Row("SIGKILL while two processes read images", 1, times=1)
    command, workers = _with_workers(faults, folder)
    command.send(0, signal.SIGKILL)
    command.ends(LIMIT)
    left = command.orphans()
    row.seen = f"{len(workers) - len({*left} & {*workers})} of {len(workers)} ended with it"
    if left:
        row.problems.append(f"processes {left} were left behind")
    faults.finish(row, task, folder, 1)
    return row


def _with_workers(faults: "Faults", folder: Path) -> tuple[Command, list[int]]:
    """A run that has begun and saved, and the processes that read its images."""
    task, workers = faults.tasks["training"], []
    command = Command([*task.words(folder), "--workers", "2"], faults.scratch).start()

    def begun() -> bool:
        workers[:] = _children(command.processes[0].pid)
        return len(workers) == 2 and task.reached(folder) > 0

    command.wait_for(begun)
    return command, workers


def _children(pid: int) -> list[int]:
    """Processes that forkserver or spawn made for reading images."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            words = (path.parent / "cmdline").read_bytes()
            if int(fields[3]) == pid and int(path.parent.name) != pid and b"spawn_main" in words:
                found.append(int(path.parent.name))
    return found


def full_disk(faults: "Faults") -> Row:
    """A disk that has room for two checkpoints of a run."""
    task, folder = faults.tasks["saving"], faults.new_folder()
    row = Row("disk full while saving", 1, times=1)
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        row.seen = "not done: mounting takes the rights of root"
        return row
    try:
        inside = folder / "run"
        ended = Command(task.words(inside), faults.scratch).start().ends()[0]
        said = [line for line in ended.said.splitlines() if "space" in line]
        kept = saved_steps(inside)
        row.seen = f"{_status(ended)}, checkpoints {kept} kept: "
        row.seen += said[0][:200] if said else "nothing said"
        if not said or ended.crashed or not kept:
            row.problems.append(f"status {ended.status}: {ended.said[-1500:]}")
        subprocess.run(
            ["mount", "-o", "remount,size=512m", str(folder)], capture_output=True, check=True
        )
        faults.finish(row, task, inside, 1)
    finally:
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)
    return row


def mistake(
    faults: "Faults",
    name: str,
    each: Mapping[int, Sequence[str]],
    places: Sequence[str] | None,
) -> Row:
    """Processes that are started wrongly: each ends within the limit, and says why in a line."""
    task, folder = faults.tasks["training"], faults.new_folder()
    count = 2 if places is None else len(places)
    row = Row(name, count, times=1)
    command = Command(task.words(folder), faults.scratch, count, each=each, places=places).start()
    told = []
    for index, ended in enumerate(command.ends(LIMIT + 30)):
        told.append(f"process {index} after {ended.seconds:.0f} s: {ended.line[:160]}")
        if ended.status in (0, None) or ended.crashed or not ended.line.startswith("error: "):
            row.problems.append(f"process {index}: status {ended.status}: {ended.said[-1500:]}")
        elif ended.seconds > LIMIT:
            row.problems.append(f"process {index} took {ended.seconds:.0f} s")
    row.seen = "; ".join(told)
    if folder.exists():
        row.problems.append("a run folder was made")
    return row
