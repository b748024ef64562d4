"""A map's patches as contrasts, with their statistics."""

import functools
import operator
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.correlation.options import Options

# A patch counts as one of a single value up to this standard deviation, relative to the map's
# largest value: below, the products of its contrasts would leave float32's range.
FLAT = 2.0**-50


class Side(NamedTuple):
    """One map of each pair, zero padded, as contrasts of its patches, and their statistics.

    All have height + patch - 1 + 2 * rows + spare rows: one for each line of a patch. In rows in
    which there is no patch, what belongs to patches is finite.

    Attributes:
        lines: (channels, width, patch - 1, n, rows), contrasts within each line.
        between: (channels, width, patch - 1, n, rows), contrasts between a patch's lines.
        scale: (channels, width, 1, n, rows), 1 / (standard deviation + epsilon) of each patch, but
            0 for one of a single value, whose correlation is exactly 0.
        slope: the same, but for such a patch 1 / epsilon, or 0 where that is 0.
        deviation: (channels, width, n, rows), standard deviation of each patch.
        unit: (channels, 1, n, 1), a power of two near the map's largest value; all others are in
            units of it, so that squares and products stay in float32's range.
    """

    lines: Array
    between: Array
    scale: Array
    slope: Array
    deviation: Array
    unit: Array


def prepare(
    x: Float[Array, "n height width channels"],
    *,
    rows: int,
    columns: int,
    options: Options,
    spare: int = 0,
) -> Side:
    """Pad by half a patch plus ``rows`` and ``columns``; contrasts and statistics of all patches.

    ``spare`` rows are added below.

    Helmert's contrasts are patch^2 - 1 orthonormal combinations of a patch's values whose weights
    add up to 0. They say all but its mean: sum_p (x_p - mean x) (y_p - mean y) is the sum of the
    products of x's contrasts with y's. Sums of products of the values themselves cancel where a
    patch is nearly flat, away from 0 (errors of 1e-3, and without bound as steps between such
    patches grow); contrasts come from differences of neighbours, so nothing outside the patch, and
    not its mean, costs a digit. Contrasts within a line of a patch are shared by all patches that
    have the line; the others compare the sums of a patch's lines.
    """
    n, height, width, channels = x.shape
    half, patch = options.patch // 2, options.patch
    unit = _unit(x, options.epsilon)
    x = (x / unit[:, None, None]).transpose(3, 2, 0, 1)
    across, down = width + 2 * columns, height + patch - 1 + 2 * rows + spare
    values = jnp.zeros((channels, across + patch - 1, n, down + patch - 1), x.dtype)
    values = lax.dynamic_update_slice(values, x, (0, half + columns, 0, half + rows))
    lines = _stacked(_contrasts(_steps(values[..., :down], axis=1), patch, axis=1))
    steps = _steps(values, axis=3)
    sums = added(lax.slice_in_dim(steps, b, b + across, axis=1) for b in range(patch))
    between = _stacked(_contrasts(sums / patch**0.5, patch, axis=3))
    terms = range(patch - 1)
    square = jnp.zeros((channels, across, n, down + patch - 1), x.dtype)
    square = add_at(square, added(jnp.square(lines[:, :, r]) for r in terms), 0, axis=3)
    square = added(lax.slice_in_dim(square, a, a + down, axis=3) for a in range(patch))
    square = added([square, *(jnp.square(between[:, :, r]) for r in terms)])
    flat = square <= options.count * FLAT**2
    deviation = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, square / options.count)))
    unit = unit.T[:, None, :, None]
    slope = _slope(options, deviation, jnp.broadcast_to(options.epsilon / unit, deviation.shape))
    scale = jnp.where(flat, 0.0, slope)
    return Side(lines, between, _stacked([scale]), _stacked([slope]), deviation, unit)


def _unit(x: Float[Array, "n height width channels"], epsilon: float) -> Float[Array, "n channels"]:
    """A power of two near the largest absolute value, or far below epsilon; 1 for 0."""
    largest = jnp.max(jnp.abs(lax.stop_gradient(x)), axis=(1, 2))
    # In a much smaller unit, epsilon's square would leave the range in the gradient.
    largest = jnp.maximum(largest, epsilon * 2.0**-20)
    # Half of it, because the greatest numbers would be rounded up to infinity.
    power = lax.reduce_precision(largest / 2, jnp.finfo(x.dtype).nexp, 0)
    return jnp.where(power > 0, power, 1.0)


def _steps(values: Array, *, axis: int) -> Array:
    """Differences of neighbours, each less the next."""
    size = values.shape[axis]
    ahead = lax.slice_in_dim(values, 1, size, axis=axis)
    return lax.slice_in_dim(values, 0, size - 1, axis=axis) - ahead


