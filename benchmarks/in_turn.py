"""Run several programs in turn and compare them step by step.

Each candidate is a process of its own (so that thread pools and allocators do not meet), which
does one step for each line it reads. The candidates take turns, one step each, so that a noisy
machine disturbs all alike; what counts is the ratio within a round.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def serve(prepare: Callable[[], Callable[[], object]]) -> None:
    """A candidate's main: prepare (timed), then a step for each line on standard input."""
    started = time.perf_counter()
    step = prepare()
    step()
    print(json.dumps({"start_seconds": time.perf_counter() - started}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        row = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(row), flush=True)


def compare(
    candidates: dict[str, list[str]], *, rounds: int, reference: str, output: Path
) -> dict[str, dict[str, float]]:
    """Start every candidate, take ``rounds`` turns, print a table and write JSON.

    ``candidates`` are command lines by name. Ratios are medians over the rounds of the
    candidate's time over the reference's in the same round.
    """
    processes, rows = {}, {}
    for name, command in candidates.items():
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        processes[name] = process
        rows[name] = {"start": _answer(process, name), "steps": []}
    for turn in range(rounds + 1):
        for name, process in processes.items():
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            answer = _answer(process, name)
            if turn:  # the first round warms caches
                rows[name]["steps"].append(answer)
    for process in processes.values():
        process.kill()
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
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "rounds": rounds}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine, "table": table, "rows": rows}, indent=1))
    print(f"written: {output}")
    return table


def _answer(process: subprocess.Popen, name: str) -> dict[str, float]:
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit(f"{name} ended with status {process.wait()}")
