"""Start from published weights: what is put where, and what a frozen part gives once."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.data.transforms import Size, sides
from siamjax.models.heads import EuclideanHead
from siamjax.models.inception_embedding import FlatMaps, InceptionEmbedding
from siamjax.models.inception_v3 import ENDS, layers_of
from siamjax.models.siamese import Siamese
from siamjax.pretrained import Weights, put
from siamjax.runs.verification import Scores
from siamjax.scoring import PairScorer
from siamjax.search.embedding import Embedder


def from_weights(network: Siamese, weights: Weights, variables: Any) -> dict[str, Any]:
    """Variables of a Siamese :class:`InceptionEmbedding` with the weights in its trunk."""
    body = network.backbone
    assert isinstance(body, InceptionEmbedding)
    return _put(network, "backbone/trunk", body.end, weights, variables)


def frozen_maps(
    body: InceptionEmbedding, weights: Weights, images: ImageSet, *, size: Size
) -> Float[np.ndarray, "images rows columns channels"] | None:
    """The maps of block ``body.given`` of all pictures, in memory, or None if none is given.

    9 MB a hundred pictures for ``mixed6`` of 128x128.
    """
    if body.given is None:
        return None
    part = body.clone(end=body.given, embedding=None, frozen=None, given=None)
    network = FlatMaps(network=part)
    picture = jax.ShapeDtypeStruct((1, *sides(size), 3), np.uint8)
    like = jax.eval_shape(part.init, jax.random.key(0), picture)
    variables = _put(part, "trunk", part.end, weights, like)
    shape = jax.eval_shape(lambda v, x: part.apply(v, x, method="maps"), variables, picture).shape
    inside = {collection: {"network": tree} for collection, tree in variables.items()}
    rows = Embedder(network=network, variables=inside, size=size).embeddings(
        images, np.arange(len(images))
    )
    return rows.reshape(-1, *shape[1:])


def untrained_scores(body: InceptionEmbedding, weights: Weights, *, size: Size) -> Scores:
    """Scores by the distance of the published features: what there is before any training."""
    network = Siamese(
        backbone=body.clone(embedding=None, frozen=None, given=None), head=EuclideanHead()
    )

    def scores(images: ImageSet, pairs: PairList) -> np.ndarray:
        picture = jax.ShapeDtypeStruct((1, *sides(size), 3), np.uint8)
        like = jax.eval_shape(network.init, jax.random.key(0), picture, picture)
        scorer = PairScorer(network, size=size)
        return scorer.scores(scorer.values(from_weights(network, weights, like), images, pairs))

    return scores


def _put(
    network: nn.Module, under: str, end: str, weights: Weights, variables: Any
) -> dict[str, Any]:
    beyond = [layer for block in ENDS[1 + ENDS.index(end) :] for layer in layers_of(block)]
    return put(network, variables, weights, under=under, unused=beyond)
