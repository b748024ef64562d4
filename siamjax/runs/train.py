"""Train a network on pairs: refuse what cannot work, go on where a run stopped, save the best."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairStream
from siamjax.data.pipeline import pair_batches
from siamjax.data.transforms import Augmentation, Size, sides
from siamjax.errors import UsageError
from siamjax.metrics.monitors import collapse_message
from siamjax.report.writers import MetricWriter
from siamjax.runs import folder as runs
from siamjax.training.checkpoints import Checkpoints
from siamjax.training.loop import fit
from siamjax.training.parallel import replicate
from siamjax.training.state import TrainState, create_state
from siamjax.training.step import LossFunction, make_train_step


def train(
    network: nn.Module,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    images: ImageSet,
    pairs: PairStream,
    *,
    run: Path,
    config: dict[str, Any],
    best_metric: str,
    evaluate: Callable[[Any], dict[str, float]],
    size: Size,
    batch_size: int,
    steps: int,
    seed: int,
    augmentation: Augmentation | None,
    evaluate_every: int,
    log_every: int,
    workers: int = 0,
    diagnose: Callable[[dict[str, float]], str | None] = collapse_message,
) -> tuple[int, Any]:
    """Train (or go on with) the run in folder ``run``; returns the best step and its variables.

    Best is by ``best_metric`` of what ``evaluate(variables)`` returns, the higher the better.
    ``diagnose`` turns a row of metrics into a warning. ``config`` is what a run that goes on must
    agree with. The folder gets ``config.json``, ``metrics.jsonl``, TensorBoard events,
    ``sessions.jsonl`` and ``checkpoints/``.
    """
    started = time.time()
    numbers = (steps, batch_size, evaluate_every, log_every, *sides(size))
    if min(numbers) < 1:
        raise UsageError(
            "steps, batch_size, evaluate_every, log_every and size must be at least 1, not "
            f"{', '.join(map(str, numbers))}"
        )
    if workers < 0:
        raise UsageError(f"workers {workers} must be 0 (threads) or a number of processes")
    if jax.process_count() > 1:
        raise UsageError("several hosts would write one run folder; train on the devices of one")
    if batch_size % jax.device_count():
        raise UsageError(
            f"batch of {batch_size} pairs cannot be split over {jax.device_count()} devices; use a "
            f"multiple of {jax.device_count()}"
        )
    # First all that can refuse the options, so that a refused run leaves no folder behind.
    state = _initial_state(network, optimizer, size=size, seed=seed)
    checkpoints, state = _open(run, config, state, steps=steps, best=best_metric)
    begin = int(state.step)
    if begin < steps:
        writer = MetricWriter(run, start=begin)
        try:
            state = fit(
                state,
                make_train_step(loss_fn, optimizer),
                pair_batches(
                    images,
                    pairs,
                    batch_size=batch_size,
                    steps=steps,
                    size=size,
                    augmentation=augmentation,
                    seed=seed,
                    start=begin,
                    workers=workers,
                ),
                steps=steps,
                batch_size=batch_size,
                checkpoints=checkpoints,
                writer=writer,
                evaluate=lambda state: evaluate(state.variables),
                evaluate_every=evaluate_every,
                log_every=log_every,
                describe_batch=_batch_describer(images, pairs, batch_size),
                diagnose=diagnose,
            )
        finally:
            writer.close()
            end = max(checkpoints.steps(), default=begin)
            runs.note_session(run, start=begin, end=end, seconds=time.time() - started)
    best, variables, messages = checkpoints.load_best(state.variables)
    checkpoints.close()
    for message in messages:
        print(f"warning: {message}")
    return best, variables


def _open(
    run: Path, config: dict[str, Any], state: TrainState, *, steps: int, best: str
) -> tuple[Checkpoints, TrainState]:
    """The run's checkpoints and, on every device, its latest state, or ``state`` in a new run."""
    existed = runs.open_folder(run, config)
    checkpoints = Checkpoints(run / "checkpoints", best=best)
    if existed:
        restored, messages = checkpoints.restore(state)
        for message in (*checkpoints.messages, *messages):
            print(f"warning: {message}")
        if restored is not None:
            state = restored
            print(f"{run}: going on from step {int(state.step)} of {steps}")
    return checkpoints, replicate(state)


def _initial_state(
    network: nn.Module, optimizer: optax.GradientTransformation, *, size: Size, seed: int
) -> TrainState:
    init_key, train_key = jax.random.split(jax.random.key(seed))
    picture = jnp.zeros((1, *sides(size), 3), jnp.uint8)

    def create() -> TrainState:
        return create_state(
            dict(network.init(init_key, picture, picture)), optimizer, key=train_key
        )

    return jax.jit(create)()


def _batch_describer(images: ImageSet, pairs: PairStream, batch_size: int) -> Callable[[int], str]:
    def describe(step: int, shown: int = 4) -> str:
        batch = [pairs[step * batch_size + place] for place in range(batch_size)]
        keys = images.keys
        named = ", ".join(f"{keys[first]} + {keys[second]}" for first, second, _ in batch[:shown])
        return f"{named}, ... ({batch_size} pairs)" if batch_size > shown else named

    return describe
