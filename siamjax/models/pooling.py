"""Pooling that is fast on a CPU, and :class:`Named`, which gives an intermediate result a name."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from siamjax.errors import UsageError
from siamjax.precision import sum_dtype


@jax.custom_vjp
def _max_pool(x: Float[Array, "batch height width channels"]) -> Array:
    return _largest(_corners(x))


def first_of_equals(corners: Sequence[Array]) -> tuple[Array, UInt8[Array, "..."]]:
    """The elementwise maximum of four, and which it was (0..3); the first of equal ones."""
    largest = _largest(corners)
    winner = jnp.where(
        corners[0] == largest,
        0,
        jnp.where(corners[1] == largest, 1, jnp.where(corners[2] == largest, 2, 3)),
    )
    return largest, winner.astype(jnp.uint8)


def _corners(x: Array) -> list[Array]:
    batch, height, width, channels = x.shape
    windows = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return [windows[:, :, row, :, column] for row in range(2) for column in range(2)]


def _largest(corners: Sequence[Array]) -> Array:
    # Three elementwise maxima, not reduce_window: XLA's CPU backend would fuse that with the
    # convolution and the ReLU into a loop that runs many times slower than the three apart.
    return jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))


def _forward(x: Array) -> tuple[Array, UInt8[Array, "..."]]:
    # The backward pass only needs to know which of the four won, one byte an output;
    # reduce_window's own gradient keeps the input and searches it again.
    return first_of_equals(_corners(x))


def _backward(winner: UInt8[Array, "..."], gradient: Array) -> tuple[Array]:
    batch, height, width, channels = gradient.shape
    place = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    routed = jnp.where(
        winner[:, :, None, :, None] == place,
        gradient[:, :, None, :, None],
        jnp.zeros((), gradient.dtype),
    )
    return (routed.reshape(batch, 2 * height, 2 * width, channels),)


_max_pool.defvjp(_forward, _backward)


def max_pool_2x2(
    x: Float[Array, "*batch height width channels"],
) -> Float[Array, "*batch height/2 width/2 channels"]:
    """Max over windows of 2x2, stride 2; the first of equal maxima gets the gradient.

    First in row-major order, as in Torch. Height and width must be even (``UsageError``).
    """
    *batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        raise UsageError(f"a map of {height}x{width} cannot be pooled 2x2; use even sides")
    pooled = _max_pool(x.reshape(-1, height, width, channels))
    return pooled.reshape(*batch, height // 2, width // 2, channels)


def max_pool_3x3(
    x: Float[Array, "batch height width channels"], *, border: int = 0
) -> Float[Array, "batch (height+2*border-1)/2 (width+2*border-1)/2 channels"]:
    """Max over windows of 3x3, stride 2; equal maxima share the gradient.

    ``border``: rows and columns that the first and last windows reach beyond the map.
    """
    outside = ((0, 0), (border, border), (border, border), (0, 0))
    x = jnp.pad(x, outside, constant_values=-jnp.inf)

    def along(x: Array, axis: int) -> Array:
        # Elementwise as in _largest: three slices of every second row, then column.
        count = (x.shape[axis] - 1) // 2
        parts = [
            jax.lax.slice_in_dim(x, start, start + 2 * count - 1, stride=2, axis=axis)
            for start in range(3)
        ]
        return jnp.maximum(jnp.maximum(parts[0], parts[1]), parts[2])

    return along(along(x, 1), 2)


def average_pool_3x3(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    """Mean over windows of 3x3, stride 1; places outside the map do not count.

    Sums are float32 at least, the result has the dtype of the input.
    """

    def along(x: Array, axis: int) -> Array:
        border = [(0, 0)] * x.ndim
        border[axis] = (1, 1)
        padded = jnp.pad(x, border)
        size = x.shape[axis]
        before, after = (
            jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in (0, 2)
        )
        places = jnp.arange(size)
        inside = 1.0 + (places > 0).astype(x.dtype) + (places < size - 1).astype(x.dtype)
        inside = inside.reshape([-1 if one == axis else 1 for one in range(x.ndim)])
        return (before + x + after) / inside

    return along(along(x.astype(sum_dtype(x.dtype)), 1), 2).astype(x.dtype)


def average_pool_2x2(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height/2 width/2 channels"]:
    """Mean over windows of 2x2, stride 2; the last row or column of an odd side is left out.

    Sums are float32 at least, the result has the dtype of the input.
    """
    even = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2].astype(sum_dtype(x.dtype))
    first, second, third, fourth = _corners(even)
    return ((first + second + third + fourth) / 4.0).astype(x.dtype)


class Named(nn.Module):
    """Returns its input, so that ``siamjax inspect`` finds it under this module's name."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """``x``, unchanged."""
        return x
