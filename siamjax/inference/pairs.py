"""Values of listed pairs by a network that embeds every image once and then compares."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float, Int

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.data.transforms import Size
from siamjax.distances import euclidean
from siamjax.inference.embedder import Embedder
from siamjax.models.protocols import Compares

_BLOCK = 4096  # pairs compared at a time at most
_VALUES = 2**24  # numbers in the features of one side of a block, at most: 64 MB


@dataclass(frozen=True)
class PairScorer:
    """A network that embeds every image once and then compares the embeddings.

    One that embeds and has no ``compare`` is taken to compare by the Euclidean distance.

    Attributes:
        network: has ``embed``, and ``compare`` if it can.
        size: of its images.
        batch_size: images a call, over all devices.
    """

    network: nn.Module
    size: Size
    batch_size: int = 64

    @property
    def measure(self) -> str:
        """What a value is: ``distance`` or ``logit``."""
        return self.network.measure if isinstance(self.network, Compares) else "distance"

    @cached_property
    def _compare(self) -> Any:
        if isinstance(self.network, Compares):
            return jax.jit(lambda v, a, b: self.network.apply(v, a, b, method="compare"))
        return jax.jit(lambda v, a, b: euclidean(a, b))

    def embeddings(
        self, variables: Any, images: ImageSet, indices: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n ..."]:
        """Embeddings of these images, in their order."""
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
        block = max(1, min(_BLOCK, _VALUES // max(1, embeddings[0].size)))

        def compare(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
            # One block shape: padded at the end, so that any number of pairs compiles once.
            padded = [np.resize(index, block) for index in (rows, others)]
            compared = self._compare(variables, embeddings[padded[0]], embeddings[padded[1]])
            return np.asarray(compared)[: len(rows)]

        return in_blocks(compare, first, second, block=block)

    def scores(
        self, variables: Any, images: ImageSet, pairs: PairList
    ) -> Float[np.ndarray, " pairs"]:
        """A score for every pair that rises with similarity: the logit, or minus the distance."""
        return self.rising(self.values(variables, images, pairs))

    def rising(self, values: np.ndarray) -> np.ndarray:
        """Values, or a threshold of them, turned so that they rise with similarity."""
        rises = isinstance(self.network, Compares) and self.network.rises_with_similarity
        return values if rises else -values


def shown_once(pairs: PairList) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images that the pairs show, each once, and the pairs as indices into those."""
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
    """``compare`` over all pairs, so many at a time that memory does not grow with them."""
    starts = range(0, len(first), block)
    blocks = [compare(first[s : s + block], second[s : s + block]) for s in starts]
    return np.concatenate(blocks)
