"""Correlation by matrix products of standardised patches: the formulation for accelerators."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from siamjax.correlation.patches import Options, added, prepare


def _standardised(x: Array, options: Options, *, rows: int, columns: int) -> Array:
    """Patches less their mean, over their deviation: (n, height, width, channels, patch^2)."""
    side = prepare(x, rows=rows, columns=columns, options=options)
    across, down = side.mean.shape[1], side.mean.shape[3]
    centred = jnp.stack(
        [
            side.values[:, b : b + across, :, a : a + down] - side.mean
            for a in range(options.patch)
            for b in range(options.patch)
        ],
        axis=-1,
    )
    flat = (side.scale == 0)[..., None]
    centred = jnp.where(flat, centred - lax.stop_gradient(centred), centred)
    return (centred * side.slope[..., None]).transpose(2, 3, 1, 0, 4)


def _maps_by_patches(x: Array, y: Array, options: Options):
    """The activated map of each row offset, (n, height, width, channels, searched)."""
    columns = options.columns or 0
    height, width = x.shape[1:3]
    unit = 1.0 / options.count if options.mean else 1.0
    queries = _standardised(x, options, rows=0, columns=0) * unit
    keys = _standardised(y, options, rows=options.rows, columns=columns)
    if options.columns is not None:
        keys = jnp.stack([keys[:, :, q : q + width] for q in range(2 * columns + 1)], axis=3)
    formula = "nijcp,nikcp->nijck" if options.columns is None else "nijcp,nijkcp->nijck"
    activation = options.activation or (lambda u: u)
    for r in range(options.offsets):
        yield activation(jnp.einsum(formula, queries, keys[:, r : r + height], precision="highest"))


def map_of(x: Array, y: Array, options: Options) -> Float[Array, "n height width features"]:
    """The map itself."""
    maps = jnp.stack(list(_maps_by_patches(x, y, options)), axis=4)
    return maps.reshape(*x.shape[:3], -1)


def conv_of(
    x: Array, y: Array, kernel: Float[Array, "offsets features outputs"], options: Options
) -> Float[Array, "n height width outputs"]:
    """The 1x1 convolution of the activated map."""
    return added(
        part.reshape(*x.shape[:3], -1) @ kernel[r]
        for r, part in enumerate(_maps_by_patches(x, y, options))
    )
