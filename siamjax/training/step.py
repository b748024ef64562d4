"""From a loss function and an optimizer to a train step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Key

from siamjax.metrics.mean import Mean
from siamjax.parallel import bound_axis, same_on_devices, sum_over_devices
from siamjax.training.config import NonFinite
from siamjax.training.state import TrainState

Batch = dict[str, Array]
Metrics = dict[str, Mean]
LossFunction = Callable[[Any, Any, Batch, Key[Array, ""]], tuple[Mean, tuple[Any, Metrics]]]
"""``(params, model_state, batch, key) -> (loss, (model_state, metrics))``, with any metrics."""

STOPPED, SKIPPED = "nonfinite_steps", "skipped_steps"
"""What a step counts of itself, among its metrics: 1 where its loss or a gradient is not finite."""

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    nonfinite: NonFinite = "stop",
) -> TrainStep:
    """The pure step ``(state, batch) -> (state, metrics)``.

    Wrap it in ``jax.jit`` or :func:`siamjax.parallel.data_parallel`. Over several devices, the
    gradients of each device's loss *total* and the counts are added up once and divided once: the
    update is that of one device, however the batch and its weights are split. A batch without any
    counted example gives a gradient of 0. The metrics are those of ``loss_fn`` and ``loss``.

    ``model_state`` becomes equal on all devices. siamjax's own ``BatchNorm`` has the statistics of
    the whole batch. Layers that know no devices, such as Flax's ``nn.BatchNorm``, normalise by
    their own device's examples, and the mean of the devices' statistics is kept
    (:func:`siamjax.parallel.same_on_devices`).

    Where the loss or a gradient is not finite, on any device, the metrics say so: as
    ``nonfinite_steps``, at which :func:`siamjax.training.fit` stops. With ``nonfinite="skip"`` it
    is ``skipped_steps``, parameters, model state and optimizer state stay as they were, and the
    step adds nothing to the other metrics.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        if (axis := bound_axis()) is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis))

        def total(params: Any) -> tuple[Array, tuple[Mean, Any, Metrics]]:
            loss, (model_state, metrics) = loss_fn(params, state.model_state, batch, key)
            return loss.total, (loss, model_state, metrics)

        gradients, (loss, model_state, metrics) = jax.grad(total, has_aux=True)(state.params)
        gradients, metrics = sum_over_devices((gradients, {"loss": loss, **metrics}))
        count = metrics["loss"].count
        finite = all_finite((gradients, metrics["loss"].total))
        divisor = jnp.where(count > 0, count, 1.0)
        gradients = jax.tree.map(lambda g: g / divisor.astype(g.dtype), gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        changed = (
            optax.apply_updates(state.params, updates),
            same_on_devices(model_state),
            opt_state,
        )
        counted = Mean.of(~finite)
        if nonfinite == "skip":
            before = state.params, state.model_state, state.opt_state
            changed = jax.tree.map(lambda new, old: jnp.where(finite, new, old), changed, before)
            metrics = jax.tree.map(lambda new: jnp.where(finite, new, 0), metrics)
        params, model_state, opt_state = changed
        state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            key=state.key,
        )
        return state, {**metrics, SKIPPED if nonfinite == "skip" else STOPPED: counted}

    return step


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every number of the tree is finite."""
    # optax.apply_if_finite keeps only the optimizer's part of a state, and counts in it.
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))
