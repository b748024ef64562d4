"""benchmarks/coverage.py: its true rates are those of its samples."""

import numpy as np
import oracles
import pytest

from benchmarks import coverage


@pytest.mark.parametrize("name", list(coverage.WORLDS))
def test_true_rates_are_those_of_many_people(name):
    world = coverage.WORLDS[name]
    drawn = [world.draw(np.random.default_rng(seed), 100) for seed in range(40)]
    score, same, first, second = (np.concatenate(part) for part in zip(*drawn, strict=True))
    assert (same == (first == second)).all()
    limit = world.at(0.1)
    rates = [(s[~e] >= limit).mean() for s, e, _, _ in drawn]
    error = np.std(rates) / np.sqrt(len(rates))
    assert world.fmr(limit) == pytest.approx(0.1)
    assert np.mean(rates) == pytest.approx(0.1, abs=4 * error)
    assert (score[same] < limit).mean() == pytest.approx(world.fnmr(limit), abs=0.01)
    truths = world.truths()
    some = np.random.default_rng(1).permutation(score.size)[:800]
    some = np.concatenate([some, np.flatnonzero(same)[::150]])
    assert oracles.auc(score[some], same[some]) == pytest.approx(truths["auc"], abs=0.03)
    equal = np.quantile(score[~same], 1 - truths["eer"])
    assert (score[same] < equal).mean() == pytest.approx(truths["eer"], abs=0.015)
    assert truths["tar_at_far_0.1"] == 1 - world.fnmr(limit)


def test_rows_count_what_people_can_know():
    world = coverage.WORLDS["people differ"]
    rates = coverage._rates(world, 40, 2)
    assert {name for name in rates if name.startswith("FMR")} == {"FMR 0.1", "FMR 0.01"}
    resampled = coverage._resampled(world, 20, 2, 20)
    assert "tar_at_far_0.1" in resampled
    assert "tar_at_far_0.01" not in resampled
    assert all(0 <= share <= 1 for share in [*rates.values(), *resampled.values()])
