"""normxcorr, its ReLU and the 1x1 convolution to 25, on maps 37x12x25, against PyTorch and others.

    python -m benchmarks.normxcorr everything

Candidates take turns in one run; a ratio is the median over the rounds of siamjax's time over the
other's in the same round. The peers run over the whole batch and in chunks of 1, 2, 4 and 8 pairs
(which keep their work in the cache), and the best of all counts. Needs the extra ``benchmarks``.

On a shared machine, other programs slow OpenMP (PyTorch) down more than XLA's thread pool. Rounds
that others disturbed are therefore not counted. With ``--cores 1`` everything is pinned to one
core, where CPU time does not depend on others.
"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import normxcorr_growth, normxcorr_step
from benchmarks.in_turn import Candidate, write
from benchmarks.normxcorr_candidates import DEFINITION, OURS, STORED, Problem
from benchmarks.normxcorr_contest import Contender, against, contest, table

RESULTS = Path("benchmarks/results")
EAGER = ("patches", "patches by channel", "patches by row", "boxes")
COMPILED = ("patches", "patches by channel", "boxes")
GUIDE = "Keras guide's layer, made to run"
CHUNKS = (1, 2, 4, 8)
DIRECTIONS = {"forward": "forward", "both": "forward + backward"}


def operator(
    cases: tuple[tuple[int, int], ...] = ((64, 12), (8, 12), (1, 12), (8, 24), (8, 48)),
    rounds: int = 10,
    plain: bool = True,
    compiled: bool = False,
    cores: int | None = None,
    output: Path = RESULTS / "normxcorr_operator.json",
) -> None:
    """Operator, ReLU and 1x1 convolution: time and memory, forward and with the gradient.

    Args:
        cases: batch sizes and widths of the maps.
        rounds: measured turns (half as many at batch 64 and width 48).
        plain: also run the nested vmap and the Keras guide's layer, at batch 8 and width 12.
        compiled: also run torch.compile, in chunks of 8, at width 12; compiling takes minutes.
        cores: pin everything to this many cores; None: all.
        output: JSON file to write.
    """
    _pin(cores)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"  # compiled once a run
        for case in cases:
            problem = Problem(*case)
            reference = problem == Problem(8, 12)
            names = [f"operator / {form}" for form in (OURS, STORED, *EAGER)]
            if plain and reference:
                names += [f"operator / {form}" for form in (DEFINITION, GUIDE)]
            if compiled and problem.width == 12 and problem.batch % 8 == 0:
                names += [f"compiled / {form}" for form in COMPILED]
            large = problem.batch * problem.width**2 > 1 << 13
            results.append(_case(problem, names, max(1, rounds // 2) if large else rounds, folder))
    write(output, {"rounds": rounds, "pinned": cores}, {"cases": results})


def stored(
    batches: tuple[int, ...] = (8, 64),
    rounds: int = 10,
    cores: int | None = None,
    output: Path = RESULTS / "normxcorr_stored.json",
) -> None:
    """The correlation map itself, (batch, height, width, 1500).

    Args:
        batches: batch sizes.
        rounds: measured turns (half as many at batch 64).
        cores: pin everything to this many cores; None: all.
        output: JSON file to write.
    """
    _pin(cores)
    names = [f"map / {form}" for form in (OURS, "patches", "patches by row", "boxes")]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for batch in batches:
            turns = max(1, rounds // 2) if batch > 32 else rounds
            results.append(_case(Problem(batch, 12), names, turns, folder))
    write(output, {"rounds": rounds, "pinned": cores}, {"cases": results})


def step(
    rounds: int = 10,
    cores: int | None = None,
    output: Path = RESULTS / "normxcorr_step.json",
) -> None:
    """The training step of the re-identification network, 32 pairs of 160x60.

    Args:
        rounds: measured turns.
        cores: pin everything to this many cores; None: all.
        output: JSON file to write.
    """
    _pin(cores)
    normxcorr_step.measure(rounds=rounds, output=output)


def growth(
    rounds: int = 5,
    cores: int | None = None,
    output: Path = RESULTS / "normxcorr_growth.json",
) -> None:
    """How siamjax's time grows with batch, width and channels.

    Args:
        rounds: measured turns.
        cores: pin everything to this many cores; None: all.
        output: JSON file to write.
    """
    _pin(cores)
    normxcorr_growth.measure(rounds=rounds, output=output)


def everything(rounds: int = 10, compiled: bool = False, cores: int | None = None) -> None:
    """Run all of these; each writes its own file.

    Args:
        rounds: measured turns.
        compiled: also run torch.compile.
        cores: pin everything to this many cores; None: all.
    """
    operator(rounds=rounds, compiled=compiled, cores=cores)
    stored(rounds=rounds, cores=cores)
    step(rounds=rounds, cores=cores)
    growth(rounds=max(1, rounds // 2), cores=cores)


def _pin(cores: int | None) -> None:
    if cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def _case(problem: Problem, names: list[str], rounds: int, folder: str) -> dict[str, Any]:
    """Start the candidates, check that their results agree, and let them take turns."""
    chunks = [chunk for chunk in CHUNKS if chunk < problem.batch]

    def start(name: str) -> Candidate:
        sizes = {"compiled": [8], GUIDE: [0]}.get(name.split(" / ")[0 if "comp" in name else 1])
        sizes = sizes or [*chunks, 0]
        command = [sys.executable, "-m", "benchmarks.normxcorr_candidates", name]
        numbers = [str(problem.batch), str(problem.width), ",".join(map(str, sizes))]
        return Candidate(name, [*command, *numbers, _file(folder, name)])

    # Compiled candidates start one at a time, because their seconds are reported.
    with ThreadPoolExecutor(2) as pool:
        ahead = list(pool.map(start, [name for name in names if "compiled" not in name]))
    processes = {process.name: process for process in ahead}
    crashed = {}
    for name in names:
        if "compiled" in name:
            try:
                processes[name] = start(name)
            except SystemExit as ended:  # some of torch.compile's programs corrupt the heap
                crashed[name] = str(ended)
                print(f"left out: {ended}")
    names = list(processes)
    try:
        for name in names[1:]:
            _check(_file(folder, name), _file(folder, names[0]), name)
        result: dict[str, Any] = {
            **problem._asdict(),
            "start_seconds": {name: process.start for name, process in processes.items()},
            "crashed": crashed,
        }
        for direction, words in DIRECTIONS.items():
            contenders = _contenders(processes, chunks, direction)
            ours = contenders[0]
            counts = contest(contenders, rounds=rounds)
            print(
                f"\nbatch {problem.batch}, width {problem.width}, {names[0].split(' / ')[0]}, "
                f"{words} ({counts['quiet']} of {counts['rounds']} rounds undisturbed)"
            )
            result[direction] = {
                "rounds": counts,
                "table": table(contenders, ours),
                "against": against(contenders, ours),
            }
        for name, process in processes.items():
            if name.startswith("compiled"):
                seconds = process.start["start_seconds"]
                print(f"  {name}: first forward and both after {seconds:.0f} s")
    finally:
        for process in processes.values():
            process.stop()
    return result


def _contenders(
    processes: dict[str, Candidate], chunks: list[int], direction: str
) -> list[Contender]:
    made = []
    for name, process in processes.items():
        kind, form = name.split(" / ")
        if form in (OURS, STORED):
            made.append(Contender(form, "ours", process, f"{direction} 0"))
        elif form in (DEFINITION, GUIDE):
            if (form, direction) != (DEFINITION, "both"):
                made.append(Contender(form, "plain", process, f"{direction} 0"))
        elif kind == "compiled":
            made.append(Contender(f"{form}, compiled", kind, process, f"{direction} 8"))
        else:
            for chunk in [0, *chunks]:
                label = f"{form}, {f'chunks of {chunk}' if chunk else 'whole batch'}"
                step = f"{direction} {chunk}"
                made.append(Contender(label, "eager", process, step, whole=not chunk))
    return made


def _file(folder: str, name: str) -> str:
    return f"{folder}/{name.replace('/', '-')}.npz"


def _check(theirs: str, ours: str, name: str) -> None:
    """Compare results to 1e-4, gradients in norm, because the ReLU's kink rounds either way."""
    with np.load(theirs) as a, np.load(ours) as b:
        for place, key in enumerate(a.files):
            if place == 0:
                error, bound = np.abs(a[key] - b[key]).max(), 1e-4
            else:
                error, bound = np.linalg.norm(a[key] - b[key]) / np.linalg.norm(b[key]), 1e-3
            if not error <= bound:
                what = ("result", "dx", "dy", "dkernel")[place]
                raise SystemExit(
                    f"{name}: {what} differs from siamjax's by {error:.1e}, more than {bound:.0e}"
                )


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    tyro.extras.subcommand_cli_from_dict(
        {
            "operator": operator,
            "stored": stored,
            "step": step,
            "growth": growth,
            "everything": everything,
        }
    )
