"""Retrieval: which image of a catalogue shows the same item? Recall@k and MAP@R of embeddings.

The gallery is ranked for every query by Euclidean distance (of unit vectors, that is by cosine).
``own`` gives each query's own place in the gallery, where the query itself is left out. A query
without a match does not count. Ties count by expectation, so that a network whose embeddings are
all alike scores chance. Equal embeddings tie, and all else is ordered by distances in float64
(:mod:`siamjax.exact_distances`), however far from the origin. Memory is that of a float32 copy of
the gallery and of ``block`` rows of distances. Plain NumPy; ``UsageError`` for embeddings that are
not finite and for identities that are not known.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from siamjax.checks import require_bool, require_names, require_places
from siamjax.errors import UsageError
from siamjax.exact_distances import (
    RankedDistances,
    distances_to,
    greatest,
    product_error,
    require_embeddings,
)
from siamjax.metrics import reid
from siamjax.metrics.ties import codes

Embeddings = Float[np.ndarray, "n features"]
Identities = Shaped[np.ndarray, " n"]
Places = Int[np.ndarray, " queries"]

RECALLS = (1, 3, 5, 10, 20)
_ROWS = 4096  # made float32 at a time
_UNCLEAR = 64  # more images than this beyond those asked for: float32 is too coarse here


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
    asked = _Searched(query, gallery, query_identity, gallery_identity, own=own)
    if not 1 <= k <= asked.images:
        raise UsageError(
            f"k is {k}: choose 1 to {asked.images}, the number of images in the gallery"
        )
    hits = [
        reid.hits(score, match, valid=valid, ranks=k)[:, -1]
        for score, match, valid in asked.blocks(block, ranks=k)
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
    asked = _Searched(query, gallery, query_identity, gallery_identity, own=own)
    precision = [
        reid.average_precision(score, match, valid=valid, definition="at_r")
        for score, match, valid in asked.blocks(block, ranks=1, whole=True)
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

    @property
    def by_query(self) -> dict[str, Float[np.ndarray, " queries"] | None]:
        """Measures of each query by name; None where the gallery has fewer than k images."""
        columns = zip(RECALLS, self.recall.T, strict=True)
        recalls = {f"recall_at_{k}": one if k <= self.gallery else None for k, one in columns}
        return {**recalls, "map_at_r": self.map_at_r}

    def summary(
        self, chosen: Bool[np.ndarray, " queries"] | None = None
    ) -> dict[str, float | None]:
        """Means by name, over all queries or those that a mask chooses.

        None where the gallery has fewer than k images. ``UsageError`` if no query has a match.
        """
        if chosen is not None:
            chosen = np.asarray(require_bool("chosen", chosen, true="counts"))
            if chosen.shape != self.map_at_r.shape:
                raise UsageError(f"chosen of shape {chosen.shape} for {len(self.map_at_r)} queries")
        values = {
            name: one if one is None or chosen is None else one[chosen]
            for name, one in self.by_query.items()
        }
        precision = self.map_at_r if chosen is None else self.map_at_r[chosen]
        counted = int((~np.isnan(precision)).sum())
        return {
            **{name: None if one is None else _mean(one) for name, one in values.items()},
            "queries": counted,
            "queries_without_match": len(precision) - counted,
            "gallery": self.gallery,
        }

    def groups(
        self, groups: Shaped[np.ndarray, " queries"]
    ) -> dict[str, Bool[np.ndarray, " queries"]]:
        """Masks of the queries of each group that has a query with a match, such as a category.

        Queries of the group "" are left out: their group is not known.
        """
        counted = ~np.isnan(self.map_at_r)
        groups = require_names("groups", groups, count=len(counted), unknown=True)
        names = np.unique(groups[counted]).tolist()
        return {str(name): groups == name for name in names if name != ""}


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
    asked = _Searched(query, gallery, query_identity, gallery_identity, own=own)
    for score, match, valid in asked.blocks(block, ranks=max(RECALLS), whole=True):
        curves = reid.hits(score, match, valid=valid, ranks=max(RECALLS))
        recall.append(curves[:, [k - 1 for k in RECALLS]])
        precision.append(reid.average_precision(score, match, valid=valid, definition="at_r"))
    return Found(
        recall=np.concatenate(recall),
        map_at_r=np.concatenate(precision),
        gallery=asked.images,
    )


def scores_quality(
    score: Float[np.ndarray, "queries gallery"],
    query_identity: Identities,
    gallery_identity: Identities,
    *,
    own: Places | None = None,
) -> Found:
    """:func:`search_quality` by scores that rise with similarity, of a network without embeddings.

    Memory is that of the scores.
    """
    match, valid = reid.same_identity(query_identity, gallery_identity), None
    if own is not None:
        places = require_places("own", own, total=match.shape[1], count=len(match))
        valid = np.arange(match.shape[1]) != places[:, None]
    curves = reid.hits(score, match, valid=valid, ranks=max(RECALLS))
    return Found(
        recall=curves[:, [k - 1 for k in RECALLS]],
        map_at_r=reid.average_precision(score, match, valid=valid, definition="at_r"),
        gallery=match.shape[1] - (own is not None),
    )


class _Searched:
    """Queries and a gallery to search, and who matches whom."""

    def __init__(
        self, query: Any, gallery: Any, query_identity: Any, gallery_identity: Any, *, own: Any
    ) -> None:
        self._query = require_embeddings("query", query)
        self._gallery = require_embeddings("gallery", gallery)
        (queries, features), (total, others) = self._query.shape, self._gallery.shape
        if features != others:
            raise UsageError(
                f"query of {features} features, gallery of {others}: embed both by one network"
            )
        self._asked, self._shown = codes("identities", query_identity, gallery_identity)
        if (len(self._asked), len(self._shown)) != (queries, total):
            raise UsageError(
                f"{len(self._asked)} and {len(self._shown)} identities of {queries} queries "
                f"and {total} gallery images: give one for each"
            )
        self._own = np.full(queries, -1)
        if own is not None:
            self._own = require_places("own", own, total=total, count=queries)
        self.images = total - (own is not None)
        # Float32 about the mean, scaled so that it holds the squares: a fast first pass.
        most = greatest(self._gallery)
        self._scale = 2.0 ** -np.ceil(np.log2(most)) if most else 1.0
        self._centre = self._gallery.mean(axis=0, dtype=np.float64)
        self._narrow = np.empty(self._gallery.shape, np.float32)
        for start in range(0, total, _ROWS):
            rows = slice(start, start + _ROWS)
            self._narrow[rows] = (self._gallery[rows] - self._centre) * self._scale
        self._squares = np.einsum("gf,gf->g", self._narrow, self._narrow)

    def blocks(
        self, block: int, *, ranks: int, whole: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Score, match and valid of :mod:`siamjax.metrics.reid`, ``block`` queries at a time.

        They hold, in place of each query's gallery, its first ``ranks`` images (with ``whole`` as
        many as it has matches, if these are more), all that tie with these, and all matches:
        nothing else counts at these ranks. The order is that of float64 differences.
        """
        ranked: RankedDistances | None = None  # exact and slow
        share = 2 * product_error(self._query.shape[1], np.float32)
        longest = np.sqrt(self._squares.max())
        for start in range(0, len(self._query), block):
            query, own = self._query[start : start + block], self._own[start : start + block]
            match = self._asked[start : start + block, None] == self._shown
            match[own >= 0, own[own >= 0]] = False
            matches = match.sum(axis=1)
            most = np.maximum(ranks, matches * whole).clip(1, self.images)
            with np.errstate(over="ignore", invalid="ignore"):  # of queries that are very far
                wide = (query - self._centre) * self._scale
                # Without the query's own square, which changes no rank.
                values = self._squares - 2.0 * wide.astype(np.float32) @ self._narrow.T
                margin = share * (np.sqrt(np.square(wide).sum(axis=1)) + longest) ** 2
            listed = [_first(*one) for one in zip(values, match, own, most, margin, strict=True)]
            distances: dict[int, np.ndarray] = {}
            usual = 4 * most + matches + _UNCLEAR
            unclear = [n for n, row in enumerate(listed) if len(row) > usual[n]]
            if unclear:
                ranked = ranked or RankedDistances(self._gallery)
                for n, values_ in zip(unclear, ranked(query[unclear]), strict=True):
                    listed[n] = _first(values_, match[n], own[n], most[n], 0.0)
                    distances[n] = values_[listed[n]]
            score = np.zeros((len(query), max(map(len, listed))))
            found, valid = np.zeros((2, *score.shape), np.bool_)
            for n, places in enumerate(listed):
                filled = slice(len(places))
                if n not in distances:
                    distances[n] = distances_to(query[n], self._gallery[places])[0]
                score[n, filled], found[n, filled] = -distances[n], match[n, places]
                valid[n, filled] = True
            yield score, found, valid


def _first(
    values: Float[np.ndarray, " gallery"],
    match: Bool[np.ndarray, " gallery"],
    own: int,
    most: int,
    margin: float,
) -> Int[np.ndarray, " places"]:
    """Places of the matches and of all that may be among the ``most`` nearest but ``own``."""
    if own >= 0:
        values[own] = np.inf
    with np.errstate(over="ignore", invalid="ignore"):  # then everything is possible
        limit = np.partition(values, most - 1)[most - 1] + values.dtype.type(margin)
    possible = ~(values > np.nextafter(limit, np.inf)) | match
    if own >= 0:
        possible[own] = False
    return np.flatnonzero(possible)


def _mean(values: np.ndarray) -> float:
    """Mean over the queries with a match; ``UsageError`` if there is no such query."""
    if np.isnan(values).all():
        raise UsageError(f"none of the {len(values)} queries has a match in the gallery")
    return float(np.nanmean(values))
