"""Short descriptions of networks, weights and images, to tell whether results belong together."""

import hashlib
import re
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Int

from siamjax.data.images import ImageSet
from siamjax.data.names import as_bytes

_SHOWN = 16  # characters of a sha256


def describe(network: nn.Module) -> str:
    """Class and fields in one line, without the memory addresses that differ between processes."""
    return re.sub(r"\s+", " ", re.sub(r" at 0x[0-9a-f]+", "", repr(network)))


def images_digest(images: ImageSet, shown: Int[np.ndarray, " n"]) -> str:
    """Count, set and hash of these images: names and bytes, so that a replaced file is noticed."""
    digest = hashlib.sha256()
    for index in shown.tolist():
        content = images.source[index]
        digest.update(as_bytes(f"{images.keys[index]}\0{len(content)}\0"))
        digest.update(content)
    return f"{len(shown)} of {images.name} ({digest.hexdigest()[:_SHOWN]})"


def list_digest(indices: Int[np.ndarray, "*shape"]) -> str:
    """Shape and hash of indices, in their order."""
    digest = hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes())
    return f"{' x '.join(map(str, indices.shape))} ({digest.hexdigest()[:_SHOWN]})"


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not equal in two descriptions, for a message."""
    return [
        # Saved manifests say "pictures" for images.
        f"{name.replace('picture', 'image')} is {readable(before.get(name))} there and "
        f"{readable(now.get(name))} here"
        for name in sorted({*before, *now})
        if readable(before.get(name)) != readable(now.get(name))
    ]


def readable(description: Any) -> str:
    """As of :func:`describe`, without the heading that linen puts before a module's fields.

    A dtype has its name alone: a network made by code may have ``jnp.float32`` where the one that
    is opened from a file has ``dtype('float32')``.
    """
    text = str(description).replace(" # attributes", "")
    return re.sub(r"dtype\('?(\w+)'?\)|<class '[\w.]+\.(b?float\d+)'>", r"\1\2", text)
