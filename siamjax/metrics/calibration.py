"""From scores to decisions: a threshold that keeps a false match rate, and likelihood ratios.

``score`` and ``same`` (pairs,) as in :mod:`siamjax.metrics.verification`, identities as in
:mod:`siamjax.metrics.intervals`. Log-likelihood ratios (LLR) are natural logarithms. What is fitted
here must be reported on other people. Plain NumPy and SciPy. ``UsageError`` for scores that are
not finite or all equal, where a kind of pair is missing, and for rates that so few people cannot
show.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from siamjax.checks import require_bool, require_finite, require_number
from siamjax.errors import UsageError
from siamjax.metrics.intervals import (
    Names,
    Rate,
    deviations,
    of_each_person,
    people_bounds,
    people_of,
    people_rate,
    person_pairs,
    why_unknown,
)
from siamjax.metrics.verification import Roc

Scores = Float[np.ndarray, " pairs"]
Labels = Bool[np.ndarray, " pairs"]
_CELLS = 2**16  # thresholds x people that are looked at at a time: the search mostly ends early


def threshold_at_fmr(
    score: Scores, first: Names, second: Names, *, fmr: float, certainty: float = 0.95
) -> float:
    """The threshold whose false match rate is at most ``fmr``, with a certainty over samples.

    ``score`` are comparisons of different people alone; a pair matches if ``score >= threshold``.
    It goes down from the highest score while the upper end of the rate's two-sided interval over
    people stays within ``fmr``, and stops just above the first score that fails: testing in a fixed
    order needs no correction (Angelopoulos et al., *Learn then test*, 2021). The end of the
    two-sided interval, because the samples that miss the true rate are nearly all too low. Equal
    scores cross together. Without identities, comparisons are independent: the most false
    matches f with P(Binomial(n, fmr) <= f) <= 1 - ``certainty`` are allowed (Wilks, 1941).

    ``UsageError`` names how many people are missing where even no false match would show ``fmr``.
    That counts each pair of people as independent; with fewer people than
    ``people_needed(fmr, disjoint=True)`` it is an assumption, to be printed.
    """
    score, one, other, people = _impostors(score, first, second)
    require_number("fmr", fmr, above=0, below=1)
    require_number("certainty", certainty, above=0, below=1)
    units = person_pairs(one, other)
    if reason := why_unknown(fmr, pairs=units, people=people, certainty=certainty, name="FMR"):
        raise UsageError(reason)
    order = np.argsort(-score, kind="stable")
    if people is None:
        allowed = allowed_errors(score.size, fmr, certainty=certainty)
    else:
        upper = (1 + certainty) / 2
        allowed = _allowed(score[order], one[order], other[order], people, fmr=fmr, certainty=upper)
    return just_above(score[order], allowed)


def _allowed(
    ordered: Scores,
    one: np.ndarray,
    other: np.ndarray,
    people: int,
    *,
    fmr: float,
    certainty: float,
) -> int:
    """How many of falling impostor scores may match before the bound first exceeds ``fmr``."""
    count, compared = ordered.size, of_each_person(one, other, people)
    ends = np.append(np.flatnonzero(np.diff(ordered)) + 1, count)  # ties cross together
    allowed, errors = 0, np.zeros((1, people))
    for some in np.split(ends, np.arange(0, ends.size, max(1, _CELLS // people))[1:]):
        row = np.repeat(np.arange(some.size), np.diff(some, prepend=allowed))
        new = np.zeros((some.size, people))
        for side in (one, other):
            np.add.at(new, (row, side[allowed : some[-1]]), 1)
        errors = errors[-1] + np.cumsum(new, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):  # someone is in all comparisons
            away = deviations(some, errors, compared, count)
            high = people_bounds(some / count, away, count, certainty=certainty)[1]
        fails = ~(high <= fmr) | (some == count)  # to accept everything is never within a rate
        if fails.any():
            return int(some[np.argmax(fails) - 1]) if not fails[0] else allowed
        allowed = int(some[-1])
    return allowed


def _impostors(
    score: Any, first: Any, second: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int | None]:
    """Scores of different people and the codes of these, checked."""
    score = _scores(score)
    one, other, people = people_of(first, second, score.size)
    if people is not None and (one == other).any():
        at = int(np.argmax(one == other))
        raise UsageError(f"comparison {at} is of one person: give those of different people alone")
    return score, one, other, people


def _scores(score: Any) -> np.ndarray:
    """Finite scores in a float type of their own, not all equal."""
    remedy = "the network has diverged: use an earlier checkpoint"
    score = require_finite("score", score, axes=1, remedy=remedy)
    if not score.size or (score == score[0]).all():
        raise UsageError(
            f"all of the {score.size} scores are equal: they tell nobody apart; the network has "
            "collapsed, or all images are alike"
        )
    return score if score.dtype.kind == "f" else score.astype(np.float64)


def allowed_errors(trials: int, rate: float, *, certainty: float = 0.95) -> int:
    """The most errors of independent trials that still show a ``rate``; -1 if none shows it."""
    from scipy import special  # takes 0.3 s to import

    errors = np.arange(trials)
    return int(np.searchsorted(special.bdtr(errors, trials, rate), 1 - certainty, "right")) - 1


def just_above(ordered: Scores, accepted: int) -> float:
    """The least threshold that accepts at most so many of falling scores, in the scores' type."""
    return float(np.nextafter(ordered[accepted], np.asarray(np.inf, ordered.dtype)))


