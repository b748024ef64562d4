"""The formulation for CPUs and GPUs: products of shifted maps, summed over windows, no patches.

Everything here works on one chunk of examples and one row offset r at a time, so that its data
stays in a core's cache. Arrays are laid out ``channel, column, (example, row)``: the rows of
all examples of the chunk follow each other in the last axis. There a shift by a row is a slice,
loops are long and contiguous, and the correlation of a row offset is, without a transpose, the
``features x positions`` operand of the matrix product with the 1x1 kernel.

For x's column j, y's column k and a row i the windowed sum over a patch is separable:

    g[c, k, j, i] = sum_b x[c, j + b, i] y[c, k + b, i + r]       (along the diagonal)
    S[c, k, j, i] = sum_a g[c, k, j, i + a]                       (down the rows)

10 operations a value instead of 25. The means and standard deviations of the patches, known from
each map alone, turn S into the correlation: ``(S - p^2 mx my) / (n (sx + e) (sy + e))``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.correlation.patches import Options, added, prepare


def stored(offset: Array, compute: Callable[[], Any]) -> Any:
    """``compute()``, made so that XLA stores the result instead of computing it at each use.

    XLA fuses a sum of shifted slices into each of its users, here up to five times, and the fused
    loop does not vectorise. It does not fuse across a conditional (but drops an
    ``optimization_barrier`` on a CPU). ``offset``, the loop's index, is never negative, but XLA
    does not know that.
    """
    like = jax.eval_shape(compute)
    return lax.cond(
        offset >= 0, compute, lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like)
    )


class Grid(NamedTuple):
    """The layout of the rows of n examples in one axis, with room for one example at either end."""

    n: int
    length: int
    lead: int  # positions before the first example that are computed as well

    def place(self, u: Array, buffer: Array | None = None) -> Array:
        """(channels, width, n, rows <= length) -> (channels, width, n + 2, length)."""
        if buffer is None:
            buffer = jnp.zeros((*u.shape[:2], self.n + 2, self.length), u.dtype)
        return lax.dynamic_update_slice(buffer, u, (0, 0, 1, 0))

    def line(self, u: Array, *, tail: int = 0) -> Array:
        """The last two axes as one, from ``lead`` before the first example to ``tail`` after."""
        start = self.length - self.lead
        return u.reshape(*u.shape[:2], -1)[..., start : (self.n + 1) * self.length + tail]

    def rows(self, u: Array, count: int) -> Array:
        """(..., n * length) -> the first ``count`` rows of each example (..., n, count)."""
        return u.reshape(*u.shape[:-1], self.n, self.length)[..., :count]


class Chunk:
    """A chunk of pairs: both maps on a common grid, and y's rows at the current offset."""

    def __init__(self, x: Array, y: Array, options: Options, *, lead: int) -> None:
        self.options = options
        self.n, self.height, self.width, self.channels = x.shape
        self.columns = options.columns or 0
        self.half = options.patch // 2
        self.x = prepare(x, rows=0, columns=0, options=options)
        self.y = prepare(y, rows=options.rows, columns=self.columns, options=options)
        self.grid = Grid(self.n, self.height + options.patch - 1, lead)
        self.tail = options.patch - 1
        line, place = self.grid.line, self.grid.place
        unit = 1.0 / options.count if options.mean else 1.0
        area = float(options.patch**2)
        self.x_values = line(place(self.x.values), tail=self.tail)
        self.x_mean = line(place(self.x.mean * area))
        self.x_scale = line(place(self.x.scale * unit))
        self.x_slope = line(place(self.x.slope * unit))

    def buffers(self) -> tuple[Array, ...]:
        """Buffers for y's rows at an offset, updated in place from one offset to the next."""
        y, grid = self.y, self.grid
        empty = [
            jnp.zeros((*u.shape[:2], grid.n + 2, grid.length), u.dtype)
            for u in (y.values, y.mean, y.scale, y.slope)
        ]
        return tuple(empty if grid.lead else empty[:3])

    def turn_to(self, offset: Array, buffers: tuple[Array, ...]) -> tuple[Array, ...]:
        """Y's values and statistics at a row offset."""
        y, size = self.y, self.height
        sources = ((y.values, size + self.tail), (y.mean, size), (y.scale, size), (y.slope, size))
        return tuple(
            self.grid.place(lax.dynamic_slice_in_dim(source, offset, rows, axis=-1), buffer)
            for (source, rows), buffer in zip(sources, buffers, strict=False)
        )

    def windows(self, line: Array, size: int) -> Array:
        """Y's columns as x's are compared with them: (channels, searched, 1 or size, positions)."""
        if self.options.columns is None:
            return line[:, :, None]
        searched = self.options.searched(self.width)
        return jnp.stack([line[:, q : q + size] for q in range(searched)], axis=1)

    def met(self, windows: Array, b: int) -> Array:
        """Y's values for x's columns b, b + 1, ...: (channels, searched, 1 or width, ...)."""
        if self.options.columns is None:
            return windows[:, b : b + self.width]
        return windows[:, :, b : b + self.width]

    def correlation(
        self,
        offset: Array,
        buffers: tuple[Array, ...],
        *,
        activation: Callable[[Array], Array] | None = None,
    ) -> Array:
        """(channels, searched, width, positions) at the offset of the buffers."""
        patch, width, line = self.options.patch, self.width, self.grid.line
        x, values = self.x_values, self.windows(line(buffers[0], tail=self.tail), width + self.tail)
        mean, scale = (self.windows(line(u), width) for u in buffers[1:3])
        size = self.x_mean.shape[-1]
        diagonal = stored(
            offset,
            lambda: added(x[:, None, b : b + width] * self.met(values, b) for b in range(patch)),
        )

        def finish() -> Array:
            sums = added(diagonal[..., a : a + size] for a in range(patch))
            centred = sums - self.x_mean[:, None] * mean
            correlated = centred * (self.x_scale[:, None] * scale)
            return correlated if activation is None else activation(correlated)

        return stored(offset, finish)


