"""The gradient of :mod:`siamjax.correlation.shifted_maps`, which computes the map again."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.correlation.options import Options
from siamjax.correlation.patches import Side, add_at, added, pull_back
from siamjax.correlation.shifted_maps import Chunk, Grid, grid_of, stored

# Sums over up to this many columns are written out: XLA's reduction does not vectorise along rows.
_UNROLLED = 64


class _Pulled(NamedTuple):
    """Gradients of one map's contrasts and of the logarithm of its slopes."""

    lines: Array
    between: Array
    log_slope: Array


def _laid(u: Array, grid: Grid) -> Array:
    """(..., n, height) -> (..., positions), with zeros where there is no patch."""
    padding = [(0, 0)] * (u.ndim - 1)
    rows = jnp.pad(u, [*padding, (0, grid.length - u.shape[-1])]).reshape(*u.shape[:-2], -1)
    return jnp.pad(rows, [*padding[1:], (grid.lead, grid.size - grid.lead - rows.shape[-1])])


def backward(
    x: Array,
    y: Array,
    options: Options,
    cotangent: Callable[[Array, Array, Grid], tuple[Array, Any]],
) -> tuple[Array, Array, Any]:
    """Gradients of x and y, and the ``extra`` of every offset, stacked.

    ``cotangent(number, activated map, grid) -> (gradient of the activated map, extra)``; positions
    that belong to no example must have gradient 0.
    """
    patch = options.patch
    work = Chunk(x, y, options, lead=patch - 1)
    grid, lead = work.grid, work.grid.lead
    count = grid.n * grid.length
    x_line, y_line = work.x_line, work.y_line
    x_lines = x_line.lines[..., lead : lead + count]

    def visit(state, offset):
        pulled, pulled_y = state
        y = stored(offset, lambda: work.y_at(offset))
        correlated = work.correlation(offset, y)
        if options.activation is None:
            gradient, extra = cotangent(offset, correlated, grid)
        else:
            activated, pull = jax.vjp(options.activation, correlated)
            gradient, extra = cotangent(offset, activated, grid)
            (gradient,) = pull(gradient)
        # The gradient of the covariances, and that of the lines.
        between = stored(
            offset, lambda: gradient * options.unit * work.products(x_line.slope, y.slope)
        )
        lines = stored(
            offset,
            lambda: added(between[..., lead - a : lead - a + count] for a in range(patch)),
        )
        pulled = _Pulled(
            pulled.lines + _to_x(work, lines, y.lines[..., lead : lead + count]),
            pulled.between + _to_x(work, between, y.between),
            pulled.log_slope + _log_to_x(gradient, correlated),
        )
        pulled_y = _Pulled(
            add_at(pulled_y.lines, _to_y(work, lines, x_lines), offset + lead, axis=3),
            add_at(pulled_y.between, _to_y(work, between, x_line.between), offset, axis=3),
            add_at(pulled_y.log_slope, _log_to_y(work, gradient, correlated), offset, axis=3),
        )
        return (pulled, pulled_y), extra

    zeros = jnp.zeros_like
    start = _Pulled(zeros(x_lines), zeros(x_line.between), zeros(x_line.slope))
    start_y = _Pulled(zeros(y_line.lines), zeros(y_line.between), zeros(y_line.slope))
    (pulled, pulled_y), extras = lax.scan(visit, (start, start_y), jnp.arange(options.offsets))
    pulled = pulled._replace(lines=add_at(zeros(x_line.lines), pulled.lines, lead, axis=3))

    def finish(side: Side, pulled: _Pulled, *, rows: int, columns: int, spare: int) -> Array:
        lines, between, log_slope = (grid.rows(u, side.lines.shape[-1]) for u in pulled)
        return pull_back(
            side,
            lines,
            between,
            log_slope[:, :, 0],
            rows=rows,
            columns=columns,
            options=options,
            spare=spare,
        )

    dx = finish(work.x, pulled, rows=0, columns=0, spare=work.spare)
    dy = finish(work.y, pulled_y, rows=options.rows, columns=work.columns, spare=0)
    return dx, dy, extras


