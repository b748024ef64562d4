"""How any network compares two images: by its own ``compare``, or by its embeddings' distance."""

from typing import Any

import flax.linen as nn
import jax

from siamjax.distances import euclidean
from siamjax.errors import UsageError
from siamjax.models.applying import evaluate
from siamjax.models.protocols import Compares


def compare(network: nn.Module, variables: Any, first: Any, second: Any) -> jax.Array:
    """One value (batch,) for each pair of features of ``network.embed``.

    That of ``network.compare``; of a network without it the Euclidean distance. Raises
    ``UsageError`` for a network that has no ``compare`` and gives no vectors.
    """
    if isinstance(network, Compares):
        return evaluate(network, variables, first, second, method="compare")
    if first.ndim != 2:
        raise UsageError(
            f"{type(network).__name__} gives maps of shape {first.shape[1:]} and has no method "
            "compare(first, second) for them; add one, or let embed give vectors"
        )
    return euclidean(first, second)


def measure(network: nn.Module) -> str:
    """What :func:`compare` gives: ``distance`` or ``logit``."""
    return network.measure if isinstance(network, Compares) else "distance"


def rises(network: nn.Module) -> bool:
    """Whether the value of :func:`compare` is greater for images that are more similar."""
    return isinstance(network, Compares) and network.rises_with_similarity
