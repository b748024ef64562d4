import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.metrics import open_set
from siamjax.metrics.open_set import conformal_p, conformal_threshold, threshold_at_fpir


def test_rates_by_hand():
    """Of a's 2 and b's, c's single searches, one of a's and c's find someone at 0.5 or above."""
    rate = open_set.fpir(np.array([0.5, 0.1, 0.49, 0.9]), list("aabc"), threshold=0.5)
    assert (rate.value, rate.comparisons, rate.people) == (0.5, 4, 3)
    mate, rank = np.array([0.9, 0.9, 0.4, 0.5]), np.array([1, 2, 1, 1])
    missed = [
        open_set.fnir(mate, rank, None, threshold=threshold, top=top).value
        for threshold, top in ((0.5, 1), (0.5, 2), (0.0, 1), (0.95, 5))
    ]
    assert missed == [0.5, 0.25, 0.25, 1.0]
    with pytest.raises(UsageError, match="one for each search"):
        open_set.fnir(mate, rank[:2], None, threshold=0.5)


def test_threshold_counts_people_and_not_searches(rng):
    """58 people, FPIR .1: P(Binomial(58, .1) <= 1) = .0022 + .0143 = .0165, <= 2 .0617; 1 may."""
    best, people = rng.normal(size=580), np.tile(np.arange(58), 10)
    highest = np.sort(best.reshape(10, 58).max(axis=0))[::-1]
    found = threshold_at_fpir(best, people, fpir=0.1)
    assert found == np.nextafter(highest[1], np.inf)
    names = np.char.add("p", people.astype(str))
    assert threshold_at_fpir(best[::-1], names[::-1], fpir=0.1) == found
    assert threshold_at_fpir(highest, None, fpir=0.1) == found


@pytest.mark.parametrize(("fpir", "people"), [(0.1, 29), (0.01, 299)])
def test_people_that_an_fpir_needs(fpir, people):
    best = np.arange(float(people))
    assert threshold_at_fpir(best, None, fpir=fpir) == np.nextafter(people - 1.0, np.inf)
    with pytest.raises(
        UsageError, match=f"at least {people} people .* {people - 1}: 1 are missing"
    ):
        threshold_at_fpir(best[1:], None, fpir=fpir)


def test_conformal_p_value():
    """Of 4 people with the maxima 1 2 2 4: (1 + as high) / 5."""
    best, people = np.array([1, 0, 2, 2, 4.0]), list("aabcd")
    found = conformal_p(best, people, np.array([0.5, 1, 2, 3, 4, 5]))
    np.testing.assert_allclose(found, [1, 1, 0.8, 0.4, 0.4, 0.2])
    assert conformal_p(best, people, 5.0) == 0.2


def test_conformal_threshold_is_where_the_p_value_is_small_enough(rng):
    """a = .01 needs n >= 99."""
    for people in (99, 250):
        best = np.round(rng.normal(size=people), 1)
        found = conformal_threshold(best, None, fpir=0.01)
        assert conformal_p(best, None, found) <= 0.01
        assert conformal_p(best, None, np.nextafter(found, -np.inf)) > 0.01
    with pytest.raises(UsageError, match=r"at least 99 people .* 98: 1 are missing"):
        conformal_threshold(np.arange(98.0), None, fpir=0.01)


def test_what_conformal_guarantees():
    """999 people at .01: FPIR is Beta(10, 990), on average .01, 95 % point .01567."""
    best = np.random.default_rng(0).random((1000, 999))
    rates = 1 - np.array([conformal_threshold(one, None, fpir=0.01) for one in best])
    assert rates.mean() == pytest.approx(0.01, abs=4e-4)
    assert np.quantile(rates, 0.95) == pytest.approx(0.01567, abs=5e-4)
    careful = 1 - np.array([threshold_at_fpir(one, None, fpir=0.01) for one in best])
    assert np.mean(careful > 0.01) < 0.06 < 0.3 < np.mean(rates > 0.01)


def test_one_search_of_each_in_a_large_gallery():
    """FMR 1e-4, N = 1000: 1 - (1 - 1e-4)^1000 = .0952 of strangers find someone."""
    rng = np.random.default_rng(1)
    best = (rng.random((4000, 1000)) < 1e-4).any(axis=1).astype(float)
    rate = open_set.fpir(best, None, threshold=1.0)
    assert rate.value == pytest.approx(0.0952, abs=0.014)
    assert rate.interval.low < 0.0952 < rate.interval.high


@pytest.mark.parametrize(
    ("best", "people", "message"),
    [
        ([], None, "no search"),
        ([1, np.nan], None, "not finite"),
        ([1, 2.0], ["a"], "one for each"),
        ([[1.0]], None, "1 axes"),
    ],
)
def test_refused(best, people, message):
    for call in (
        lambda *given: open_set.fpir(*given, threshold=0),
        lambda *given: threshold_at_fpir(*given, fpir=0.1),
        lambda *given: conformal_p(*given, 1.0),
    ):
        with pytest.raises(UsageError, match=message):
            call(np.array(best), people)
