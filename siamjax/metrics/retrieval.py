"""Retrieval: which image of a catalogue shows the same item? Recall@k and MAP@R of embeddings.

The gallery is ranked for every query by Euclidean distance (of unit vectors, that is by cosine).
``own`` gives each query's own place in the gallery, where the query itself is left out. A query
without a match does not count. Ties count by expectation, so that a network whose embeddings are
all alike scores chance. Memory is that of ``block`` rows of distances. Plain NumPy; ``UsageError``
for embeddings that are not finite.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from siamjax.errors import UsageError
from siamjax.metrics import reid

Embeddings = Float[np.ndarray, "n features"]
Identities = Shaped[np.ndarray, " n"]
Places = Int[np.ndarray, " queries"]

RECALLS = (1, 3, 5, 10, 20)


def recall_at_k(
    query: Embeddings,
    gallery: Embeddings,
    query_identity: Identities,
    gallery_identity: Identities,
    *,
    k: int = 1,
    own: Places | None = None,
    block: int = 512,
) -> float:
    """Share of the queries that have a match among the ``k`` nearest gallery images.

    In [0, 1]; the same as the CMC at rank k. Raises ``UsageError`` if no query has a match, or the
    gallery has fewer than ``k`` images.
    """
    images = len(gallery) - (own is not None)
    if not 1 <= k <= images:
        raise UsageError(f"k is {k}: choose 1 to {images}, the number of images in the gallery")
    asked = (query, gallery, query_identity, gallery_identity)
    hits = [
        reid.hits(score, match, valid=valid, ranks=k)[:, -1]
        for score, match, valid in _blocks(*asked, own=own, block=block)
    ]
    return _mean(np.concatenate(hits))


def map_at_r(
    query: Embeddings,
    gallery: Embeddings,
    query_identity: Identities,
    gallery_identity: Identities,
    *,
    own: Places | None = None,
    block: int = 512,
) -> float:
    """MAP@R: mean over the queries of ``1/R sum_{i=1..R} P(i)``, R a query's number of matches.

    P(i) is the precision of the first i images if the i-th is a match, and 0 otherwise. In [0, 1].
    Musgrave, Belongie, Lim, *A Metric Learning Reality Check*, ECCV 2020. Raises ``UsageError`` if
    no query has a match.
    """
    asked = (query, gallery, query_identity, gallery_identity)
    precision = [
        reid.average_precision(score, match, valid=valid, definition="at_r")
        for score, match, valid in _blocks(*asked, own=own, block=block)
    ]
    return _mean(np.concatenate(precision))


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """How well each query was answered; NaN for a query without a match in the gallery.

    Attributes:
        recall: (queries, 5) probability that a match is among the first 1, 3, 5, 10, 20.
        map_at_r: (queries,) average precision over the first R, R the number of its matches.
        gallery: number of images that each query is looked up in.
    """

    recall: Float[np.ndarray, "queries 5"]
    map_at_r: Float[np.ndarray, " queries"]
    gallery: int

    def summary(self, chosen: np.ndarray | None = None) -> dict[str, float | None]:
        """Means by name, over all queries or those that a mask chooses.

        None where the gallery has fewer than k images. ``UsageError`` if no query has a match.
        """
        recall = self.recall if chosen is None else self.recall[chosen]
        precision = self.map_at_r if chosen is None else self.map_at_r[chosen]
        map_at_r = _mean(precision)
        counted = int((~np.isnan(precision)).sum())
        return {
            **{
                f"recall_at_{k}": float(mean) if k <= self.gallery else None
                for k, mean in zip(RECALLS, np.nanmean(recall, axis=0), strict=True)
            },
            "map_at_r": map_at_r,
            "queries": counted,
            "queries_without_match": len(precision) - counted,
            "gallery": self.gallery,
        }

    def by(self, groups: Shaped[np.ndarray, " queries"]) -> Mapping[str, dict[str, float | None]]:
        """:meth:`summary` of each group of queries with a match, such as a category.

        Queries of the group "" are left out: their group is not known.
        """
        counted = ~np.isnan(self.map_at_r)
        names = np.unique(groups[counted]).tolist()
        return {str(name): self.summary(groups == name) for name in names if name != ""}


def search_quality(
    query: Embeddings,
    gallery: Embeddings,
    query_identity: Identities,
    gallery_identity: Identities,
    *,
    own: Places | None = None,
    block: int = 512,
) -> Found:
    """Recall@k and MAP@R of every query, from distances that are computed once."""
    recall, precision = [], []
    asked = (query, gallery, query_identity, gallery_identity)
    for score, match, valid in _blocks(*asked, own=own, block=block):
        curves = reid.hits(score, match, valid=valid, ranks=max(RECALLS))
        recall.append(curves[:, [k - 1 for k in RECALLS]])
        precision.append(reid.average_precision(score, match, valid=valid, definition="at_r"))
    return Found(
        recall=np.concatenate(recall),
        map_at_r=np.concatenate(precision),
        gallery=len(gallery) - (own is not None),
    )


def _blocks(
    query: Any, gallery: Any, query_identity: Any, gallery_identity: Any, *, own: Any, block: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Score, match and valid of :mod:`siamjax.metrics.reid`, ``block`` queries at a time."""
    query, gallery, query_identity, gallery_identity = map(
        np.asarray, (query, gallery, query_identity, gallery_identity)
    )
    if not (np.isfinite(query).all() and np.isfinite(gallery).all()):
        raise UsageError("embeddings are not finite: the network has diverged")
    # About the gallery's mean, which takes away most of what would cancel.
    centre = gallery.mean(axis=0)
    query, gallery = query - centre, gallery - centre
    squares = np.einsum("gf,gf->g", gallery, gallery)
    for start in range(0, len(query), block):
        rows = slice(start, start + block)
        # The squared distance, negated, without the query's own square, which changes no rank.
        score = 2.0 * query[rows] @ gallery.T - squares
        match = reid.same_identity(query_identity[rows], gallery_identity)
        valid = None
        if own is not None:
            valid = np.ones(match.shape, np.bool_)
            valid[np.arange(len(match)), np.asarray(own)[rows]] = False
        yield score, match, valid


def _mean(values: np.ndarray) -> float:
    """Mean over the queries with a match; ``UsageError`` if there is no such query."""
    if np.isnan(values).all():
        raise UsageError(f"none of the {len(values)} queries has a match in the gallery")
    return float(np.nanmean(values))