@dataclass(frozen=True, kw_only=True)
class LikelihoodRatio:
    """LLR of "same" to "different": ``slope * score + offset``, within ``lowest``..``highest``.

    Beyond the scores that it was fitted on it stays as it is at their ends.
    """

    slope: float
    offset: float
    lowest: float
    highest: float

    def __call__(self, score: Scores) -> Scores:
        """The LLR of each score."""
        line = self.slope * np.asarray(score, np.float64) + self.offset
        return np.clip(line, self.lowest, self.highest)


def fit_llr(
    score: Scores, same: Labels, *, first: Names = None, second: Names = None, prior: float = 0.5
) -> LikelihoodRatio:
    """Logistic regression whose kinds weigh ``prior`` and 1 - ``prior``, however many there are.

    The slope is never negative. Where no score is wrong the regression has no end, and Platt's
    targets (n + 1)/(n + 2) and 1/(m + 2) for n same and m different pairs give it one. No LLR lies
    beyond those of the least and the greatest score, nor beyond -ln(n) and ln(m), since so many
    pairs show no rarer error: of people and of pairs of people, where identities are given.

    Brümmer and du Preez, *Application-independent evaluation of speaker detection*, 2006, section
    6; Platt, *Probabilistic outputs for support vector machines*, 1999.
    """
    score, same = _both_kinds(score, same)
    require_number("prior", prior, above=0, below=1)
    score = score.astype(np.float64)
    kinds = score[same], score[~same]
    targets = [1.0, 0.0]
    if kinds[0].min() >= kinds[1].max():
        targets = [(kinds[0].size + 1) / (kinds[0].size + 2), 1 / (kinds[1].size + 2)]
    centre, scale = score.mean(), score.std()
    logit = float(np.log(prior) - np.log1p(-prior))
    slope, offset = 0.0, logit
    if kinds[0].mean() > kinds[1].mean():  # else the best slope that is not negative is 0
        weight = np.where(same, prior / kinds[0].size, (1 - prior) / kinds[1].size)
        target = np.where(same, *targets)
        slope, offset = _newton((score - centre) / scale, target, weight, np.array([0.0, logit]))
    slope, offset = slope / scale, offset - logit - slope * centre / scale
    one, other, people = people_of(first, second, score.size)
    limits = kinds[0].size, kinds[1].size
    if people is not None:
        limits = len(np.unique(one[same])), person_pairs(one[~same], other[~same])
    least, greatest = slope * score.min() + offset, slope * score.max() + offset
    return LikelihoodRatio(
        slope=float(slope),
        offset=float(offset),
        lowest=float(max(least, -np.log(limits[0]))),
        highest=float(min(greatest, np.log(limits[1]))),
    )


