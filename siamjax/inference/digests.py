"""What scores are scores of, in a few characters each: to tell two galleries' scores apart."""

import hashlib
import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Int

from siamjax.data.images import ImageSet

_SHOWN = 16  # characters of a sha256


def describe(network: nn.Module) -> str:
    """Class and fields in a line, without the addresses that change from process to process."""
    return re.sub(r"\s+", " ", re.sub(r" at 0x[0-9a-f]+", "", repr(network)))


def weights_digest(variables: Any) -> str:
    """Over paths, types, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        value = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}\0{value.dtype}\0{value.shape}\0".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()[:_SHOWN]


def pictures_digest(images: ImageSet, shown: Int[np.ndarray, " n"]) -> str:
    """Over names and bytes: an image that was replaced since is another image."""
    digest = hashlib.sha256()
    for index in shown.tolist():
        content = images.source[index]
        digest.update(f"{images.keys[index]}\0{len(content)}\0".encode())
        digest.update(content)
    return f"{len(shown)} of {images.name} ({digest.hexdigest()[:_SHOWN]})"


def list_digest(indices: Int[np.ndarray, "*shape"]) -> str:
    """Over a list of images, in its order."""
    digest = hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes())
    return f"{' x '.join(map(str, indices.shape))} ({digest.hexdigest()[:_SHOWN]})"
