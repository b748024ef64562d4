"""Intervals of measures that are no rates at a fixed threshold: people are drawn again and again.

:class:`PairBootstrap`: AUC, EER and TAR at a FAR, by the vertex bootstrap.
:class:`QueryBootstrap`: rank-k, mAP and recall@k, over query people. Where no draw has an error,
resampling would give [0, 0]; then the rule of 3 holds, over people.

Percentiles of the draws fall short (85 % for 95 % of the AUC of 20 people): they are too close for
few people, and at the wrong place near 1. So an interval is the measure plus and minus t standard
deviations of the draws, on the scale of log-odds, with what is not seen of the people
(:func:`siamjax.metrics.intervals.unseen`); docs/calibration_coverage.md measures it.
Identities as in :mod:`siamjax.metrics.intervals`; None: they are not known, pairs or queries are
taken as independent, and ``people`` is None, which whoever prints it must say.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from siamjax.checks import require_bool, require_finite
from siamjax.errors import UsageError
from siamjax.metrics.intervals import (
    Interval,
    Names,
    people_of,
    people_rate,
    percentile,
    person_pairs,
    smallest_rate,
    unseen,
    wilson,
)
from siamjax.metrics.ties import codes
from siamjax.metrics.weighted_roc import Ordered, sums

_CELLS = 2**23  # pairs x draws that are held at a time: 32 MiB an array
_WIDTH = 256  # draws at a time, so that few pairs stay in the cache
_FAR = 4.0  # in log-odds: from 0.98 down to 0.5


class PairBootstrap:
    """Measures of verification over ``draws`` samples of people: the vertex bootstrap.

    A sample draws as many people as there are, with replacement. A pair of two people counts as
    often as both were drawn together (w_i w_j), a genuine pair as often as its person (w_i), and
    nobody is compared with his own copy. The samples depend on the people and the seed alone, so
    that measures of several scores are paired. A sample without a genuine or without an impostor
    pair has no measure and is drawn again.

    Snijders and Borgatti, *Non-parametric standard errors and tests for network statistics*, 1999;
    Owen, *The pigeonhole bootstrap*, 2007; Poh, Martin, Bengio, *Performance generalization in
    biometric authentication using joint user-specific and sample bootstraps*, 2007.

    Attributes:
        people: how many people the pairs show; None: not known, each pair is drawn for itself.
        impostors: independent impostor pairs: pairs of people, or of images without people.
    """

    def __init__(
        self,
        same: Bool[np.ndarray, " pairs"],
        first: Names,
        second: Names,
        *,
        draws: int = 2000,
        seed: int = 0,
    ) -> None:
        self._same = np.asarray(require_bool("same", same, true="the same identity"))
        if self._same.ndim != 1 or not self._same.any() or self._same.all():
            raise UsageError(f"same of shape {self._same.shape}: give pairs of both kinds")
        if draws < 1:
            raise UsageError(f"draws {draws}: at least 1")
        one, other, self.people = people_of(first, second, self._same.size)
        if self.people is not None and (self._same != (one == other)).any():
            at = int(np.argmax(self._same != (one == other)))
            raise UsageError(f"pair {at} is called same = {self._same[at]}, its identities not")
        self.impostors = person_pairs(one[~self._same], other[~self._same])
        self._names = None if self.people is None else (one, other)
        self._seen = min(self.impostors, len(np.unique(one[self._same])))
        self._units = self._same.size if self.people is None else self.people
        # The weight behind the last is 1: a genuine pair, and one of people not known, has one.
        self._one = one
        self._other = np.where(one == other, self._units, other)
        self._draws, self._seed = draws, seed

    def measures(
        self, score: Float[np.ndarray, " pairs"], *, threshold: float | None = None
    ) -> dict[str, Float[np.ndarray, " draws"]]:
        """Each draw's measures, by the names of :func:`siamjax.metrics.verification.summary`.

        AUC, EER and TAR at the FARS with their thresholds refitted in each draw, and with a
        ``threshold`` the accuracy at it, where both kinds keep their shares of the list. Memory is
        bounded; 2,000 draws of 10,000 pairs take 0.2 s of one core, of 10^6 pairs 14 s.
        """
        score = require_finite("score", score, axes=1, remedy="use an earlier checkpoint")
        if score.shape != self._same.shape:
            raise UsageError(f"score {score.shape} and same {self._same.shape}: one for each pair")
        weights = _weights(self._units, self._same.size, self._draws, self._seed)
        return self._measures(score, threshold, weights, self._draws)

    def _measures(
        self, score: np.ndarray, threshold: float | None, weights: Iterator[np.ndarray], most: int
    ) -> dict[str, np.ndarray]:
        """Measures of the first weights that have pairs of both kinds."""
        ordered = Ordered(score.astype(np.float64), self._same, threshold)
        genuine, impostor = (
            (self._one[places], self._other[places])
            for places in (ordered.genuine, ordered.impostor)
        )
        drawn = []
        for weight in weights:
            drawn.append(ordered.measures(sums(weight, *genuine), sums(weight, *impostor)))
            if sum(len(one["auc"]) for one in drawn) >= most:
                break
        return {name: np.concatenate([one[name] for one in drawn])[:most] for name in drawn[0]}

    def intervals(
        self,
        score: Float[np.ndarray, " pairs"],
        *,
        threshold: float | None = None,
        drawn: Mapping[str, Float[np.ndarray, " draws"]] | None = None,
        confidence: float = 0.95,
    ) -> dict[str, Interval]:
        """An interval for each of :meth:`measures`, which may be given as ``drawn``, by its name.

        That of the accuracy, whose threshold is fixed, is :func:`people_rate`'s. With the draws
        given, 10,000 pairs take 0.1 s of one core.
        """
        score = np.asarray(score)
        drawn = self.measures(score, threshold=threshold) if drawn is None else drawn
        without = self._measures(
            score, None, _left_out(self._units, self._same.size, self.people), self._units + 1
        )
        found = {
            name: _interval(
                values[-1], drawn[name], values[:-1], self._seen, self.people, confidence
            )
            for name, values in without.items()
        }
        if threshold is not None:
            wrong = (np.asarray(score, np.float64) >= float(threshold)) != self._same
            low, high = people_rate(
                wrong, *(self._names or (None, None)), confidence=confidence
            ).interval
            found["accuracy"] = Interval(1 - high, 1 - low)
        return {name: found[name] for name in drawn if name in found}


def _interval(
    value: float,
    draws: np.ndarray,
    without: np.ndarray,
    units: int,
    people: int | None,
    confidence: float,
) -> Interval:
    """Interval of a measure in [0, 1] from its draws, and from it without each of the people.

    0 and 1 have no log-odds: bounds of 0 of so many units there. Where log-odds would reach from
    one to the other, Wilson's interval of as many trials as have this variance. In both cases what
    draws reach is within.
    """
    from scipy import special  # takes 0.3 s to import

    certainty, reached = (1 + confidence) / 2, percentile(draws, confidence=confidence)
    if value in (0.0, 1.0):
        bound = smallest_rate(units, certainty=certainty)
        if value == 0:
            return Interval(0.0, max(bound, reached.high))
        return Interval(min(1 - bound, reached.low), 1.0)
    factor, freedom, quantile = 1.0, None, special.ndtri(certainty)
    if people is not None:
        if len(without) < max(people, 2):  # without someone, there is no measure
            return Interval(0.0, 1.0)
        factor, freedom = unseen(without - without.mean())
        quantile = special.stdtrit(freedom, certainty)
    variance = draws.var() * factor
    half = quantile * np.sqrt(variance) / (value * (1 - value))
    if half > _FAR:
        trials = value * (1 - value) / variance
        low, high = wilson(value, trials, certainty=certainty, freedom=freedom)
        low, high = min(low, reached.low), max(high, reached.high)
    else:
        low, high = special.expit(special.logit(value) + np.array([-half, half]))
    return Interval(float(low), float(high))


def _left_out(units: int, size: int, people: int | None) -> Iterator[Int[np.ndarray, "u c"]]:
    """Weights that leave out each of the people in turn, if they are known; then nobody."""
    left = 0 if people is None else units
    for some in np.array_split(np.arange(left + 1), (left + 1) // _at_a_time(units, size) + 1):
        weight = np.ones((units + 1, some.size), np.int32)
        inside = some < left
        weight[some[inside], np.flatnonzero(inside)] = 0
        yield weight


def _at_a_time(units: int, size: int) -> int:
    """How many draws are held."""
    return int(np.clip(_CELLS // max(units, size), 1, _WIDTH))


def _weights(units: int, size: int, draws: int, seed: int) -> Iterator[Int[np.ndarray, "u c"]]:
    """How often each unit is drawn, some draws at a time, and a last unit that always counts once.

    Without end, as draws may be left out; the same for the same arguments.
    """
    rng = np.random.default_rng(seed)
    some = min(draws, _at_a_time(units, size))
    while True:
        drawn = rng.integers(0, units, (some, units)) + units * np.arange(some)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=some * units).reshape(some, units)
        yield np.vstack([counts.T, np.ones(some, counts.dtype)]).astype(np.int32)


class QueryBootstrap:
    """Means over queries, over ``draws`` samples of query people: for rank-k, mAP, recall@k.

    A person is drawn with all queries that show him; the gallery stays as it is, where copies
    would spoil the ranks. The samples depend on the people and the seed alone, so that several
    runs are paired. ``people`` None: not known, each query is drawn for itself.
    """

    def __init__(
        self, people: Shaped[np.ndarray, " queries"] | None, *, draws: int = 2000, seed: int = 0
    ) -> None:
        self._asked = None if people is None else codes("identities", people, people)[0]
        self.people = None if self._asked is None else len(np.unique(self._asked))
        if draws < 1:
            raise UsageError(f"draws {draws}: at least 1")
        self._draws, self._seed = draws, seed

    def measures(
        self, values: Mapping[str, Float[np.ndarray, " queries"]]
    ) -> dict[str, Float[np.ndarray, " draws"]]:
        """Each draw's mean of each measure; NaN marks a query that does not count."""
        totals, counts = self._totals(values)
        units, means = len(totals), list[np.ndarray]()
        for weight in _weights(units, units, self._draws, self._seed):
            total, count = weight[:-1].T @ totals, weight[:-1].T @ counts
            kept = (count > 0).all(axis=1)  # a sample without any query is drawn again
            means.append(total[kept] / count[kept])
            if sum(map(len, means)) >= self._draws:
                break
        return dict(zip(values, np.concatenate(means)[: self._draws].T, strict=True))

    def _totals(self, values: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """(people, measures) sums over the queries of each of the people, and how many count."""
        table = np.stack([np.asarray(one, np.float64) for one in values.values()], axis=1)
        asked = np.arange(len(table)) if self._asked is None else self._asked
        if len(asked) != len(table):
            raise UsageError(f"{len(table)} values of {len(asked)} queries: give one for each")
        known = ~np.isnan(table)
        if not known.any(axis=0).all():
            raise UsageError("a measure of no query: at least one query must have a match")
        totals, counts = np.zeros((2, int(asked.max()) + 1, table.shape[1]))
        np.add.at(totals, asked, np.where(known, table, 0))
        np.add.at(counts, asked, known)
        return totals, counts

    def intervals(
        self,
        values: Mapping[str, Float[np.ndarray, " queries"]],
        *,
        drawn: Mapping[str, Float[np.ndarray, " draws"]] | None = None,
        confidence: float = 0.95,
    ) -> dict[str, Interval]:
        """An interval for each of :meth:`measures`, which may be given as ``drawn``, by its name.

        Of measures in [0, 1].
        """
        drawn = self.measures(values) if drawn is None else drawn
        totals, counts = self._totals(values)
        total, count = totals.sum(axis=0), counts.sum(axis=0)
        found = {}
        for at, name in enumerate(values):
            asked = counts[:, at] > 0  # people whose queries count
            stay = count[at] - counts[asked, at]
            without = (total[at] - totals[asked, at])[stay > 0] / stay[stay > 0]
            found[name] = _interval(
                float(total[at] / count[at]),
                drawn[name],
                without,
                int(asked.sum()),
                None if self.people is None else int(asked.sum()),
                confidence,
            )
        return found