def _both_kinds(score: Any, same: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores and the truth; errors say which images are missing."""
    same = np.asarray(require_bool("same", same, true="the same identity"))
    score = _scores(score)
    if score.shape != same.shape:
        raise UsageError(f"score {score.shape} and same {same.shape}: give one for each pair")
    if not same.any():
        raise UsageError("no pair of the same identity: give two images or more of each identity")
    if same.all():
        raise UsageError("no pair of different identities: give two identities or more")
    return score, same


def _newton(x: np.ndarray, target: np.ndarray, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Slope and offset of least weighted cross entropy to targets in [0, 1]; it is convex."""
    from scipy import special

    design = np.stack([x, np.ones_like(x)], axis=1)

    def loss(line: np.ndarray) -> float:
        logit = design @ line
        return float(weight @ (np.logaddexp(0, logit) - target * logit))

    line, cost = start, loss(start)
    for _ in range(100):
        probability = special.expit(design @ line)
        gradient = design.T @ (weight * (probability - target))
        curvature = (design * (weight * probability * (1 - probability))[:, None]).T @ design
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        size = 1.0
        while (moved := loss(line - size * step)) > cost and size > 1e-9:
            size /= 2
        if cost - moved <= 1e-15 * cost:
            break
        line, cost = line - size * step, moved
    return line


def posterior(llr: Scores | float, *, prior: float) -> Any:
    """P(same) in (0, 1) where a share ``prior`` of all compared pairs is same; none without it."""
    require_number("prior", prior, above=0, below=1)
    odds = np.asarray(llr, np.float64) + np.log(prior) - np.log1p(-prior)
    return np.exp(-np.logaddexp(0, -odds))  # scipy.special takes long to import


def cllr(llr: Scores, same: Labels) -> float:
    """Cost of likelihood ratios in bits: 0 is perfect, 1 what an LLR of 0 for all costs.

    1/2 [mean over same pairs of log2(1 + 1/LR) + mean over different ones of log2(1 + LR)]:
    Brümmer and du Preez, 2006.
    """
    llr, same = np.asarray(llr, np.float64), np.asarray(same)
    costs = np.logaddexp(0, -llr[same]).mean(), np.logaddexp(0, llr[~same]).mean()
    return float(sum(costs) / (2 * np.log(2)))


def pav(score: Scores, same: Labels) -> tuple[Scores, Scores]:
    """P(same) as the best function of the score that never falls: distinct scores, and it there.

    Pool adjacent violators; equal scores are one value first. ``same`` has the share of these
    pairs, which is the prior.
    """
    from scipy.optimize import isotonic_regression  # takes 0.8 s to import

    score, same = _both_kinds(score, same)
    distinct, place, count = np.unique(score, return_inverse=True, return_counts=True)
    share = np.bincount(place, same) / count
    return distinct, isotonic_regression(share, weights=count).x


def min_cllr(score: Scores, same: Labels) -> float:
    """The least :func:`cllr` that a rising function of the score has on these very pairs.

    It flatters where pairs are few: print their number. ``cllr - min_cllr`` is what a calibration
    loses.
    """
    distinct, probability = pav(score, same)
    score, same = np.asarray(score), np.asarray(same)
    with np.errstate(divide="ignore"):
        odds = np.log(probability) - np.log1p(-probability)
    prior = np.log(same.sum()) - np.log((~same).sum())
    return cllr((odds - prior)[np.searchsorted(distinct, score)], same)


def det_points(curve: Roc) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """False match and false non-match rates as normal deviates: both axes of the DET curve.

    A rate of 0 or 1 has no place there; it stops at 1/n of its n pairs from it. Martin et al.,
    *The DET curve in assessment of detection task performance*, 1997.
    """
    from scipy import special

    stops = 1 / curve.negatives, 1 / curve.positives
    rates = curve.false_accept, 1 - curve.true_accept
    x, y = (
        special.ndtri(np.clip(rate, stop, 1 - stop))
        for rate, stop in zip(rates, stops, strict=True)
    )
    return x, y


class Bin(NamedTuple):
    """Pairs of like probability: the mean that was said, and the share that is same."""

    said: float
    seen: Rate


def reliability(
    probability: Scores, same: Labels, first: Names, second: Names, *, bins: int = 10
) -> list[Bin]:
    """Is what is said with P = 0.8 true in 8 of 10 cases? Bins of equal count, over people.

    ``probability`` is P(same) at the prior of these pairs, in [0, 1]. Equal probabilities share a
    bin, so that there may be fewer.
    """
    probability = require_finite("probability", probability, axes=1, remedy="check the scores")
    same = np.asarray(require_bool("same", same, true="the same identity"))
    one, other, people = people_of(first, second, same.size)
    below = np.searchsorted(np.sort(probability), probability)  # pairs of a lower probability
    places = below * bins // probability.size
    found = []
    for place in np.unique(places):
        chosen = places == place
        names = (None, None) if people is None else (one[chosen], other[chosen])
        found.append(Bin(float(probability[chosen].mean()), people_rate(same[chosen], *names)))
    return found
