"""Two-stage search: the nearest by embeddings first, and a cross-input network ranks only these."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float, Int

from siamjax.data.images import ImageSet
from siamjax.data.transforms import Size
from siamjax.distances import pairwise_squared_euclidean
from siamjax.errors import UsageError
from siamjax.inference.cross_input import CANDIDATE_TILE, score_candidates

_BLOCK = 128  # queries whose distances to the whole gallery are there at a time
_distances = jax.jit(pairwise_squared_euclidean)


def two_stage(
    network: nn.Module,
    variables: Any,
    images: ImageSet,
    queries: Int[np.ndarray, " queries"],
    gallery: Int[np.ndarray, " gallery"],
    *,
    query_embeddings: Float[np.ndarray, "queries features"],
    gallery_embeddings: Float[np.ndarray, "gallery features"],
    size: Size,
    top: int = 100,
    output: Path | None = None,
    tile: tuple[int, int] = CANDIDATE_TILE,
    symmetric: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> Float[np.ndarray, "queries gallery"]:
    """Scores by which to rank: the ``top`` nearest by the matcher, all others behind them.

    The cross-input network scores only the ``top`` gallery images of the least squared Euclidean
    distance to the query's embedding (all distances are computed). They have its logits. The
    others come after the last of these, in the embedding's order, at whole steps below it: least
    logit - 1, - 2, ...; equal distances have equal scores. So the result ranks, and goes into
    ``siamjax.metrics.reid`` as it is, but below the ``top`` it is no logit.

    Args:
        network: as in :func:`siamjax.search.score_pairs`, as are all that are not named here.
        variables: as there.
        images: as there.
        queries: as there.
        gallery: as there.
        query_embeddings: of any model, such as ``PairScorer.embeddings``; in their order.
        gallery_embeddings: likewise.
        size: of the cross-input network's images.
        top: images a query that the matcher scores; a smaller gallery is scored in full. Of
            equal distances at the border those that come first in ``gallery`` are in.
        output: .npy file of the matcher's logits (queries, top), the nearest first, to go on with.
        tile: as there.
        symmetric: as there.
        batch_size: as there.
        progress: as there.

    Raises ``UsageError`` as there, and for embeddings that do not fit or are not finite.
    """
    if top < 1:
        raise UsageError(f"top {top} must be 1 or more")
    queries, gallery = np.asarray(queries), np.asarray(gallery)
    _check("query_embeddings", query_embeddings, queries)
    _check("gallery_embeddings", gallery_embeddings, gallery)
    if query_embeddings.shape[1] != gallery_embeddings.shape[1]:
        raise UsageError(
            f"embeddings of {query_embeddings.shape[1]} and {gallery_embeddings.shape[1]} "
            "features: both must be of one model"
        )
    nearest, steps = _nearest(query_embeddings, gallery_embeddings, min(top, len(gallery)))
    logits = score_candidates(
        network,
        variables,
        images,
        queries,
        gallery[nearest],
        size=size,
        output=output,
        tile=tile,
        symmetric=symmetric,
        batch_size=batch_size,
        progress=progress,
    )
    scores = steps
    scores += logits.min(axis=1, keepdims=True)
    np.put_along_axis(scores, nearest, logits, axis=1)
    return scores


def _nearest(
    queries: np.ndarray, gallery: np.ndarray, top: int
) -> tuple[Int[np.ndarray, "queries top"], Float[np.ndarray, "queries gallery"]]:
    """Places of the ``top`` nearest, and for the others -1 - how many of them are nearer."""
    nearest = np.empty((len(queries), top), np.int64)
    steps = np.empty((len(queries), len(gallery)), np.float32)
    block = min(_BLOCK, len(queries))
    for start in range(0, len(queries), block):
        rows = queries[start : start + block]
        # One shape for all: the last block repeats rows.
        distances = np.asarray(_distances(np.resize(rows, (block, rows.shape[1])), gallery))
        for row, distance in enumerate(distances[: len(rows)], start):
            order = np.argsort(distance, kind="stable")
            nearest[row], others = order[:top], order[top:]
            sorted_ = distance[others]
            steps[row, others] = -1.0 - np.searchsorted(sorted_, sorted_)
    return nearest, steps


def _check(name: str, embeddings: np.ndarray, indices: np.ndarray) -> None:
    shape = np.shape(embeddings)
    if len(shape) != 2 or shape[:1] != indices.shape:
        raise UsageError(
            f"{name} of shape {shape} for indices of shape {indices.shape}: one row an image, "
            "(n, features), is needed"
        )
    if not np.isfinite(embeddings).all():
        row = int(np.argwhere(~np.isfinite(embeddings))[0, 0])
        raise UsageError(f"{name}: row {row} is not finite; its model has diverged")
