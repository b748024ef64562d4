"""Two-stage search: embeddings find the nearest, and a cross-input network ranks only these."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Float, Int

from siamjax.data.images import ImageSet
from siamjax.data.transforms import Size
from siamjax.errors import UsageError
from siamjax.exact_distances import RankedDistances, require_embeddings
from siamjax.inference.cross_input import score_pairs

_BLOCK = 128  # queries whose distances to the whole gallery are in memory at a time


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
    tile: tuple[int, int] | None = None,
    symmetric: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> Float[np.ndarray, "queries gallery"]:
    """Scores to rank by: the cross-input network's for the ``top`` nearest, the others behind them.

    The network scores only the ``top`` gallery images nearest to the query by the squared
    Euclidean distance of their embeddings; these have its logits. The others follow in the order
    of that distance, at whole steps below the last of these: least logit - 1, - 2, ...; equal
    distances, as float64 differences have them, have equal scores. So the result can be ranked by
    ``siamjax.metrics.reid``, but below the ``top`` a score is no logit.

    Args:
        network: a cross-input network, as :func:`siamjax.inference.score_pairs` takes it.
        variables: the network's variables.
        images: the image set that the indices refer to.
        queries: indices of the queries.
        gallery: indices of the gallery images.
        query_embeddings: a row a query, of any model, such as ``PairScorer.embeddings``.
        gallery_embeddings: a row a gallery image, of the same model.
        size: image size of the cross-input network.
        top: images that the network scores for each query; a smaller gallery is scored in full.
            Of equal distances at the border, those that come first in ``gallery`` are scored.
        output: .npy file of the network's logits (queries, top), nearest first, to write or resume.
        tile: as in ``score_pairs``, and so are the options that follow.
        symmetric: score by the mean of both orders of a pair.
        batch_size: images a call of ``embed``, over all devices.
        progress: show progress bars.

    Raises ``UsageError`` as ``score_pairs`` does, and for embeddings that do not fit or are not
    finite.
    """
    if top < 1:
        raise UsageError(f"top {top} must be 1 or more")
    queries, gallery = np.asarray(queries), np.asarray(gallery)
    query_embeddings = _checked("query_embeddings", query_embeddings, queries)
    gallery_embeddings = _checked("gallery_embeddings", gallery_embeddings, gallery)
    if query_embeddings.shape[1] != gallery_embeddings.shape[1]:
        raise UsageError(
            f"embeddings of {query_embeddings.shape[1]} and {gallery_embeddings.shape[1]} "
            "features: embed queries and gallery by the same model"
        )
    nearest, steps = _nearest(query_embeddings, gallery_embeddings, min(top, len(gallery)))
    logits = score_pairs(
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
    if np.abs(logits).max() > 1e6:  # a whole step is lost in float32 beyond 2^24
        steps = steps.astype(np.float64)
    steps += logits.min(axis=1, keepdims=True)
    np.put_along_axis(steps, nearest, logits, axis=1)
    return steps


def _nearest(
    queries: np.ndarray, gallery: np.ndarray, top: int
) -> tuple[Int[np.ndarray, "queries top"], Float[np.ndarray, "queries gallery"]]:
    """Places of the ``top`` nearest; for the others, -1 - how many of them are nearer."""
    ranked = RankedDistances(gallery)
    nearest = np.empty((len(queries), top), np.int64)
    steps = np.empty((len(queries), len(gallery)), np.float32)
    for start in range(0, len(queries), _BLOCK):
        for row, distance in enumerate(ranked(queries[start : start + _BLOCK]), start):
            order = np.argsort(distance, kind="stable")
            nearest[row], others = order[:top], order[top:]
            sorted_ = distance[others]
            steps[row, others] = -1.0 - np.searchsorted(sorted_, sorted_)
    return nearest, steps


def _checked(name: str, embeddings: Any, indices: np.ndarray) -> np.ndarray:
    rows = require_embeddings(name, embeddings)
    if rows.shape[:1] != indices.shape:
        raise UsageError(
            f"{name} of shape {rows.shape} for indices of shape {indices.shape}: give one row an "
            "image, (n, features)"
        )
    return rows
