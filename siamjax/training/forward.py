"""A network applied while it trains: the part of every loss function that is the same."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

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

    Dropout draws from ``key``. ``weight`` (0 = padding) is passed on where it is given, for the
    statistics of batch normalisation; a network without such an argument then raises
    ``TypeError``. ``method`` names another method than ``__call__``, such as ``embed``.
    """
    options: dict[str, Any] = {} if weight is None else {"weight": weight}
    return network.apply(
        {"params": params, **model_state},
        *inputs,
        train=True,
        **options,
        method=method,
        mutable=list(model_state),
        rngs={"dropout": key},
    )


def forward_pairs(
    network: nn.Module, params: Any, model_state: Any, batch: Batch, key: Key[Array, ""]
) -> tuple[Float[Array, " batch"], Float[Array, "2*batch features"], Any]:
    """:func:`forward` of a batch of pairs: ``(value, embeddings, model_state)``.

    ``network(x1, x2)`` gives a value a pair and the embeddings of all images (first all ``x1``),
    as :class:`siamjax.models.Siamese` does.
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
