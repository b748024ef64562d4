"""Scores of pairs by a trained network, and by raw pixels for comparison."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.data.pipeline import image_batches
from siamjax.data.transforms import resize
from siamjax.models.siamese import Siamese
from siamjax.training.parallel import data_parallel_map, shard


@dataclass(frozen=True)
class PairScorer:
    """A network that embeds every picture once and then compares the embeddings.

    Attributes:
        network: whose head tells ``rises_with_similarity``.
        size: side of its pictures in pixels.
        batch_size: pictures a call, over all devices.
    """

    network: Siamese
    size: int
    batch_size: int = 64

    @cached_property
    def _embed(self) -> Any:
        def embed(variables: Any, batch: dict[str, jax.Array]) -> Any:
            return self.network.apply(variables, batch["image"], method="embed")

        return data_parallel_map(embed)

    @cached_property
    def _compare(self) -> Any:
        return jax.jit(lambda v, a, b: self.network.apply(v, a, b, method="compare"))

    def embeddings(
        self, variables: Any, images: ImageSet, indices: np.ndarray
    ) -> Float[np.ndarray, "n features"]:
        """Embeddings of these pictures, in their order."""
        devices = jax.local_device_count()
        size = -(-self.batch_size // devices) * devices
        rows = []
        for batch in image_batches(images, indices, batch_size=size, size=self.size):
            counted = int(batch["weight"].sum())
            values = np.asarray(self._embed(variables, shard(batch)))
            rows.append(values.reshape(size, -1)[:counted])
        return np.concatenate(rows)

    def values(
        self, variables: Any, images: ImageSet, pairs: PairList
    ) -> Float[np.ndarray, " pairs"]:
        """The head's value for every pair: a distance or a logit."""
        shown, place = np.unique(np.stack([pairs.first, pairs.second]), return_inverse=True)
        embeddings = self.embeddings(variables, images, shown)
        first, second = place.reshape(2, -1)
        return self._in_blocks(variables, embeddings, first, second)

    def _in_blocks(
        self, variables: Any, embeddings: np.ndarray, first: np.ndarray, second: np.ndarray
    ) -> np.ndarray:
        # One block shape: padded at the end, so that any number of pairs compiles once.
        block = 4096
        values = []
        for start in range(0, len(first), block):
            rows = first[start : start + block]
            others = second[start : start + block]
            padded = [np.resize(index, block) for index in (rows, others)]
            compared = self._compare(variables, embeddings[padded[0]], embeddings[padded[1]])
            values.append(np.asarray(compared)[: len(rows)])
        return np.concatenate(values)

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Head values turned so that they rise with similarity."""
        return values if self.network.head.rises_with_similarity else -values


def pixel_scores(
    images: ImageSet, pairs: PairList, *, size: int = 32
) -> Float[np.ndarray, " pairs"]:
    """The dumb baseline: cosine of the pictures at ``size`` x ``size``, each less its mean."""
    shown, place = np.unique(np.stack([pairs.first, pairs.second]), return_inverse=True)
    pixels = _rows(resize(images.image(int(index)), size) for index in shown)
    pixels -= pixels.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(pixels, axis=1, keepdims=True)
    pixels /= np.where(norms > 0, norms, 1.0)  # a picture of one colour is like nothing
    first, second = place.reshape(2, -1)
    scores = [
        np.einsum(
            "pf,pf->p", pixels[first[start : start + 4096]], pixels[second[start : start + 4096]]
        )
        for start in range(0, len(first), 4096)
    ]
    return np.concatenate(scores)


def _rows(pictures: Iterable[np.ndarray]) -> np.ndarray:
    return np.stack([picture.ravel().astype(np.float32) for picture in pictures])
