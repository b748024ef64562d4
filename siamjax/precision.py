"""The dtype of sums, for all that adds up."""

import jax.numpy as jnp
from jax.typing import DTypeLike


def sum_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype in which values of ``dtype`` are summed: itself, but float32 at least.

    ``jnp.promote_types`` is not asked, because strict promotion forbids it to mix types.
    """
    enough = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32
    return jnp.dtype(dtype if enough else jnp.float32)
