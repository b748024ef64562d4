"""Normalised cross-correlation of feature patches, and the cross-input neighbourhood layer.

Contract: feature maps are ``*batch height width channels``, both of one shape; statistics and sums
run in float32 at least, and the result has the dtype of the inputs. A pair is correlated as
x's patches searched in y; f(x, y) is not f(y, x).

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

    in [-1, 1], at ``[i, j, (c * rows + r) * columns + k]``. Patches whose centre lies in the rows
    above or below the map are real, partly padded ones. A patch of one value correlates 0 with
    everything; gradients are finite there.

    Args:
        x: maps whose patches search.
        y: maps that are searched.
        patch_size: side of the patches, odd.
        row_search: rows above and below that are searched; 2 * row_search + 1 in all.
        column_search: None searches every column of the map, at quadratic cost in the width. k
            searches the 2k + 1 columns around the patch (some of them partly padded at the
            map's border), at linear cost; the last axis then counts offsets -k..k.
        epsilon: added to each deviation. The smaller, the larger the gradient of flat patches.
        ddof: 1 divides by patch_size^2 - 1 as the paper, 0 by patch_size^2.
        reduction: ``mean`` divides by n, ``sum`` does not. A Keras guide of 2018 computes
            ``ddof=0, epsilon=0, reduction="sum"``: 25 times the correlation.
        gradient: ``paper`` is the backward of the released code, which is not the derivative of
            its forward: s + e stands where the derivative has s (1.9 % off at s = 1, 15 % at 0.1).

    Raises ``UsageError`` for maps of different or too few axes, an even ``patch_size``, options
    out of range, and features that are not finite (where they are known: not under a trace).
    """
    x, y = as_maps(x, y)
    options = _options(
        x, y, patch_size, row_search, column_search, epsilon, ddof, reduction, gradient
    )
    wide = jnp.promote_types(x.dtype, jnp.float32)
    flat = _flat(x, wide), _flat(y, wide)
    mapped = _map(*flat, options)
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
    """``activation(normxcorr(x, y)) @ kernel + bias`` without ever storing the map.

    The map of 37 x 12 x 25 features has 1500 channels: 2.7 MB a pair. Here each row offset's part
    of it, for a few pairs at a time, goes into the 1x1 convolution at once, and the backward pass
    computes it anew.

    Args:
        x: maps whose patches search.
        y: maps that are searched.
        kernel: 1x1 kernel on the map's channels, in the order of :func:`normxcorr`.
        bias: added to the result, or None.
        activation: elementwise function of the correlation, such as ``jax.nn.relu``, or None.
            Pass a function that is defined once (a new lambda each call compiles anew) and
            closes over no traced value: through its own parameters no gradient flows.
        patch_size: as in :func:`normxcorr`, as is all that follows.
        row_search: as there.
        column_search: as there.
        epsilon: as there.
        ddof: as there.
        reduction: as there.
        gradient: as there.

    Raises ``UsageError`` as :func:`normxcorr`, and for a kernel of another number of features.
    """
    x, y = as_maps(x, y)
    options = _options(
        x, y, patch_size, row_search, column_search, epsilon, ddof, reduction, gradient
    )._replace(activation=activation)
    features = x.shape[-1] * options.offsets * options.searched(x.shape[-2])
    if kernel.ndim != 2 or kernel.shape[0] != features:
        raise UsageError(
            f"kernel of shape {kernel.shape} for maps {x.shape[-3:]}: {x.shape[-1]} channels x "
            f"{options.offsets} rows x {options.searched(x.shape[-2])} columns need ({features}, "
            "outputs)"
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
    """:func:`normxcorr` of one pair as it is defined: the specification, to be read; slow.

    One function compares two patches; ``vmap`` carries it over columns, row offsets, channels,
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


def _options(
    x, y, patch_size, row_search, column_search, epsilon, ddof, reduction, gradient
) -> Options:
    if patch_size < 1 or patch_size % 2 == 0:
        raise UsageError(f"patch_size {patch_size}: a patch needs a centre; use an odd size")
    if row_search < 0 or (column_search is not None and column_search < 0):
        raise UsageError(
            f"row_search {row_search}, column_search {column_search}: must be 0 or more (or None "
            "for every column)"
        )
    if epsilon < 0:
        raise UsageError(f"epsilon {epsilon} must be 0 or more")
    if not 0 <= ddof < patch_size**2:
        raise UsageError(f"ddof {ddof} must lie in [0, {patch_size**2}), the entries of a patch")
    if reduction not in ("mean", "sum") or gradient not in ("exact", "paper"):
        raise UsageError(
            f"reduction {reduction!r}, gradient {gradient!r}: known are mean, sum; exact, paper"
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
