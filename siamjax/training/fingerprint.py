"""What tells the weights of one network from those of another."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from siamjax.data.names import as_bytes

_SHOWN = 16  # characters of a sha256


def weights_digest(variables: Any) -> str:
    """Hash of the paths, types, shapes and values of all weights, or of any tree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        typed = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        value = np.asarray(jax.random.key_data(leaf) if typed else leaf)
        dtype = leaf.dtype if typed else value.dtype
        digest.update(as_bytes(f"{jax.tree_util.keystr(path)}\0{dtype}\0{value.shape}\0"))
        # Not tobytes, which copies; and as bytes, since bfloat16 has no buffer of its own.
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:_SHOWN]
