"""From a loss of triplets to the trainer's loss function."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from siamjax.errors import UsageError
from siamjax.losses import triplet
from siamjax.metrics.mean import Mean
from siamjax.metrics.monitors import triplet_monitors
from siamjax.training.step import Batch, LossFunction, Metrics

Distance = Callable[
    [Float[Array, "batch features"], Float[Array, "batch features"]], Float[Array, " batch"]
]

Miner = Callable[
    [
        Float[Array, "batch candidates"],
        Float[Array, " batch"],
        Bool[Array, "batch candidates"],
    ],
    Float[Array, " batch"],
]


def triplet_loss(
    network: nn.Module,
    distance: Distance,
    *,
    margin: float,
    cap: float | None = None,
    mine: Miner | None = None,
    penalty: Callable[[Any], Float[Array, ""]] | None = None,
    axis_name: str | None = None,
) -> LossFunction:
    """Loss function for batches ``anchor, positive, negative`` and an optional ``weight``.

    ``network.embed(pictures, train=) -> embeddings`` sees all three in one apply. The loss is
    :func:`siamjax.losses.triplet` of ``distance`` (of :mod:`siamjax.distances`), plus
    ``penalty(params)``, once a batch. With ``mine`` (of :mod:`siamjax.mining`) an anchor's negative
    is chosen among all positives and negatives of the whole batch, over all devices, by
    ``identity`` and ``negative_identity``.
    ``active_fraction`` is the share of triplets that the loss still pushes, ``capped_fraction``
    that of triplets beyond ``cap``; ``axis_name`` the pmapped axis that the monitors and ``mine``
    span. Dropout draws from the step's key.
    """
    if margin <= 0 or (cap is not None and cap <= 0):
        raise UsageError(f"margin {margin}, cap {cap}: each must be positive (no cap: None)")

    def loss_fn(
        params: Any, model_state: Any, batch: Batch, key: Key[Array, ""]
    ) -> tuple[Mean, tuple[Any, Metrics]]:
        pictures = jnp.concatenate([batch[name] for name in ("anchor", "positive", "negative")])
        embeddings, model_state = network.apply(
            {"params": params, **model_state},
            pictures,
            train=True,
            method="embed",
            mutable=list(model_state),
            rngs={"dropout": key},
        )
        anchor, same, other = jnp.split(embeddings, 3)
        positive = distance(anchor, same)
        weight = batch.get("weight")
        weight = jnp.ones(positive.shape, jnp.float32) if weight is None else weight
        if mine is None:
            negative = distance(anchor, other)
        else:
            candidates = jnp.concatenate([same, other])
            shown = jnp.concatenate([batch["identity"], batch["negative_identity"]])
            counted = jnp.tile(weight > 0, 2)
            if axis_name is not None:  # those of all devices; gradients flow back to each
                candidates, shown, counted = jax.lax.all_gather(
                    (candidates, shown, counted), axis_name, tiled=True
                )
            every = jax.vmap(
                lambda one: distance(jnp.broadcast_to(one, candidates.shape), candidates)
            )
            negative = mine(
                every(anchor), positive, (batch["identity"][:, None] != shown) & counted
            )
        hinge = margin + positive - negative
        active = (hinge > 0) if cap is None else (hinge > 0) & (hinge < cap)
        metrics = triplet_monitors(
            embeddings, positive, negative, weight=weight, axis_name=axis_name
        )
        metrics["active_fraction"] = Mean.of(active, weight)
        if cap is not None:
            metrics["capped_fraction"] = Mean.of(hinge >= cap, weight)
        loss = Mean.of(triplet(positive, negative, margin=margin, cap=cap), weight)
        if penalty is not None:
            value = penalty(params)
            metrics["penalty"] = Mean(value * loss.count, loss.count)
            loss = Mean(loss.total + value * loss.count, loss.count)
        return loss, (model_state, metrics)

    return loss_fn


def l2_penalty(weights: Mapping[str, float]) -> Callable[[Any], Float[Array, ""]]:
    """``params -> sum over layers of weight * sum(kernel^2)``, as Keras' ``l2(weight)`` adds it.

    ``weights`` by the layer's path, such as ``{"deep/fc1": 0.005}``; biases are left alone.
    The function raises ``UsageError`` for a layer that the parameters lack.
    """

    def penalty(params: Any) -> Float[Array, ""]:
        flat: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
        total = jnp.zeros(())
        for layer, weight in weights.items():
            kernel = flat.get(f"{layer}/kernel")
            if kernel is None:
                layers = sorted(
                    name[: -len("/kernel")] for name in flat if name.endswith("/kernel")
                )
                raise UsageError(f"no layer {layer} for an L2 penalty; there are {layers}")
            total += weight * jnp.sum(jnp.square(kernel.astype(jnp.float32)))
        return total

    return penalty
