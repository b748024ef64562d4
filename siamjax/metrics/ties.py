"""Which gallery images tie with a match, and how many stand above: what the ranking measures count.

Equal scores say nothing about their order; :mod:`siamjax.metrics.reid` states the contract.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from siamjax.checks import require_bool, require_finite, require_names, same_kind
from siamjax.errors import UsageError
from siamjax.options import plain

Scores = Float[np.ndarray, "queries gallery"]
Mask = Bool[np.ndarray, "queries gallery"]
Valid = Mask | None
Ties = Literal["expected", "pessimistic"]


def codes(
    name: str, query: Shaped[np.ndarray, " queries"], gallery: Shaped[np.ndarray, " gallery"]
) -> tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " gallery"]]:
    """Names of both sides, such as identities, as whole numbers, which are cheap to compare."""
    query = require_names(f"{name} of the queries", query)
    gallery = require_names(f"{name} of the gallery", gallery)
    same_kind(name, query, gallery)
    if query.dtype.kind + gallery.dtype.kind in ("iu", "ui"):  # together they would be floats
        query, gallery = query.astype(np.str_), gallery.astype(np.str_)
    both = np.unique(np.concatenate([query, gallery]), return_inverse=True)[1]
    return both[: len(query)], both[len(query) :]


class Groups(NamedTuple):
    """Gallery images that tie, at least one match among them; query by query, the best first."""

    query: np.ndarray  # (groups,) whose list it is
    above: np.ndarray  # valid images of a higher score
    size: np.ndarray  # valid images of this score
    hits: np.ndarray  # matches among them, at least 1
    hits_above: np.ndarray  # matches of a higher score
    matches: np.ndarray  # (queries,) all matches


def counted(has_match: Bool[np.ndarray, " queries"]) -> int:
    """How many queries have a match; ``UsageError`` if none."""
    if not has_match.any():
        raise UsageError(f"none of the {has_match.size} queries has a valid match in the gallery")
    return int(has_match.sum())


def groups_of(score: Scores, match: Mask, valid: Valid, ties: Ties) -> Groups:
    """The groups of a score; ``UsageError`` as of :mod:`siamjax.metrics.reid`."""
    plain("ties", ties, Ties)
    match = require_bool("match", match, true="the same identity")
    counts = np.broadcast_to(True, match.shape) if valid is None else valid
    counts = require_bool("valid", counts, true="counts, is no junk")
    for name, mask in (("match", match), ("valid", counts)):
        if np.shape(score) != mask.shape or mask.ndim != 2:
            shapes = f"score {np.shape(score)} and {name} {mask.shape}"
            raise UsageError(f"{shapes} must both be (queries, gallery)")
    score = require_finite(
        "score",
        score,
        axes=2,
        where=counts,
        remedy="the network has diverged: use an earlier checkpoint",
    )
    groups, matches = [np.empty((5, 0), int)], np.zeros(len(score), int)
    for query, (scores, hit) in enumerate(zip(score, match, strict=True)):
        scores, hit = scores[counts[query]], hit[counts[query]]
        values, hits = np.unique(scores[hit], return_counts=True)
        ordered = np.sort(scores)  # the values alone: much faster than argsort
        first, last = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
        matches[query] = hits.sum()
        above, size, hits_above = scores.size - last, last - first, hits.sum() - np.cumsum(hits)
        group = np.stack([np.full_like(hits, query), above, size, hits, hits_above])
        groups.append(group[:, ::-1])
    query, above, size, hits, hits_above = np.hstack(groups)
    if ties == "pessimistic":  # each match is a group of its own, behind the others of its score
        place = np.arange(hits.sum()) - np.repeat(np.cumsum(hits) - hits, hits)
        above = np.repeat(above + size - hits, hits) + place
        hits_above = np.repeat(hits_above, hits) + place
        query, size, hits = np.repeat(query, hits), np.ones_like(place), np.ones_like(place)
    return Groups(query, above, size, hits, hits_above, matches)
