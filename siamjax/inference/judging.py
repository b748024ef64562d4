"""What scores say of a test: every measure, its 95 % interval over people, and differences.

The one place where results and intervals come from: the report of a run, ``evaluate`` and
``compare`` all judge by it. All methods of a test share the draws of people, so that the
differences between them are paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.metrics import verification
from siamjax.metrics.bootstrap import PairBootstrap, QueryBootstrap
from siamjax.metrics.intervals import FARS, Interval, paired_difference, why_unknown

Measures = dict[str, float | None]
"""Measures by name; None: cannot be known."""

FEWEST = 6
"""People below whom no difference is clear: if all of n agree, the sign test's p is 2 / 2^n, 0.03
of six people and 0.06 of five."""

Draws = Mapping[str, Float[np.ndarray, " draws"]]
"""Measures by name, each in all draws of people."""


class Difference(NamedTuple):
    """A measure of one method minus that of another, with its interval over the same people."""

    value: float
    interval: Interval


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """Measures of methods on one test.

    Attributes:
        results: measures by name, by method: the network first, then the baselines.
        bounds: the 95 % interval of each measure that has one, by method.
        draws: the measures in bootstrap draws, of equal people for all methods.
        people: how many people the intervals are over; None: they are not known.
        over: what the intervals are over, in words.
        unknown: why a measure has no number, by its name.
    """

    results: dict[str, Measures]
    bounds: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    draws: Mapping[str, Draws] = field(default_factory=dict)
    people: int | None = None
    over: str = ""
    unknown: Mapping[str, str] = field(default_factory=dict)

    def interval(self, method: str, measure: str) -> Interval | None:
        """The 95 % interval of a measure; None where the measure has no number, or no interval."""
        if self.results[method].get(measure) is None:
            return None
        return self.bounds.get(method, {}).get(measure)

    @property
    def intervals(self) -> dict[str, dict[str, list[float]]]:
        """``[low, high]`` of each measure that has an interval, by method: a manifest's form."""
        return {
            method: {
                measure: [float(end) for end in found]
                for measure in values
                if (found := self.interval(method, measure)) is not None
            }
            for method, values in self.results.items()
        }

    def difference(self, measure: str, one: str, other: str) -> Difference | None:
        """``one`` minus ``other``; None where one of them has no number or no draws."""
        value, base = (self.results[name].get(measure) for name in (one, other))
        drawn, drawn_base = (self.draws.get(name, {}).get(measure) for name in (one, other))
        if value is None or base is None or drawn is None or drawn_base is None:
            return None
        return Difference(value - base, paired_difference(drawn, drawn_base, people=self.people))

    def best_baseline(self, measure: str) -> str | None:
        """The method of the highest value but the first; None if there is no other."""
        _, *others = self.results
        found = {name: self.results[name].get(measure) for name in others}
        known = {name: value for name, value in found.items() if value is not None}
        return max(known, key=known.__getitem__, default=None)


def judge_pairs(
    images: ImageSet,
    pairs: PairList,
    scores: Mapping[str, Float[np.ndarray, " pairs"]],
    *,
    thresholds: Mapping[str, float | None],
) -> Judgement:
    """Judge the scores of methods, which rise with similarity, at a threshold for each, if any.

    True accept rates at a FAR that the people are too few to know have no number, but a reason
    (:func:`~siamjax.metrics.intervals.why_unknown`).
    """
    first, second = (images.identities[index] for index in (pairs.first, pairs.second))
    known = ((first == second) == pairs.same).all()  # not so in a list, which names nobody
    bootstrap = PairBootstrap(pairs.same, *((first, second) if known else (None, None)))
    results, bounds, draws, unknown = {}, {}, {}, {}
    for far in sorted(FARS, reverse=True):
        reason = why_unknown(far, pairs=bootstrap.impostors, people=bootstrap.people)
        if unknown or reason is not None:  # what holds for a FAR holds for all that are smaller
            unknown[f"tar_at_far_{far:g}"] = next(iter(unknown.values()), reason)
    for name, score in scores.items():
        at = thresholds[name]
        results[name] = verification.summary(score, pairs.same, threshold=at, fold=pairs.fold)
        results[name] |= dict.fromkeys(unknown)
        draws[name] = bootstrap.measures(score, threshold=at)
        bounds[name] = bootstrap.intervals(score, threshold=at, drawn=draws[name])
    same = int(pairs.same.sum())
    counts = f"{same:,} same and {len(pairs) - same:,} different pairs"
    return Judgement(
        results=results,
        bounds=bounds,
        draws=draws,
        people=bootstrap.people,
        over=f"{bootstrap.people:,} people, {counts}"
        if bootstrap.people is not None
        else f"{counts} taken as independent: the list does not say whom they show",
        unknown=unknown,
    )


def judge_queries(
    values: Mapping[str, Mapping[str, Float[np.ndarray, " queries"] | None]],
    people: Shaped[np.ndarray, " queries"],
    *,
    counts: Mapping[str, Measures],
    named: str = "people",
) -> Judgement:
    """Judge measures of each query, by method and name, over the people whom the queries show.

    Measures lie in [0, 1]; NaN marks a query that does not count, None a measure that cannot be
    known, because the gallery is too small. ``counts`` are further results of each method, such as
    ``gallery``, without an interval; ``named`` is what ``people`` are.
    """
    some = next(one for one in next(iter(values.values())).values() if one is not None)
    counted = ~np.isnan(some)
    bootstrap = QueryBootstrap(people[counted])
    results, bounds, draws, unknown = {}, {}, {}, {}
    for method, measures in values.items():
        known = {name: one[counted] for name, one in measures.items() if one is not None}
        means: Measures = {
            name: float(known[name].mean()) if name in known else None for name in measures
        }
        results[method] = means | counts[method]
        draws[method] = bootstrap.measures(known)
        bounds[method] = bootstrap.intervals(known, drawn=draws[method])
        few = f"the gallery has {counts[method]['gallery']:,} images"
        unknown |= {name: few for name in measures if name not in known}
    return Judgement(
        results=results,
        bounds=bounds,
        draws=draws,
        people=bootstrap.people,
        over=f"{bootstrap.people:,} {named}, {len(people[counted]):,} queries",
        unknown=unknown,
    )