def forward(x: Array, y: Array, options: Options, consume: Callable[..., Any], start: Any) -> Any:
    """Call ``consume(carry, number, activated map) -> carry`` for every row offset.

    The map is (channels, searched, width, n * length); :func:`forward_grid`'s ``rows`` takes the
    rows of each example from it.
    """
    work = Chunk(x, y, options, lead=0)

    def visit(state, offset):
        buffers = work.turn_to(offset, state[0])
        correlated = work.correlation(offset, buffers, activation=options.activation)
        return (buffers, consume(state[1], offset, correlated)), None

    return lax.scan(visit, (work.buffers(), start), jnp.arange(options.offsets))[0][1]


def forward_grid(shape: tuple[int, ...], options: Options) -> Grid:
    """The layout of the positions of a chunk of shape (n, height, width, channels)."""
    return Grid(shape[0], shape[1] + options.patch - 1, 0)


def conv_of(
    x: Array,
    y: Array,
    kernel: Float[Array, "offsets features outputs"],
    options: Options,
) -> Float[Array, "n height width outputs"]:
    """The 1x1 convolution of the activated map of a chunk."""
    n, height, width, _ = x.shape
    grid = forward_grid(x.shape, options)
    outputs = kernel.shape[-1]

    def consume(total, number, correlated):
        return total + kernel[number].T @ correlated.reshape(kernel.shape[1], -1)

    start = jnp.zeros((outputs, width * n * grid.length), x.dtype)
    total = forward(x, y, options, consume, start)
    return grid.rows(total.reshape(outputs, width, -1), height).transpose(2, 3, 1, 0)


def map_of(x: Array, y: Array, options: Options) -> Float[Array, "n height width features"]:
    """The correlation map of a chunk."""
    n, height, width, channels = x.shape
    grid, searched = forward_grid(x.shape, options), options.searched(width)

    def consume(total, number, correlated):
        part = grid.rows(correlated, height).transpose(3, 4, 2, 0, 1)
        return lax.dynamic_update_slice(total, part[..., None, :], (0, 0, 0, 0, number, 0))

    start = jnp.zeros((n, height, width, channels, options.offsets, searched), x.dtype)
    return forward(x, y, options, consume, start).reshape(n, height, width, -1)
