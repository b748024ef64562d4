"""bfloat16 against float32: what every experiment reaches, seed by seed, and what a step costs.

    python -m benchmarks.precision --weights v3.npz

Trains every experiment by its own command, shortened, with both types and several seeds; a run that
is finished is not trained again, so that the command goes on where it was stopped. A seed divides
the data and draws parameters and examples anew, alike for both types: a difference is one within a
seed, and its mean is compared with the standard deviation over the seeds in float32. Then the train
steps run in turn, one process each; compare their CPU time on a shared machine. ``weights`` are an
InceptionV3's (docs/pretrained.md); without them its experiment is left out.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.in_turn import Step, compare, serve, write

DTYPES = ("float32", "bfloat16")
STEPS = {  # steps, and steps between two validations
    "lfw_contrastive": (50, 50),
    "lfw_bce": (50, 50),
    "visual_search_triplet": (100, 100),
    "faces_inception": (30, 30),
    "reid_normxcorr": (16, 16),
}
TESTED = {"verification": "auc", "reid": "map", "retrieval": "recall_at_1"}


def options_of(name: str, weights: Path | None) -> list[str]:
    """What an experiment needs to be told."""
    return ["--weights", str(weights)] if name == "faces_inception" else []


def trained(name: str, dtype: str, seed: int, runs: Path, weights: Path | None) -> dict[str, float]:
    """Train, unless that is done; the metric that chooses the checkpoint, and that of the test."""
    steps, every = STEPS[name]
    run = runs / f"{name}-{dtype}-seed{seed}"
    manifest = run / "manifest.json"
    if not manifest.exists():
        command = [sys.executable, "-m", f"experiments.{name}", "--run", str(run), "--quiet"]
        command += ["--dtype", dtype, "--seed", str(seed), "--steps", str(steps)]
        command += ["--evaluate-every", str(every), *options_of(name, weights)]
        subprocess.run(command, check=True)
    about = json.loads(manifest.read_text(encoding="utf-8"))
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    best = max(row[about["best"]] for row in rows if about["best"] in row)
    tested = TESTED[about["task"]]
    return {about["best"]: best, f"test_{tested}": about["results"]["network"][tested]}


def step_of(name: str, dtype: str) -> Step:
    """The train step of an experiment with its own options, on a random batch."""
    import importlib
    import inspect

    import jax
    import numpy as np

    from siamjax import use_fast_cpu_kernels
    from siamjax.parallel import data_parallel, replicate, shard
    from siamjax.training import create_state, initialize, make_train_step

    use_fast_cpu_kernels()
    experiment = importlib.import_module(f"experiments.{name}")
    needed = {"weights": Path("none")} if name == "faces_inception" else {}
    config = experiment.Config(dtype=dtype, **needed)
    network, loss_fn, optimizer = experiment.build(config)
    size = getattr(experiment, "SIZE", None) or (config.size, config.size)
    variables, key = initialize(network, size, config.seed)
    state = replicate(create_state(variables, optimizer, key=key))
    rng, count = np.random.default_rng(0), config.batch_size
    triplets = "triplet" in inspect.getsource(loss_fn)
    words = ("anchor", "positive", "negative") if triplets else ("x1", "x2")
    batch = {word: rng.integers(0, 256, (count, *size, 3), np.uint8) for word in words}
    if triplets:
        batch |= {"identity": np.arange(count), "negative_identity": np.arange(count) + count}
    else:
        batch |= {"same": np.arange(count) % 2 == 0}
    step = data_parallel(make_train_step(loss_fn, optimizer))

    def run() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(step(state, shard(batch)))

    run()
    return run


def main(
    seeds: int = 3,
    weights: Path | None = None,
    runs: Path = Path("runs/precision"),
    rounds: int = 5,
    output: Path = Path("benchmarks/results/precision.json"),
) -> None:
    """Train, compare, and time the steps.

    Args:
        seeds: number of seeds, from 0.
        weights: InceptionV3, for faces_inception.
        runs: folder of the runs.
        rounds: turns of the steps; 0: they are not timed.
        output: JSON file to write; those of the steps lie beside it.
    """
    names = [name for name in STEPS if weights is not None or name != "faces_inception"]
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        name: {dtype: [] for dtype in DTYPES} for name in names
    }
    for seed in range(seeds):
        for name in names:
            for dtype in DTYPES:
                found[name][dtype].append(trained(name, dtype, seed, runs, weights))
    rows = [
        {"experiment": name, "measure": measure, **compared(of, measure)}
        for name, of in found.items()
        for measure in of["float32"][0]
    ]
    for row in rows:
        print("| " + " | ".join(map(_cell, row.values())) + " |")
    write(output, {"seeds": seeds, "steps": STEPS}, {"table": rows, "runs": found})
    module = [sys.executable, "-m", "benchmarks.precision", "--candidate"]
    for name in names if rounds else ():
        candidates = {f"{name} {dtype}": [*module, name, dtype] for dtype in DTYPES}
        beside = output.with_name(f"precision_step_{name}.json")
        compare(candidates, rounds=rounds, reference=f"{name} float32", output=beside)


def compared(found: dict[str, list[dict[str, float]]], measure: str) -> dict[str, Any]:
    """Means and standard deviations over the seeds, and of the differences within a seed."""
    wide, narrow = ([run[measure] for run in found[dtype]] for dtype in DTYPES)
    apart = [b - a for a, b in zip(wide, narrow, strict=True)]

    def over_seeds(values: list[float]) -> tuple[float, float]:
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    return {
        "float32": over_seeds(wide),
        "bfloat16": over_seeds(narrow),
        "difference": over_seeds(apart),
        "within": abs(statistics.mean(apart)) <= over_seeds(wide)[1],
    }


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return "{:.4f} ({:.4f})".format(*value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--candidate"]:
        serve(lambda: step_of(*sys.argv[2:4]))
    else:
        import tyro

        tyro.cli(main)
