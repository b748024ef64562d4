"""The dtype of sums, for all that adds up."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def sum_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype in which values of ``dtype`` are summed: itself, but float32 at least.

    ``jnp.promote_types`` is not asked, because strict promotion forbids it to mix types.
    """
    enough = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 32
    return jnp.dtype(dtype if enough else jnp.float32)


def with_bias(
    out: Float[Array, "*shape features"], bias: Float[Array, " features"] | None
) -> Float[Array, "*shape features"]:
    """``out + bias``, if there is one, in the dtype of ``out``.

    The gradient of the bias is summed in the bias's dtype. Of a float32 one that is added to
    bfloat16 it must be: a sum in bfloat16, as XLA on a CPU makes it, stands still at 256 times its
    terms.
    """
    # Broadcast first and round then, so that the backward pass widens first and sums then.
    return out if bias is None else out + jnp.broadcast_to(bias, out.shape).astype(out.dtype)
