"""Train a network: refuse what cannot work, go on where a run stopped, save the best."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairStream
from siamjax.data.pipeline import Batch, pair_batches, triplet_batches
from siamjax.data.transforms import Augmentation, Size, sides
from siamjax.data.triplets import TripletStream
from siamjax.errors import UsageError
from siamjax.metrics.monitors import collapse_message
from siamjax.report.writers import MetricWriter
from siamjax.runs import folder as runs
from siamjax.runs.finished import KINDS
from siamjax.training.checkpoints import Checkpoints
from siamjax.training.loop import fit
from siamjax.training.parallel import replicate
from siamjax.training.state import TrainState, create_state
from siamjax.training.step import LossFunction, make_train_step


class Examples(NamedTuple):
    """What a network is trained on.

    Attributes:
        batches: from a step on, to the last.
        pictures: indices of the pictures of the example at a position.
        unit: what an example is called.
    """

    batches: Callable[[int], Iterator[Batch]]
    pictures: Callable[[int], Sequence[int]]
    unit: str


def pair_examples(
    images: ImageSet,
    pairs: PairStream,
    *,
    batch_size: int,
    steps: int,
    size: Size,
    augmentation: Augmentation | None,
    seed: int,
    workers: int = 0,
) -> Examples:
    """Pairs, by :func:`siamjax.data.pipeline.pair_batches`."""
    options = _options(batch_size, steps, size, augmentation, seed, workers)
    return Examples(
        lambda start: pair_batches(images, pairs, start=start, **options),
        lambda at: pairs[at][:2],
        "pairs",
    )


def triplet_examples(
    images: ImageSet,
    triplets: TripletStream,
    *,
    batch_size: int,
    steps: int,
    size: Size,
    augmentation: Augmentation | None,
    seed: int,
    workers: int = 0,
) -> Examples:
    """Triplets, by :func:`siamjax.data.pipeline.triplet_batches`."""
    options = _options(batch_size, steps, size, augmentation, seed, workers)
    return Examples(
        lambda start: triplet_batches(images, triplets, start=start, **options),
        lambda at: triplets[at],
        "triplets",
    )


def _options(batch_size, steps, size, augmentation, seed, workers) -> dict[str, Any]:
    if workers < 0:
        raise UsageError(f"workers {workers} must be 0 (threads) or a number of processes")
    return {
        "batch_size": batch_size,
        "steps": steps,
        "size": size,
        "augmentation": augmentation,
        "seed": seed,
        "workers": workers,
    }


def train(
    network: nn.Module,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    images: ImageSet,
    examples: Examples,
    *,
    run: Path,
    config: dict[str, Any],
    kind: str,
    evaluate: Callable[[Any, int], dict[str, float]],
    size: Size,
    batch_size: int,
    steps: int,
    seed: int,
    evaluate_every: int,
    log_every: int,
    start_from: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    diagnose: Callable[[dict[str, float]], str | None] = collapse_message,
) -> tuple[int, Any]:
    """Train (or go on with) the run in folder ``run``; returns the best step and its variables.

    Best is by the metric of :data:`siamjax.runs.finished.KINDS` among what
    ``evaluate(variables, step)`` returns. ``start_from`` turns the network's initial variables into
    those that a new run starts with, such as published ones. ``diagnose`` turns a row of metrics
    into a warning. ``config`` is what a run that goes on must agree with.
    """
    started = time.time()
    numbers = (steps, batch_size, evaluate_every, log_every, *sides(size))
    if min(numbers) < 1:
        raise UsageError(
            "steps, batch_size, evaluate_every, log_every and size must be at least 1, not "
            f"{', '.join(map(str, numbers))}"
        )
    if jax.process_count() > 1:
        raise UsageError("several hosts would write one run folder; train on the devices of one")
    if batch_size % jax.device_count():
        raise UsageError(
            f"batch of {batch_size} {examples.unit} cannot be split over {jax.device_count()} "
            f"devices; use a multiple of {jax.device_count()}"
        )
    # First all that can refuse the options, so that a refused run leaves no folder behind.
    inputs = KINDS[kind].pictures
    state = _initial_state(
        network, optimizer, inputs=inputs, size=size, seed=seed, start_from=start_from
    )
    checkpoints, state = _open(run, config, state, steps=steps, best=KINDS[kind].best)
    begin = int(state.step)
    if begin < steps:
        writer = MetricWriter(run, start=begin)
        try:
            state = fit(
                state,
                make_train_step(loss_fn, optimizer),
                examples.batches(begin),
                steps=steps,
                batch_size=batch_size,
                checkpoints=checkpoints,
                writer=writer,
                evaluate=lambda state: evaluate(state.variables, int(state.step)),
                evaluate_every=evaluate_every,
                log_every=log_every,
                describe_batch=_batch_describer(images, examples, batch_size),
                diagnose=diagnose,
                unit=examples.unit,
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
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    inputs: int,
    size: Size,
    seed: int,
    start_from: Callable[[dict[str, Any]], dict[str, Any]] | None,
) -> TrainState:
    init_key, train_key = jax.random.split(jax.random.key(seed))
    picture = jnp.zeros((1, *sides(size), 3), jnp.uint8)

    def create(variables: dict[str, Any]) -> TrainState:
        return create_state(variables, optimizer, key=train_key)

    def draw() -> dict[str, Any]:
        return dict(network.init(init_key, *[picture] * inputs))

    if start_from is None:
        return jax.jit(lambda: create(draw()))()
    return jax.jit(create)(start_from(jax.jit(draw)()))


def _batch_describer(images: ImageSet, examples: Examples, batch_size: int) -> Callable[[int], str]:
    def describe(step: int, shown: int = 4) -> str:
        batch = [examples.pictures(step * batch_size + place) for place in range(batch_size)]
        named = ", ".join(
            " + ".join(images.keys[index] for index in example) for example in batch[:shown]
        )
        return f"{named}, ... ({batch_size} {examples.unit})" if batch_size > shown else named

    return describe
