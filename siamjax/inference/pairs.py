"""Distances or logits of listed pairs: every image is embedded once, then compared."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float, Int

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.data.transforms import Size
from siamjax.errors import UsageError
from siamjax.inference.embedder import Embedder
from siamjax.models import comparing
from siamjax.parallel import data_parallel_map, device_count, own_rows, replicate, shard

_BLOCK = 4096  # pairs compared at a time at most
_VALUES = 2**24  # numbers in the features of one side of a block, at most: 64 MB


@dataclass(frozen=True)
class PairScorer:
    """Compares pairs by a network's ``compare``, or by the Euclidean distance of its embeddings.

    Attributes:
        network: has ``embed``, and may have ``compare``.
        size: image size of the network.
        batch_size: images a call, over all devices.
    """

    network: nn.Module
    size: Size
    batch_size: int = 64

    @property
    def measure(self) -> str:
        """What the network's value is: ``distance`` or ``logit``."""
        return comparing.measure(self.network)

    def embeddings(
        self, variables: Any, images: ImageSet, indices: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n ..."]:
        """Embeddings of the images with these indices, in their order."""
        embedder = Embedder(
            network=self.network, variables=variables, size=self.size, batch_size=self.batch_size
        )
        return embedder.embeddings(images, indices)

    def values(
        self, variables: Any, images: ImageSet, pairs: PairList
    ) -> Float[np.ndarray, " pairs"]:
        """The network's value for every pair: a distance or a logit."""
        shown, first, second = shown_once(pairs)
        embeddings = self.embeddings(variables, images, shown)
        block = max(1, min(_BLOCK, len(first), _VALUES // max(1, embeddings[0].size)))
        block = -(-block // device_count()) * device_count()
        held, compare_rows = replicate(variables), _compare(self.network)

        def compare(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
            # The last block is padded to the others' shape, so that it compiles once.
            padded = [own_rows(np.resize(index, block)) for index in (rows, others)]
            batch = shard({"x1": embeddings[padded[0]], "x2": embeddings[padded[1]]})
            return np.asarray(compare_rows(held, batch)).ravel()[: len(rows)]

        return in_blocks(compare, first, second, block=block)

    def scores(
        self, variables: Any, images: ImageSet, pairs: PairList
    ) -> Float[np.ndarray, " pairs"]:
        """A score for every pair that rises with similarity: the logit, or the negated distance."""
        return self.rising(self.values(variables, images, pairs))

    def rising(self, values: np.ndarray) -> np.ndarray:
        """Values, or a threshold, negated if need be so that they rise with similarity."""
        return values if comparing.rises(self.network) else -values


@lru_cache(maxsize=8)
def _compare(network: nn.Module) -> Callable[..., jax.Array]:
    """Pmapped ``(variables, features) -> values`` by ``comparing.compare``; compiled once."""

    def compare(variables: Any, batch: dict[str, jax.Array]) -> jax.Array:
        return comparing.compare(network, variables, batch["x1"], batch["x2"])

    return data_parallel_map(compare)


def shown_once(pairs: PairList) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images of the pairs without repeats, and the pairs as indices into these.

    Raises ``UsageError`` for a list without pairs.
    """
    if not len(pairs):
        raise UsageError(f"{pairs.name}: a list without pairs; give at least one")
    shown, place = np.unique(np.stack([pairs.first, pairs.second]), return_inverse=True)
    first, second = place.reshape(2, -1)
    return shown, first, second


def in_blocks(
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray],
    first: np.ndarray,
    second: np.ndarray,
    *,
    block: int = _BLOCK,
) -> np.ndarray:
    """``compare`` over all pairs, ``block`` at a time, so that memory stays bounded."""
    starts = range(0, len(first), block)
    blocks = [compare(first[s : s + block], second[s : s + block]) for s in starts]
    return np.concatenate(blocks)
