"""What both maps of a pair must be."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike

from siamjax.errors import UsageError


def as_maps(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Both as arrays; ``UsageError`` unless maps of one shape and dtype, finite where known."""
    x, y = (u if isinstance(u, jax.Array) else _array(u) for u in (x, y))
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
    return x, y


def check_bias(bias: Array | None, kernel: Array) -> None:
    """``UsageError`` unless the bias has a value for each of the kernel's outputs."""
    if bias is not None and bias.shape != (kernel.shape[1],):
        raise UsageError(f"bias of shape {bias.shape}: ({kernel.shape[1]},) is needed")


def _array(u: ArrayLike) -> Array:
    """NumPy's float64 becomes what JAX computes in, without a warning."""
    values = np.asarray(u)
    return jnp.asarray(values, jax.dtypes.canonicalize_dtype(values.dtype))
