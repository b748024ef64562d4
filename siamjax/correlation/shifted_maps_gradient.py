"""The gradient of :mod:`siamjax.correlation.shifted_maps`, which computes the map again."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.correlation.patches import Options, added, pull_back
from siamjax.correlation.shifted_maps import Chunk, Grid, stored

# Sums over up to this many columns are written out: XLA's reduction does not vectorise along rows.
_UNROLLED = 64


def _add_at(total: Array, part: Array, start: Any, *, axis: int) -> Array:
    """``total`` with ``part`` added along an axis from ``start`` on; XLA does it in place."""
    before = lax.dynamic_slice_in_dim(total, start, part.shape[axis], axis=axis)
    return lax.dynamic_update_slice_in_dim(total, before + part, start, axis=axis)


class _Pulled(NamedTuple):
    """Gradients that are added up over the row offsets."""

    x_values: tuple[Array, ...]  # one for each column of the patch
    x_mean: Array
    x_log_slope: Array
    y_values: Array
    y_mean: Array
    y_log_slope: Array


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
    patch, width = options.patch, x.shape[2]
    work = Chunk(x, y, options, lead=options.patch - 1)
    grid, count = work.grid, work.n * work.grid.length
    lead = grid.lead

    def visit(state, offset):
        pulled, buffers = state
        buffers = work.turn_to(offset, buffers)
        correlated = work.correlation(offset, buffers)
        if options.activation is None:
            gradient, extra = cotangent(offset, correlated, grid)
        else:
            activated, pull = jax.vjp(options.activation, correlated)
            gradient, extra = cotangent(offset, activated, grid)
            (gradient,) = pull(gradient)
        values = work.windows(grid.line(buffers[0])[..., lead:], width + patch - 1)
        mean, _, slope = (work.windows(grid.line(u), width) for u in buffers[1:])
        # The gradient of the centred sums, and that of log(slope) of both maps.
        sums, logs = stored(
            offset,
            lambda: (gradient * (work.x_slope[:, None] * slope), gradient * correlated),
        )
        diagonal = stored(
            offset,
            lambda: added(sums[..., lead - a : lead - a + count] for a in range(patch)),
        )
        x_lines = work.x_values[..., lead : lead + count]
        pulled = pulled._replace(
            x_values=tuple(
                total + _sum_searched(diagonal, work.met(values, b))
                for b, total in enumerate(pulled.x_values)
            ),
            x_mean=pulled.x_mean + _sum_searched(sums, mean),
            x_log_slope=pulled.x_log_slope + _sum_searched(logs, None),
        )
        return (_pull_y(work, pulled, offset, diagonal, sums, logs, x_lines), buffers), extra

    zeros = partial(jnp.zeros_like, dtype=x.dtype)
    small = jnp.zeros((work.channels, width, count), x.dtype)
    start = _Pulled(
        (small,) * patch,
        zeros(work.x_mean),
        zeros(work.x_mean),
        zeros(work.y.values),
        zeros(work.y.mean),
        zeros(work.y.mean),
    )
    (pulled, _), extras = lax.scan(visit, (start, work.buffers()), jnp.arange(options.offsets))
    x_values = jnp.zeros((work.channels, width + patch - 1, count), x.dtype)
    for b, part in enumerate(pulled.x_values):
        x_values = _add_at(x_values, part, b, axis=1)
    rows = lambda u: grid.rows(u[..., lead:], work.height)  # noqa: E731
    dx = pull_back(
        work.x,
        grid.rows(x_values, grid.length),
        -(patch**2) * rows(pulled.x_mean),
        rows(pulled.x_log_slope),
        rows=0,
        columns=0,
        options=options,
    )
    dy = pull_back(
        work.y,
        pulled.y_values,
        -pulled.y_mean,
        pulled.y_log_slope,
        rows=options.rows,
        columns=work.columns,
        options=options,
    )
    return dx, dy, extras


def _sum_searched(gradient: Array, met: Array | None) -> Array:
    """Sum over y's columns of ``gradient * met``: (channels, width, positions)."""
    searched = gradient.shape[1]
    if searched > _UNROLLED:
        return jnp.sum(gradient if met is None else gradient * met, axis=1)
    if met is None:
        return added(gradient[:, k] for k in range(searched))
    return added(gradient[:, k] * met[:, k] for k in range(searched))


def _pull_y(work: Chunk, pulled: _Pulled, offset, diagonal, sums, logs, x_lines) -> _Pulled:
    """Add an offset's part to the gradients of y."""
    patch, width, columns = work.options.patch, work.width, work.options.columns
    lead, grid = work.grid.lead, work.grid
    y_lines = jnp.zeros((work.channels, work.y.values.shape[1], x_lines.shape[-1]), sums.dtype)
    x_mean = work.x_mean[:, None]
    if columns is None:
        # The sum over x's columns is the one over y's with the two axes exchanged.
        turned = [a.swapaxes(1, 2) for a in (diagonal, sums, logs)]
        for b in range(patch):
            met = x_lines[:, b : b + width, None]
            y_lines = _add_at(y_lines, _sum_searched(turned[0], met), b, axis=1)
        mean = _sum_searched(turned[1], x_mean.swapaxes(1, 2))
        log = _sum_searched(turned[2], None)
    else:
        met = jnp.zeros((*diagonal.shape[:2], width + patch - 1, diagonal.shape[-1]), sums.dtype)
        for b in range(patch):
            met = _add_at(met, diagonal, b, axis=2)
        met = met * x_lines[:, None]
        centred = sums * x_mean
        mean = log = jnp.zeros((work.channels, work.y.mean.shape[1], sums.shape[-1]), sums.dtype)
        for q in range(2 * columns + 1):
            y_lines = _add_at(y_lines, met[:, q], q, axis=1)
            mean = _add_at(mean, centred[:, q], q, axis=1)
            log = _add_at(log, logs[:, q], q, axis=1)
    height = work.height
    return pulled._replace(
        y_values=_add_at(pulled.y_values, grid.rows(y_lines, grid.length), offset, axis=3),
        y_mean=_add_at(pulled.y_mean, grid.rows(mean[..., lead:], height), offset, axis=3),
        y_log_slope=_add_at(pulled.y_log_slope, grid.rows(log[..., lead:], height), offset, axis=3),
    )


def conv_gradient(
    x: Array,
    y: Array,
    kernel: Float[Array, "offsets features outputs"],
    cotangent: Float[Array, "n height width outputs"],
    options: Options,
) -> tuple[Array, Array, Float[Array, "offsets features outputs"]]:
    """Gradients of x, y and the kernel."""
    outputs = kernel.shape[-1]
    lead = options.patch - 1
    grid = Grid(x.shape[0], x.shape[1] + options.patch - 1, lead)
    laid = grid.line(grid.place(cotangent.transpose(3, 2, 0, 1))).reshape(outputs, -1)

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
        return grid.line(grid.place(part)).reshape(activated.shape), None

    return backward(x, y, options, pull)[:2]
