"""Run several programs in turn and compare them step by step.

Each candidate is a process of its own, so that thread pools and allocators do not interfere; it
does one step for each line it reads. The candidates take turns, so that a noisy machine disturbs
all alike. Compare the ratios within a round.
"""

import ctypes
import gc
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Step = Callable[[], object]


class Prepared(NamedTuple):
    """A candidate's steps by name, and facts about it."""

    steps: Mapping[str, Step]
    facts: Mapping[str, float] = {}


def torch_train_step(
    forward: Callable[[], Any], optimizer: Any, *, compiled: bool
) -> Callable[[], float]:
    """A train step in PyTorch that ends with its loss on the host; ``forward`` gives the loss."""
    import torch

    loss_of = torch.compile(forward) if compiled else forward

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def serve(prepare: Callable[[], Step | Prepared]) -> None:
    """Run a candidate: prepare (timed), then do a step for each line on standard input.

    A line is empty or a JSON object. ``step`` names the step, which is done ``repeat`` times (the
    answer is the mean). ``warm`` does it once before, untimed, because caches and heap are as
    other steps left them. With ``peak``, memory is measured in place of time.
    """
    started = time.perf_counter()
    try:
        prepared = prepare()
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}), flush=True)
        return
    if not isinstance(prepared, Prepared):
        prepared()
        prepared = Prepared({"": prepared})
    facts = {"start_seconds": time.perf_counter() - started, **prepared.facts}
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        asked = json.loads(line) if line.strip() else {}
        step = prepared.steps[asked.get("step", "")]
        if asked.get("warm"):
            step()
        row = _peak(step) if asked.get("peak") else _timed(step, asked.get("repeat", 1))
        print(json.dumps(row), flush=True)


def _timed(step: Step, repeat: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeat):
        step()
    return {
        "wall": (time.perf_counter() - wall) / repeat,
        "cpu": (time.process_time() - cpu) / repeat,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _peak(step: Step) -> dict[str, float]:
    """MiB that a step adds to the memory of the process after its allocator was trimmed."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return {"step_mib": math.nan}
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    clear.write_text("5", encoding="utf-8")  # reset the high-water mark
    before = _status("VmRSS")
    kept = step()
    added = _status("VmHWM") - before
    del kept
    return {"step_mib": added / 1024}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


class Candidate:
    """A process that does steps when asked; the constructor waits until it is prepared."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        self.start: dict[str, float] = self._answer()
        if (missing := self.start.get("missing")) is not None:
            raise SystemExit(f"{name} needs {missing}: pip install -e '.[benchmarks]' {missing}")

    def ask(self, **request: Any) -> dict[str, float]:
        """Do a step, see :func:`serve`, and return its measurements."""
        assert self.process.stdin is not None
        self.process.stdin.write((json.dumps(request) if request else "") + "\n")
        self.process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} ended with status {self.process.wait()}")


def compare(
    candidates: dict[str, list[str]], *, rounds: int, reference: str, output: Path
) -> dict[str, dict[str, float]]:
    """Start every candidate, run ``rounds`` turns, print a table and write JSON.

    ``candidates`` are command lines by name. A ratio is the median over the rounds of the
    candidate's time divided by the reference's time in the same round.
    """
    processes, rows = {}, {}
    for name, command in candidates.items():
        processes[name] = Candidate(name, command)
        rows[name] = {"start": processes[name].start, "steps": []}
    for turn in range(rounds + 1):
        for name, process in processes.items():
            answer = process.ask()
            if turn:  # the first round only warms caches
                rows[name]["steps"].append(answer)
    for process in processes.values():
        process.stop()
    table = {}
    for name, row in rows.items():
        steps, base = row["steps"], rows[reference]["steps"]

        def ratio(kind: str, steps=steps, base=base) -> float:
            return statistics.median(s[kind] / b[kind] for s, b in zip(steps, base, strict=True))

        table[name] = {
            "cpu_seconds": statistics.median(s["cpu"] for s in steps),
            "wall_seconds": statistics.median(s["wall"] for s in steps),
            "cpu_ratio": ratio("cpu"),
            "wall_ratio": ratio("wall"),
            "peak_mib": max(s["peak_mib"] for s in steps),
            "start_seconds": row["start"]["start_seconds"],
        }
    columns = list(next(iter(table.values())))
    print(f"{'':28}" + "".join(f"{column:>15}" for column in columns))
    for name, values in table.items():
        print(f"{name:28}" + "".join(f"{values[column]:15.3f}" for column in columns))
    write(output, {"rounds": rounds}, {"table": table, "rows": rows})
    return table


def write(output: Path, settings: dict[str, Any], results: dict[str, Any]) -> None:
    """Write the results as JSON, with the machine they were measured on."""
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), **settings}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine, **results}, indent=1), encoding="utf-8")
    print(f"written: {output}")
