"""The processes that benchmarks.normxcorr measures: siamjax and the peers in PyTorch.

A candidate is named ``map / form``, ``operator / form`` or ``compiled / form``. It first writes its
results for fixed inputs, so that they can be compared. Its steps are named ``forward n`` and
``both n``, where n is the number of pairs at a time (0: all at once). ``both`` is forward and
backward with respect to x, y and the kernel (for a map: x and y), for a given cotangent.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.in_turn import Prepared, Step, serve

HEIGHT, CHANNELS, OUTPUTS, OFFSETS = 37, 25, 25, 5
OURS, STORED, DEFINITION = "siamjax", "siamjax, map stored", "nested vmap (JAX)"


class Problem(NamedTuple):
    """Sizes of a measurement; ``arrays`` always gives the same numbers."""

    batch: int
    width: int

    def arrays(self, *, channels: int = CHANNELS) -> tuple[np.ndarray, ...]:
        """Noise after a ReLU as x and y (NHWC), the kernel, and the cotangent of the result."""
        draw = np.random.default_rng(0).standard_normal
        shape = (self.batch, HEIGHT, self.width, channels)
        features = channels * OFFSETS * self.width
        x, y = (np.maximum(draw(shape, np.float32), 0) for _ in range(2))
        kernel = draw((features, OUTPUTS), np.float32) / np.float32(np.sqrt(features))
        return x, y, kernel, draw((*shape[:3], OUTPUTS), np.float32)


def map_cotangent(problem: Problem) -> np.ndarray:
    """The cotangent of the stored map."""
    features = CHANNELS * OFFSETS * problem.width
    shape = (problem.batch, HEIGHT, problem.width, features)
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def jax_candidate(name: str, problem: Problem, results: Path) -> Prepared:
    """Compiled ``forward`` and ``both``, and the temporaries that XLA allocates for them."""
    import jax

    from siamjax import use_fast_cpu_kernels
    from siamjax.correlation import normxcorr, normxcorr_by_definition, normxcorr_conv

    use_fast_cpu_kernels()
    kind, form = name.split(" / ")

    def apart(x, y, kernel):
        return jax.nn.relu(normxcorr(x, y)) @ kernel

    def by_definition(x, y, kernel):
        return jax.nn.relu(jax.vmap(normxcorr_by_definition)(x, y)) @ kernel

    function: Callable
    arguments = problem.arrays()
    if kind == "map":
        function, arguments = normxcorr, (*arguments[:2], map_cotangent(problem))
    elif form == OURS:
        function = partial(normxcorr_conv, activation=jax.nn.relu)
    else:
        function = apart if form == STORED else by_definition

    def both(*arguments):
        out, pull_back = jax.vjp(function, *arguments[:-1])
        return out, *pull_back(arguments[-1])

    arguments = tuple(map(jax.numpy.asarray, arguments))
    wanted = {"forward": (function, arguments[:-1]), "both": (both, arguments)}
    if form == DEFINITION:  # its gradient is NaN at patches of one value
        del wanted["both"]
    steps, facts, kept = {}, {}, {}
    for direction, (computed, given) in wanted.items():
        compiled = jax.jit(computed).lower(*given).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        facts[f"temporaries_mib {direction}"] = memory.temp_size_in_bytes / 2**20
        steps[f"{direction} 0"] = partial(_ready, compiled, given)
        kept[direction] = steps[f"{direction} 0"]()
    _save(results, *(kept["both"] if "both" in kept else (kept["forward"],)))
    return Prepared(steps, facts)


def _ready(compiled: Callable, arguments: tuple) -> object:
    import jax

    return jax.block_until_ready(compiled(*arguments))


def torch_candidate(name: str, problem: Problem, chunks: list[int], results: Path) -> Prepared:
    """Eager or compiled steps of one form, in chunks of each size."""
    import torch

    from benchmarks.normxcorr_peers import FORMS, Parts

    torch.manual_seed(0)
    kind, form = name.split(" / ")
    maps = kind == "map"
    x, y, kernel, cotangent = problem.arrays()
    x, y = (torch.from_numpy(u).permute(0, 3, 1, 2).contiguous() for u in (x, y))
    kernel = torch.from_numpy(kernel)
    found = FORMS[form].map if maps else FORMS[form].conv
    assert found is not None
    function: Callable = found
    if kind == "compiled":
        function = torch.compile(function, dynamic=False)
    shape = (problem.batch, HEIGHT, problem.width)
    if maps:
        cotangent = map_cotangent(problem).reshape(*shape, CHANNELS, OFFSETS, problem.width)
    cotangent = torch.from_numpy(cotangent)

    def of_chunk(function: Callable, *arguments: torch.Tensor) -> Parts:
        parts = function(*arguments)
        return parts if maps else (parts,)

    def store(parts: Parts, out: torch.Tensor) -> None:
        """Store the parts; if there are several, each is of one row offset."""
        for r, part in enumerate(parts):
            (out[:, :, :, :, r : r + 1] if len(parts) > 1 else out).copy_(part)

    def slices(chunk: int) -> list[slice]:
        size = chunk or problem.batch
        return [slice(i, i + size) for i in range(0, problem.batch, size)]

    def forward(chunk: int) -> torch.Tensor:
        with torch.no_grad():
            if not maps:
                return torch.cat([function(x[own], y[own], kernel) for own in slices(chunk)])
            out = torch.empty_like(cotangent)
            for own in slices(chunk):
                store(function(x[own], y[own]), out[own])
            return out

    def both(chunk: int) -> tuple[torch.Tensor, ...]:
        """Run each chunk's backward right after its forward, which suits the cache best."""
        weights = [] if maps else [kernel.clone().requires_grad_()]
        out = torch.empty_like(cotangent)
        gradients = []
        for own in slices(chunk):
            leaves = [u[own].clone().requires_grad_() for u in (x, y)]
            parts = of_chunk(function, *leaves, *weights)
            given = cotangent[own]
            split = given.split(1, dim=4) if len(parts) > 1 else (given,)
            torch.autograd.backward(parts, split)
            with torch.no_grad():
                store(parts, out[own])
            gradients.append([leaf.grad for leaf in leaves])
        dx, dy = (torch.cat(grads) for grads in zip(*gradients, strict=True))
        return out, dx, dy, *(weight.grad for weight in weights if weight.grad is not None)

    steps: dict[str, Step] = {}
    for chunk in chunks:
        steps[f"forward {chunk}"] = partial(forward, chunk)
        steps[f"both {chunk}"] = partial(both, chunk)
    facts: dict[str, float] = {}
    for direction, step in (("forward", forward), ("both", both)):
        started = time.perf_counter()
        kept = step(chunks[-1])
        facts[f"first_seconds {direction}"] = time.perf_counter() - started
    out, dx, dy, *rest = kept
    gradients = [u.permute(0, 2, 3, 1) for u in (dx, dy)]
    _save(results, out.flatten(3), *gradients, *rest)
    return Prepared(steps, facts)


def _save(results: Path, *arrays) -> None:
    np.savez(results, *(np.asarray(array) for array in arrays))


def main() -> None:
    """Serve the candidate of the arguments NAME BATCH WIDTH CHUNKS RESULTS."""
    name, batch, width, chunks, results = sys.argv[1:]
    problem, path = Problem(int(batch), int(width)), Path(results)
    if any(name.endswith(f"/ {form}") for form in (OURS, STORED, DEFINITION)):
        serve(lambda: jax_candidate(name, problem, path))
    else:
        sizes = list(map(int, chunks.split(",")))
        serve(lambda: torch_candidate(name, problem, sizes, path))


if __name__ == "__main__":
    main()
