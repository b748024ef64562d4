"""Search of a catalogue by embeddings: recall@k and MAP@R, query block by query block."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from siamjax.errors import UsageError
from siamjax.metrics import reid

RECALLS = (1, 3, 5, 10, 20)


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """How well each query was answered; NaN for a query without a match in the gallery.

    Attributes:
        recall: (queries, 5) probability that a match is among the first 1, 3, 5, 10, 20.
        map_at_r: (queries,) average precision over the first R, R the number of its matches.
        gallery: images that each query is looked up in.
    """

    recall: Float[np.ndarray, "queries 5"]
    map_at_r: Float[np.ndarray, " queries"]
    gallery: int

    def summary(self, chosen: np.ndarray | None = None) -> dict[str, float | None]:
        """Means by name, over all queries or those that a mask chooses.

        None where the gallery has fewer than k images. ``UsageError`` if no query counts.
        """
        recall = self.recall if chosen is None else self.recall[chosen]
        precision = self.map_at_r if chosen is None else self.map_at_r[chosen]
        counted = int((~np.isnan(precision)).sum())
        if not counted:
            raise UsageError(f"none of the {len(precision)} queries has a match in the gallery")
        means = np.nanmean(recall, axis=0)
        return {
            **{
                f"recall_at_{k}": float(mean) if k <= self.gallery else None
                for k, mean in zip(RECALLS, means, strict=True)
            },
            "map_at_r": float(np.nanmean(precision)),
            "queries": counted,
            "queries_without_match": len(precision) - counted,
            "gallery": self.gallery,
        }

    def by(self, groups: Shaped[np.ndarray, " queries"]) -> Mapping[str, dict[str, float | None]]:
        """:meth:`summary` of each group of queries with a match, such as a category.

        "" says that a query's group is not known: it is no group.
        """
        counted = ~np.isnan(self.map_at_r)
        names = np.unique(groups[counted]).tolist()
        return {str(name): self.summary(groups == name) for name in names if name != ""}


def search_quality(
    query: Float[np.ndarray, "queries features"],
    gallery: Float[np.ndarray, "gallery features"],
    query_identity: Shaped[np.ndarray, " queries"],
    gallery_identity: Shaped[np.ndarray, " gallery"],
    *,
    own: Int[np.ndarray, " queries"] | None = None,
    block: int = 512,
) -> Found:
    """Rank the gallery for every query by Euclidean distance (of unit vectors: by cosine).

    ``own`` is each query's own place in the gallery, where it is left out (leave one out). Memory
    is that of ``block`` rows of distances. Ties count by expectation, so that a network whose
    embeddings are all alike scores chance. Raises ``UsageError`` for embeddings that are not
    finite.
    """
    if not (np.isfinite(query).all() and np.isfinite(gallery).all()):
        raise UsageError("embeddings are not finite: the network has diverged")
    # About the gallery's mean, which takes away most of what cancels.
    centre = gallery.mean(axis=0)
    query, gallery = query - centre, gallery - centre
    squares = np.einsum("gf,gf->g", gallery, gallery)
    recall, precision = [], []
    for start in range(0, len(query), block):
        rows = slice(start, start + block)
        score = 2.0 * query[rows] @ gallery.T - squares  # rises as the distance falls
        match = reid.same_identity(query_identity[rows], gallery_identity)
        valid = None
        if own is not None:
            valid = np.ones(match.shape, np.bool_)
            valid[np.arange(len(match)), own[rows]] = False
        curves = reid.hits(score, match, valid=valid, ranks=max(RECALLS))
        recall.append(curves[:, [k - 1 for k in RECALLS]])
        precision.append(reid.average_precision(score, match, valid=valid, definition="at_r"))
    return Found(
        recall=np.concatenate(recall),
        map_at_r=np.concatenate(precision),
        gallery=len(gallery) - (own is not None),
    )
