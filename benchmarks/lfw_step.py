"""Training step of the whole 19-layer network, 8 pairs of 128x128, against PyTorch eager.

    python -m benchmarks.lfw_step

Network and loss are those of ``experiments.lfw_contrastive``. Both sides use SGD with momentum and
pass both images of a pair through the network in one apply. Needs the extra ``benchmarks``. On a
shared machine, compare CPU time.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.in_turn import compare, serve, torch_train_step

BATCH, SIDE, RATE, MOMENTUM = 8, 128, 0.01, 0.9


def siamjax_step(*, tuned: bool) -> Callable[[], object]:
    """The pmapped step of siamjax, with siamjax's XLA settings for CPUs or without."""
    import jax
    import numpy as np
    import optax

    from experiments.lfw_contrastive import Config, build
    from siamjax import use_fast_cpu_kernels
    from siamjax.parallel import data_parallel, replicate, shard
    from siamjax.training import create_state, make_train_step

    if tuned:
        use_fast_cpu_kernels()
    network, loss_fn, _ = build(Config(width=1.0, size=SIDE, batch_size=BATCH))
    images = np.random.default_rng(0).integers(0, 256, (2, BATCH, SIDE, SIDE, 3), np.uint8)
    batch = {"x1": images[0], "x2": images[1], "same": np.arange(BATCH) % 2 == 1}
    optimizer = optax.sgd(RATE, momentum=MOMENTUM)

    def create():
        variables = network.init(jax.random.key(0), *images[:, :1])
        return create_state(dict(variables), optimizer, key=jax.random.key(1))

    state = replicate(jax.jit(create)())
    step = data_parallel(make_train_step(loss_fn, optimizer))

    def run() -> float:
        nonlocal state
        state, metrics = step(state, shard(batch))
        return float(metrics["loss"].total)

    return run


def torch_step(
    *, batch: int = BATCH, side: int = SIDE, width: float = 1.0, compiled: bool = False
) -> Callable[[], object]:
    """The same step in PyTorch, on its default device: eager, or its forward compiled."""
    import torch
    from torch import nn

    def block(inputs: int, outputs: int, side: int, pool: bool) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, side, padding=side // 2)
        layers = [convolution, nn.ReLU(), nn.BatchNorm2d(outputs)]
        return [*layers, nn.MaxPool2d(2)] if pool else layers

    torch.manual_seed(0)
    c1, c2, c3, c4, features = (round(n * width) for n in (64, 128, 256, 512, 1024))
    network = nn.Sequential(
        *block(3, c1, 5, True),
        *block(c1, c2, 5, True),
        *block(c2, c3, 3, True),
        *block(c3, c4, 3, False),
        nn.Flatten(),
        nn.Linear(c4 * (side // 8) ** 2, features),
        nn.ReLU(),
        nn.BatchNorm1d(features),
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)
    images = torch.randint(0, 256, (2 * batch, 3, side, side), dtype=torch.uint8)
    same = (torch.arange(batch) % 2 == 1).float()

    def forward() -> torch.Tensor:
        shown = images.float() / 255
        variance, mean = torch.var_mean(shown, (1, 2, 3), correction=0, keepdim=True)
        standardized = (shown - mean) * (variance + 0.05**2).rsqrt()
        first, second = network(standardized).split(batch)
        distance = (first - second).square().sum(1).add(1e-12).sqrt()
        apart = torch.clamp(1 - distance, min=0)
        return (same * distance.square() + (1 - same) * apart.square()).mean()

    return torch_train_step(forward, optimizer, compiled=compiled)


def main(rounds: int = 10, output: Path = Path("benchmarks/results/lfw_step.json")) -> None:
    """Run the step in siamjax and in PyTorch.

    Args:
        rounds: measured turns.
        output: JSON file to write.
    """
    names = ("PyTorch eager", "siamjax", "siamjax, XLA's defaults")
    candidates = {
        name: [sys.executable, "-m", "benchmarks.lfw_step", "--candidate", name] for name in names
    }
    compare(candidates, rounds=rounds, reference=names[0], output=output)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--candidate"]:
        prepare = {
            "PyTorch eager": torch_step,
            "siamjax": lambda: siamjax_step(tuned=True),
            "siamjax, XLA's defaults": lambda: siamjax_step(tuned=False),
        }
        serve(prepare[sys.argv[2]])
    else:
        import tyro

        tyro.cli(main)
