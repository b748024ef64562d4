"""Checks of the two maps of a pair."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike

from siamjax.errors import UsageError


def as_maps(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Both as arrays. ``UsageError`` unless they have one shape and dtype and are finite."""
    x, y = (u if isinstance(u, jax.Array) else _array(u) for u in (x, y))
    if x.shape != y.shape or x.dtype != y.dtype:
        raise UsageError(
            f"maps of shape {x.shape} ({x.dtype}) and {y.shape} ({y.dtype}): both must have the "
            "same shape and dtype"
        )
    if x.ndim < 3 or 0 in x.shape[-3:]:
        raise UsageError(f"maps of shape {x.shape}, expected (*batch, height, width, channels)")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UsageError(f"maps of {x.dtype}, expected a floating point type")
    for name, u in (("first", x), ("second", y)):
        if isinstance(u, Tracer):
            continue
        with jax.ensure_compile_time_eval():  # under jit a constant is no tracer, but a test of it
            finite = jnp.isfinite(u)
            if bool(finite.all()):
                continue
            place = tuple(map(int, np.argwhere(~np.asarray(finite))[0]))
            value = float(u[place])
        raise UsageError(
            f"the {name} map is {value} at {place}: the network that made it has "
            "diverged; lower its learning rate or look at its input"
        )
    return x, y


def check_bias(bias: Array | None, kernel: Array) -> None:
    """``UsageError`` unless the bias has a value for each of the kernel's outputs."""
    if bias is not None and bias.shape != (kernel.shape[1],):
        raise UsageError(f"bias of shape {bias.shape}, expected ({kernel.shape[1]},)")


def _array(u: ArrayLike) -> Array:
    """As a JAX array; NumPy's float64 becomes JAX's own dtype without a warning."""
    values = np.asarray(u)
    return jnp.asarray(values, jax.dtypes.canonicalize_dtype(values.dtype))
