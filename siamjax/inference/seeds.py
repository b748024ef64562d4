"""Runs that differ in the seed alone are one method: its mean, and two kinds of doubt about it.

Which people were tested is the one: intervals over people, as of a single run. How the training
fell out is the other: the standard error over seeds. Where each seed tests on people of its own,
as where people are divided at random, the second holds some of the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from siamjax.inference.judging import FEWEST, Judgement, Measures
from siamjax.metrics.intervals import Interval, paired_difference

# What a config holds and runs of one method may not share.
_BESIDE = ("seed", "data_fingerprint", "format", "run", "workers", "home", "strict")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method: runs that differ in the seed alone.

    Attributes:
        name: that of the run of the lowest seed, and how many seeds there are.
        runs: the runs, by ascending seeds.
        seeds: the seed of each; None where a run of an earlier version does not tell.
        config: the options of all of them.
    """

    name: str
    runs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    config: Mapping[str, Any]


def rows_of(configs: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Group runs, given by name with their configs, in the order of their first ones.

    A second run of the same config and seed begins a row of its own: its code may have changed.
    """
    found: list[tuple[dict[str, Any], dict[int | None, str]]] = []
    for name, config in configs.items():
        method = {key: value for key, value in config.items() if key not in _BESIDE}
        seed = config.get("seed")
        for other, runs in found:
            if other == method and method and seed not in runs:
                runs[seed] = name
                break
        else:
            found.append((method, {seed: name}))
    rows = []
    for method, runs in found:
        seeds = sorted(runs, key=lambda seed: (seed is not None, seed))
        first = runs[seeds[0]]
        rows.append(
            Row(
                name=first if len(runs) == 1 else f"{first} ({len(runs)} seeds)",
                runs=tuple(runs[seed] for seed in seeds),
                seeds=tuple(seeds),
                config=method,
            )
        )
    return rows


class Change(NamedTuple):
    """A measure of one method minus that of another.

    Attributes:
        value: the mean difference over the seeds.
        interval: of 95 %, over the people tested.
        error: standard error over the seeds; None for a single pair of runs.
        seeds: how many pairs of runs there are.
        people: how many people were tested; None: they are not known.
    """

    value: float
    interval: Interval
    error: float | None
    seeds: int
    people: int | None = None

    @property
    def over_seeds(self) -> Interval | None:
        """The interval of 95 % over the seeds, by Student's t."""
        return None if self.error is None else student(self.value, self.error, self.seeds)

    @property
    def few(self) -> bool:
        """Whether so few people were tested that nothing is clear."""
        return self.people is not None and self.people < FEWEST

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside the interval over people and, if there is one, that over seeds.

        Never of fewer people than :data:`~siamjax.inference.judging.FEWEST`.
        """
        if self.few:
            return False
        both = [one for one in (self.interval, self.over_seeds) if one is not None]
        return all(low > 0 for low, _ in both) or all(high < 0 for _, high in both)


def student(mean: float, error: float, count: int) -> Interval:
    """The interval of 95 % of a mean of so many values, from its standard error."""
    from scipy import special  # takes 0.3 s to import

    half = float(special.stdtrit(count - 1, 0.975)) * error
    return Interval(mean - half, mean + half)


def standard_error(values: Sequence[float]) -> float | None:
    """Standard deviation (ddof 1) / sqrt(n) of at least two values."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


class Judged:
    """Runs that were judged on tests, each test on all its runs together.

    Differences are as sure as the test of the fewest people is.
    """

    def __init__(self, tests: Sequence[Judgement]) -> None:
        self._tests = tests
        self._of = {run: number for number, one in enumerate(tests) for run in one.results}
        people = [one.people for one in tests if one.people is not None]
        self._people = min(people) if len(people) == len(tests) else None
        # Draw number d of one test has nothing to do with draw number d of another.
        self._order = [np.random.default_rng(n).permutation(_draws(t)) for n, t in enumerate(tests)]

    def same_test(self, one: str, other: str) -> bool:
        """Whether two runs were judged on the same people."""
        return self._of[one] == self._of[other]

    def values(self, runs: Sequence[str], measure: str) -> list[float] | None:
        """The measure of each run; None if it has no number for one of them."""
        found = [self._tests[self._of[run]].results[run].get(measure) for run in runs]
        return None if None in found else found  # pyright: ignore[reportReturnType]

    def drawn(self, runs: Sequence[str], measure: str) -> np.ndarray | None:
        """The mean over the runs of the measure, in each draw of people."""
        parts = []
        for run in runs:
            number = self._of[run]
            found = self._tests[number].draws.get(run, {}).get(measure)
            if found is None:
                return None
            parts.append(found[self._order[number]])
        return np.mean(parts, axis=0)

    def people(self, runs: Sequence[str]) -> int | None:
        """The fewest people of the tests of these runs; None where they are not known."""
        found = [self._tests[self._of[run]].people for run in runs]
        return min((one for one in found if one is not None), default=None)

    def mean(self, rows: Sequence[Row]) -> Judgement:
        """The rows as methods: means over their seeds.

        Their intervals over people are those of one run, on average.
        """
        results: dict[str, Measures] = {}
        bounds: dict[str, dict[str, Interval]] = {}
        draws: dict[str, dict[str, np.ndarray]] = {}
        for row in rows:
            results[row.name], bounds[row.name], draws[row.name] = {}, {}, {}
            judged = [self._tests[self._of[run]] for run in row.runs]
            for measure in judged[0].results[row.runs[0]]:
                values, drawn = self.values(row.runs, measure), self.drawn(row.runs, measure)
                results[row.name][measure] = None if values is None else _mean(values)
                if values is None or drawn is None:
                    continue
                draws[row.name][measure] = drawn
                each = [
                    test.interval(run, measure) for test, run in zip(judged, row.runs, strict=True)
                ]
                ends = [one for one in each if one is not None]
                if len(ends) == len(each):
                    bounds[row.name][measure] = Interval(*np.mean(ends, axis=0).tolist())
        over = list(dict.fromkeys(one.over for one in self._tests))
        each = f" in each of {len(self._tests)} tests" if len(self._tests) > 1 else ""
        return Judgement(
            results=results,
            bounds=bounds,
            draws=draws,
            people=self._people,
            over=f"{over[0]}{each}" if len(over) == 1 else f"{'; '.join(over)}",
            unknown={name: why for one in self._tests for name, why in one.unknown.items()},
        )

    def change(self, measure: str, one: Row, other: Row) -> Change | None:
        """``one`` minus ``other``, each run with the other row's run on the same test.

        Runs of equal seeds are paired first. None where nothing can be paired, or the measure has
        no number or no draws.
        """
        pairs = self.pairs(one, other)
        if not pairs:
            return None
        mine, theirs = [a for a, _ in pairs], [b for _, b in pairs]
        values, others = self.values(mine, measure), self.values(theirs, measure)
        drawn, against = self.drawn(mine, measure), self.drawn(theirs, measure)
        if values is None or others is None or drawn is None or against is None:
            return None
        each = np.subtract(values, others).tolist()
        return Change(
            value=float(np.mean(each)),
            interval=paired_difference(drawn, against, people=self._people),
            error=standard_error(each),
            seeds=len(each),
            people=self._people,
        )

    def pairs(self, one: Row, other: Row) -> list[tuple[str, str]]:
        """Runs of both rows on the same tests, no run twice."""
        left, found = dict(zip(other.runs, other.seeds, strict=True)), []
        waiting = []
        for run, seed in zip(one.runs, one.seeds, strict=True):
            alike = [b for b, s in left.items() if s == seed and self.same_test(run, b)]
            if alike:
                found.append((run, alike[0]))
                del left[alike[0]]
            else:
                waiting.append(run)
        for run in waiting:
            alike = [b for b in left if self.same_test(run, b)]
            if alike:
                found.append((run, alike[0]))
                del left[alike[0]]
        return found


def _mean(values: Sequence[float]) -> float:
    """The mean; a count that all share stays whole."""
    return values[0] if len(set(values)) == 1 else float(np.mean(values))


def _draws(judged: Judgement) -> int:
    some = (drawn for measures in judged.draws.values() for drawn in measures.values())
    return len(next(some, ()))
