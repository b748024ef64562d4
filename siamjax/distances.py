"""Distances of embeddings; gradients are finite everywhere, also at equal embeddings.

Contract: embeddings are ``*batch features``, of any float type and any size that float32 holds;
sums are float32 at least, and the result is ``*batch``. The distance of an embedding to itself is
exactly 0, with gradient 0; within a call, equal embeddings are at exactly equal distances of
any other.

All are made of differences, so that nothing cancels: groups may be tight and far from the origin.
The relative error is below 1e-6 for 10^4 features, if float32 can hold the result at all: a
*squared* distance of embeddings 1e-25 apart is 0, and of those 1e25 apart infinite, while their
distance is right. That of the cosine is said there.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from siamjax.precision import sum_dtype


def _wide(x: Array) -> Array:
    x = jnp.asarray(x)
    return x.astype(sum_dtype(x.dtype))


def safe_sqrt(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Square root of ``x >= 0`` whose gradient at 0 is 0 instead of infinite.

    NaN stays NaN, so that a broken network is noticed.
    """
    zero = x == 0
    # The inner where keeps the infinite derivative out of the backward pass; with the outer one
    # alone it would be 0 * inf = nan.
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, x)))


def _exponent(x: Float[Array, "*batch features"]) -> Array:
    """The e for which the largest entry lies in [2^(e-1), 2^e); 0 where that is 0 or not finite."""
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axis=-1, initial=0.0)
    usable = (largest > 0) & jnp.isfinite(largest)
    info = jnp.finfo(x.dtype)
    # Both 2^e and 2^-e must be normal numbers: what is smaller counts as 0 on most devices.
    exponent = jnp.frexp(jnp.where(usable, largest, 0.5))[1]
    return jnp.clip(exponent, info.minexp, -info.minexp)


def _times_power(x: Float[Array, "*batch features"], exponent: Array) -> Array:
    """``x * 2^exponent``, without rounding."""
    return x * jnp.ldexp(jnp.ones((), x.dtype), exponent)[..., None]


def norm(x: Float[Array, "*batch features"]) -> Float[Array, "*batch"]:
    """``||x||_2``, in [0, inf); the gradient at 0 is 0 (a subgradient)."""
    # Squares of entries near 1 neither overflow nor vanish; a power of two changes no digit.
    _, length, exponent = _near_one(x)
    return length * jnp.ldexp(jnp.ones((), length.dtype), exponent)


def _near_one(x: Float[Array, "*batch features"]) -> tuple[Array, Array, Array]:
    """``x * 2^-e`` with its largest entry near 1, its length, and e."""
    x = _wide(x)
    exponent = _exponent(x)
    x = _times_power(x, -exponent)
    return x, safe_sqrt(jnp.sum(jnp.square(x), axis=-1)), exponent


def unit(x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """``x / ||x||_2``, float32 at least; the zero vector stays zero, with a finite gradient."""
    x, length, _ = _near_one(x)
    return x / jnp.where(length == 0, 1.0, length)[..., None]


def squared_euclidean(
    x: Float[Array, "*batch features"], y: Float[Array, "*batch features"]
) -> Float[Array, "*batch"]:
    """``sum_i (x_i - y_i)^2``, in [0, inf)."""
    return jnp.sum(jnp.square(_wide(x) - _wide(y)), axis=-1)


def euclidean(
    x: Float[Array, "*batch features"], y: Float[Array, "*batch features"]
) -> Float[Array, "*batch"]:
    """``||x - y||_2``, in [0, inf); the gradient is 0 where ``x == y`` (a subgradient)."""
    return norm(_wide(x) - _wide(y))


def cosine(
    x: Float[Array, "*batch features"], y: Float[Array, "*batch features"]
) -> Float[Array, "*batch"]:
    """``1 - <x, y> / (||x|| ||y||)``, in [0, 2]; 1 if one of them is the zero vector.

    Half the squared distance of ``x / ||x||`` and ``y / ||y||``, which keeps the digits of small
    angles, where the difference from 1 has none. With lengths of one size (as of a normalised
    embedding) the relative error is below 1e-5 at every angle; with others it is that of the angle,
    which is 1e-7 off.
    """
    (x, x_length, x_exponent), (y, y_length, y_exponent) = _near_one(x), _near_one(y)
    # Lengths do not matter, but those that are alike are scaled alike, so that the difference of
    # the vectors keeps its digits.
    shift = jnp.where(jnp.abs(x_exponent - y_exponent) <= 1, x_exponent - y_exponent, 0)
    x, x_length = _times_power(x, shift), x_length * jnp.ldexp(jnp.ones((), x.dtype), shift)
    apart = x - y
    zero = (x_length == 0) | (y_length == 0)
    x_length, y_length = (jnp.where(zero, 1.0, length) for length in (x_length, y_length))
    # Of x ||y|| - y ||x|| each part is small where the vectors are alike: ||x|| - ||y|| is taken
    # from their difference as well.
    both = x_length + y_length
    longer = jnp.sum(apart * (x + y), axis=-1) / both
    turned = apart * (both / 2)[..., None] - (x + y) * (longer / 2)[..., None]
    squares = jnp.sum(jnp.square(turned), axis=-1)
    half = squares / (2 * jnp.square(x_length) * jnp.square(y_length))
    return jnp.where(zero, 1.0, jnp.minimum(half, 2.0))


def pairwise_squared_euclidean(
    x: Float[Array, "rows features"], y: Float[Array, "columns features"], *, block: int = 128
) -> Float[Array, "rows columns"]:
    """Every ``||x_i - y_j||^2``, for ``block`` rows of ``x`` at a time."""
    return _pairwise(squared_euclidean, x, y, block)


def pairwise_euclidean(
    x: Float[Array, "rows features"], y: Float[Array, "columns features"], *, block: int = 128
) -> Float[Array, "rows columns"]:
    """Every ``||x_i - y_j||_2``, for ``block`` rows of ``x`` at a time."""
    return _pairwise(euclidean, x, y, block)


def pairwise_cosine(
    x: Float[Array, "rows features"], y: Float[Array, "columns features"], *, block: int = 128
) -> Float[Array, "rows columns"]:
    """Every ``cosine(x_i, y_j)``, for ``block`` rows of ``x`` at a time."""
    return _pairwise(cosine, x, y, block)


def _pairwise(distance: Callable[[Array, Array], Array], x: Array, y: Array, block: int) -> Array:
    x, y = _wide(x), _wide(y)
    if not (len(x) and len(y)):
        return jnp.zeros((len(x), len(y)), x.dtype)

    # Differences of every pair are made again for the gradient, as they would fill the memory.
    @jax.checkpoint
    def one_row(row: Array) -> Array:
        return jax.vmap(distance, (None, 0))(row, y)

    return jax.lax.map(one_row, x, batch_size=min(block, len(x)))
