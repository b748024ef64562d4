"""The formulation for CPUs and GPUs: products of shifted maps, summed over windows, no patches.

Everything here works on one chunk of examples and one row offset r at a time, so that its data
stays in a core's cache. Arrays are laid out ``channel, column, (example, row)``: the rows of
all examples of the chunk follow each other in the last axis. There a shift by a row is a slice,
loops are long and contiguous, and the correlation of a row offset is, without a transpose, the
``features x positions`` operand of the matrix product with the 1x1 kernel.

For x's column j, y's column k and a row i the sum over a patch is separable. With the contrasts
(:func:`siamjax.correlation.patches.prepare`) u, v of each line of x's and y's patches, and U, V
between their lines:

    g[c, k, j, i] = sum_r u_r[c, j, i] v_r[c, k, i + r]                        (along the diagonal)
    S[c, k, j, i] = sum_a g[c, k, j, i + a] + sum_r U_r[c, j, i] V_r[c, k, i + r]  (down the rows)

13 operations a value instead of 25; S / (n (sx + e) (sy + e)) is the correlation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.correlation.options import Options
from siamjax.correlation.patches import Side, added, prepare


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


def whole(size: int) -> int:
    """``size`` as a multiple of 8, a vector of float32: other loops take up to 1.5 as long."""
    return -(-size // 8) * 8


class Grid(NamedTuple):
    """The layout of the rows of n examples in one axis: ``lead`` positions, then the examples."""

    n: int
    length: int  # positions from one example to the next
    lead: int

    @property
    def size(self) -> int:
        """Number of positions that hold all patches."""
        return whole(self.lead + self.n * self.length)

    def line(self, u: Array, *, tail: int = 0) -> Array:
        """(..., n, length) -> (..., size + tail); other values of u where no example is.

        Not zeros, because XLA would compute a pad, with a test an element.
        """
        flat = u.reshape(*u.shape[:-2], -1)
        parts = []
        for size in (self.lead, whole(self.size + tail) - self.lead):
            whole_copies, rest = divmod(size, flat.shape[-1])
            parts += [flat] * whole_copies + [flat[..., :rest]]
        return jnp.concatenate(parts, axis=-1)

    def rows(self, u: Array, count: int) -> Array:
        """(..., positions) -> the first ``count`` rows of each example (..., n, count)."""
        length = count if self.n == 1 else self.length
        used = u[..., self.lead : self.lead + self.n * length]
        return used.reshape(*u.shape[:-1], self.n, length)[..., :count]


def grid_of(shape: tuple[int, ...], options: Options, *, lead: int = 0) -> Grid:
    """The layout of a chunk of shape (n, height, width, channels)."""
    n, height = shape[:2]
    if n == 1:
        return Grid(1, height + lead, lead)
    # Room for the lines of all rows that are searched: y's rows at an offset are one slice.
    return Grid(n, height + options.patch - 1 + 2 * options.rows, lead)


class Compared(NamedTuple):
    """One map of a chunk on a grid: what the correlation takes of it."""

    lines: Array  # (channels, width, patch - 1, positions)
    between: Array
    scale: Array  # (channels, width, 1, positions)
    slope: Array


class Chunk:
    """A chunk of pairs: both maps on a common grid."""

    def __init__(self, x: Array, y: Array, options: Options, *, lead: int = 0) -> None:
        self.options = options
        self.n, self.height, self.width, self.channels = x.shape
        self.columns = options.columns or 0
        self.spare = 0 if self.n == 1 else 2 * options.rows  # both maps have one layout
        self.x = prepare(x, rows=0, columns=0, options=options, spare=self.spare)
        self.y = prepare(y, rows=options.rows, columns=self.columns, options=options)
        self.grid = grid_of(x.shape, options, lead=lead)
        self.x_line, self.y_line = self._line(self.x, 0), self._line(self.y, 2 * options.rows)

    def _line(self, side: Side, tail: int) -> Compared:
        line, lines_tail = self.grid.line, tail + whole(self.options.patch - 1)
        others = (side.between, side.scale, side.slope)
        return Compared(line(side.lines, tail=lines_tail), *(line(u, tail=tail) for u in others))

    def y_at(self, offset: Array) -> Compared:
        """Y's part at a row offset."""
        sizes = (u.shape[-1] for u in self.x_line)
        return Compared(
            *(
                lax.dynamic_slice_in_dim(u, offset, size, axis=-1)
                for u, size in zip(self.y_line, sizes, strict=True)
            )
        )

    def products(self, x: Array, y: Array) -> Array:
        """Of each of x's columns with y's that it is compared with, summed over axis 2.

        (channels, width, m, positions) and (channels, columns of y, m, positions) ->
        (channels, searched, width, positions).
        """
        terms = range(x.shape[2])
        if self.options.columns is None:
            return added(x[:, None, :, r] * y[:, :, None, r] for r in terms)
        return jnp.stack(
            [
                added(x[:, :, r] * y[:, q : q + self.width, r] for r in terms)
                for q in range(self.options.searched(self.width))
            ],
            axis=1,
        )

    def correlation(
        self, offset: Array, y: Compared, *, activation: Callable[[Array], Array] | None = None
    ) -> Array:
        """(channels, searched, width, positions) at the row offset of y."""
        x, size, patch = self.x_line, self.grid.size, self.options.patch
        lines = stored(offset, lambda: self.products(x.lines, y.lines))

        def finish() -> Array:
            within = added(lines[..., a : a + size] for a in range(patch))
            covariance = within + self.products(x.between, y.between)
            correlated = covariance * self.options.unit * self.products(x.scale, y.scale)
            return correlated if activation is None else activation(correlated)

        return stored(offset, finish)


def forward(x: Array, y: Array, options: Options, consume: Callable[..., Any], start: Any) -> Any:
    """Call ``consume(carry, number, activated map) -> carry`` for every row offset.

    The map is (channels, searched, width, positions), as :func:`grid_of` lays them out.
    """
    work = Chunk(x, y, options)

    def visit(carry, offset):
        correlated = work.correlation(offset, work.y_at(offset), activation=options.activation)
        return consume(carry, offset, correlated), None

    return lax.scan(visit, start, jnp.arange(options.offsets))[0]


def conv_of(
    x: Array,
    y: Array,
    kernel: Float[Array, "offsets features outputs"],
    options: Options,
) -> Float[Array, "n height width outputs"]:
    """The 1x1 convolution of the activated map of a chunk."""
    height, width = x.shape[1:3]
    grid = grid_of(x.shape, options)
    outputs = kernel.shape[-1]

    def consume(total, number, correlated):
        return total + kernel[number].T @ correlated.reshape(kernel.shape[1], -1)

    start = jnp.zeros((outputs, width * grid.size), x.dtype)
    total = forward(x, y, options, consume, start)
    return grid.rows(total.reshape(outputs, width, -1), height).transpose(2, 3, 1, 0)


def map_of(x: Array, y: Array, options: Options) -> Float[Array, "n height width features"]:
    """The correlation map of a chunk."""
    n, height, width, channels = x.shape
    grid, searched = grid_of(x.shape, options), options.searched(width)

    def consume(total, number, correlated):
        part = grid.rows(correlated, height).transpose(3, 4, 2, 0, 1)
        return lax.dynamic_update_slice(total, part[..., None, :], (0, 0, 0, 0, number, 0))

    start = jnp.zeros((n, height, width, channels, options.offsets, searched), x.dtype)
    return forward(x, y, options, consume, start).reshape(n, height, width, -1)
