"""How sure is a rate? Intervals over people, because pairs that share a person are no units.

Rates at a fixed threshold have the jackknife over people with Wilson's interval
(:func:`people_rate`), and where no error is seen the rule of 3, over people. All other measures are
resampled: :mod:`siamjax.metrics.bootstrap`. How many people a rate needs: :func:`people_needed`.

Identities are text or whole numbers, one for each side of a comparison, and equal on both sides of
a genuine one. ``None`` in their place: they are not known, comparisons are taken as independent,
and ``people`` of the result is None, which whoever prints it must say.
Plain NumPy and SciPy. ``UsageError`` for shapes that do not fit and names that contradict.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from siamjax.checks import require_bool, require_finite, require_number
from siamjax.errors import UsageError
from siamjax.metrics.ties import codes

Names = Shaped[np.ndarray, " comparisons"] | None
FARS = (1e-1, 1e-2, 1e-3, 1e-4)  # at which tables give the true accept rate


class Interval(NamedTuple):
    """Bounds within which the true value lies, in 95 % of all samples unless said otherwise."""

    low: float
    high: float


class Rate(NamedTuple):
    """A share of comparisons, and how sure it is.

    Attributes:
        value: the share, in [0, 1].
        interval: where the rate of all people like these lies.
        comparisons: how many there are.
        people: how many people they show; None where comparisons are taken as independent.
        effective: independent comparisons that would be as sure.
    """

    value: float
    interval: Interval
    comparisons: int
    people: int | None
    effective: float


def people_rate(
    wrong: Bool[np.ndarray, " comparisons"],
    first: Names,
    second: Names,
    *,
    confidence: float = 0.95,
) -> Rate:
    """Share of ``wrong`` comparisons, with an interval over the people that they show.

    Wilson's interval for an effective number of comparisons, which the jackknife over people gives
    (:func:`people_bounds`). Without any error (or with nothing else) each pair of people is a unit:
    exact bounds for 0 of so many; nor does an interval with errors end below that. [0, 1] where
    leaving out one person leaves no comparison. O(comparisons): 10,000 of numbered people take
    2 ms, of named ones 10 ms.
    """
    wrong = np.asarray(require_bool("wrong", wrong, true="an error"))
    require_number("confidence", confidence, above=0, below=1)
    if wrong.ndim != 1 or not wrong.size:
        raise UsageError(f"wrong of shape {wrong.shape}: give one value for each comparison")
    count, rate = wrong.size, float(wrong.mean())
    one, other, people = people_of(first, second, count)
    certainty = (1 + confidence) / 2
    units = count if people is None else person_pairs(one, other)
    bound = smallest_rate(units, certainty=certainty)
    if rate in (0.0, 1.0):
        interval = Interval(0.0, bound) if rate == 0 else Interval(1 - bound, 1.0)
        return Rate(rate, interval, count, people, float(units))
    if people is None:
        low, high = wilson(rate, count, certainty=certainty)
        return Rate(rate, Interval(float(low), float(high)), count, people, float(count))
    compared, errors = (
        of_each_person(one[chosen], other[chosen], people)
        for chosen in (np.ones_like(wrong), wrong)
    )
    if people < 2 or (compared == count).any():
        return Rate(rate, Interval(0.0, 1.0), count, people, 0.0)
    away = deviations(np.count_nonzero(wrong), errors, compared, count)
    low, high, effective = people_bounds(rate, away, count, certainty=certainty)
    # Some errors show no lower rate than none would, nor some right answers a higher one.
    interval = Interval(min(float(low), 1 - bound), max(float(high), bound))
    return Rate(rate, interval, count, people, float(effective))


def people_bounds(
    rate: Any, away: Float[np.ndarray, "*rates people"], count: int, *, certainty: float
) -> tuple[Any, Any, Any]:
    """Lower and upper bound of each rate in (0, 1), one-sided, and the effective comparisons.

    Of K people and :func:`deviations` d_i, the jackknife's variance is (K-1)/K sum d_i^2; rate
    (1 - rate) / variance, at most ``count``, is the effective number in Wilson's interval. With t
    of K-1 degrees of freedom that covers where people are alike, and falls short (78 % for 95 %)
    where a few resemble many; :func:`unseen` mends both. docs/calibration_coverage.md measures it.

    Efron and Stein, *The jackknife estimate of variance*, 1981; Fogliato et al., *Confidence
    intervals for error rates in 1:1 matching tasks*, IJCV 2024.
    """
    people = away.shape[-1]
    factor, freedom = unseen(away)
    variance = (people - 1) / people * np.square(away).sum(axis=-1) * factor
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = np.fmin(rate * (1 - rate) / variance, count)
    return *wilson(rate, effective, certainty=certainty, freedom=freedom), effective


def unseen(away: Float[np.ndarray, "*rates people"]) -> tuple[Any, Any]:
    """What a variance over these people lacks: a factor, and its degrees of freedom.

    ``away`` is how far leaving out each person moves a measure. The furthest counts twice, since
    someone like him may be among those who were not seen. The degrees of freedom are
    Satterthwaite's 2 K / (kurtosis - 1), from 1 to K-1, since a variance that rests on few people
    is not well known: *An approximate distribution of estimates of variance components*, 1946.
    """
    people, squares = away.shape[-1], np.square(away)
    total = squares.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.fmax(1 + squares.max(axis=-1) / total, 1)
        kurtosis = people * np.square(squares).sum(axis=-1) / np.square(total)
        freedom = np.fmin(2 * people / (kurtosis - 1), people - 1).clip(1)
    return factor, freedom


def deviations(
    wrong: Any, errors: Float[np.ndarray, "*rates people"], compared: np.ndarray, count: int
) -> Float[np.ndarray, "*rates people"]:
    """The rate minus that without each person, from each one's errors and comparisons.

    ``wrong`` and ``count`` are the errors and comparisons of all.
    """
    wrong = np.asarray(wrong)[..., None]
    return wrong / count - (wrong - errors) / (count - compared)


def of_each_person(one: np.ndarray, other: np.ndarray, people: int) -> Float[np.ndarray, " people"]:
    """How many comparisons show each person; of a person with himself, one."""
    twice = one != other
    return np.bincount(np.concatenate([one, other[twice]]), minlength=people).astype(np.float64)


def wilson(rate: Any, trials: Any, *, certainty: float, freedom: Any = None) -> tuple[Any, Any]:
    """Wilson's lower and upper bound of rates, each one-sided with this certainty.

    ``trials`` need not be whole; ``freedom`` gives the quantile of t in place of the normal one.
    """
    from scipy import special  # takes 0.3 s to import

    z = special.ndtri(certainty) if freedom is None else special.stdtrit(freedom, certainty)
    middle = (rate * trials + z * z / 2) / (trials + z * z)
    half = z * np.sqrt(rate * (1 - rate) * trials + z * z / 4) / (trials + z * z)
    return middle - half, middle + half


def people_of(first: Any, second: Any, count: int) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Codes of the people of both sides and their number, None where they are not known."""
    if first is None and second is None:
        return np.arange(count), np.arange(count), None
    if first is None or second is None:
        raise UsageError("identities of one side alone: give those of both sides, or None for both")
    one, other = codes("identities", first, second)
    if (len(one), len(other)) != (count, count):
        shapes = f"{len(one)} and {len(other)} identities"
        raise UsageError(f"{shapes} of {count} comparisons: give one for each side of each")
    return one, other, int(max(one.max(), other.max())) + 1


