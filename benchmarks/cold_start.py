"""From the start of a process to its answer: commands, their help, and that of an experiment.

    python -m benchmarks.cold_start
    python -m benchmarks.cold_start --rounds 15 --run runs/lfw_contrastive-orl_faces

Whole processes in turn, as the operating system counts them; a ratio is the median over the rounds
of a program's time divided by that of ``import jax`` in the same round. ``verify, first call``
finds nothing that was compiled before, ``verify, second call`` what the first left on disk. ``bare
script`` is what the work needs in any case: JAX, Flax, Orbax, one checkpoint, one cached forward.
The last table tells where the second call's time goes. On a shared machine, compare CPU time.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.in_turn import write

ROOT = Path(__file__).parent.parent
_PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
VERIFY = ("-m", "siamjax", "verify", "a.png", "b.png", "--quiet", "--run")

BARE = """
import sys, flax.linen as nn, jax, numpy as np
from orbax.checkpoint import v1 as ocp
class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for channels in (16, 32, 64, 128):
            x = nn.max_pool(nn.relu(nn.Conv(channels, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(256)(x.reshape(len(x), -1))
x = np.zeros((2, 64, 64, 3), np.float32)
if sys.argv[2:]:
    ocp.save_pytree(sys.argv[1], jax.jit(Net().init)(jax.random.key(0), x))
else:
    print(np.asarray(jax.jit(Net().apply)(ocp.load_pytree(sys.argv[1]), x)).sum())
"""

STAGES = """
import sys, time
begun, marks = time.process_time(), {"Python and what starts it": time.process_time()}
def mark(name):
    global begun
    now = time.process_time()
    marks[name], begun = now - begun, now
import jax; mark("import jax")
import flax.linen; mark("import flax.linen")
from orbax.checkpoint import v1; mark("import orbax.checkpoint.v1")
import tyro; mark("import tyro")
from siamjax import platform; platform.use_fast_cpu_kernels(); platform.keep_compilations()
mark("settings of XLA and of the cache")
from pathlib import Path
from siamjax.inference.verification import Verifier; mark("import siamjax")
from siamjax.training import finished
load = finished.load_variables
def loaded(*where):
    mark("build the network")
    found = load(*where)
    mark("read the checkpoint")
    return found
finished.load_variables = loaded
jax.devices(); mark("start the CPU backend")
verifier = Verifier.open(sys.argv[1]); mark("trace the network")
verifier.compare(Path("a.png"), Path("b.png")); mark("read images, lower, load, compute")
for name, seconds in marks.items():
    print(f"{name}\\t{seconds}")
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to time, and how often."""

    rounds: int = 9
    """Turns of all programs; the first that warms the disk is not counted."""
    run: Path | None = None
    """A finished run; None: lfw_contrastive's network with random weights."""
    output: Path = Path("cold_start.json")
    """JSON file with every measurement."""


def timed(words: list[str], env: Mapping[str, str], folder: Path) -> dict[str, float]:
    """CPU and wall seconds of a whole process of Python, with its children."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], env={**_PLAIN, **env}, cwd=folder, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{' '.join(words)}: status {os.waitstatus_to_exitcode(status)}")
    return {"cpu": used.ru_utime + used.ru_stime, "wall": wall}


def prepare(folder: Path, run: Path | None) -> Path:
    """Two images, and a run's folder."""
    import numpy as np
    from PIL import Image

    for number, name in enumerate(("a.png", "b.png")):
        drawn = np.random.default_rng(number).integers(0, 256, (112, 92, 3), np.uint8)
        Image.fromarray(drawn).save(folder / name)
    if run is not None:
        return run.absolute()
    import json

    from experiments.lfw_contrastive import Config as Faces
    from experiments.lfw_contrastive import build
    from siamjax.training import create_state, initialize
    from siamjax.training.checkpoints import Checkpoints
    from siamjax.training.description import describe_module

    config, run = Faces(), folder / "run"
    network, _, optimizer = build(config)
    variables, key = initialize(network, config.size, 0)
    checkpoints = Checkpoints(run / "checkpoints", best="auc")
    checkpoints.save(create_state(variables, optimizer, key=key), {"auc": 0.5})
    checkpoints.close()
    described = describe_module(network)
    manifest = {"format": 2, "network": described, "size": config.size, "step": 0, "threshold": 1}
    (run / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return run


def main(config: Config) -> None:
    """Time the programs in turn, print the tables and write all measurements."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run, bare = prepare(folder, config.run), str(folder / "bare")
        kept = {"XDG_CACHE_HOME": str(folder / "kept"), "PYTHONPATH": str(ROOT)}
        cached = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "bare_cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        programs = {
            "import jax": (["-c", "import jax"], {}),
            "bare script": (["-W", "ignore", "-c", BARE, bare], cached),
            "verify, first call": ([*VERIFY, str(run)], kept),
            "verify, second call": ([*VERIFY, str(run)], kept),
            "siamjax --help": (["-m", "siamjax", "--help"], kept),
            "siamjax verify --help": (["-m", "siamjax", "verify", "--help"], kept),
            "experiment --help": (["-m", "experiments.lfw_contrastive", "--help"], kept),
        }
        timed(["-W", "ignore", "-c", BARE, bare, "save"], {}, folder)
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
        for turn in range(config.rounds + 1):
            for name, (words, env) in programs.items():
                if name == "verify, first call":  # it finds nothing, and leaves all to the second
                    env["XDG_CACHE_HOME"] = str(folder / f"kept{turn}")
                row = timed(words, env, folder)
                if turn:
                    rows[name].append(row)
        table = {name: summary(taken, rows["import jax"]) for name, taken in rows.items()}
        print(f"{'':24}" + "".join(f"{name:>14}" for name in next(iter(table.values()))))
        for name, values in table.items():
            print(f"{name:24}" + "".join(f"{value:14.3f}" for value in values.values()))
        stages = stages_of(run, kept, folder, rounds=config.rounds)
    print("\nCPU seconds of the second call:")
    for name, seconds in stages.items():
        print(f"  {name:36}{seconds:8.3f}")
    results = {"table": table, "stages": stages, "rows": rows}
    write(config.output, {"rounds": config.rounds}, results)


def summary(rows: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, float]:
    """Medians of seconds, and of ratios to ``base`` in the same round."""
    kinds = ("cpu", "wall")
    seconds = {f"{kind}_seconds": statistics.median(row[kind] for row in rows) for kind in kinds}
    ratios = {
        f"{kind}_ratio": statistics.median(
            row[kind] / one[kind] for row, one in zip(rows, base, strict=True)
        )
        for kind in kinds
    }
    return seconds | ratios


def stages_of(run: Path, env: Mapping[str, str], folder: Path, *, rounds: int) -> dict[str, float]:
    """CPU seconds of each stage of the second call, medians over processes."""
    told: dict[str, list[float]] = {}
    for _ in range(rounds):
        command = [sys.executable, "-c", STAGES, str(run)]
        done = subprocess.run(
            command, env={**_PLAIN, **env}, cwd=folder, check=True, capture_output=True, text=True
        )
        for line in done.stdout.splitlines():
            name, _, seconds = line.partition("\t")
            told.setdefault(name, []).append(float(seconds))
    return {name: statistics.median(seconds) for name, seconds in told.items()}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
