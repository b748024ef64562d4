"""What happens when something goes wrong: runs and indexes are killed, stopped and damaged.

    python -m benchmarks.faults                    # 50 kills of each kind; hours on two cores
    python -m benchmarks.faults --kills 2 --only training

A kill is SIGKILL at a random moment of a command's life, its start and its report included; then
the same command is given again, which may be killed again, until it ends by itself. A row is as
expected when every command ended with status 0 and without a traceback, went on from the last step
that was saved, and left what an undisturbed run leaves: the arrays of the last checkpoint, the rows
of metrics, the manifest (without what depends on the clock), an index byte for byte. Of two
processes a random one is killed; the other has to end by itself within 60 s, with a status that is
not 0, and with a line that says why. ``saving`` kills within a save alone.
"""

import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the undisturbed end is read here

import numpy as np
import tyro

from benchmarks.fault_processes import (
    LIMIT,
    Command,
    Ended,
    Row,
    differences,
    embedded_rows,
    index_end,
    run_end,
    saved_steps,
    unfinished,
)
from benchmarks.in_turn import write
from benchmarks.other_faults import other_rows

PEOPLE, EACH = 8, 5
CATALOGUE = 320


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which faults, and how often."""

    kills: int = 50
    """Kills of each kind; a fifth as many terminations."""
    only: tuple[str, ...] = ()
    """Rows whose names contain one of these words; none: all."""
    processes: tuple[int, ...] = (1, 2)
    """In how many processes a command runs."""
    seed: int = 0
    """Seed of the moments."""
    output: Path = Path("faults.json")
    """JSON file with every row."""


@dataclass(frozen=True)
class Task:
    """A command that writes into a folder.

    Attributes:
        words: the command, given its folder.
        end: what it leaves, by name.
        reached: how far what was saved in the folder reaches; 0: not at all.
        resumed: what it says when it goes on, with the number that ``reached`` gave.
    """

    name: str
    words: Callable[[Path], list[str]]
    end: Callable[[Path], dict[str, Any]]
    reached: Callable[[Path], int]
    resumed: str | None = None


def draw(folder: Path) -> None:
    """Images of a few people, and a catalogue, which a small network can just tell apart."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        face = rng.integers(0, 256, (24, 20, 3))
        home = folder / "people" / f"s{person:02d}"
        home.mkdir(parents=True)
        for number in range(EACH):
            image = np.clip(face + rng.normal(0, 120, face.shape), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(home / f"{number}.png")
    (folder / "catalogue").mkdir()
    for number in range(CATALOGUE):
        image = rng.integers(0, 256, (24, 20, 3), np.uint8)
        Image.fromarray(image).save(folder / "catalogue" / f"{number:04d}.png")


def tasks_in(scratch: Path) -> dict[str, Task]:
    """The commands that faults happen to."""

    def training(**options: Any) -> Callable[[Path], list[str]]:
        given = {
            "data": scratch / "people",
            "validation_people": 2,
            "test_people": 2,
            "batch_size": 8,
            "log_every": 1,
            **options,
        }
        words = [w for k, v in given.items() for w in ("--" + k.replace("_", "-"), str(v))]
        return lambda folder: ["experiments.lfw_contrastive", *words, "--run", str(folder)]

    def embed(folder: Path) -> list[str]:
        words = ["siamjax", "embed", str(scratch / "catalogue"), "--run", str(scratch / "trained")]
        return [*words, "--out", str(folder), "--batch-size", "8", "--chunk", "8"]

    def reached(folder: Path) -> int:
        return max(saved_steps(folder), default=0)

    small = training(width=0.0625, size=16, steps=16, evaluate_every=2)
    large = training(width=0.25, size=64, steps=8, evaluate_every=1)
    said = r"resumed at step (\d+) of"
    return {
        "training": Task("training", small, run_end, reached, said),
        "saving": Task("saving", large, run_end, reached, said),
        "embedding": Task("embedding", embed, index_end, embedded_rows),
    }


class Faults:
    """All rows; each method is one, or some that are alike."""

    def __init__(self, config: Config, scratch: Path) -> None:
        self.config, self.scratch = config, scratch
        self.tasks = tasks_in(scratch)
        self._ends: dict[tuple[str, int], tuple[dict[str, Any], float]] = {}
        self._folders, self.stopping = 0, False
        draw(scratch)
        self.undisturbed_run(self.tasks["training"], scratch / "trained", 1)

    def undisturbed_run(self, task: Task, folder: Path, count: int) -> None:
        """A whole run; ``SystemExit`` where even that does not work."""
        for ended in Command(task.words(folder), self.scratch, count).start().ends():
            if ended.status != 0:
                raise SystemExit(f"{task.name}, undisturbed: status {ended.status}\n{ended.said}")

    def undisturbed(self, task: Task, count: int) -> tuple[dict[str, Any], float]:
        """What a whole run leaves, and how many seconds it takes with all compiled before."""
        if (task.name, count) not in self._ends:
            for _ in range(2):
                folder, begun = self.new_folder(), time.monotonic()
                self.undisturbed_run(task, folder, count)
                seconds = time.monotonic() - begun
            self._ends[task.name, count] = task.end(folder), seconds
        return self._ends[task.name, count]

    def new_folder(self) -> Path:
        """A folder that is not there yet."""
        self._folders += 1
        return self.scratch / f"folder-{self._folders}"

    def finish(self, row: Row, task: Task, folder: Path, count: int) -> None:
        """Give the command again; it must go on, and leave what an undisturbed run leaves."""
        before = task.reached(folder)
        command = Command(task.words(folder), self.scratch, count).start()
        self.ended_well(row, task, folder, command, before)

    def ended_well(self, row: Row, task: Task, folder: Path, command: Command, before: int) -> None:
        """Check a command that nothing happened to: how it ended, where it began, what it left."""
        ended = command.ends()
        for index, one in enumerate(ended):
            if one.status != 0 or one.crashed:
                row.problems.append(f"process {index}: status {one.status}: {one.said[-1500:]}")
        self.resumed_well(row, task, command, before, ended=True)
        if any(one.status != 0 for one in ended):
            return
        if wrong := differences(task.end(folder), self.undisturbed(task, command.count)[0]):
            row.problems.append(f"{folder}: not as undisturbed: {', '.join(wrong)}")
        shutil.rmtree(folder)

    def resumed_well(
        self, row: Row, task: Task, command: Command, before: int, *, ended: bool
    ) -> None:
        """Check where a command began: after what was saved before it, and with no damage seen."""
        said = command.said(0)
        if re.search("damaged|cannot be read|moved to", said):
            row.problems.append(f"took a kill for damage: {said[-800:]}")
        if task.resumed is None:
            return
        found = re.search(task.resumed, said)
        if found is None and before and ended:
            row.problems.append(f"began anew although {before} was saved: {said[-800:]}")
        if found is not None and int(found[1]) != before:
            row.problems.append(f"resumed at {found[1]} although {before} was saved")
        if found is not None:
            row.numbers["resumed"] = row.numbers.get("resumed", 0) + 1

    def struck(
        self,
        task: Task,
        count: int,
        number: int,
        *,
        times: int,
        moment: Callable[[Command, Path, np.random.Generator, float], bool],
    ) -> Row:
        """``times`` signals at moments that ``moment`` waits for (False: ended before)."""
        _, whole = self.undisturbed(task, count)
        name = signal.Signals(number).name
        row = Row(f"{name} while {task.name}", count)
        rng = np.random.default_rng([self.config.seed, count, number, *task.name.encode()])
        others: list[Ended] = []
        victims: list[Ended] = []
        hits = runs = 0
        while row.times < times and not self.stopping:
            folder, before, runs = self.new_folder(), 0, runs + 1
            while True:
                command = Command(task.words(folder), self.scratch, count).start()
                enough = row.times == times or self.stopping
                if enough or not moment(command, folder, rng, whole):
                    self.ended_well(row, task, folder, command, before)
                    break
                row.times += 1
                victim, since = int(rng.integers(count)), time.monotonic()
                command.send(victim, number)
                ended = command.ends(LIMIT + 10, since=since)
                hits += bool(unfinished(folder))
                victims.append(ended.pop(victim))
                others += ended
                self.victim_ended(row, victims[-1], number)
                for one in ended:
                    self.other_ended(row, one, complete=(folder / "manifest.json").exists())
                if left := command.orphans():
                    row.problems.append(f"processes {left} were left behind")
                self.resumed_well(row, task, command, before, ended=False)
                if (now := task.reached(folder)) < before:
                    row.problems.append(f"{before} was saved, and {now} is left")
                before = now
                self.show(row)
        row.numbers |= {
            "runs": runs,
            "within_a_save": hits,
            "victims_seconds": [round(one.seconds, 2) for one in victims],
            "others_seconds": [round(one.seconds, 2) for one in others],
            "others_status": [one.status for one in others],
            "others_said": sorted({re.sub(r"\d+", "N", one.line)[:300] for one in others}),
            "others_crashed": sum(one.crashed for one in others),
        }
        row.seen = f"{runs} whole runs"
        if task.name != "embedding":
            resumed = row.numbers.get("resumed", 0)
            row.seen += f", {resumed} times resumed; {hits} fell within a save"
        if number == signal.SIGTERM:
            row.seen += f"; ended after {_spread(victims)}"
        if others:
            row.seen += f"; the other ended after {_spread(others)}"
        return row

    def victim_ended(self, row: Row, ended: Ended, number: int) -> None:
        """Check how the process ended that got the signal."""
        # Where nothing is to be saved, SIGTERM ends a process as it ends any: a shell says 143.
        # 0: it had just ended by itself.
        good = (-number, 0) if number == signal.SIGKILL else (-number, 128 + number, 0)
        if ended.status not in good or ended.crashed:
            row.problems.append(f"the process hit: status {ended.status}: {ended.said[-1500:]}")
        if number == signal.SIGTERM and ended.seconds > LIMIT / 2:
            row.problems.append(f"SIGTERM took {ended.seconds:.0f} s")

    def other_ended(self, row: Row, ended: Ended, *, complete: bool) -> None:
        """Check how a process ended whose partner has gone."""
        if ended.status is None or ended.seconds > LIMIT:
            row.problems.append(f"the other process hung: {ended.said[-1500:]}")
        elif ended.status == 0 and not complete:
            row.problems.append(
                f"the other process: status 0 with work undone: {ended.said[-800:]}"
            )
        elif ended.crashed:
            row.problems.append(f"the other process crashed: {ended.said[-1500:]}")

    def show(self, row: Row) -> None:
        """Progress, on standard error."""
        print(
            f"{row.fault}, {row.processes}: {row.times}, {len(row.problems)} problems",
            file=sys.stderr,
            flush=True,
        )

    def stop(self, number: int, frame: object) -> None:
        """End with the table of what was done so far: the answer to Ctrl-C and SIGTERM."""
        self.stopping = True

    def rows(self) -> Iterator[Row]:
        """Every row that was asked for."""
        for name, make in self.all_rows():
            if self.stopping:
                return
            if not self.config.only or any(one in name for one in self.config.only):
                yield make()

    def all_rows(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        """Name and function of every row."""
        kills, terms = self.config.kills, -(-self.config.kills // 5)
        for count in self.config.processes:
            for name, task in self.tasks.items():
                moment = MOMENTS.get(name, at_any_time)
                hit = partial(self.struck, task, count, moment=moment)
                yield f"kills {name}", partial(hit, signal.SIGKILL, times=kills)
                yield f"terminations {name}", partial(hit, signal.SIGTERM, times=terms)
            yield from other_rows(self, count)


def at_any_time(command: Command, folder: Path, rng: np.random.Generator, whole: float) -> bool:
    """Wait until a moment of the time that a whole run takes; False: it ended before."""
    until = command.began + rng.uniform(0, whole)
    return command.wait_for(lambda: time.monotonic() > until)


def while_saving(command: Command, folder: Path, rng: np.random.Generator, whole: float) -> bool:
    """Wait for one of the next saves, and for a moment in it or just after it."""
    seen = {path.name for path in unfinished(folder)}
    for _ in range(rng.integers(1, 4)):
        if not command.wait_for(lambda: bool({path.name for path in unfinished(folder)} - seen)):
            return False
        seen.update(path.name for path in unfinished(folder))
    delay = rng.uniform(0, 0.3)
    if rng.integers(4) == 0:  # now and then while older checkpoints are removed
        whole_before, delay = saved_steps(folder), rng.uniform(0, 0.03)
        if not command.wait_for(lambda: bool({*saved_steps(folder)} - {*whole_before})):
            return False
    time.sleep(delay)
    return command.running()


def while_training(command: Command, folder: Path, rng: np.random.Generator, whole: float) -> bool:
    """At any time, or, as most of the life of so short a run is its start, after one of 8 rows."""
    if rng.integers(2):
        return at_any_time(command, folder, rng, whole)
    until = rows_in(folder) + int(rng.integers(1, 9))
    if not command.wait_for(lambda: rows_in(folder) >= until):
        return False
    time.sleep(rng.uniform(0, 0.1))
    return command.running()


def rows_in(folder: Path) -> int:
    """Rows of metrics that a run has written."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


MOMENTS = {"training": while_training, "saving": while_saving}


def _spread(ended: list[Ended]) -> str:
    seconds = [one.seconds for one in ended]
    return f"{statistics.median(seconds):.1f} s (at most {max(seconds):.1f})"


def main(config: Config) -> list[Row]:
    """Let the faults happen, print the table and write all rows."""
    print("| fault | processes | times | seen | as expected |\n|---|---|---|---|---|", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        faults = Faults(config, Path(scratch).resolve())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, faults.stop)
        for row in faults.rows():
            print(row.text(), flush=True)
            for problem in row.problems:
                print(f"\n{row.fault}, {row.processes}: {problem}\n", file=sys.stderr, flush=True)
            rows.append(row)
    write(config.output, {"kills": config.kills}, {"rows": [asdict(row) for row in rows]})
    return rows


if __name__ == "__main__":
    if any(row.problems for row in main(tyro.cli(Config, description=__doc__))):
        sys.exit(1)
