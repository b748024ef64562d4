"""Scores of pairs by a trained network, and by raw pixels for comparison."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from siamjax.baselines import pixel_features
from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.data.transforms import Size
from siamjax.models.siamese import Siamese
from siamjax.search.embedding import Embedder

_BLOCK = 4096  # pairs compared at a time


@dataclass(frozen=True)
class PairScorer:
    """A network that embeds every picture once and then compares the embeddings.

    Attributes:
        network: whose head tells ``rises_with_similarity``.
        size: of its pictures.
        batch_size: pictures a call, over all devices.
    """

    network: Siamese
    size: Size
    batch_size: int = 64

    @cached_property
    def _compare(self) -> Any:
        return jax.jit(lambda v, a, b: self.network.apply(v, a, b, method="compare"))

    def embeddings(
        self, variables: Any, images: ImageSet, indices: np.ndarray
    ) -> Float[np.ndarray, "n features"]:
        """Embeddings of these pictures, in their order."""
        embedder = Embedder(
            network=self.network, variables=variables, size=self.size, batch_size=self.batch_size
        )
        return embedder.embeddings(images, indices)

    def values(
        self, variables: Any, images: ImageSet, pairs: PairList
    ) -> Float[np.ndarray, " pairs"]:
        """The head's value for every pair: a distance or a logit."""
        shown, first, second = _shown_once(pairs)
        embeddings = self.embeddings(variables, images, shown)

        def compare(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
            # One block shape: padded at the end, so that any number of pairs compiles once.
            padded = [np.resize(index, _BLOCK) for index in (rows, others)]
            compared = self._compare(variables, embeddings[padded[0]], embeddings[padded[1]])
            return np.asarray(compared)[: len(rows)]

        return _in_blocks(compare, first, second)

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Head values turned so that they rise with similarity."""
        return values if self.network.head.rises_with_similarity else -values


def pixel_scores(
    images: ImageSet, pairs: PairList, *, size: Size = 32
) -> Float[np.ndarray, " pairs"]:
    """The dumb baseline: cosine of the pictures at ``size`` x ``size``, each less its mean."""
    shown, first, second = _shown_once(pairs)
    pixels = pixel_features(images, shown, size=size)
    return _in_blocks(
        lambda rows, others: np.einsum("pf,pf->p", pixels[rows], pixels[others]), first, second
    )


def _shown_once(pairs: PairList) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pictures that the pairs show, each once, and the pairs as indices into those."""
    shown, place = np.unique(np.stack([pairs.first, pairs.second]), return_inverse=True)
    first, second = place.reshape(2, -1)
    return shown, first, second


def _in_blocks(
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray], first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """``compare`` over all pairs, so many at a time that memory does not grow with them."""
    starts = range(0, len(first), _BLOCK)
    blocks = [compare(first[s : s + _BLOCK], second[s : s + _BLOCK]) for s in starts]
    return np.concatenate(blocks)
