"""Train a network: refuse what cannot work, go on where a run stopped, save the best."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
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
from siamjax.training.step import LossFunction, Stages, make_staged_step


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained, whatever it learns from.

    Attributes:
        size: of the network's pictures.
        batch_size: examples a step, over all devices.
        steps: batches to train on.
        seed: of augmentation and initial parameters.
        augmentation: of the pictures, or None.
        evaluate_every: steps between two validations; each saves a checkpoint.
        log_every: steps between two rows of metrics.
        workers: processes that read pictures; 0 = threads.
    """

    size: Size
    batch_size: int
    steps: int
    seed: int
    augmentation: Augmentation | None
    evaluate_every: int
    log_every: int
    workers: int = 0

    def __post_init__(self) -> None:
        numbers = (self.steps, self.batch_size, self.evaluate_every, self.log_every)
        numbers = (*numbers, *sides(self.size))
        if min(numbers) < 1:
            raise UsageError(
                "steps, batch_size, evaluate_every, log_every and size must be at least 1, not "
                f"{', '.join(map(str, numbers))}"
            )
        if self.workers < 0:
            raise UsageError(f"workers {self.workers} must be 0 (threads) or a number of processes")

    @property
    def reading(self) -> dict[str, Any]:
        """What :mod:`siamjax.data.pipeline` has to know of it."""
        names = ("size", "batch_size", "steps", "seed", "augmentation", "workers")
        return {name: getattr(self, name) for name in names}


Rows = Callable[[], np.ndarray]
"""What stands for the pictures, computed when training begins and not before."""


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
    images: ImageSet, pairs: PairStream, training: Training, *, rows: Rows | None = None
) -> Examples:
    """Pairs, by :func:`siamjax.data.pipeline.pair_batches`, which says what ``rows`` are."""
    return Examples(
        lambda start: pair_batches(
            images, pairs, start=start, rows=rows and rows(), **training.reading
        ),
        lambda at: pairs[at][:2],
        "pairs",
    )


def triplet_examples(
    images: ImageSet, triplets: TripletStream, training: Training, *, rows: Rows | None = None
) -> Examples:
    """Triplets, by :func:`siamjax.data.pipeline.triplet_batches`, which says what ``rows`` are."""
    return Examples(
        lambda start: triplet_batches(
            images, triplets, start=start, rows=rows and rows(), **training.reading
        ),
        lambda at: triplets[at],
        "triplets",
    )


def train(
    network: nn.Module,
    loss_fn: LossFunction | Stages,
    optimizer: optax.GradientTransformation,
    images: ImageSet,
    examples: Examples,
    training: Training,
    *,
    run: Path,
    config: dict[str, Any],
    kind: str,
    evaluate: Callable[[Any, int], dict[str, float]],
    start_from: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    diagnose: Callable[[dict[str, float]], str | None] = collapse_message,
) -> tuple[int, Any]:
    """Train (or go on with) the run in folder ``run``; returns the best step and its variables.

    ``loss_fn`` may be one from each of several steps on (see :data:`siamjax.training.step.Stages`).
    Best is by the metric of :data:`siamjax.runs.finished.KINDS` among what
    ``evaluate(variables, step)`` returns. ``start_from`` turns the network's initial variables into
    those that a new run starts with, such as published ones. ``diagnose`` turns a row of metrics
    into a warning. ``config`` is what a run that goes on must agree with.
    """
    started = time.time()
    batch_size, steps = training.batch_size, training.steps
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
        network,
        optimizer,
        inputs=inputs,
        size=training.size,
        seed=training.seed,
        start_from=start_from,
    )
    checkpoints, state = _open(run, config, state, steps=steps, best=KINDS[kind].best)
    begin = int(state.step)
    if begin < steps:
        writer = MetricWriter(run, start=begin)
        try:
            state = fit(
                state,
                make_staged_step(loss_fn, optimizer, start=begin),
                examples.batches(begin),
                steps=steps,
                batch_size=batch_size,
                checkpoints=checkpoints,
                writer=writer,
                evaluate=lambda state: evaluate(state.variables, int(state.step)),
                evaluate_every=training.evaluate_every,
                log_every=training.log_every,
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
