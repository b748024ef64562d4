"""What tells the weights of one network from those of another."""

import hashlib
from typing import Any

import jax
import numpy as np

from siamjax.data.names import as_bytes

_SHOWN = 16  # characters of a sha256


def weights_digest(variables: Any) -> str:
    """Hash of the paths, types, shapes and values of all weights."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        value = np.asarray(leaf)
        digest.update(as_bytes(f"{jax.tree_util.keystr(path)}\0{value.dtype}\0{value.shape}\0"))
        digest.update(value.tobytes())
    return digest.hexdigest()[:_SHOWN]
