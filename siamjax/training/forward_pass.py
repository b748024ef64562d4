"""Applying a network in training: the part that every loss function shares."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from siamjax.messages import warn
from siamjax.models.applying import modules_within, same_statistics
from siamjax.training.step import Batch


def forward(
    network: nn.Module,
    params: Any,
    model_state: Any,
    key: Key[Array, ""],
    *inputs: Array,
    weight: Float[Array, " batch"] | None = None,
    method: str | None = None,
) -> tuple[Any, Any]:
    """``network(*inputs, train=True)`` and its new state: ``(output, model_state)``.

    Dropout draws from ``key``. ``weight`` (0 = padding) is passed on if it is given, for the
    statistics of batch normalisation; a network that does not take it then raises ``TypeError``.
    ``method`` names a method to call in place of ``__call__``, such as ``embed``.

    Warns of a network with ``batch_stats`` that it does not update, unless it, or a module among
    its fields, says ``freeze_statistics=True``.
    """
    options: dict[str, Any] = {} if weight is None else {"weight": weight}
    output, after = network.apply(
        {"params": params, **model_state},
        *inputs,
        train=True,
        **options,
        method=method,
        mutable=list(model_state),
        rngs={"dropout": key},
    )
    if (
        "batch_stats" in after
        and same_statistics(model_state, after)
        and not any(
            getattr(module, "freeze_statistics", False) for module in modules_within(network)
        )
    ):
        warn(
            f"{type(network).__name__} has batch_stats that training does not update: its batch "
            "normalisation must use the statistics of the batch when called with train=True; if "
            "it should not, give the network a field freeze_statistics that is True"
        )
    return output, after


def forward_pairs(
    network: nn.Module, params: Any, model_state: Any, batch: Batch, key: Key[Array, ""]
) -> tuple[Float[Array, " batch"], Float[Array, "2*batch features"], Any]:
    """:func:`forward` of a batch of pairs: ``(value, embeddings, model_state)``.

    ``network(x1, x2)`` returns one value for each pair and the embeddings of all images (all of
    ``x1`` first), as :class:`siamjax.models.Siamese` does.
    """
    inputs, weight = (batch["x1"], batch["x2"]), batch.get("weight")
    found, model_state = forward(network, params, model_state, key, *inputs, weight=weight)
    value, embeddings = found
    return value, embeddings, model_state


def forward_triplets(
    network: nn.Module, params: Any, model_state: Any, batch: Batch, key: Key[Array, ""]
) -> tuple[tuple[Float[Array, "batch features"], ...], Any]:
    """:func:`forward` of a batch of triplets: ``((anchor, positive, negative), model_state)``.

    ``network.embed`` sees all images in one apply: batch normalisation then sees one batch, and
    the kernels' gradients are computed once.
    """
    images = jnp.concatenate([batch["anchor"], batch["positive"], batch["negative"]])
    weight = batch.get("weight")
    weights = None if weight is None else jnp.tile(weight, 3)
    embeddings, model_state = forward(
        network, params, model_state, key, images, weight=weights, method="embed"
    )
    return tuple(jnp.split(embeddings, 3)), model_state


def forward_labelled(
    network: nn.Module, params: Any, model_state: Any, batch: Batch, key: Key[Array, ""]
) -> tuple[Float[Array, "batch features"], Any]:
    """:func:`forward` of ``network.embed`` on labelled images: ``(embeddings, model_state)``."""
    weight = batch.get("weight")
    return forward(network, params, model_state, key, batch["image"], weight=weight, method="embed")
