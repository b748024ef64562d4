"""The whole training step of the re-identification network: 32 pairs of 160x60.

    python -m benchmarks.normxcorr step

Network and loss are those of ``experiments.reid_normxcorr``. On both sides the images of a pair go
through one trunk, and the optimizer is Torch's dampened SGD with weight decay. PyTorch's
correlation runs over the whole batch, in chunks whose graphs are kept, and in chunks that the
backward pass recomputes (as siamjax does); its trunk runs in PyTorch's own memory layout and in
channels_last. The best of these counts.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.in_turn import Candidate, Prepared, Step, serve, torch_train_step, write
from benchmarks.normxcorr_contest import Contender, against, contest, table

BATCH, HEIGHT, WIDTH = 32, 160, 60
RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
OURS = "siamjax"
EAGER = ("patches", "patches, channels_last", "patches by channel, channels_last")
WAYS = (
    ("whole", 0),
    *(("kept", size) for size in (1, 2, 4, 8)),
    ("recomputed", 1),
    ("recomputed", 2),
)
SHAPES = {
    "conv1": (5, 5, 3, 20),
    "conv2": (5, 5, 20, 25),
    "correlation": (1500, 25),
    "conv4": (3, 3, 25, 25),
    "dense": (2125, 500),
    "last": (500, 2),
}


def _start(batch: int = BATCH) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray, np.ndarray]:
    """Parameters, images (first all x1, then all x2) and labels, the same for all."""
    rng = np.random.default_rng(0)
    params = {}
    for name, shape in SHAPES.items():
        bound = 1 / np.sqrt(np.prod(shape[:-1]))
        draws = (rng.uniform(-bound, bound, size).astype(np.float32) for size in (shape, shape[-1]))
        params[name] = dict(zip(("kernel", "bias"), draws, strict=True))
    images = rng.integers(0, 256, (2 * batch, HEIGHT, WIDTH, 3), np.uint8)
    return params, images, np.arange(batch) % 3 == 0


def siamjax_steps() -> Prepared:
    """The pmapped step."""
    import jax

    from experiments.reid_normxcorr import Config, build
    from siamjax import use_fast_cpu_kernels
    from siamjax.parallel import data_parallel, replicate, shard
    from siamjax.training import create_state, dampened_sgd, make_train_step

    use_fast_cpu_kernels()
    _, loss_fn, _ = build(Config(fused=False, batch_size=BATCH))
    params, images, same = _start()
    batch = {"x1": images[:BATCH], "x2": images[BATCH:], "same": same}

    optimizer = dampened_sgd(RATE, momentum=MOMENTUM, weight_decay=DECAY)
    state = replicate(create_state({"params": params}, optimizer, key=jax.random.key(0)))
    step = data_parallel(make_train_step(loss_fn, optimizer))

    def run() -> float:
        nonlocal state
        state, metrics = step(state, shard(batch))
        return float(metrics["loss"].total / metrics["loss"].count)

    return Prepared({"step": run}, {f"loss {number}": run() for number in range(3)})


def torch_steps(
    form: str,
    *,
    channels_last: bool,
    batch: int = BATCH,
    ways: Sequence[tuple[str, int]] = WAYS,
    compiled: bool = False,
) -> Prepared:
    """PyTorch steps on its default device, a network for each way to run the correlation."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from benchmarks.normxcorr_peers import FORMS

    conv: Callable = FORMS[form].conv

    class Recomputed(torch.autograd.Function):
        """Chunks that the backward pass recomputes."""

        @staticmethod
        def forward(ctx, x, y, kernel, size):  # pyright: ignore[reportIncompatibleMethodOverride]
            ctx.save_for_backward(x, y, kernel)
            ctx.size = size
            pairs = zip(x.split(size), y.split(size), strict=True)
            return torch.cat([conv(*pair, kernel) for pair in pairs])

        @staticmethod
        def backward(ctx, cotangent):  # pyright: ignore[reportIncompatibleMethodOverride]
            x, y, kernel = ctx.saved_tensors
            kernel, found = kernel.detach().requires_grad_(), []
            split = (u.split(ctx.size) for u in (x, y, cotangent))
            for *pair, given in zip(*split, strict=True):
                leaves = [u.detach().requires_grad_() for u in pair]
                with torch.enable_grad():
                    conv(*leaves, kernel).backward(given)
                found.append([leaf.grad for leaf in leaves])
            dx, dy = (torch.cat(grads) for grads in zip(*found, strict=True))
            return dx, dy, kernel.grad, None

    def correlate(x: Tensor, y: Tensor, kernel: Tensor, way: str, size: int) -> Tensor:
        if way == "whole":
            return conv(x, y, kernel)
        if way == "recomputed":
            out = Recomputed.apply(x, y, kernel, size)
            assert isinstance(out, Tensor)
            return out
        pairs = zip(x.split(size), y.split(size), strict=True)
        return torch.cat([conv(*pair, kernel) for pair in pairs])

    params, pixels, same = _start(batch)
    laid = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.as_tensor(pixels).permute(0, 3, 1, 2).contiguous(memory_format=laid)
    target = torch.as_tensor(same).float()

    def make(way: str, size: int) -> Step:
        own = {}
        for name, pair in params.items():
            weight, bias = (torch.as_tensor(u).clone() for u in pair.values())
            if weight.ndim == 4:
                weight = weight.permute(3, 2, 0, 1).contiguous(memory_format=laid)
            own[name] = weight.requires_grad_(), bias.requires_grad_()
        every = [u for pair in own.values() for u in pair]
        optimizer = torch.optim.SGD(
            every, lr=RATE, momentum=MOMENTUM, dampening=MOMENTUM, weight_decay=DECAY
        )

        def forward() -> Tensor:
            x = images.float().div(255)
            x = F.max_pool2d(F.relu(F.conv2d(x, *own["conv1"])), 2)
            x = F.max_pool2d(F.relu(F.conv2d(x, *own["conv2"])), 2)
            first, second = x.contiguous().split(batch)
            kernel, bias = own["correlation"]
            matched = F.relu(correlate(first, second, kernel, way, size) + bias)
            x = F.max_pool2d(F.conv2d(matched.permute(0, 3, 1, 2), *own["conv4"]), 2)
            x = x.permute(0, 2, 3, 1).flatten(1)
            for name in ("dense", "last"):
                weight, bias = own[name]
                x = torch.addmm(bias, x, weight)
                x = F.relu(x) if name == "dense" else x
            return F.binary_cross_entropy_with_logits(x[:, 1] - x[:, 0], target)

        return torch_train_step(forward, optimizer, compiled=compiled)

    steps = {f"{way} {size}": make(way, size) for way, size in ways}
    facts = {}
    for name in [name for name in ("kept 4", "recomputed 2", "whole 0") if name in steps]:
        for number in range(3):
            facts[f"loss {number}"] = steps[name]()
    return Prepared(steps, facts)


