"""Chooses which formulation computes a correlation, and on how many examples at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.correlation import patch_products, shifted_maps, shifted_maps_gradient
from siamjax.correlation.options import Options

# On a CPU it matters most that a chunk's work stays in a core's cache (1 MB where this was
# measured), so a chunk is one example at 37x12x25; of the gradient it is two, whose larger steps
# keep two cores busy (a training step took 5 % less time). On a GPU every kernel costs a launch, so
# there a chunk is many examples; shifted maps touch less memory than patches do (H200, 64 pairs:
# 0.8 ms against 2.1 forward, 3.6 against 6.9 with the backward pass). Elsewhere, as on a TPU,
# matrix products cost least (patch_products); that was not measured.
# Bytes of one row offset's map.
_CPU_CHUNK, _CPU_GRADIENT_CHUNK, _CHUNK = 0.7e6, 1.4e6, 256e6


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def map_of(
    x: Float[Array, "batch height width channels"],
    y: Float[Array, "batch height width channels"],
    options: Options,
) -> Float[Array, "batch height width features"]:
    """The correlation map; only x and y are kept for the backward pass."""
    return _on_this_platform(shifted_maps.map_of, patch_products.map_of, options, None, x, y)[1]


def _map_backward(options, saved, cotangent):
    def by_patches(x, y, cotangent, options):
        return jax.vjp(lambda x, y: patch_products.map_of(x, y, options), x, y)[1](cotangent)

    return _on_this_platform(
        shifted_maps_gradient.map_gradient,
        by_patches,
        options,
        None,
        *saved,
        cotangent,
        cpu_chunk=_CPU_GRADIENT_CHUNK,
    )[1]


map_of.defvjp(lambda x, y, options: (map_of(x, y, options), (x, y)), _map_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def conv_of(
    x: Float[Array, "batch height width channels"],
    y: Float[Array, "batch height width channels"],
    kernel: Float[Array, "features outputs"],
    options: Options,
) -> Float[Array, "batch height width outputs"]:
    """The 1x1 convolution of the activated map; only the arguments are kept for the backward."""
    kernel = _by_offset(kernel, x.shape[-1], options)

    def with_kernel(conv: Callable) -> Callable:
        return lambda x, y, options: conv(x, y, kernel, options)

    return _on_this_platform(
        with_kernel(shifted_maps.conv_of), with_kernel(patch_products.conv_of), options, None, x, y
    )[1]


def _conv_backward(options, saved, cotangent):
    x, y, kernel = saved
    split, join = jax.vjp(lambda kernel: _by_offset(kernel, x.shape[-1], options), kernel)

    def by_patches(total, x, y, cotangent, options):
        conv = partial(patch_products.conv_of, options=options)
        dx, dy, dkernel = jax.vjp(conv, x, y, split)[1](cotangent)
        return total + dkernel, (dx, dy)

    def by_shifted_maps(total, x, y, cotangent, options):
        dx, dy, dkernel = shifted_maps_gradient.conv_gradient(x, y, split, cotangent, options)
        return total + dkernel, (dx, dy)

    total, (dx, dy) = _on_this_platform(
        by_shifted_maps,
        by_patches,
        options,
        jnp.zeros_like(split),
        x,
        y,
        cotangent,
        cpu_chunk=_CPU_GRADIENT_CHUNK,
    )
    return dx, dy, *join(total)


conv_of.defvjp(
    lambda x, y, kernel, options: (conv_of(x, y, kernel, options), (x, y, kernel)), _conv_backward
)


def _by_offset(kernel: Array, channels: int, options: Options) -> Array:
    """(features, outputs) -> (offsets, channels * searched, outputs)."""
    split = kernel.reshape(channels, options.offsets, -1, kernel.shape[-1])
    return split.swapaxes(0, 1).reshape(options.offsets, -1, kernel.shape[-1])


def _on_this_platform(
    by_shifted_maps: Callable,
    by_patches: Callable,
    options: Options,
    total: Array | None,
    *arrays: Array,
    cpu_chunk: float = _CPU_CHUNK,
) -> tuple[Array | None, Any]:
    """``function(*chunk, options)`` of every chunk; a ``total`` is passed first and updated."""

    def over_chunks(function: Callable, budget: float) -> Callable:
        def one(total: Array | None, chunk: list[Array]):
            if total is None:
                return None, function(*chunk, options)
            return function(total, *chunk, options)

        def run(*arrays: Array):
            size = _examples(arrays[0], options, budget)
            chunks = [u.reshape(u.shape[0] // size, size, *u.shape[1:]) for u in arrays]
            last, results = lax.scan(one, total, chunks)
            return last, jax.tree.map(lambda u: u.reshape(-1, *u.shape[2:]), results)

        return run

    def exact(*arrays: Array):
        with jax.default_matmul_precision("highest"):  # a GPU's default is tf32: 10 bits
            return over_chunks(by_shifted_maps, _CHUNK)(*arrays)

    return lax.platform_dependent(
        *arrays,
        cpu=over_chunks(by_shifted_maps, cpu_chunk),
        cuda=exact,
        default=over_chunks(by_patches, _CHUNK),
    )


def _examples(x: Array, options: Options, budget: float) -> int:
    """Examples in a chunk: the largest divisor of the batch within the budget, or 1."""
    batch, height, width, channels = x.shape
    if not isinstance(batch, int):  # exported for any batch size, whose divisors are not known
        return 1
    rows = height + options.patch - 1
    each = channels * options.searched(width) * width * rows * x.dtype.itemsize
    most = max(1, int(budget / each))
    return max((n for n in range(1, min(batch, most) + 1) if batch % n == 0), default=1)