def _to_x(work: Chunk, gradient: Array, y: Array) -> Array:
    """Sum over y's columns of the gradient of ``work.products(x, y)`` times y; of x's shape."""
    if work.options.columns is None:
        return _summed(gradient, y)
    searched = range(gradient.shape[1])
    return added(gradient[:, q, :, None] * y[:, q : q + work.width] for q in searched)


def _to_y(work: Chunk, gradient: Array, x: Array) -> Array:
    """The same of y's shape, summed over x's columns."""
    if work.options.columns is None:
        return _summed(gradient.swapaxes(1, 2), x)
    columns = work.y.slope.shape[1]
    total = jnp.zeros((work.channels, columns, *x.shape[2:]), gradient.dtype)
    for q in range(gradient.shape[1]):
        total = add_at(total, gradient[:, q, :, None] * x, q, axis=1)
    return total


def _summed(gradient: Array, met: Array) -> Array:
    """Sum over axis 1: (channels, summed, kept, positions) and (channels, summed, m, positions)
    -> (channels, kept, m, positions)."""
    summed = gradient.shape[1]
    if summed > _UNROLLED:
        return jnp.sum(gradient[:, :, :, None] * met[:, :, None], axis=1)
    return added(gradient[:, k, :, None] * met[:, k, None] for k in range(summed))


def _log_to_x(gradient: Array, correlated: Array) -> Array:
    """Gradient of the logarithm of x's slopes, (channels, width, 1, positions)."""
    searched = gradient.shape[1]
    if searched > _UNROLLED:
        return jnp.sum(gradient * correlated, axis=1)[:, :, None]
    return added(gradient[:, k, :, None] * correlated[:, k, :, None] for k in range(searched))


def _log_to_y(work: Chunk, gradient: Array, correlated: Array) -> Array:
    """The same of y's slopes, (channels, columns of y, 1, positions)."""
    if work.options.columns is None:
        return _log_to_x(gradient.swapaxes(1, 2), correlated.swapaxes(1, 2))
    columns = work.y.slope.shape[1]
    total = jnp.zeros((work.channels, columns, 1, gradient.shape[-1]), gradient.dtype)
    for q in range(gradient.shape[1]):
        part = gradient[:, q, :, None] * correlated[:, q, :, None]
        total = add_at(total, part, q, axis=1)
    return total


def conv_gradient(
    x: Array,
    y: Array,
    kernel: Float[Array, "offsets features outputs"],
    cotangent: Float[Array, "n height width outputs"],
    options: Options,
) -> tuple[Array, Array, Float[Array, "offsets features outputs"]]:
    """Gradients of x, y and the kernel."""
    outputs = kernel.shape[-1]
    grid = grid_of(x.shape, options, lead=options.patch - 1)
    laid = _laid(cotangent.transpose(3, 2, 0, 1), grid).reshape(outputs, -1)

    def pull(number, activated, _):
        return (
            (kernel[number] @ laid).reshape(activated.shape),
            laid @ activated.reshape(kernel.shape[1], -1).T,
        )

    dx, dy, transposed = backward(x, y, options, pull)
    return dx, dy, transposed.swapaxes(1, 2)


def map_gradient(
    x: Array,
    y: Array,
    cotangent: Float[Array, "n height width features"],
    options: Options,
) -> tuple[Array, Array]:
    """Gradients of x and y from that of the map."""
    n, height, width, channels = x.shape
    searched = options.searched(width)
    laid = cotangent.reshape(n, height, width, channels, options.offsets, searched)
    laid = laid.transpose(4, 3, 5, 2, 0, 1)

    def pull(number, activated, grid):
        part = laid[number].reshape(channels * searched, width, n, height)
        return _laid(part, grid).reshape(activated.shape), None

    return backward(x, y, options, pull)[:2]