def measure(*, rounds: int, output: Path) -> None:
    """Run the step in siamjax and in PyTorch; print the ratios and write JSON."""
    names = [OURS, *EAGER]
    module = [sys.executable, "-m", "benchmarks.normxcorr_step"]
    processes = []
    try:
        for name in names:
            processes.append(Candidate(name, [*module, name]))
        for process in processes:
            for number in range(3):
                theirs, ours = (p.start[f"loss {number}"] for p in (process, processes[0]))
                if not abs(theirs - ours) <= 1e-4:
                    raise SystemExit(
                        f"{process.name}: loss {theirs} at step {number} in place of {ours}"
                    )
        contenders = [Contender(OURS, "ours", processes[0], "step")]
        words = {"whole": "whole", "kept": "chunks of {}", "recomputed": "chunks of {} recomputed"}
        for process in processes[1:]:
            for way, size in WAYS:
                label = f"{process.name}, {words[way].format(size)}"
                whole = way == "whole"
                contenders.append(Contender(label, "eager", process, f"{way} {size}", whole))
        counts = contest(contenders, rounds=rounds)
        print(
            f"\ntraining step, {BATCH} pairs of {HEIGHT}x{WIDTH} "
            f"({counts['quiet']} of {counts['rounds']} rounds undisturbed)"
        )
        lines = table(contenders, contenders[0])
        found = {OURS: against(contenders, contenders[0])}
    finally:
        for process in processes:
            process.stop()
    write(output, {"rounds": rounds}, {"counts": counts, "table": lines, "against": found})


def _prepare(name: str) -> Callable[[], Prepared]:
    if name == OURS:
        return siamjax_steps
    form, comma, _ = name.partition(",")
    return partial(torch_steps, form, channels_last=bool(comma))


if __name__ == "__main__":
    serve(_prepare(sys.argv[1]))
