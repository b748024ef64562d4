"""The cross-input neighbourhood layer: differences of two maps, place by place.

Ahmed, Jones, Marks, *An Improved Deep Learning Architecture for Person Re-Identification*, CVPR
2015, section 3.2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.correlation.maps import as_maps, check_bias
from siamjax.errors import UsageError
from siamjax.options import Count, plain
from siamjax.precision import sum_dtype, with_bias


def cross_input_neighbourhood(
    x: Float[Array, "*batch height width channels"],
    y: Float[Array, "*batch height width channels"],
    *,
    size: int = 5,
) -> Float[Array, "*batch height width 2*channels*size*size"]:
    """Differences of each value from the neighbourhood of the same place in the other map.

    ``K[i, j] = x[i, j] 1(size, size) - N[y[i, j]]``, with zeros outside the map: first from x to y,
    then from y to x; in each channel by channel, and the neighbourhood row by row. The ReLU that
    follows in the paper is left to the caller.
    """
    x, y = _checked(x, y, size)
    half = size // 2
    *_, height, width, channels = x.shape

    def direction(one: Array, other: Array) -> Array:
        padded = _padded(other, half)
        around = [
            padded[..., a : a + height, b : b + width, :] for a in range(size) for b in range(size)
        ]
        differences = one[..., None] - jnp.stack(around, axis=-1)
        return differences.reshape(*one.shape[:-1], channels * size**2)

    return jnp.concatenate([direction(x, y), direction(y, x)], axis=-1)


def cross_input_neighbourhood_conv(
    x: Float[Array, "*batch height width channels"],
    y: Float[Array, "*batch height width channels"],
    kernel: Float[Array, "2*channels*size*size outputs"],
    bias: Float[Array, " outputs"] | None = None,
    *,
    size: int = 5,
    activation: Callable[[Array], Array] | None = None,
) -> Float[Array, "*batch height width outputs"]:
    """``activation(cross_input_neighbourhood(x, y)) @ kernel + bias``, without storing the map.

    One offset of the neighbourhood at a time goes into the 1x1 convolution, in float32 at least;
    the backward pass computes its differences again.
    """
    x, y = _checked(x, y, size)
    dtype = x.dtype
    x, y = (u.astype(sum_dtype(dtype)) for u in (x, y))
    channels = x.shape[-1]
    if kernel.ndim != 2 or kernel.shape[0] != 2 * channels * size**2:
        raise UsageError(
            f"kernel of shape {kernel.shape}, expected ({2 * channels * size**2}, outputs): "
            f"2 directions x {channels} channels x {size}x{size}"
        )
    check_bias(bias, kernel)
    by_offset = kernel.reshape(2, channels, size**2, -1).transpose(2, 0, 1, 3).astype(x.dtype)

    def direction(one: Array, other: Array, kernels: Array) -> Array:
        padded = _padded(other, size // 2)

        @jax.checkpoint
        def add(total: Array, offset: tuple[Array, Array]) -> tuple[Array, None]:
            number, kernel = offset
            start = (0,) * (one.ndim - 3) + (number // size, number % size, 0)
            difference = one - lax.dynamic_slice(padded, start, one.shape)
            return total + (activation or (lambda u: u))(difference) @ kernel, None

        empty = jnp.zeros((*one.shape[:-1], kernels.shape[-1]), x.dtype)
        return lax.scan(add, empty, (jnp.arange(size**2), kernels))[0]

    out = direction(x, y, by_offset[:, 0]) + direction(y, x, by_offset[:, 1])
    return with_bias(out, bias).astype(dtype)


def _checked(x: Array, y: Array, size: int) -> tuple[Array, Array]:
    x, y = as_maps(x, y)
    if plain("size", size, Count) % 2 == 0:
        raise UsageError(
            f"neighbourhood of {size}x{size}: use an odd size, so that it has a centre"
        )
    return x, y


def _padded(u: Array, half: int) -> Array:
    return jnp.pad(u, [(0, 0)] * (u.ndim - 3) + [(half, half), (half, half), (0, 0)])
