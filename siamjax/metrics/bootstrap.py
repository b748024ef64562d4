"""Intervals of measures that are no rates at a fixed threshold: people are drawn again and again.

:class:`PairBootstrap`: AUC, EER and TAR at a FAR, by the vertex bootstrap.
:class:`QueryBootstrap`: rank-k, mAP and recall@k, over query people. Where no draw has an error,
resampling would give [0, 0]; then the rule of 3 holds, over people.
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
    FARS,
    Interval,
    Names,
    people_of,
    people_rate,
    percentile,
    person_pairs,
    smallest_rate,
)
from siamjax.metrics.ties import codes

_CELLS = 2**23  # pairs x draws that are held at a time: 32 MiB an array
_WIDTH = 256  # draws at a time, so that few pairs stay in the cache


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
        bounded; 2,000 draws of 10,000 pairs take 0.2 s on one core, of 10^6 pairs 25 s.
        """
        score = require_finite("score", score, axes=1, remedy="use an earlier checkpoint")
        if score.shape != self._same.shape:
            raise UsageError(f"score {score.shape} and same {self._same.shape}: one for each pair")
        ordered = _Ordered(score.astype(np.float64), self._same, threshold)
        genuine, impostor = (
            (self._one[places], self._other[places])
            for places in (ordered.genuine, ordered.impostor)
        )
        drawn = []
        for weight in _weights(self._units, self._same.size, self._draws, self._seed):
            drawn.append(ordered.measures(_sums(weight, *genuine), _sums(weight, *impostor)))
            if sum(len(one["auc"]) for one in drawn) >= self._draws:
                break
        return {
            name: np.concatenate([one[name] for one in drawn])[: self._draws] for name in drawn[0]
        }

    def intervals(
        self,
        score: Float[np.ndarray, " pairs"],
        *,
        threshold: float | None = None,
        drawn: Mapping[str, Float[np.ndarray, " draws"]] | None = None,
        confidence: float = 0.95,
    ) -> dict[str, Interval]:
        """An interval for each of :meth:`measures`, which may be given as ``drawn``, by its name.

        Percentiles of the draws; of the accuracy, whose threshold is fixed, :func:`people_rate`.
        Where no draw has an error: the rule of 3 over the people who have genuine pairs.
        """
        drawn = self.measures(score, threshold=threshold) if drawn is None else drawn
        found = {
            name: _interval(values, self._seen, confidence)
            for name, values in drawn.items()
            if name != "accuracy"
        }
        if threshold is not None:
            wrong = (np.asarray(score, np.float64) >= float(threshold)) != self._same
            low, high = people_rate(
                wrong, *(self._names or (None, None)), confidence=confidence
            ).interval
            found["accuracy"] = Interval(1 - high, 1 - low)
        return {name: found[name] for name in drawn}


def _interval(draws: np.ndarray, units: int, confidence: float) -> Interval:
    """Percentiles; the bounds of 0 of so many units where all draws are 0, or all 1."""
    bound = smallest_rate(units, certainty=(1 + confidence) / 2)
    if (draws == 0).all():
        return Interval(0.0, bound)
    if (draws == 1).all():
        return Interval(1 - bound, 1.0)
    return percentile(draws, confidence=confidence)


