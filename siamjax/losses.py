"""Losses of pairs: one value an example, never reduced here.

Contract: ``same`` is bool, True = the two pictures show the same identity.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float


def contrastive(
    distance: Float[Array, "*batch"], same: Bool[Array, "*batch"], *, margin: float = 1.0
) -> Float[Array, "*batch"]:
    """``d^2`` for pairs of one identity, ``max(0, margin - d)^2`` for the others.

    Hadsell, Chopra, LeCun, *Dimensionality Reduction by Learning an Invariant Mapping*, CVPR
    2006, equation 4, without its factor 1/2 (and there Y = 1 means different). ``distance >= 0``
    as :func:`siamjax.distances.euclidean` gives it, in units of ``margin``.
    """
    apart = jnp.maximum(margin - distance, 0.0)
    return jnp.where(same, jnp.square(distance), jnp.square(apart))


def binary_cross_entropy(
    logit: Float[Array, "*batch"], same: Bool[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """``-log P`` of the truth, with ``P(same) = sigmoid(logit)``; finite for every finite logit."""
    return optax.sigmoid_binary_cross_entropy(logit, same.astype(logit.dtype))
