"""From a loss of pairs to the trainer's loss function."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from siamjax.metrics.mean import Mean
from siamjax.metrics.monitors import pair_monitors
from siamjax.training.step import Batch, LossFunction, Metrics


def pair_loss(
    network: nn.Module,
    loss: Callable[[Float[Array, " batch"], Bool[Array, " batch"]], Float[Array, " batch"]],
    *,
    active: Callable[[Float[Array, " batch"], Bool[Array, " batch"]], Bool[Array, " batch"]],
    counted: Callable[[Bool[Array, " batch"]], Bool[Array, " batch"]] = jnp.ones_like,
    axis_name: str | None = None,
) -> LossFunction:
    """Loss function for batches ``x1, x2, same`` and an optional ``weight``.

    ``network(x1, x2, train=, weight=)`` returns a value a pair and the embeddings of all pictures
    (first all ``x1``), as :class:`siamjax.models.siamese.Siamese` does. ``loss(value, same)`` gives
    one loss a pair from that value. ``active(value, same)`` marks the pairs that the loss still
    pushes; ``active_fraction`` is their share of those that ``counted(same)`` marks (all of them
    by default; for a margin loss the different ones).
    ``axis_name`` is the pmapped axis that the monitors span, None on one device.
    """

    def loss_fn(
        params: Any, model_state: Any, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Mean, tuple[Any, Metrics]]:
        del key  # nothing in these networks is random
        weight, same = batch.get("weight"), batch["same"]
        (value, embeddings), model_state = network.apply(
            {"params": params, **model_state},
            batch["x1"],
            batch["x2"],
            train=True,
            weight=weight,
            mutable=["batch_stats"],
        )
        weight = jnp.ones(same.shape, jnp.float32) if weight is None else weight
        metrics = pair_monitors(embeddings, same, weight=weight, axis_name=axis_name)
        metrics["active_fraction"] = Mean.of(active(value, same), counted(same) * weight)
        return Mean.of(loss(value, same), weight), (model_state, metrics)

    return loss_fn
