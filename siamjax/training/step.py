"""A loss function becomes a train step."""

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from siamjax.errors import UsageError
from siamjax.metrics.mean import Mean
from siamjax.training.parallel import AXIS, data_parallel
from siamjax.training.state import TrainState

Batch = dict[str, Array]
Metrics = dict[str, Mean]
LossFunction = Callable[[Any, Any, Batch, Key[Array, ""]], tuple[Mean, tuple[Any, Metrics]]]
"""``(params, model_state, batch, key) -> (loss, (model_state, metrics))``."""

Stages = Sequence[tuple[int, LossFunction]]
"""Loss functions with the number of the step that each begins at; the first begins at 0.

So can a frozen part of a network be let go later, by a loss function whose network freezes less;
until then no gradient of it is computed.
"""


def make_update(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step as a plain function ``(state, batch) -> (state, metrics)``: jit it, or pmap it.

    With ``axis_name`` the gradient of each device's loss *total* and its count are added up once
    over the devices and divided once: the update of one device, whatever the split of the batch
    and its weights. A batch without any counted example leaves a gradient of 0. The metrics hold
    ``loss`` besides those of ``loss_fn``.
    """

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

        def total(params: Any) -> tuple[Array, tuple[Mean, Any, Metrics]]:
            loss, (model_state, metrics) = loss_fn(params, state.model_state, batch, key)
            return loss.total, (loss, model_state, metrics)

        gradients, (loss, model_state, metrics) = jax.grad(total, has_aux=True)(state.params)
        metrics = {"loss": loss, **metrics}
        # Over one device there is nothing to add, yet XLA would copy every gradient (a tenth of
        # the whole LFW step on a CPU).
        if axis_name is not None and jax.lax.axis_size(axis_name) > 1:
            gradients, metrics = jax.lax.psum((gradients, metrics), axis_name)
        count = metrics["loss"].count
        gradients = jax.tree.map(lambda g: g / jnp.where(count > 0, count, 1.0), gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
            key=state.key,
        )
        return state, metrics

    return update


def make_train_step(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    devices: Sequence[Any] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The pmapped step; feed it a replicated state (which it consumes) and a sharded batch."""
    update = make_update(loss_fn, optimizer, axis_name=AXIS)
    return data_parallel(update, devices=devices, donate_state=True)


def make_staged_step(
    loss_fn: LossFunction | Stages, optimizer: optax.GradientTransformation, *, start: int = 0
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """:func:`make_train_step` whose loss function changes at given steps; each stage is compiled.

    It counts its calls: the first is that of step ``start``. Raises ``UsageError`` for stages that
    do not begin at 0 or do not ascend.
    """
    if callable(loss_fn):
        return make_train_step(loss_fn, optimizer)
    begins = [begin for begin, _ in loss_fn]
    if not begins or begins[0] != 0 or any(b <= a for a, b in itertools.pairwise(begins)):
        raise UsageError(
            f"stages begin at {begins}: the first at 0, each later than the one before"
        )
    steps = [make_train_step(one, optimizer) for _, one in loss_fn]
    numbers = itertools.count(start)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return steps[bisect.bisect_right(begins, next(numbers)) - 1](state, batch)

    return step
