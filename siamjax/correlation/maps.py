"""What both maps of a pair must be."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from siamjax.errors import UsageError


def check_maps(x: Array, y: Array) -> None:
    """``UsageError`` unless both are feature maps of one shape and dtype, and finite if known."""
    if x.shape != y.shape or x.dtype != y.dtype:
        raise UsageError(
            f"maps of shape {x.shape} ({x.dtype}) and {y.shape} ({y.dtype}): both must have one "
            "size, number of channels and dtype"
        )
    if x.ndim < 3 or 0 in x.shape[-3:]:
        raise UsageError(f"maps of shape {x.shape}: (*batch, height, width, channels) is needed")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UsageError(f"maps of {x.dtype}: features are floating point")
    for name, u in (("first", x), ("second", y)):
        if not isinstance(u, Tracer) and not bool(jnp.isfinite(u).all()):
            place = tuple(map(int, np.argwhere(~np.isfinite(np.asarray(u, np.float32)))[0]))
            raise UsageError(
                f"the {name} map is {float(u[place])} at {place}; the network that made it has "
                "diverged: lower its learning rate or look at its input"
            )
