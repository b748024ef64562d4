"""Correlation by matrix products of standardised patches: the formulation for accelerators."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.correlation.options import Options
from siamjax.correlation.patches import prepare


def _standardised(x: Array, options: Options, *, rows: int, columns: int) -> Array:
    """Contrasts of standardised patches, (n, height, width, channels, patch^2 - 1)."""
    side = prepare(x, rows=rows, columns=columns, options=options)
    down = x.shape[1] + 2 * rows
    lines = [side.lines[..., a : a + down] for a in range(options.patch)]
    contrasts = jnp.concatenate([*lines, side.between[..., :down]], axis=2)
    flat = side.scale[..., :down] == 0
    contrasts = jnp.where(flat, contrasts - lax.stop_gradient(contrasts), contrasts)
    return (contrasts * side.slope[..., :down]).transpose(3, 4, 1, 0, 2)


def _over_offsets(x: Array, y: Array, options: Options, consume, start: Any) -> tuple[Any, Any]:
    """Scan ``consume(carry, number, activated map of the row offset) -> (carry, result)``.

    Only one offset's map exists at a time, also in the backward pass, which computes it again.
    """
    columns = options.columns or 0
    height, width = x.shape[1:3]
    queries = _standardised(x, options, rows=0, columns=0) * options.unit
    keys = _standardised(y, options, rows=options.rows, columns=columns)

    @jax.checkpoint
    def visit(carry: Any, number: Array) -> tuple[Any, Any]:
        met = lax.dynamic_slice_in_dim(keys, number, height, axis=1)
        if options.columns is None:
            correlated = jnp.einsum("nijcp,nikcp->nijck", queries, met, precision="highest")
        else:
            correlated = jnp.stack(
                [
                    jnp.sum(queries * met[:, :, q : q + width], axis=-1)
                    for q in range(2 * columns + 1)
                ],
                axis=-1,
            )
        if options.activation is not None:
            correlated = options.activation(correlated)
        return consume(carry, number, correlated)

    return lax.scan(visit, start, jnp.arange(options.offsets))


def map_of(x: Array, y: Array, options: Options) -> Float[Array, "n height width features"]:
    """The correlation map."""
    maps = _over_offsets(x, y, options, lambda carry, number, part: (carry, part), None)[1]
    return jnp.moveaxis(maps, 0, 4).reshape(*x.shape[:3], -1)


def conv_of(
    x: Array, y: Array, kernel: Float[Array, "offsets features outputs"], options: Options
) -> Float[Array, "n height width outputs"]:
    """The 1x1 convolution of the activated map."""

    def consume(total: Array, number: Array, part: Array) -> tuple[Array, None]:
        features = part.reshape(*x.shape[:3], -1)
        return total + jnp.matmul(features, kernel[number], precision="highest"), None

    start = jnp.zeros((*x.shape[:3], kernel.shape[-1]), x.dtype)
    return _over_offsets(x, y, options, consume, start)[0]
