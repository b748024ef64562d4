"""Normalised cross-correlation of feature patches, and the cross-input neighbourhood layer.

Contract: feature maps are ``*batch height width channels``, both of one shape; statistics and sums
are float32 at least, and the result has the dtype of the inputs. x's patches are searched in y, so
f(x, y) is not f(y, x).

Source: Subramaniam, Chatterjee, Mittal, *Deep Neural Networks with Inexact Matching for Person
Re-Identification*, NIPS 2016, section 3.1, and the released code, which settles what the paper
leaves open (the padding, the epsilon, the order of the channels).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.correlation.dispatch import conv_of, map_of
from siamjax.correlation.maps import as_maps, check_bias
from siamjax.correlation.neighbourhood import (
    cross_input_neighbourhood,
    cross_input_neighbourhood_conv,
)
from siamjax.correlation.options import Gradient, Reduction, options_of
from siamjax.errors import UsageError
from siamjax.precision import sum_dtype, with_bias

__all__ = [
    "cross_input_neighbourhood",
    "cross_input_neighbourhood_conv",
    "normxcorr",
    "normxcorr_by_definition",
    "normxcorr_conv",
]

_map = jax.jit(map_of, static_argnums=2)
_conv = jax.jit(conv_of, static_argnums=3)


def normxcorr(
    x: Float[Array, "*batch height width channels"],
    y: Float[Array, "*batch height width channels"],
    *,
    patch_size: int = 5,
    row_search: int = 2,
    column_search: int | None = None,
    epsilon: float = 1e-2,
    ddof: int = 1,
    reduction: Reduction = "mean",
    gradient: Gradient = "exact",
) -> Float[Array, "*batch height width features"]:
    """Correlate every patch of x with the patches of y in the rows around it.

    For each channel c, each position (i, j), each row offset r in -row_search..row_search and
    each column k that is searched, with the patches x_p, y_p centred at (i, j) and (i + r, k) of
    the zero-padded maps and n = patch_size^2 - ddof::

        sum_p (x_p - mean x) (y_p - mean y) / (n s_x s_y),   s = sqrt(sum_p (. - mean)^2 / n) + e

    in [-1, 1], at ``[i, j, (c * rows + r) * columns + k]``. A patch whose centre lies in the rows
    above or below the map counts like any other that is partly padding. A patch of one value has
    correlation 0 with every other; gradients are finite there.

    Accuracy in float32: 1e-6, absolute; the largest error against float64 is 4e-7 in the tests,
    among them offsets of 1e4 and steps of 200 between patches of a standard deviation of 0.003.
    Gradients: 1e-6 of their largest. All sums are of differences within one patch, so neither its
    mean nor the rest of the map costs a digit. Maps may have any scale from 1e-30 to 1e30. A patch
    whose deviation is below 1e-15 of its map's largest value (or 1e-21 epsilon) counts as one of a
    single value, and its gradient is at most that of a patch of such a deviation.

    Reverse mode only: ``jax.grad``, ``vjp``, and Hessians as ``jax.jacrev(jax.grad(f))``. The
    backward pass is written by hand, and JAX knows no forward mode of such functions: ``jax.jvp``,
    ``jacfwd`` and ``hessian`` raise ``TypeError``. :func:`normxcorr_by_definition` has all of them.

    Args:
        x: maps whose patches are looked for.
        y: maps that are searched.
        patch_size: side of the patches, odd, at least 3.
        row_search: rows above and below that are searched; 2 * row_search + 1 in all.
        column_search: None searches every column of the map, at quadratic cost in the width. k
            searches the 2k + 1 columns around the patch (partly padded at the map's border), at
            linear cost; the last axis then counts offsets -k..k.
        epsilon: added to each standard deviation. The smaller, the larger the gradient of nearly
            flat patches.
        ddof: 1 divides by patch_size^2 - 1 as the paper does, 0 by patch_size^2.
        reduction: ``mean`` divides by n, ``sum`` does not. A Keras guide of 2018 computes
            ``ddof=0, epsilon=0, reduction="sum"``: 25 times the correlation.
        gradient: ``exact``, or ``paper``: the backward pass of the released code, which has s + e
            where the derivative of its forward pass has s (1.9 % off at s = 1, 15 % at 0.1).

    Raises ``UsageError`` for maps of different or too few axes, an even ``patch_size``, options
    out of range or traced, and features that are not finite (not seen under a trace).
    """
    x, y = as_maps(x, y)
    options = options_of(
        patch_size=patch_size,
        row_search=row_search,
        column_search=column_search,
        epsilon=epsilon,
        ddof=ddof,
        reduction=reduction,
        gradient=gradient,
    )
    wide = sum_dtype(x.dtype)
    mapped = _map(_flat(x, wide), _flat(y, wide), options)
    return mapped.reshape(*x.shape[:-1], mapped.shape[-1]).astype(x.dtype)


def normxcorr_conv(
    x: Float[Array, "*batch height width channels"],
    y: Float[Array, "*batch height width channels"],
    kernel: Float[Array, "features outputs"],
    bias: Float[Array, " outputs"] | None = None,
    *,
    activation: Callable[[Array], Array] | None = None,
    patch_size: int = 5,
    row_search: int = 2,
    column_search: int | None = None,
    epsilon: float = 1e-2,
    ddof: int = 1,
    reduction: Reduction = "mean",
    gradient: Gradient = "exact",
) -> Float[Array, "*batch height width outputs"]:
    """``activation(normxcorr(x, y)) @ kernel + bias``, computed without storing the map.

    The correlation map of 37 x 12 x 25 features has 1500 channels: 2.7 MB for each pair. Here the
    part of each row offset, for a few pairs at a time, goes straight into the 1x1 convolution, and
    the backward pass computes it again. :class:`siamjax.models.NormXCorrConv` is the layer.

    Args:
        x: maps whose patches are looked for.
        y: maps that are searched.
        kernel: 1x1 kernel on the map's channels, in the order of :func:`normxcorr`.
        bias: added to the result, or None.
        activation: elementwise function of the correlation, such as ``jax.nn.relu``, or None.
            Pass a function that is defined once (a new lambda compiles anew in each call) and
            closes over no traced value: no gradient flows to what it closes over.
        patch_size: this and all that follow are the options of :func:`normxcorr`.

    Accuracy and derivatives are those of :func:`normxcorr`: reverse mode only.

    Raises ``UsageError`` as :func:`normxcorr` does, and for a kernel of another size.
    """
    x, y = as_maps(x, y)
    options = options_of(
        patch_size=patch_size,
        row_search=row_search,
        column_search=column_search,
        epsilon=epsilon,
        ddof=ddof,
        reduction=reduction,
        gradient=gradient,
    )
    options = options._replace(activation=activation)
    features = options.features(x.shape)
    if kernel.ndim != 2 or kernel.shape[0] != features:
        raise UsageError(
            f"kernel of shape {kernel.shape}, expected ({features}, outputs): {x.shape[-1]} "
            f"channels x {options.offsets} rows x {options.searched(x.shape[-2])} columns"
        )
    check_bias(bias, kernel)
    wide = sum_dtype(x.dtype)
    out = _conv(_flat(x, wide), _flat(y, wide), kernel.astype(wide), options)
    out = with_bias(out, bias)
    return out.reshape(*x.shape[:-1], kernel.shape[1]).astype(x.dtype)


def normxcorr_by_definition(
    x: Float[Array, "height width channels"],
    y: Float[Array, "height width channels"],
    *,
    patch_size: int = 5,
    row_search: int = 2,
    column_search: int | None = None,
    epsilon: float = 1e-2,
    ddof: int = 1,
    reduction: Reduction = "mean",
) -> Float[Array, "height width features"]:
    """:func:`normxcorr` of one pair by its definition: a specification to read, and slow.

    One function compares two patches; ``vmap`` applies it over columns, row offsets, channels
    and positions. Its derivatives are JAX's own, in both modes and of any order. Squares must be
    within the dtype's range (1e-18 to 1e18 in float32).

    Raises ``UsageError`` for options out of range.
    """
    options = options_of(
        patch_size=patch_size,
        row_search=row_search,
        column_search=column_search,
        epsilon=epsilon,
        ddof=ddof,
        reduction=reduction,
    )
    height, width, channels = x.shape
    half, reach = options.patch // 2, options.columns or 0

    def centred(p: Array) -> Array:
        p = p - p[0, 0]  # exact for near values, whose mean is not
        return p - p.mean()

    def deviation(p: Array) -> Array:
        variance = jnp.sum(p * p) / options.count
        flat = variance == 0  # where the root has no derivative
        return jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, variance))) + options.epsilon

    def compare(p: Array, q: Array) -> Array:
        p, q = centred(p), centred(q)
        scale = deviation(p) * deviation(q) / options.unit
        # No sum of products: jaxlib 0.10 may crash in one over seven dimensions (0.12 does not).
        product = jnp.vdot(p, q, precision="highest")
        return jnp.where(scale == 0, 0.0, product / jnp.where(scale == 0, 1.0, scale))

    def patch(u: Array, c: Array, i: Array, j: Array) -> Array:
        return lax.dynamic_slice(u, (i, j, c), (options.patch, options.patch, 1))[..., 0]

    rows, columns = half + options.rows, half + reach
    x_padded = jnp.pad(x, ((half, half), (half, half), (0, 0)))
    y_padded = jnp.pad(y, ((rows, rows), (columns, columns), (0, 0)))

    def one(i: Array, j: Array, c: Array, r: Array, k: Array) -> Array:
        column = k if options.columns is None else j + k
        return compare(patch(x_padded, c, i, j), patch(y_padded, c, i + r, column))

    axes = [height, width, channels, options.offsets, options.searched(width)]
    mapped = one
    for place in reversed(range(5)):
        mapped = jax.vmap(mapped, in_axes=[0 if axis == place else None for axis in range(5)])
    return mapped(*map(jnp.arange, axes)).reshape(height, width, -1)


def _flat(u: Array, dtype: jnp.dtype) -> Array:
    return jnp.asarray(u, dtype).reshape(-1, *u.shape[-3:])
