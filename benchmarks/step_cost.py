"""What the training loop costs: the pmapped step in ``fit`` against a plain jit in a bare loop.

    python -m benchmarks.step_cost

One device. Network, loss and optimizer are those of ``experiments.lfw_contrastive``, so small that
a step takes about 10 ms; the batch is always the same and in memory. All loops wait for each
step's metrics. They take turns, ``BLOCK`` steps each, so that a noisy machine disturbs all alike;
a ratio is the median over the blocks of one round. The first and the last quarter of the blocks
tell whether time and memory of the process grow.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.in_turn import Candidate, write

BLOCK = 50
BATCH, SIDE, WIDTH = 16, 32, 0.125
NAMES = ("plain jit, bare loop", "pmap, bare loop", "pmap, fit")


def blocks(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The batch ``BLOCK`` times for each line on standard input, answered by what these cost."""
    yield batch  # compiles
    print(json.dumps({"ready": 1.0}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(BLOCK):
            yield batch
        row = {
            "wall": (time.perf_counter() - wall) / BLOCK,
            "cpu": (time.process_time() - cpu) / BLOCK,
            "rss_mib": _rss(),
        }
        print(json.dumps(row), flush=True)


def _rss() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def train(name: str, folder: str) -> None:
    """Train until the input ends."""
    import jax
    import numpy as np

    from experiments.lfw_contrastive import Config, build
    from siamjax import use_fast_cpu_kernels
    from siamjax.parallel import data_parallel, replicate, shard
    from siamjax.training import Run, create_state, fit, initialize, make_train_step

    use_fast_cpu_kernels()
    config = Config(
        run=Path(folder),
        width=WIDTH,
        size=SIDE,
        batch_size=BATCH,
        steps=10**6,
        evaluate_every=10**6,
    )
    network, loss_fn, optimizer = build(config)
    images = np.random.default_rng(0).integers(0, 256, (2, BATCH, SIDE, SIDE, 3), np.uint8)
    batch = {"x1": images[0], "x2": images[1], "same": np.arange(BATCH) % 2 == 1}
    variables, key = initialize(network, SIDE, 0)
    state = create_state(variables, optimizer, key=key)
    pure = make_train_step(loss_fn, optimizer)
    if name == "pmap, fit":
        splits: Any = SimpleNamespace(images=SimpleNamespace(name="made"), fingerprint=str)
        run = Run.open(config, network, splits, best="none")
        fit(run, state, data_parallel(pure), lambda start: blocks(batch), evaluate=_no_evaluation)
        return
    step: Callable[..., Any] = jax.jit(pure, donate_argnums=0)
    if name == "pmap, bare loop":
        state = replicate(state)
        pmapped = data_parallel(pure)
        step = lambda state, batch: pmapped(state, shard(batch))  # noqa: E731
    for one in blocks(batch):
        state, metrics = step(state, one)
        jax.device_get(metrics)


def _no_evaluation(variables: Any) -> Any:
    raise RuntimeError("the benchmark ends before a validation")


def main(steps: int = 2000, output: Path = Path("benchmarks/results/step_cost.json")) -> None:
    """Measure the loops.

    Args:
        steps: of each loop.
        output: JSON file to write.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.step_cost", "--candidate"]
        loops = {name: Candidate(name, [*command, name, f"{folder}/run"]) for name in NAMES}
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
        for turn in range(-2, steps // BLOCK):  # the first two rounds only warm caches
            for name, loop in loops.items():
                row = loop.ask()
                if turn >= 0:
                    rows[name].append(row)
        for loop in loops.values():
            loop.stop()
    table = {name: summary(rows[name], rows[NAMES[0]]) for name in NAMES}
    columns = list(table[NAMES[0]])
    print(f"{'':22}" + "".join(f"{column:>14}" for column in columns))
    for name, values in table.items():
        print(f"{name:22}" + "".join(f"{values[column]:14.3f}" for column in columns))
    write(output, {"steps": steps, "block": BLOCK}, {"table": table, "rows": rows})


def summary(rows: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, float]:
    """A row of the table: times in ms, memory in MiB, ratios to the bare loop of the plain jit."""
    quarter = max(len(rows) // 4, 1)

    def median(kind: str, part: slice = slice(None)) -> float:
        return statistics.median(row[kind] for row in rows[part])

    def ratio(kind: str) -> float:
        return statistics.median(a[kind] / b[kind] for a, b in zip(rows, base, strict=True))

    first, last = slice(quarter), slice(-quarter, None)
    return {
        "ms": 1e3 * median("wall"),
        "wall_ratio": ratio("wall"),
        "cpu_ratio": ratio("cpu"),
        "ms_first": 1e3 * median("wall", first),
        "ms_last": 1e3 * median("wall", last),
        "mib_first": median("rss_mib", first),
        "mib_last": median("rss_mib", last),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--candidate"]:
        train(*sys.argv[2:])
    else:
        import tyro

        tyro.cli(main)