def _weights(units: int, size: int, draws: int, seed: int) -> Iterator[Int[np.ndarray, "u c"]]:
    """How often each unit is drawn, some draws at a time, and a last unit that always counts once.

    Without end, as draws may be left out; the same for the same arguments.
    """
    rng = np.random.default_rng(seed)
    some = int(np.clip(_CELLS // max(units, size), 1, min(draws, _WIDTH)))
    while True:
        drawn = rng.integers(0, units, (some, units)) + units * np.arange(some)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=some * units).reshape(some, units)
        yield np.vstack([counts.T, np.ones(some, counts.dtype)]).astype(np.int32)


def _sums(weight: np.ndarray, one: np.ndarray, other: np.ndarray) -> Int[np.ndarray, "n+1 draws"]:
    """Weights of pairs, summed from the first: row k is that of the first k pairs."""
    sums = np.zeros((len(one) + 1, weight.shape[1]), np.int32)
    np.multiply(weight[one], weight[other], out=sums[1:])
    return np.cumsum(sums, axis=0, out=sums)


class _Ordered:
    """A score sorted once: which pairs stand above which threshold."""

    def __init__(self, score: np.ndarray, same: np.ndarray, threshold: float | None) -> None:
        order = np.argsort(-score, kind="stable")
        self.genuine, self.impostor = order[same[order]], order[~same[order]]
        falling = -score[self.genuine], -score[self.impostor]
        points = np.unique(-score)
        # Row 0: nothing is accepted; row k: all down to the k-th distinct score, ties together.
        self._accepted = [np.append(0, np.searchsorted(x, points, "right")) for x in falling]
        self._ahead = [np.searchsorted(falling[1], falling[0], side) for side in ("left", "right")]
        self._share = float(same.mean())
        self._at = None
        if threshold is not None:
            self._at = [int(np.searchsorted(x, -float(threshold), "right")) for x in falling]

    def measures(self, genuine: np.ndarray, impostor: np.ndarray) -> dict[str, np.ndarray]:
        """Measures of each draw that has pairs of both kinds, from sums of weights."""
        kept = np.flatnonzero((genuine[-1] > 0) & (impostor[-1] > 0))
        if len(kept) < genuine.shape[1]:
            genuine, impostor = genuine[:, kept], impostor[:, kept]
        draws = np.arange(len(kept))
        same, other = genuine[-1].astype(np.float64), impostor[-1].astype(np.float64)

        def at(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """True and false accept rate of each draw at a point of its own."""
            accepted, ahead = self._accepted
            return genuine[accepted[point], draws] / same, impostor[ahead[point], draws] / other

        def first(holds: Any) -> np.ndarray:
            """The first point of each draw where a condition holds that then stays true."""
            low = np.zeros(len(draws), int)
            high = np.full(len(draws), len(self._accepted[0]))
            while (low < high).any():
                middle = np.minimum((low + high) // 2, len(self._accepted[0]) - 1)
                true = holds(*at(middle)) | (low >= high)
                low, high = (
                    np.where(true, low, middle + 1),
                    np.where(true, np.minimum(high, middle), high),
                )
            return low

        ahead = impostor[self._ahead[0]] + impostor[self._ahead[1]]
        wins = np.einsum("gd,gd->d", np.diff(genuine, axis=0), ahead, dtype=np.float64)
        values = {"auc": 1 - wins / (2 * same * other)}
        after = first(lambda tar, far: far >= 1 - tar)
        (tar_before, far_before), (tar, far) = at(after - 1), at(after)
        before, behind = 1 - tar_before - far_before, far - (1 - tar)
        values["eer"] = far_before + before / (before + behind) * (far - far_before)
        if self._at is not None:
            right = genuine[self._at[0]] / same, 1 - impostor[self._at[1]] / other
            values["accuracy"] = self._share * right[0] + (1 - self._share) * right[1]
        for limit in FARS:
            last = first(lambda tar, far, limit=limit: far > limit + 1e-12) - 1
            values[f"tar_at_far_{limit:g}"] = at(last)[0]
        return values


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
        table = np.stack([np.asarray(one, np.float64) for one in values.values()], axis=1)
        asked = np.arange(len(table)) if self._asked is None else self._asked
        if len(asked) != len(table):
            raise UsageError(f"{len(table)} values of {len(asked)} queries: give one for each")
        counts = ~np.isnan(table)
        if not counts.any(axis=0).all():
            raise UsageError("a measure of no query: at least one query must have a match")
        units = int(asked.max()) + 1
        totals = np.zeros((units, 2 * table.shape[1]))
        np.add.at(totals, asked, np.hstack([np.where(counts, table, 0), counts]))
        means: list[np.ndarray] = []
        for weight in _weights(units, units, self._draws, self._seed):
            total, count = np.split(weight[:-1].T @ totals, 2, axis=1)
            kept = (count > 0).all(axis=1)  # a sample without any query is drawn again
            means.append(total[kept] / count[kept])
            if sum(map(len, means)) >= self._draws:
                break
        return dict(zip(values, np.concatenate(means)[: self._draws].T, strict=True))

    def intervals(
        self,
        values: Mapping[str, Float[np.ndarray, " queries"]],
        *,
        drawn: Mapping[str, Float[np.ndarray, " draws"]] | None = None,
        confidence: float = 0.95,
    ) -> dict[str, Interval]:
        """An interval for each of :meth:`measures`, which may be given as ``drawn``, by its name.

        Percentiles, or the rule of 3 over the query people where no draw has an error.
        """
        drawn = self.measures(values) if drawn is None else drawn
        units = {name: self.people or int((~np.isnan(one)).sum()) for name, one in values.items()}
        return {name: _interval(one, units[name], confidence) for name, one in drawn.items()}
