"""Searches that may find nobody: false positive and false negative identification rates.

A search compares one image with a gallery of N images. Without its person in the gallery it is
non-mated, and any candidate at or above the threshold is wrong; with him it is mated. Rates belong
to their N: the more images, the higher the best score of a stranger. ``best`` (searches,) is the
highest score of each non-mated search, ``people`` (searches,) whom the searches show, who are the
units; None: each search is another person's. Definitions: ISO/IEC 19795-1:2021, clause 3; NIST
FRTE 1:N (NISTIR 8271). Plain NumPy and SciPy; ``UsageError`` for scores that are not finite and for
rates that so few people cannot show.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from siamjax.checks import require_finite, require_number
from siamjax.errors import UsageError
from siamjax.metrics.calibration import allowed_errors, just_above
from siamjax.metrics.intervals import Rate, comparisons_needed, people_of, people_rate

Searches = Float[np.ndarray, " searches"]
People = Shaped[np.ndarray, " searches"] | None


def fpir(best: Searches, people: People, *, threshold: float) -> Rate:
    """Share of non-mated searches with any candidate at or above the threshold: FPIR(N, T)."""
    best = _finite(best)
    return people_rate(best >= threshold, people, people)


def fnir(
    mate: Searches,
    rank: Int[np.ndarray, " searches"],
    people: People,
    *,
    threshold: float,
    top: int = 1,
) -> Rate:
    """FNIR(N, R, T): share of mated searches without the mate in the first ``top`` at threshold T.

    ``mate`` is the highest score of an image of the same person, ``rank`` its place, from 1.
    """
    mate, rank = _finite(mate), np.asarray(rank)
    if rank.shape != mate.shape:
        raise UsageError(f"mate {mate.shape} and rank {rank.shape}: give one for each search")
    return people_rate((mate < threshold) | (rank > top), people, people)


def threshold_at_fpir(
    best: Searches, people: People, *, fpir: float, certainty: float = 0.95
) -> float:
    """The threshold that keeps FPIR at most ``fpir``, with a certainty over samples of people.

    Each person counts once, with the highest score of all his searches; so many of n independent
    people are wrong that P(Binomial(n, fpir) <= wrong) <= 1 - ``certainty``. It holds for people
    like these and galleries of this size. ``UsageError`` for fewer people than
    ``comparisons_needed(fpir)``: 29 for 0.1, 299 for 0.01.
    """
    highest = _of_people(best, people)
    require_number("fpir", fpir, above=0, below=1)
    allowed = allowed_errors(highest.size, fpir, certainty=certainty)
    if allowed < 0:
        needed = comparisons_needed(fpir, certainty=certainty)
        raise UsageError(
            f"FPIR {fpir:g} needs searches of at least {needed:,} people who are not in the "
            f"gallery; there are {highest.size:,}: {needed - highest.size:,} are missing"
        )
    return just_above(highest, allowed)


def conformal_p(best: Searches, people: People, score: Any) -> Any:
    """P-value of a search's highest score, if its person is not in the gallery: (0, 1].

    (1 + number of calibration people whose highest score is as high) / (n + 1): Vovk et al.,
    *Algorithmic learning in a random world*, 2005; Bates et al., *Testing for outliers with
    conformal p-values*, 2023. Who is taken as known for p <= a is a stranger with a probability of
    at most a *on average over calibrations*, if the stranger is exchangeable with the calibration's
    people (same gallery, camera, kind of people) and searched once. It says less than
    :func:`threshold_at_fpir`: given one calibration, FPIR is Beta(k, n + 1 - k) of
    k = floor(a (n + 1)), above a about half of the time.
    """
    rising = _of_people(best, people)[::-1]
    as_high = rising.size - np.searchsorted(rising, score)
    return (1 + as_high) / (rising.size + 1)


def conformal_threshold(best: Searches, people: People, *, fpir: float) -> float:
    """The threshold of :func:`conformal_p` <= ``fpir``, for few people: at least 1/fpir - 1.

    FPIR is at most ``fpir`` on average over calibrations, not in 95 % of them.
    """
    highest = _of_people(best, people)
    require_number("fpir", fpir, above=0, below=1)
    allowed = int(np.floor(fpir * (highest.size + 1) + 1e-9)) - 1
    if allowed < 0:
        needed = int(np.ceil(1 / fpir - 1e-9)) - 1
        raise UsageError(
            f"FPIR {fpir:g} on average needs searches of at least {needed:,} people who are not in "
            f"the gallery; there are {highest.size:,}: {needed - highest.size:,} are missing"
        )
    return just_above(highest, allowed)


def _of_people(best: Any, people: Any) -> Searches:
    """The highest score of each person, falling."""
    best = _finite(best)
    person, _, _ = people_of(people, people, best.size)
    highest = np.full(int(person.max()) + 1, -np.inf, best.dtype)
    np.maximum.at(highest, person, best)
    return np.sort(highest)[::-1]


def _finite(score: Any) -> Searches:
    """Highest scores of searches in a float type of their own."""
    remedy = "the network has diverged: use an earlier checkpoint"
    score = require_finite("scores of searches", score, axes=1, remedy=remedy)
    if not score.size:
        raise UsageError("no search: give at least one")
    return score if score.dtype.kind == "f" else score.astype(np.float64)
