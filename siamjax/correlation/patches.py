"""Options of the operator, and the statistics of a map's patches."""

import functools
import operator
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class Options(NamedTuple):
    """The options of the operator, which are static under ``jax.jit``.

    Attributes:
        patch: side of the patches, odd.
        rows: offsets -rows..rows are searched.
        columns: offsets -columns..columns are searched; None: every column of the map.
        epsilon: added to every standard deviation.
        ddof: taken from the number of entries, in the standard deviation and in the mean.
        mean: divide by (patch^2 - ddof); else the plain sum.
        paper_gradient: use the backward pass of the released code.
        activation: elementwise function of the correlation, or None.
    """

    patch: int
    rows: int
    columns: int | None
    epsilon: float
    ddof: int
    mean: bool
    paper_gradient: bool
    activation: Callable[[Array], Array] | None = None

    @property
    def offsets(self) -> int:
        """Number of row offsets."""
        return 2 * self.rows + 1

    @property
    def count(self) -> int:
        """Divisor of the variance."""
        return self.patch**2 - self.ddof

    def searched(self, width: int) -> int:
        """Number of columns that each patch is compared with."""
        return width if self.columns is None else 2 * self.columns + 1


class Side(NamedTuple):
    """One map of each pair, zero padded, with the statistics of its patches.

    Attributes:
        values: (channels, width + patch - 1, n, height + patch - 1), minus the channel's mean.
        mean: (channels, width, n, height), of each patch.
        deviation: standard deviation of each patch.
        slope: 1 / (deviation + epsilon), or 0 where both are 0.
        scale: slope, but 0 for a patch of one value, whose correlation is exactly 0.
    """

    values: Array
    mean: Array
    deviation: Array
    slope: Array
    scale: Array


def prepare(
    x: Float[Array, "n height width channels"], *, rows: int, columns: int, options: Options
) -> Side:
    """Pad by half a patch plus ``rows`` and ``columns``, and compute the statistics of all patches.

    The mean of each map and channel is subtracted first, and the padding is its negative. This does
    not change the correlation, but without it windowed sums of features whose mean is large against
    their standard deviation cancel in float32 (an error of 2.6e-3 at a ratio of 100, here 4e-6).
    """
    n, height, width, channels = x.shape
    half, patch = options.patch // 2, options.patch
    mean = lax.stop_gradient(jnp.mean(x, axis=(1, 2)))
    x = (x - mean[:, None, None]).transpose(3, 2, 0, 1)
    shape = (channels, width + 2 * (half + columns), n, height + 2 * (half + rows))
    values = jnp.broadcast_to(-mean.T[:, None, :, None], shape)
    values = lax.dynamic_update_slice(values, x, (0, half + columns, 0, half + rows))
    # Mean and squared differences first within each line of a patch, then between the lines: exact
    # for a patch of one value, and as accurate as two passes over the whole patch.
    across = shape[1] - patch + 1
    lines = [lax.slice_in_dim(values, b, b + across, axis=1) for b in range(patch)]
    line_mean = added(lines) / patch
    line_square = added(jnp.square(line - line_mean) for line in lines)
    down = shape[3] - patch + 1
    means = [lax.slice_in_dim(line_mean, a, a + down, axis=3) for a in range(patch)]
    squares = [lax.slice_in_dim(line_square, a, a + down, axis=3) for a in range(patch)]
    patch_mean = added(means) / patch
    square = added(squares) + patch * added(jnp.square(m - patch_mean) for m in means)
    # Rounding leaves a patch of one value a standard deviation of some 1e-7 of that value.
    flat = square <= jnp.square(4 * jnp.finfo(x.dtype).eps * patch * patch_mean)
    deviation = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, square / options.count)))
    slope = _slope(options, deviation)
    return Side(values, patch_mean, deviation, slope, jnp.where(flat, 0.0, slope))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _slope(options: Options, deviation: Array) -> Array:
    """1 / (deviation + epsilon); 0 where both are 0."""
    divisor = deviation + options.epsilon
    return jnp.where(divisor > 0, 1.0 / jnp.where(divisor > 0, divisor, 1.0), 0.0)


@_slope.defjvp
def _slope_tangent(options, primals, tangents):
    slope = _slope(options, *primals)
    tangent = -jnp.square(slope) * tangents[0]
    # The derivative of the standard deviation s divides by s; the released code by s + epsilon.
    return slope, tangent * slope * primals[0] if options.paper_gradient else tangent


def pull_back(
    side: Side,
    values: Array,
    mean: Array,
    log_slope: Array,
    *,
    rows: int,
    columns: int,
    options: Options,
) -> Float[Array, "n height width channels"]:
    """Gradient of :func:`prepare`: from those of values, patch means and log(slope) to x's.

    ds/dx_p = (x_p - mean) / (count s), where the released code has s + epsilon for s. The map's
    mean needs no gradient: adding a constant to map and padding changes nothing, so the gradients
    of the values add up to 0.
    """
    patch, half = options.patch, options.patch // 2
    divisor = 1.0 / side.slope if options.paper_gradient else side.deviation
    usable = (side.deviation > 0) & (side.slope > 0)
    factor = jnp.where(
        usable, -log_slope * side.slope / (options.count * jnp.where(usable, divisor, 1.0)), 0.0
    )
    spread = partial(_spread, patch=patch)
    values = values + side.values * spread(factor) + spread(mean / patch**2 - factor * side.mean)
    height, width = mean.shape[3] - 2 * rows, mean.shape[1] - 2 * columns
    inner = lax.dynamic_slice(
        values,
        (0, half + columns, 0, half + rows),
        (values.shape[0], width, values.shape[2], height),
    )
    return inner.transpose(2, 3, 1, 0)


def _spread(u: Array, *, patch: int) -> Array:
    """Transpose of the window sum: every entry of a patch gets the patch's value."""
    channels, width, n, height = u.shape
    across, down = width + patch - 1, height + patch - 1
    # Not pads but updates of a buffer: inside a loop XLA computes a pad with a test per element.
    wide = jnp.zeros((channels, width + 2 * (patch - 1), n, height), u.dtype)
    wide = lax.dynamic_update_slice_in_dim(wide, u, patch - 1, axis=1)
    lines = added(lax.slice_in_dim(wide, b, b + across, axis=1) for b in range(patch))
    high = jnp.zeros((channels, across, n, height + 2 * (patch - 1)), u.dtype)
    high = lax.dynamic_update_slice_in_dim(high, lines, patch - 1, axis=3)
    return added(lax.slice_in_dim(high, a, a + down, axis=3) for a in range(patch))


def added(terms: Iterable[Array]) -> Array:
    """The sum, written out term by term, which XLA computes in one loop."""
    return functools.reduce(operator.add, terms)
