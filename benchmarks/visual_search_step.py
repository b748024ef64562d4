"""Training step of the whole visual search network, 2 triplets of 224x224, against PyTorch eager.

    python -m benchmarks.visual_search_step

The published network (163,661,824 parameters), loss (margin 20, cap 5, L2 penalties) and optimizer
(SGD), as in docs/visual_search.md. All three images of a triplet go through the network in one
apply. Both sides start from the same parameters, and their losses are compared first. Needs the
extra ``benchmarks`` and 6 GB.
"""

import json
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.in_turn import Candidate, Prepared, serve, torch_train_step, write

TRIPLETS, SIDE, RATE, MARGIN, CAP = 2, 224, 0.008, 20.0, 5.0
L2 = {"deep/fc1": 0.005, "deep/fc2": 0.005, "embedding": 0.01}
OURS, EAGER, CHANNELS_LAST = "siamjax", "PyTorch eager", "PyTorch eager, channels_last"


def _kernel(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A Glorot uniform kernel, the same on both sides."""
    fans = int(np.prod(shape[:-2])) * (shape[-2] + shape[-1])
    bound = np.float32(np.sqrt(6 / fans))
    draw = np.random.default_rng(zlib.crc32(name.encode())).random(shape, np.float32)
    return bound * (2 * draw - 1)


def _images(triplets: int = TRIPLETS) -> np.ndarray:
    """Images: first all anchors, then all positives, then all negatives."""
    return np.random.default_rng(0).integers(0, 256, (3 * triplets, SIDE, SIDE, 3), np.uint8)


def loss_function(network: Any) -> Callable:
    """The published loss of a network, for :func:`siamjax.training.make_train_step`."""
    from siamjax import distances, losses
    from siamjax.metrics import Mean, triplet_monitors
    from siamjax.training import forward_triplets

    def loss_fn(params, model_state, batch, key):
        rows, model_state = forward_triplets(network, params, model_state, batch, key)
        near, far = distances.euclidean(rows[0], rows[1]), distances.euclidean(rows[0], rows[2])
        loss = Mean.of(losses.triplet(near, far, margin=MARGIN, cap=CAP))
        penalty = losses.l2_penalty(params, L2)
        metrics = triplet_monitors(rows, near, far, margin=MARGIN, cap=CAP)
        return Mean(loss.total + penalty * loss.count, loss.count), (model_state, metrics)

    return loss_fn


def siamjax_step() -> Prepared:
    """The pmapped step."""
    import flax.traverse_util
    import jax
    import optax

    from siamjax import use_fast_cpu_kernels
    from siamjax.models import VisualSearchNet
    from siamjax.parallel import data_parallel, replicate, shard
    from siamjax.training import create_state, make_train_step

    use_fast_cpu_kernels()
    network = VisualSearchNet()
    images = _images()
    like = jax.eval_shape(network.init, jax.random.key(0), images[:1])["params"]
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(like, sep="/")
    start = {
        path: _kernel(path, leaf.shape) if path.endswith("kernel") else np.zeros(leaf.shape, "f")
        for path, leaf in flat.items()
    }
    params = flax.traverse_util.unflatten_dict(start, sep="/")
    optimizer = optax.sgd(RATE)
    state = replicate(create_state({"params": params}, optimizer, key=jax.random.key(1)))
    anchor, positive, negative = np.split(images, 3)
    batch: dict[str, Any] = {"anchor": anchor, "positive": positive, "negative": negative}

    step = data_parallel(make_train_step(loss_function(network), optimizer))

    def run() -> float:
        nonlocal state
        state, metrics = step(state, shard(batch))
        return float(metrics["loss"].total / metrics["loss"].count)

    return Prepared({"step": run}, {f"loss {number}": run() for number in range(2)})


def torch_step(
    *, channels_last: bool, triplets: int = TRIPLETS, compiled: bool = False
) -> Prepared:
    """The same step in PyTorch, on its default device: eager, or its forward compiled."""
    import torch
    import torch.nn.functional as F

    from siamjax.models.vgg16 import BLOCKS

    layout = torch.channels_last if channels_last else torch.contiguous_format
    weights: dict[str, torch.Tensor] = {}

    def add(name: str, *shape: int) -> None:
        kernel = torch.as_tensor(_kernel(f"{name}/kernel", shape))
        if kernel.ndim == 4:
            kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=layout)
        weights[f"{name}/kernel"] = kernel.requires_grad_()
        weights[f"{name}/bias"] = torch.zeros(shape[-1], requires_grad=True)

    inputs = 3
    for block, (channels, count) in enumerate(BLOCKS, start=1):
        for number in range(1, count + 1):
            add(f"deep/block{block}_conv{number}", 3, 3, inputs, channels)
            inputs = channels
    add("deep/fc1", 25088, 4096)
    add("deep/fc2", 4096, 4096)
    for shallow in ("shallow1", "shallow2"):
        add(f"{shallow}/conv", 8, 8, 3, 96)
    add("embedding", 7168, 4096)
    optimizer = torch.optim.SGD(list(weights.values()), lr=RATE)
    images = torch.as_tensor(_images(triplets)).permute(0, 3, 1, 2).contiguous(memory_format=layout)

    def layer(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return weights[f"{name}/kernel"], weights[f"{name}/bias"]

    def flat(x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)

    def embed(x: torch.Tensor) -> torch.Tensor:
        deep = x
        for block, (_, count) in enumerate(BLOCKS, start=1):
            for number in range(1, count + 1):
                deep = F.relu(F.conv2d(deep, *layer(f"deep/block{block}_conv{number}"), padding=1))
            deep = F.max_pool2d(deep, 2)
        deep = flat(deep)
        for name in ("deep/fc1", "deep/fc2"):
            kernel, bias = layer(name)
            deep = F.relu(torch.addmm(bias, deep, kernel))
        one = F.relu(F.conv2d(x[:, :, ::4, ::4], *layer("shallow1/conv"), stride=4, padding=2))
        # "Same" pooling: of 14 rows (window 7, stride 4) and of 7 rows (window 3, stride 2).
        one = F.max_pool2d(F.pad(one, (2, 3, 2, 3), value=-torch.inf), 7, 4)
        two = F.pad(x[:, :, ::8, ::8], (2, 2, 2, 2))
        two = F.relu(F.conv2d(two, *layer("shallow2/conv"), stride=4))
        two = F.max_pool2d(F.pad(two, (1, 1, 1, 1), value=-torch.inf), 3, 2)
        kernel, bias = layer("embedding")
        joined = torch.cat([deep, flat(one), flat(two)], dim=1)
        return torch.sigmoid(torch.addmm(bias, joined, kernel))

    def forward() -> torch.Tensor:
        anchor, positive, negative = embed(images.float() / 255).split(triplets)
        near = (anchor - positive).square().sum(1).sqrt()
        far = (anchor - negative).square().sum(1).sqrt()
        loss = (MARGIN + near - far).clamp(0, CAP).mean()
        for name, weight in L2.items():
            loss = loss + weight * weights[f"{name}/kernel"].square().sum()
        return loss

    run = torch_train_step(forward, optimizer, compiled=compiled)
    return Prepared({"step": run}, {f"loss {number}": run() for number in range(2)})


PREPARE: dict[str, Callable[[], Prepared]] = {
    OURS: siamjax_step,
    EAGER: partial(torch_step, channels_last=False),
    CHANNELS_LAST: partial(torch_step, channels_last=True),
}


def main(
    rounds: int = 5, output: Path = Path("benchmarks/results/visual_search_step.json")
) -> None:
    """Run the step in siamjax and in PyTorch.

    Args:
        rounds: measured turns.
        output: JSON file to write.
    """
    module = [sys.executable, "-m", "benchmarks.visual_search_step", "--candidate"]
    processes = [Candidate(name, [*module, name]) for name in PREPARE]
    for process in processes[1:]:
        for number in range(2):
            theirs, ours = (p.start[f"loss {number}"] for p in (process, processes[0]))
            if not abs(theirs - ours) <= 1e-3 * abs(ours):
                raise SystemExit(
                    f"{process.name}: loss {theirs} at step {number} in place of {ours}"
                )
    taken: dict[str, list[dict[str, float]]] = {process.name: [] for process in processes}
    for turn in range(rounds + 1):
        for process in processes:
            answer = process.ask(step="step")
            if turn:  # the first round only warms caches
                taken[process.name].append(answer)
    for process in processes:
        process.stop()
    table = {}
    for name, rows in taken.items():
        ratios = {
            kind: float(
                np.median([o[kind] / r[kind] for o, r in zip(taken[OURS], rows, strict=True)])
            )
            for kind in ("wall", "cpu")
        }
        table[name] = {
            **{kind: float(np.median([row[kind] for row in rows])) for kind in ("wall", "cpu")},
            "ours_over_it_wall": ratios["wall"],
            "ours_over_it_cpu": ratios["cpu"],
            "peak_mib": max(row["peak_mib"] for row in rows),
        }
        print(name, json.dumps({key: round(value, 3) for key, value in table[name].items()}))
    write(output, {"rounds": rounds, "triplets": TRIPLETS}, {"table": table, "rows": taken})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--candidate"]:
        serve(PREPARE[sys.argv[2]])
    else:
        import tyro

        tyro.cli(main)