def person_pairs(one: np.ndarray, other: np.ndarray) -> int:
    """How many pairs of people there are, in either order."""
    low, high = np.minimum(one, other), np.maximum(one, other)
    return len(np.unique(low.astype(np.int64) * (int(high.max()) + 1) + high))


def percentile(
    draws: Float[np.ndarray, " draws"], *, people: int | None = None, confidence: float = 0.95
) -> Interval:
    """The middle share ``confidence`` of bootstrap draws.

    Of few ``people`` it is a little more: a bootstrap knows nothing of t, and its variance is
    (K-1)/K of what it should be. Hesterberg, *What teachers should know about the bootstrap*,
    2015, section 4.1.3.
    """
    from scipy import special  # takes 0.3 s to import

    draws = require_finite("draws", draws, axes=1, remedy="give the draws of one measure")
    tail = (1 - confidence) / 2
    if people is not None and people > 1:
        quantile = special.stdtrit(people - 1, tail) * math.sqrt(people / (people - 1))
        tail = float(special.ndtr(quantile))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high))


def paired_difference(
    one: Float[np.ndarray, " draws"],
    other: Float[np.ndarray, " draws"],
    *,
    people: int | None = None,
    confidence: float = 0.95,
) -> Interval:
    """Two-sided interval of ``one - other`` by draws of the same ``people`` for both.

    Both must come from one bootstrap, or from two made of the same arguments. The two differ, at
    the level 1 - ``confidence``, where 0 is not within.
    """
    if np.shape(one) != np.shape(other):
        raise UsageError(f"{np.shape(one)} and {np.shape(other)} draws: take them from the same")
    return percentile(np.subtract(one, other), people=people, confidence=confidence)


