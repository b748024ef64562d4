"""Distances of embeddings; gradients are finite everywhere, also at equal embeddings.

Contract: embeddings are ``*batch features``, of any float type; sums are float32 at least, and
the result is ``*batch``. The distance of an embedding to itself is exactly 0, with gradient 0.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def safe_sqrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Square root of ``x >= 0`` whose gradient at 0 is 0 instead of infinite.

    NaN stays NaN, so that a broken network is noticed.
    """
    zero = x == 0
    # The inner where keeps the infinite derivative out of the backward pass; with the outer one
    # alone it would be 0 * inf = nan.
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def squared_euclidean(
    x: Float[Array, "*batch features"], y: Float[Array, "*batch features"]
) -> Float[Array, "*batch"]:
    """``sum_i (x_i - y_i)^2``, in [0, inf)."""
    return jnp.sum(jnp.square(_wide(x) - _wide(y)), axis=-1)


def euclidean(
    x: Float[Array, "*batch features"], y: Float[Array, "*batch features"]
) -> Float[Array, "*batch"]:
    """``||x - y||_2``, in [0, inf); the gradient is 0 where ``x == y`` (a subgradient)."""
    return safe_sqrt(squared_euclidean(x, y))


def cosine(
    x: Float[Array, "*batch features"], y: Float[Array, "*batch features"]
) -> Float[Array, "*batch"]:
    """``1 - <x, y> / (||x|| ||y||)``, in [0, 2]; 1 if one of them is the zero vector."""
    x, y = _wide(x), _wide(y)
    norms = safe_sqrt(jnp.sum(x * x, axis=-1) * jnp.sum(y * y, axis=-1))
    zero = norms == 0
    similarity = jnp.where(zero, 0.0, jnp.sum(x * y, axis=-1) / jnp.where(zero, 1.0, norms))
    return 1.0 - similarity


def pairwise_squared_euclidean(
    x: Float[Array, "rows features"], y: Float[Array, "columns features"], *, block: int = 128
) -> Float[Array, "rows columns"]:
    """Every ``||x_i - y_j||^2``, for ``block`` rows of ``x`` at a time.

    Computed as ``||x||^2 + ||y||^2 - 2 <x, y>`` about the mean of ``y``, which avoids most of the
    cancellation that a common offset of the embeddings would cause, and clipped at 0. Temporaries
    are O(block * columns + rows * features).
    """
    x, y = _wide(x), _wide(y)
    centre = jnp.mean(y, axis=0)
    x, y = x - centre, y - centre
    y_squares = jnp.sum(y * y, axis=-1)

    def one_row(row: Array) -> Array:
        products = jnp.matmul(y, row, precision="highest")
        return jnp.maximum(jnp.sum(row * row) + y_squares - 2.0 * products, 0.0)

    return jax.lax.map(one_row, x, batch_size=min(block, max(x.shape[0], 1)))


def pairwise_euclidean(
    x: Float[Array, "rows features"], y: Float[Array, "columns features"], *, block: int = 128
) -> Float[Array, "rows columns"]:
    """Square root of :func:`pairwise_squared_euclidean`."""
    return safe_sqrt(pairwise_squared_euclidean(x, y, block=block))


def pairwise_cosine(
    x: Float[Array, "rows features"], y: Float[Array, "columns features"], *, block: int = 128
) -> Float[Array, "rows columns"]:
    """Every ``cosine(x_i, y_j)``, for ``block`` rows of ``x`` at a time."""

    def one_row(row: Array) -> Array:
        return cosine(jnp.broadcast_to(row, y.shape), y)

    return jax.lax.map(one_row, x, batch_size=min(block, max(x.shape[0], 1)))
