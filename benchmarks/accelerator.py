"""One accelerator in a few minutes: the tests that need it, then times beside PyTorch's.

    python -m benchmarks.accelerator --minutes 6
    python -m benchmarks.accelerator --dry         # tries every kind of row on a CPU, tiny

First the tests marked ``accelerator``; then normxcorr with its ReLU and 1x1 convolution at 64
pairs, by each formulation that dispatch can choose; then whole train steps at published sizes,
against PyTorch eager and torch.compile where torch is installed; then other batches and types. The
JSON is written after every row; when the minutes are over, what was not reached is listed in it.

Needs jax, flax, optax, orbax-checkpoint, jaxtyping, msgspec, tqdm, Pillow, SciPy and pytest. XLA
counts the body of a loop once, so what it says of FLOPs and bytes is a lower bound for normxcorr;
there ``needed_flops`` is by formula, and the share of the peak is of these.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.accelerator_steps import NETWORKS, PRECISIONS, measured, siamjax_step, torch_step
from benchmarks.normxcorr_candidates import (
    CHANNELS,
    HEIGHT,
    OFFSETS,
    OUTPUTS,
    Problem,
    map_cotangent,
)
from siamjax import correlation
from siamjax.correlation import patch_products, shifted_maps, shifted_maps_gradient
from siamjax.correlation.options import Options
from siamjax.files import write_json

FORMULATIONS = ("as dispatched", "patch products", "shifted maps")
OPTIONS = Options(5, 2, None, 1e-2, 1, True, False, jax.nn.relu)  # the operator's defaults


class Row(NamedTuple):
    """Something to measure."""

    name: str
    measure: Callable[[], dict[str, Any]]


def formulation(name: str) -> tuple[Callable, Callable]:
    """``(x, y, kernel) -> out`` and ``(x, y, kernel, cotangent) -> (out, gradients)``."""

    def wide(x, y, kernel):  # as dispatch calls both: in float32, the kernel by row offsets
        split = kernel.reshape(CHANNELS, OFFSETS, -1, OUTPUTS).swapaxes(0, 1)
        by_offset = split.reshape(OFFSETS, -1, OUTPUTS).astype(jnp.float32)
        return x.astype(jnp.float32), y.astype(jnp.float32), by_offset

    def forward(x, y, kernel):
        if name == "as dispatched":
            return correlation.normxcorr_conv(x, y, kernel, activation=jax.nn.relu)
        if name == "the map":
            return correlation.normxcorr(x, y)
        chosen = patch_products if name == "patch products" else shifted_maps
        return chosen.conv_of(*wide(x, y, kernel), OPTIONS).astype(x.dtype)

    def both(x, y, kernel, cotangent):
        if name == "shifted maps":
            given = (*wide(x, y, kernel), cotangent.astype(jnp.float32))
            return forward(x, y, kernel), shifted_maps_gradient.conv_gradient(*given, OPTIONS)
        out, pull_back = jax.vjp(forward, x, y, kernel)
        return out, pull_back(cotangent)

    return forward, both


def operator(name: str, direction: str, precision: str, batch: int, *, dry: bool) -> dict[str, Any]:
    """normxcorr, its ReLU and the 1x1 convolution to 25 channels, on maps of 37x12x25."""
    problem = Problem(batch, 4 if dry else 12)
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    x, y, kernel, cotangent = problem.arrays()
    cotangent = map_cotangent(problem) if name == "the map" else cotangent
    arguments = tuple(jnp.asarray(u, dtype) for u in (x, y, kernel, cotangent))
    forward, both = formulation(name)
    places = batch * HEIGHT * problem.width * CHANNELS * OFFSETS * problem.width
    needed = 2 * places * (25 + (0 if name == "the map" else OUTPUTS))
    forwards = direction == "forward"
    return measured(
        forward if forwards else both,
        arguments[:3] if forwards else arguments,
        precision=precision,
        # Products of patches ask for float32; only shifted maps leave the kernel's to the setting.
        products="tf32" if name == "shifted maps" and precision == "tf32" else "float32",
        dry=dry,
        needed_flops=needed * (1 if forwards else 3),  # each product's gradient is two
    )


def accelerator_tests(seconds: float, *, dry: bool) -> dict[str, Any]:
    """The tests in a process of its own; with ``dry`` a few of them, on the CPU."""
    command = [sys.executable, "-m", "pytest", "tests/test_accelerator.py", "-v", "--tb=short"]
    command += ["-m", "accelerator", "-o", "addopts=", "-o", "filterwarnings=default"]
    command += ["-k", "losses or exported"] if dry else []
    root = Path(__file__).parent.parent
    environment = {**os.environ, **({"SIAMJAX_ON_CPU": "1"} if dry else {})}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        try:
            to = {"stdout": output, "stderr": subprocess.STDOUT}
            status = subprocess.run(command, cwd=root, env=environment, timeout=seconds, **to)
            code: int | str = status.returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {seconds:.0f} s"
        output.seek(0)
        said = output.read()
    words = ("PASSED", "FAILED", "ERROR", "SKIPPED")
    counts = {word.lower(): said.count(f" {word} ") for word in words}
    return {**counts, "status": code, "tail": "" if code == 0 else said[-6000:]}


def plan(*, dry: bool) -> Iterator[Row]:
    """What is measured, in order."""

    def operators(batch: int, names: tuple[str, ...], precisions: tuple[str, ...]):
        for precision in precisions:
            for name in names:
                for direction in ("forward", "forward + backward"):
                    label = f"normxcorr, {batch} pairs, {name}, {precision}, {direction}"
                    yield Row(label, partial(operator, name, direction, precision, batch, dry=dry))

    def steps(program: str, precision: str):
        for name, published in NETWORKS.items():
            batch = 2 if dry else published
            function: Callable = siamjax_step
            if program != "siamjax":
                if dry and name != "LFW net":
                    continue  # in PyTorch the others have one size; compiling takes minutes
                function = partial(torch_step, compiled=program == "torch.compile")
            label = f"train step, {name}, batch {batch}, {program}, {precision}"
            yield Row(label, partial(function, name, batch, precision, dry=dry))

    yield from operators(2 if dry else 64, FORMULATIONS, ("float32",) if dry else (*PRECISIONS,))
    for program in ("siamjax", "torch eager", "torch.compile"):
        yield from steps(program, "tf32")
    if dry:
        yield from operators(2, ("the map",), ("bfloat16",))
        return
    yield from operators(8, FORMULATIONS, ("float32",))
    yield from operators(256, FORMULATIONS, ("float32",))
    yield from operators(64, ("the map",), ("float32", "bfloat16"))
    for precision in ("bfloat16", "float32"):
        for program in ("siamjax", "torch eager"):
            yield from steps(program, precision)
    for batch in (8, 256):
        yield from operators(batch, FORMULATIONS, ("tf32", "bfloat16"))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=6.0, help="start no row after these")
    parser.add_argument("--dry", action="store_true", help="every kind of row, tiny, on the CPU")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/accelerator.json"))
    asked = parser.parse_args()
    end = time.monotonic() + 60 * asked.minutes
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # tests and torch need some
    device = jax.devices()[0]
    if device.platform == "cpu" and not asked.dry:
        raise SystemExit("JAX found no accelerator; --dry tries this script on the CPU")
    rows, done = list(plan(dry=asked.dry)), []
    found: dict[str, Any] = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "command": " ".join(sys.argv[1:]),
        "tests": accelerator_tests(30 * asked.minutes, dry=asked.dry),
        "rows": done,
        "not_reached": [],
    }
    print("tests", json.dumps({k: v for k, v in found["tests"].items() if k != "tail"}), flush=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        found["not_reached"] = [later.name for later in rows[number:]]
        if time.monotonic() > end:
            break
        try:
            result = row.measure()
        except ModuleNotFoundError as error:
            result = {"missing": error.name}
        except Exception as error:  # such as too little memory: the others still count
            result = {"error": f"{type(error).__name__}: {error}"[:1000]}
        done.append({"name": row.name, **result})
        found["not_reached"] = found["not_reached"][1:]
        write_json(asked.out, found)
        shown = {k: result[k] for k in ("median_ms", "share_of_peak", *result) if k in result}
        print(row.name, json.dumps(dict(list(shown.items())[:2])), flush=True)
    write_json(asked.out, found)
    print(f"written: {asked.out}; not reached: {len(found['not_reached'])} of {len(rows)} rows")


if __name__ == "__main__":
    main()