def comparisons_needed(fmr: float, *, certainty: float = 0.95) -> int:
    """Independent impostor comparisons that show a false match rate of ``fmr`` if none errs.

    The rule of 3: about 3 / fmr at 95 %; exactly the least n with (1 - fmr)^n <= 1 - certainty.
    """
    require_number("fmr", fmr, above=0, below=1)
    require_number("certainty", certainty, above=0, below=1)
    return math.ceil(math.log(1 - certainty) / math.log1p(-fmr) - 1e-9)


def people_needed(fmr: float, *, disjoint: bool = False, certainty: float = 0.95) -> int:
    """People who show a false match rate of ``fmr`` if none of their comparisons errs.

    Each pair of people is a unit, however many images it has: 25, 78, 246 people for 1e-2, 1e-3,
    1e-4. ``disjoint`` assumes nothing: only pairs without a common person are units (598, 5990,
    59912 people).
    """
    units = comparisons_needed(fmr, certainty=certainty)
    return 2 * units if disjoint else math.ceil((1 + math.sqrt(1 + 8 * units)) / 2)


def smallest_rate(units: int, *, certainty: float = 0.95) -> float:
    """The rate that so many independent trials can show if none of them errs; 1 for no trial.

    The exact rule of 3: 1 - (1 - certainty)^(1 / units).
    """
    return 1.0 - (1 - certainty) ** (1 / units) if units else 1.0


def smallest_fmr(people: int, *, disjoint: bool = False, certainty: float = 0.95) -> float:
    """The false match rate that so many people can show if none of their comparisons errs.

    Units as in :func:`people_needed`; 1 for fewer than two people.
    """
    units = people // 2 if disjoint else people * (people - 1) // 2
    return smallest_rate(units, certainty=certainty)


def why_unknown(
    rate: float,
    *,
    pairs: int,
    people: int | None = None,
    certainty: float = 0.95,
    name: str = "FAR",
) -> str | None:
    """Why nothing can be known at a false accept (or match) rate, as words; None where it can.

    ``pairs`` are independent impostor pairs: pairs of people, however many images they have
    (``PairBootstrap.impostors``), or pairs of images where ``people`` is None.
    """
    needed = comparisons_needed(rate, certainty=certainty)
    if pairs >= needed:
        return None
    if people is None:
        return f"{name} {rate:g} needs at least {needed:,} impostor pairs; there are {pairs:,}"
    all_compared = people_needed(rate, certainty=certainty)
    missing = f": {all_compared - people:,} people are missing" if people < all_compared else ""
    return (
        f"{name} {rate:g} needs at least {needed:,} pairs of different people ({all_compared:,} "
        f"people, all compared); there are {pairs:,}, of {people:,} people{missing}"
    )
