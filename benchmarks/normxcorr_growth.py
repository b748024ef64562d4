"""How the time of normxcorr_conv grows with batch size, width and channels."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.in_turn import write
from benchmarks.normxcorr_candidates import CHANNELS, Problem


class Point(NamedTuple):
    """A size to measure."""

    batch: int = 8
    width: int = 12
    channels: int = CHANNELS
    column_search: int | None = None


SERIES = {
    "batch": [Point(batch=n) for n in (8, 16, 32, 64, 128)],
    "width, whole": [Point(width=n) for n in (12, 24, 48, 96)],
    "width, column_search 5": [Point(width=n, column_search=5) for n in (12, 24, 48, 96)],
    "channels": [Point(channels=n) for n in (12, 25, 50)],
}


def _step(point: Point, *, backward: bool) -> Callable[[], object]:
    from siamjax.correlation import normxcorr_conv

    x, y, kernel, cotangent = Problem(point.batch, point.width).arrays(channels=point.channels)
    if point.column_search is not None:
        kernel = kernel[: point.channels * 5 * (2 * point.column_search + 1)]
    function = partial(normxcorr_conv, activation=jax.nn.relu, column_search=point.column_search)

    def both(x, y, kernel, cotangent):
        out, pull_back = jax.vjp(function, x, y, kernel)
        return out, pull_back(cotangent)

    arguments = tuple(map(jax.numpy.asarray, (x, y, kernel, cotangent)))
    given = arguments if backward else arguments[:-1]
    compiled = jax.jit(both if backward else function).lower(*given).compile()
    return lambda: jax.block_until_ready(compiled(*given))


def _timed(step: Callable[[], object]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(*, rounds: int, output: Path) -> None:
    """Print milliseconds a pair, the exponents of the whole time, and write JSON."""
    from siamjax import use_fast_cpu_kernels

    use_fast_cpu_kernels()
    results: dict[str, Any] = {}
    for name, points in SERIES.items():
        sizes = [getattr(point, name.split(",")[0]) for point in points]
        results[name] = {"sizes": sizes}
        print(f"\n{name}: ms of CPU (wall) a pair")
        print(f"{'':20}" + "".join(f"{size:>18}" for size in sizes) + f"{'exponent':>18}")
        for direction in ("forward", "both"):
            steps = [_step(point, backward=direction == "both") for point in points]
            for step in steps:
                step()
            taken = [[_timed(step) for step in steps] for _ in range(rounds)]
            wall, cpu = (
                [
                    statistics.median(row[place][kind] for row in taken)
                    for place in range(len(sizes))
                ]
                for kind in range(2)
            )
            # Exponents of the whole batch's time; 1 is linear.
            exponents = [float(np.polyfit(np.log(sizes), np.log(u), 1)[0]) for u in (cpu, wall)]
            each = [
                f"{1e3 * c / point.batch:.2f} ({1e3 * w / point.batch:.2f})"
                for c, w, point in zip(cpu, wall, points, strict=True)
            ]
            print(
                f"{direction:20}"
                + "".join(f"{text:>18}" for text in each)
                + f"{f'{exponents[0]:.2f} ({exponents[1]:.2f})':>18}",
                flush=True,
            )
            results[name][direction] = {"wall": wall, "cpu": cpu, "exponents_cpu_wall": exponents}
    write(output, {"rounds": rounds}, {"series": results})
