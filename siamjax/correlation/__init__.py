"""Normalised cross-correlation of feature patches, and the cross-input neighbourhood layer.

Contract: feature maps are ``*batch height width channels``, both of one shape; statistics and sums
are float32 at least, and the result has the dtype of the inputs. x's patches are searched in y, so
f(x, y) is not f(y, x).

Source: Subramaniam, Chatterjee, Mittal, *Deep Neural Networks with Inexact Matching for Person
Re-Identification*, NIPS 2016, section 3.1, and the released code, which settles what the paper
leaves open (the padding, the epsilon, the order of the channels).
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.checks import require_number
from siamjax.correlation.dispatch import conv_of, map_of
from siamjax.correlation.maps import as_maps, check_bias
from siamjax.correlation.neighbourhood import (
    cross_input_neighbourhood,
    cross_input_neighbourhood_conv,
)
from siamjax.correlation.patches import Options
from siamjax.errors import UsageError

__all__ = [
    "cross_input_neighbourhood",
    "cross_input_neighbourhood_conv",
    "normxcorr",
    "normxcorr_by_definition",
    "normxcorr_conv",
]

_map = jax.jit(map_of, static_argnums=2)
_conv = jax.jit(conv_of, static_argnums=3)

Gradient = Literal["exact", "paper"]
Reduction = Literal["mean", "sum"]


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

    Args:
        x: maps whose patches are looked for.
        y: maps that are searched.
        patch_size: side of the patches, odd.
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
    out of range, and features that are not finite (these are not seen under a trace).
    """
    x, y = as_maps(x, y)
    options = _options(patch_size, row_search, column_search, epsilon, ddof, reduction, gradient)
    wide = jnp.promote_types(x.dtype, jnp.float32)
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

    Raises ``UsageError`` as :func:`normxcorr` does, and for a kernel of another size.
    """
    x, y = as_maps(x, y)
    options = _options(patch_size, row_search, column_search, epsilon, ddof, reduction, gradient)
    options = options._replace(activation=activation)
    features = x.shape[-1] * options.offsets * options.searched(x.shape[-2])
    if kernel.ndim != 2 or kernel.shape[0] != features:
        raise UsageError(
            f"kernel of shape {kernel.shape}, expected ({features}, outputs): {x.shape[-1]} "
            f"channels x {options.offsets} rows x {options.searched(x.shape[-2])} columns"
        )
    check_bias(bias, kernel)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    out = _conv(_flat(x, wide), _flat(y, wide), kernel.astype(wide), options)
    if bias is not None:
        out = out + bias
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
    and positions. Its gradient at a patch of one value is not a number.
    """
    height, width, channels = x.shape
    half, reach = patch_size // 2, 0 if column_search is None else column_search
    count = patch_size**2 - ddof

    def compare(p: Array, q: Array) -> Array:
        p, q = p - p.mean(), q - q.mean()
        deviations = [jnp.sqrt(jnp.sum(u * u) / count) + epsilon for u in (p, q)]
        scale = deviations[0] * deviations[1] * (count if reduction == "mean" else 1)
        flat = jnp.all(p == p[0, 0]) | jnp.all(q == q[0, 0])
        return jnp.where(flat, 0.0, jnp.sum(p * q) / scale)

    def patch(u: Array, c: Array, i: Array, j: Array) -> Array:
        return lax.dynamic_slice(u, (i, j, c), (patch_size, patch_size, 1))[..., 0]

    rows, columns = half + row_search, half + reach
    x_padded = jnp.pad(x, ((half, half), (half, half), (0, 0)))
    y_padded = jnp.pad(y, ((rows, rows), (columns, columns), (0, 0)))

    def one(i: Array, j: Array, c: Array, r: Array, k: Array) -> Array:
        column = k if column_search is None else j + k
        return compare(patch(x_padded, c, i, j), patch(y_padded, c, i + r, column))

    axes = [height, width, channels, 2 * row_search + 1]
    axes.append(width if column_search is None else 2 * reach + 1)
    mapped = one
    for place in reversed(range(5)):
        mapped = jax.vmap(mapped, in_axes=[0 if axis == place else None for axis in range(5)])
    return mapped(*map(jnp.arange, axes)).reshape(height, width, -1)


def _options(patch_size, row_search, column_search, epsilon, ddof, reduction, gradient) -> Options:
    if patch_size < 1 or patch_size % 2 == 0:
        raise UsageError(f"patch_size {patch_size}: use an odd size, so that a patch has a centre")
    if row_search < 0 or (column_search is not None and column_search < 0):
        raise UsageError(
            f"row_search {row_search}, column_search {column_search}: must be 0 or more (or None "
            "for every column)"
        )
    require_number("epsilon", epsilon, at_least=0)
    if not 0 <= ddof < patch_size**2:
        raise UsageError(f"ddof {ddof} must lie in [0, {patch_size**2}), the entries of a patch")
    if reduction not in ("mean", "sum") or gradient not in ("exact", "paper"):
        raise UsageError(
            f"reduction {reduction!r}, gradient {gradient!r}; choose mean or sum, exact or paper"
        )
    return Options(
        patch=patch_size,
        rows=row_search,
        columns=column_search,
        epsilon=float(epsilon),
        ddof=ddof,
        mean=reduction == "mean",
        paper_gradient=gradient == "paper",
    )


def _flat(u: Array, dtype: jnp.dtype) -> Array:
    return jnp.asarray(u, dtype).reshape(-1, *u.shape[-3:])
