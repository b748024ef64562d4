"""Re-identification: is the right identity at the top of the list? CMC, mAP and mINP.

Contract: ``score`` (queries, gallery) rises with similarity (negate a distance); ``match`` of the
same shape is bool, True = same identity; ``valid`` likewise, False = junk for that query: as if
the image were not in the gallery, neither right nor wrong. None: everything is valid.
A query without a valid match cannot be ranked. It is left out, as in the official evaluation
codes, and the number of queries that count is reported.

Ties: equal scores say nothing about their order, so a constant score must give chance.
``ties="expected"`` is the exact mean over all orders of the tied images, ``"pessimistic"`` puts
the matches behind all that tie with them. The order of the arrays never matters.

Plain NumPy, query by query. ``UsageError`` for shapes that do not fit, masks not of bool, scores of
valid images that are not finite, and identities or cameras that are not known (NaN, None, "").
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped

from siamjax.checks import require_bool
from siamjax.errors import UsageError
from siamjax.metrics.ties import Mask, Scores, Ties, Valid, codes, counted, groups_of
from siamjax.options import plain

Definition = Literal["precision", "trapezoid", "at_r"]
RANKS = (1, 5, 10, 20)


def same_identity(
    query_identity: Shaped[np.ndarray, " queries"], gallery_identity: Shaped[np.ndarray, " gallery"]
) -> Mask:
    """The mask ``match``; identities are text or whole numbers, and of both sides alike."""
    query, gallery = codes("identities", query_identity, gallery_identity)
    return query[:, None] == gallery


def market_valid(
    query_identity: Shaped[np.ndarray, " queries"],
    gallery_identity: Shaped[np.ndarray, " gallery"],
    query_camera: Shaped[np.ndarray, " queries"],
    gallery_camera: Shaped[np.ndarray, " gallery"],
    *,
    junk: str | int | None = "-1",
) -> Mask:
    """The mask ``valid`` by the rule of Market-1501 (Zheng et al., ICCV 2015, and its code).

    Images of the query's own identity from its own camera are dropped, and for every query those
    of the identity ``junk`` (bad boxes; None: there are none). Distractors, identity 0 in
    Market-1501, stay: they can only be wrong.
    """
    same = same_identity(query_identity, gallery_identity)
    query, gallery = codes("cameras", query_camera, gallery_camera)
    if same.shape != (len(query), len(gallery)):
        shapes = f"cameras {query.shape} and {gallery.shape}"
        raise UsageError(f"{shapes} do not fit {same.shape} identities: give one for each image")
    valid = ~(same & (query[:, None] == gallery))
    if junk is not None:
        valid &= np.asarray(gallery_identity).astype(str) != str(junk)
    return valid


@dataclass(frozen=True, kw_only=True)
class Cmc:
    """Cumulative matching characteristic: ``curve[k - 1]`` = P(a match is among the first k)."""

    curve: Float[np.ndarray, " ranks"]
    queries: int  # queries with a valid match, the only ones that count


def cmc(
    score: Scores, match: Mask, *, valid: Valid = None, ties: Ties = "expected", ranks: int = 50
) -> Cmc:
    """Probability in [0, 1] that a match is among the first k = 1..``ranks`` images.

    All matches stay in the gallery (Market-1501); see :func:`single_shot` for a gallery of one
    image for each identity.
    Raises ``UsageError`` when no query has a valid match.
    """
    curves = hits(score, match, valid=valid, ties=ties, ranks=ranks)
    queries = counted(~np.isnan(curves[:, 0]))
    return Cmc(curve=np.nansum(curves, axis=0) / queries, queries=queries)


def hits(
    score: Scores, match: Mask, *, valid: Valid = None, ties: Ties = "expected", ranks: int = 50
) -> Float[np.ndarray, "queries ranks"]:
    """For each query the probability that a match is among the first k = 1..``ranks`` images.

    0 or 1 where nothing ties; NaN for a query without a valid match. The mean over queries is the
    CMC, or in retrieval recall@k.
    """
    if ranks < 1:
        raise UsageError(f"ranks {ranks} must be at least 1")
    groups = groups_of(score, match, valid, ties)
    curves = np.where(groups.matches[:, None] > 0, np.zeros(ranks), np.nan)
    for query, above, size, own in np.stack(groups[:4])[:, groups.hits_above == 0].T:
        # Probability of no match among the first t of the group: t draws without replacement.
        drawn = np.arange(min(size, max(ranks - above, 0)))
        miss = np.cumprod(np.maximum(size - own - drawn, 0) / (size - drawn))
        curves[query, above : above + drawn.size] = 1.0 - miss
        curves[query, above + drawn.size :] = 1.0
    return curves


def average_precision(
    score: Scores,
    match: Mask,
    *,
    valid: Valid = None,
    definition: Definition = "precision",
    ties: Ties = "expected",
) -> Float[np.ndarray, " queries"]:
    """Average precision of each query, in [0, 1]; NaN for a query without a valid match.

    With P(r) = matches among the first r, divided by r, it is over the ranks r of the matches

    * ``"precision"``: the mean of P(r) (torchreid, fast-reid);
    * ``"trapezoid"``: the mean of (P(r - 1) + P(r)) / 2 with P(0) = 1 (the evaluation code of
      Market-1501). It is lower, unless all matches lead the list;
    * ``"at_r"``: the sum of P(r) over ranks r <= R, divided by R, the number of matches. Its mean
      is MAP@R (Musgrave, Belongie, Lim, *A Metric Learning Reality Check*, ECCV 2020).

    All are exact for ``ties="expected"``. Let n images tie, m of them matches, behind a images
    and c matches of higher score. Place j of them holds a match with probability m / n, and then
    the precision there is (c + 1 + (j - 1)(m - 1) / (n - 1)) / (a + j) on average.
    """
    plain("definition", definition, Definition)
    query, above, size, hits, hits_above, matches = groups_of(score, match, valid, ties)
    # Place j = 1..size of a group holds a match with probability hits / size; if it does, each of
    # the j - 1 places before it holds one of the other matches with probability other.
    other = (hits - 1) / np.maximum(size - 1, 1)
    # For "at_r" only the first R places count.
    places = size if definition != "at_r" else np.clip(matches[query] - above, 0, size)
    harmonic = np.append(0.0, np.cumsum(1 / np.arange(1, (above + size).max(initial=0) + 1)))

    def total(start, before):
        """Sum over j of (start + other (j - 1)) / (before + j), in closed form."""
        spread = harmonic[before + places] - harmonic[before]
        inverse = np.where(places == 1, 1 / (before + 1), spread)
        return places * other + (start - other * (before + 1)) * inverse

    value = total(hits_above + 1, above)
    if definition == "trapezoid":  # P(r - 1): one image less, and without the match itself
        top = 1 + (size - 1) * other  # P(0) counts as 1
        value = (value + np.where(above, total(hits_above, np.maximum(above - 1, 0)), top)) / 2
    sums = np.bincount(query, value * hits / size, minlength=len(matches))
    return np.where(matches > 0, sums / np.maximum(matches, 1), np.nan)


def mean_average_precision(
    score: Scores,
    match: Mask,
    *,
    valid: Valid = None,
    definition: Definition = "precision",
    ties: Ties = "expected",
) -> float:
    """mAP: mean of ``average_precision`` over queries with a match; ``UsageError`` without any."""
    values = average_precision(score, match, valid=valid, definition=definition, ties=ties)
    return float(np.nansum(values) / counted(~np.isnan(values)))


def inverse_negative_penalties(
    score: Scores, match: Mask, *, valid: Valid = None, ties: Ties = "expected"
) -> Float[np.ndarray, " queries"]:
    """Number of matches / rank of the last one, for each query, in (0, 1]; NaN without a match."""
    groups = groups_of(score, match, valid, ties)
    values = np.full(len(groups.matches), np.nan)
    for query, above, size, hits, hits_above in zip(*groups[:5], strict=True):
        if hits_above + hits == groups.matches[query]:  # the group of the last match
            # P(it is at place j) = C(j-1, hits-1) / C(size, hits), from j = size downwards
            place = np.arange(size, hits - 1, -1)
            ratio = (place[:-1] - hits) / (place[:-1] - 1)
            probability = hits / size * np.cumprod(np.append(1.0, ratio))
            values[query] = groups.matches[query] * (probability / (above + place)).sum()
    return values


def inverse_negative_penalty(
    score: Scores, match: Mask, *, valid: Valid = None, ties: Ties = "expected"
) -> float:
    """mINP in (0, 1]: number of matches / rank of the last one; mean over queries with a match.

    Ye et al., *Deep Learning for Person Re-identification: A Survey and Outlook*, TPAMI 2021.
    """
    values = inverse_negative_penalties(score, match, valid=valid, ties=ties)
    return float(np.nansum(values) / counted(~np.isnan(values)))


@dataclass(frozen=True, kw_only=True)
class SingleShot:
    """CMC over trials, each with another gallery of one image for each identity."""

    mean: Float[np.ndarray, " ranks"]
    standard_deviation: Float[np.ndarray, " ranks"]  # of the trials, ddof 1; NaN for one trial
    gallery: int  # images in the gallery of each trial
    hits: Float[np.ndarray, "queries ranks"]  # of each query, mean over the trials


def single_shot(
    score: Scores,
    query_identity: Shaped[np.ndarray, " queries"],
    gallery_identity: Shaped[np.ndarray, " gallery"],
    *,
    distractor: Bool[np.ndarray, " gallery"] | None = None,
    trials: int = 10,
    seed: int = 0,
    ties: Ties = "expected",
    ranks: int = 50,
) -> SingleShot:
    """CMC where the gallery holds one image for each identity, drawn anew in each of ``trials``.

    The protocol of CUHK03 (classic), CUHK01 and QMUL GRID. Every row of ``score`` is a query in
    every trial. Images marked in ``distractor`` are in every gallery and match nobody, whatever
    their identity (the 775 of GRID). The first trials of a seed are the same for any number of
    ``trials``. Raises ``UsageError`` naming a query without any gallery image to draw.
    """
    query, gallery = codes("identities", query_identity, gallery_identity)
    always = np.zeros(gallery.size, bool) if distractor is None else distractor
    always = require_bool("distractor", always, true="matches nobody")
    if always.shape != gallery.shape:
        raise UsageError(
            f"distractor of shape {always.shape}; give one for each of {gallery.shape}"
        )
    if trials < 1:
        raise UsageError(f"trials {trials} must be at least 1")
    match = (query[:, None] == gallery) & ~always
    for at in np.flatnonzero(~match.any(axis=1)):
        name = np.asarray(query_identity)[at]
        raise UsageError(f"query {at} shows {name}, of whom the gallery holds no image to draw")
    generator, found, shown = np.random.default_rng(seed), [], always
    for _ in range(trials):
        shuffled = generator.permutation(np.flatnonzero(~always))
        drawn = shuffled[np.unique(gallery[shuffled], return_index=True)[1]]  # the first of each
        shown = always | np.isin(np.arange(gallery.size), drawn)
        valid = np.broadcast_to(shown, match.shape)
        found.append(hits(score, match, valid=valid, ties=ties, ranks=ranks))
    curves = np.mean(found, axis=1)
    return SingleShot(
        mean=np.mean(curves, axis=0),
        standard_deviation=np.std(curves, axis=0, ddof=1) if trials > 1 else np.full(ranks, np.nan),
        gallery=int(shown.sum()),
        hits=np.mean(found, axis=0),
    )


def by_query(
    score: Scores, match: Mask, *, valid: Valid = None, ties: Ties = "expected"
) -> dict[str, Float[np.ndarray, " queries"] | None]:
    """All measures of each query by name, whose means are :func:`summary`'s.

    ``rank1`` to ``rank20`` (None where the gallery has fewer images), ``map``, ``map_trapezoid``
    and ``minp``; NaN for a query without a valid match.
    """
    found = hits(score, match, valid=valid, ties=ties, ranks=max(RANKS))
    gallery = valid_images(score, valid)
    return {
        **{f"rank{k}": found[:, k - 1] if k <= gallery else None for k in RANKS},
        "map": average_precision(score, match, valid=valid, ties=ties),
        "map_trapezoid": average_precision(
            score, match, valid=valid, definition="trapezoid", ties=ties
        ),
        "minp": inverse_negative_penalties(score, match, valid=valid, ties=ties),
    }


def has_match(match: Mask, valid: Valid) -> Bool[np.ndarray, " queries"]:
    """Which queries have a valid match, and so count."""
    return np.any(match if valid is None else np.logical_and(match, valid), axis=1)


def valid_images(score: Scores, valid: Valid) -> int:
    """Number of gallery images that are valid for any query."""
    return np.shape(score)[1] if valid is None else int(np.any(valid, axis=0).sum())


def summary(
    score: Scores, match: Mask, *, valid: Valid = None, ties: Ties = "expected"
) -> dict[str, float | None]:
    """All measures by name.

    ``rank1`` to ``rank20`` (CMC; None where the gallery has fewer images), ``map``,
    ``map_trapezoid``, ``minp``; and the numbers of ``queries`` that count, of
    ``queries_without_match``, and of ``gallery`` images that are valid for any query.
    """
    values = by_query(score, match, valid=valid, ties=ties)
    queries = counted(has_match(match, valid))
    return {
        **{n: None if one is None else float(np.nanmean(one)) for n, one in values.items()},
        "queries": queries,
        "queries_without_match": len(score) - queries,
        "gallery": valid_images(score, valid),
    }