def _contrasts(steps: Array, patch: int, *, axis: int) -> list[Array]:
    """(x_0 + ... + x_{r-1} - r x_r) / sqrt(r (r + 1)) for r = 1 ... patch - 1, from x's steps."""
    size = steps.shape[axis] - patch + 2
    found, total = [], None
    for r in range(1, patch):
        step = r * lax.slice_in_dim(steps, r - 1, r - 1 + size, axis=axis)
        total = step if total is None else total + step
        found.append(total / (r * (r + 1)) ** 0.5)
    return found


def _stacked(parts: list[Array]) -> Array:
    """Stacked in axis 2, by updates: XLA computes a fused concatenation with a test an element."""
    first = parts[0]
    total = jnp.zeros((*first.shape[:2], len(parts), *first.shape[2:]), first.dtype)
    for r, part in enumerate(parts):
        total = lax.dynamic_update_slice_in_dim(total, part[:, :, None], r, axis=2)
    return total


def _contrasts_pull_back(contrasts: Array, *, axis: int) -> Array:
    """Gradient of the values from that of their contrasts, which are stacked in axis 2."""
    patch = contrasts.shape[2] + 1
    after = jnp.zeros_like(contrasts[:, :, 0])
    shape = list(after.shape)
    shape[axis] += patch - 1
    values = jnp.zeros(shape, after.dtype)
    for r in reversed(range(1, patch)):
        own = contrasts[:, :, r - 1] / (r * (r + 1)) ** 0.5
        values = add_at(values, after - r * own, r, axis=axis)
        after = after + own
    return add_at(values, after, 0, axis=axis)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _slope(options: Options, deviation: Array, epsilon: Array) -> Array:
    """1 / (deviation + epsilon), at most 1 / FLAT; 0 where both are 0."""
    divisor = deviation + epsilon
    slope = jnp.minimum(1.0 / jnp.where(divisor > 0, divisor, 1.0), 1.0 / FLAT)
    return jnp.where(divisor > 0, slope, 0.0)


@_slope.defjvp
def _slope_tangent(options, primals, tangents):
    slope = _slope(options, *primals)
    tangent = -jnp.square(slope) * tangents[0]
    # The derivative of the standard deviation s divides by s; the released code by s + epsilon.
    return slope, tangent * slope * primals[0] if options.paper_gradient else tangent


def pull_back(
    side: Side,
    lines: Array,
    between: Array,
    log_slope: Array,
    *,
    rows: int,
    columns: int,
    options: Options,
    spare: int = 0,
) -> Float[Array, "n height width channels"]:
    """Gradient of :func:`prepare`: from those of the contrasts and of log(slope) to x's.

    ds/du = u / (count s) for each contrast u of a patch, where the released code has s + epsilon
    for s.
    """
    patch, half = options.patch, options.patch // 2
    slope = side.slope[:, :, 0]
    divisor = 1.0 / slope if options.paper_gradient else side.deviation
    usable = (side.deviation > 0) & (slope > 0)
    factor = jnp.where(
        usable, -log_slope * slope / (options.count * jnp.where(usable, divisor, 1.0)), 0.0
    )
    between = between + side.between * factor[:, :, None]
    down = factor.shape[3] - patch + 1
    factor = spread(factor[..., :down], patch, axis=3)
    lines = lines + side.lines * factor[:, :, None]
    values = _contrasts_pull_back(lines, axis=1)
    between = _contrasts_pull_back(between[..., :down], axis=3) / patch**0.5
    values = values + spread(between, patch, axis=1)
    width, height = values.shape[1] - 2 * (half + columns), down - 2 * rows - spare
    start = (0, half + columns, 0, half + rows)
    inner = lax.dynamic_slice(values, start, (values.shape[0], width, values.shape[2], height))
    return (inner / side.unit).transpose(2, 3, 1, 0)


def spread(u: Array, patch: int, *, axis: int) -> Array:
    """Transpose of the window sum: every entry of a window gets the window's value."""
    shape = list(u.shape)
    shape[axis] += patch - 1
    total = jnp.zeros(shape, u.dtype)
    for b in range(patch):
        total = add_at(total, u, b, axis=axis)
    return total


def add_at(total: Array, part: Array, start: Any, *, axis: int) -> Array:
    """``total`` with ``part`` added along an axis from ``start`` on; XLA does it in place.

    Not a sum of padded parts: inside a loop XLA computes a pad with a test per element.
    """
    before = lax.dynamic_slice_in_dim(total, start, part.shape[axis], axis=axis)
    return lax.dynamic_update_slice_in_dim(total, before + part, start, axis=axis)


def added(terms: Iterable[Array]) -> Array:
    """The sum, written out term by term, which XLA computes in one loop."""
    return functools.reduce(operator.add, terms)
