import math

import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.metrics import calibration, verification
from siamjax.metrics.calibration import cllr, fit_llr, min_cllr, pav, threshold_at_fmr
from siamjax.metrics.intervals import people_rate

SAME = np.arange(6) < 3
LLR = np.log([8, 2, 0.5, 0.125, 0.5, 2])


def test_errors_that_independent_trials_allow():
    cases = {(10_000, 0.001): 4, (2995, 0.001): 0, (2994, 0.001): -1, (3000, 0.01): 20}
    for (trials, rate), allowed in cases.items():
        assert calibration.allowed_errors(trials, rate) == allowed
    for trials, rate in ((57, 0.2), (300, 0.01)):  # the sums of the binomial's terms
        terms = [math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(trials)]
        expected = int((np.cumsum(terms) <= 0.1).sum()) - 1
        assert calibration.allowed_errors(trials, rate, certainty=0.9) == expected


def test_threshold_of_independent_comparisons_is_just_above_the_first_that_is_not_allowed(rng):
    score = rng.normal(size=3000)
    found = threshold_at_fmr(score, None, None, fmr=0.01)
    ordered = np.sort(score)[::-1]
    assert ordered[20] < found <= ordered[19]
    assert found == np.nextafter(ordered[20], np.inf)
    with pytest.raises(UsageError, match=r"0\.001 needs at least 2,995 impostor pairs; .* 2,994"):
        threshold_at_fmr(rng.normal(size=2994), None, None, fmr=0.001)


def test_a_threshold_exceeds_its_rate_as_seldom_as_it_says():
    """Uniform scores, whose true rate at T is 1 - T: 3.6 % of samples, of the quantile 55 %."""
    rng = np.random.default_rng(0)
    score = rng.random((300, 3000))
    rates = np.array([1 - threshold_at_fmr(one, None, None, fmr=0.01) for one in score])
    assert 0.01 < np.mean(rates > 0.01) < 0.06
    naive = 1 - np.quantile(score, 0.99, axis=1)
    assert np.mean(naive > 0.01) > 0.4


def test_equal_scores_cross_together():
    """Four may match of 10,000: of five tied behind the first, none."""
    score = np.concatenate([[9.0], np.full(5, 8.0), np.linspace(0, 1, 9994)])
    assert threshold_at_fmr(score, None, None, fmr=0.001) == np.nextafter(8.0, 9)
    single = threshold_at_fmr(score.astype(np.float32), None, None, fmr=0.001)
    assert np.float32(single) == single == np.nextafter(np.float32(8), np.float32(9))
    # [.9, .8, .8, .8, .1 x 6]: 1 may match, and np.quantile's .8 would let 4 match.
    few = np.array([0.9, 0.8, 0.8, 0.8, *[0.1] * 6])
    assert (few >= threshold_at_fmr(few, None, None, fmr=0.4, certainty=0.9)).sum() == 1


@pytest.mark.parametrize("digits", [1, 6])  # many ties, and none
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_threshold_over_people_against_a_slow_walk(digits, seed):
    """Down from the top while the two-sided interval of the rate stays within the wanted one."""
    rng = np.random.default_rng(seed)
    one, other = np.triu_indices(30, 1)
    effect = rng.normal(0, 0.4, 30)
    score = np.round(effect[one] + effect[other] + rng.normal(size=one.size), digits)
    highest = np.inf
    for value in np.unique(score)[::-1]:
        if people_rate(score >= value, one, other).interval.high > 0.1:
            break
        highest = value
    names = np.char.add("p", one.astype(str)), np.char.add("p", other.astype(str))
    found = threshold_at_fmr(score, *names, fmr=0.1)
    assert value < found <= highest
    assert (score >= found).sum() == (score >= highest).sum()
    assert found == np.nextafter(value, np.inf)


def test_threshold_over_people_takes_few_thresholds_at_a_time(rng, monkeypatch):
    one, other = np.triu_indices(40, 1)
    score = rng.normal(size=one.size)
    whole = threshold_at_fmr(score, one, other, fmr=0.2)
    monkeypatch.setattr(calibration, "_CELLS", 40 * 7)
    assert threshold_at_fmr(score, one, other, fmr=0.2) == whole
    # Each comparison four times over, of four images: still 780 pairs of people.
    four = [np.repeat(x, 4) for x in (score, one, other)]
    assert threshold_at_fmr(*four, fmr=0.2) == pytest.approx(whole)


def test_threshold_refused(rng):
    one, other = np.triu_indices(40, 1)
    score = rng.normal(size=780)
    refused = [
        ((score, one, other, 0.001), r"2,995 pairs .*78 people.* 780, of 40 people: 38 people"),
        ((np.repeat(score, 9), np.repeat(one, 9), np.repeat(other, 9), 0.001), "780, of 40"),
        ((score, one, np.where(other == 7, one, other), 0.1), "comparison 6 is of one person"),
        ((np.zeros(780), one, other, 0.1), "all of the 780 scores are equal"),
        ((np.where(one, score, np.nan), one, other, 0.1), "39 of 780 values are not finite"),
        ((score, one, other, 0), "above 0"),
    ]
    for (*given, fmr), message in refused:
        with pytest.raises(UsageError, match=message):
            threshold_at_fmr(*given, fmr=fmr)


def sampled(rng, same=400, different=900, shift=1.5):
    labels = np.arange(same + different) < same
    return rng.normal(size=labels.size) + shift * labels, labels


@pytest.mark.parametrize("prior", [0.5, 0.01])
def test_llr_is_where_the_gradient_vanishes(rng, prior):
    score, same = sampled(rng)
    line = fit_llr(1e3 + 1e-3 * score, same, prior=prior)
    logit = line.slope * (1e3 + 1e-3 * score) + line.offset + np.log(prior / (1 - prior))
    error = 1 / (1 + np.exp(-logit)) - same
    weight = np.where(same, prior / same.sum(), (1 - prior) / (~same).sum())
    assert weight @ error == pytest.approx(0, abs=1e-7)
    assert (weight * error) @ score == pytest.approx(0, abs=1e-7)
    plain = fit_llr(score, same, prior=prior)
    np.testing.assert_allclose(line(1e3 + 1e-3 * score), plain(score), atol=1e-4)


def test_llr_of_gaussians_is_known(rng):
    """N(1.5, 1) against N(0, 1): 1.5 s - 1.125, however many there are of each."""
    line = fit_llr(*sampled(rng, 5000, 20_000))
    assert (line.slope, line.offset) == pytest.approx((1.5, -1.125), abs=0.06)


def test_llr_of_scores_that_are_never_wrong_has_an_end():
    """Two points: the logits of Platt's targets 4/5 and 1/6, less none of the prior 1/2."""
    line = fit_llr(np.array([1, 1, 1, 0, 0, 0, 0.0]), np.arange(7) < 3)
    high, low = math.log(4), -math.log(5)
    assert line.slope + line.offset == pytest.approx(high, rel=1e-6)
    assert line.offset == pytest.approx(low, rel=1e-6)
    # Three and four pairs show no more than 3 and 4 to 1.
    assert (line.lowest, line.highest) == pytest.approx((-math.log(3), math.log(4)))


def test_llr_never_falls_and_never_reaches_further_than_the_data(rng):
    score, same = sampled(rng)
    wrong = fit_llr(-score, same)
    assert (wrong.slope, wrong(score).tolist()) == (0.0, [0.0] * score.size)
    line = fit_llr(score, same)
    ends = line(np.array([-100.0, score.min(), score.max(), 100.0]))
    assert ends[0] == ends[1] >= -math.log(400)
    assert ends[3] == ends[2] <= math.log(900)
    # 5 people and their 10 pairs: no LLR beyond these numbers.
    one, other = np.triu_indices(5, 0)
    first, second = np.tile(one, 60), np.tile(other, 60)
    score = rng.normal(size=900) + 3 * (first == second)
    line = fit_llr(score, first == second, first=first, second=second)
    assert (line.lowest, line.highest) == pytest.approx((-math.log(5), math.log(10)))


def test_posterior_needs_a_prior():
    """Prior .001: the log-odds -6.9068, and with an LR of 1000 P = .5003 (1000/1999 = .50025)."""
    assert calibration.posterior(0.0, prior=0.001) == pytest.approx(0.001)
    assert calibration.posterior(6.9068, prior=0.001) == pytest.approx(0.5, abs=2e-5)
    assert calibration.posterior(math.log(1000), prior=0.001) == pytest.approx(0.5003, abs=6e-5)
    with pytest.raises(UsageError, match="prior"):
        calibration.posterior(0.0, prior=0)


def test_cllr_by_hand():
    assert cllr(LLR, SAME) == pytest.approx(0.77995, abs=5e-6)
    assert min_cllr(LLR, SAME) == pytest.approx(0.66667, abs=5e-6)
    assert cllr(LLR, SAME) - min_cllr(LLR, SAME) == pytest.approx(0.11328, abs=5e-6)
    assert cllr(np.zeros(6), SAME) == 1
    assert min_cllr(SAME.astype(float), SAME) == 0
    assert cllr(np.where(SAME, np.inf, -np.inf), SAME) == 0


def test_a_rising_change_of_the_score_leaves_the_least_cllr(rng):
    score, same = sampled(rng, 60, 80)
    score = np.round(score, 1)
    assert min_cllr(np.exp(score), same) == pytest.approx(min_cllr(score, same))
    assert min_cllr(score, same) <= cllr(fit_llr(score, same)(score), same) < 1


def test_pav_pools_equal_scores_first():
    """1: different, 2: same and different, 3: different, 4: same; 2 and 3 pool to 1/3."""
    score, same = np.array([1, 2, 2, 3, 4.0]), np.array([0, 1, 0, 0, 1], bool)
    for order in (slice(None), slice(None, None, -1)):
        distinct, probability = pav(score[order], same[order])
        np.testing.assert_allclose(distinct, [1, 2, 3, 4])
        np.testing.assert_allclose(probability, [0, 1 / 3, 1 / 3, 1])


def test_det_stops_at_one_of_n():
    """Two same, three different pairs: rates 1/3 and 1/2 where they are, 0 and 1 at 1/n of them."""
    score, same = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 0, 1, 0, 0], bool)
    x, y = calibration.det_points(verification.roc(score, same))
    third = 0.4307273  # norm.ppf(2/3)
    np.testing.assert_allclose(x, [-third, -third, -third, -third, third, third], atol=1e-6)
    np.testing.assert_allclose(y, 0, atol=1e-12)
    wide = np.arange(200) >= 100
    x, y = calibration.det_points(verification.roc(np.arange(200.0), wide))
    # .01 is -2.3263, .1 is -1.2816
    assert x.min() == pytest.approx(-2.3263, abs=5e-5)
    assert np.abs(y + 1.2816).min() < 5e-5


def test_reliability_bins_are_of_equal_count(rng):
    said = rng.random(1000)
    same = rng.random(1000) < said
    found = calibration.reliability(said, same, None, None, bins=5)
    assert [one.seen.comparisons for one in found] == [200] * 5
    ordered = np.sort(said).reshape(5, 200)
    np.testing.assert_allclose([one.said for one in found], ordered.mean(axis=1))
    assert all(one.seen.interval.low < one.said < one.seen.interval.high for one in found)
    tied = calibration.reliability(np.repeat([0.2, 0.7], [700, 300]), same, None, None)
    assert [one.seen.comparisons for one in tied] == [700, 300]
    first, second = rng.integers(0, 9, (2, 1000))
    people = calibration.reliability(said, first == second, first, second, bins=2)
    assert {one.seen.people for one in people} == {9}


@pytest.mark.parametrize("function", [fit_llr, pav, min_cllr])
def test_refused(function):
    for score, same, message in (
        ([1, 2.0], [True, True], "two identities or more"),
        ([1, 2.0], [False, False], "two images or more of each"),
        ([2, 2.0], [True, False], "scores are equal"),
        ([np.nan, 2.0], [True, False], "not finite"),
        ([1, 2.0], [1, 0], "bool"),
        ([1, 2.0, 3], [True, False], "one for each pair"),
    ):
        with pytest.raises(UsageError, match=message):
            function(np.array(score), np.array(same))


@pytest.mark.parity
def test_as_scikit_learn_has_it(rng):
    """Without scikit-learn's own penalty: its default C=1 would give another slope."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    isotonic = pytest.importorskip("sklearn.isotonic")
    score, same = sampled(rng)
    weight = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum()) * same.size
    model = linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(score[:, None], same, sample_weight=weight)
    line = fit_llr(score, same)
    assert (line.slope, line.offset) == pytest.approx(
        (model.coef_[0, 0], model.intercept_[0]), abs=1e-5
    )
    score = np.round(score, 1)
    expected = isotonic.IsotonicRegression().fit(score, same).predict(np.unique(score))
    np.testing.assert_allclose(pav(score, same)[1], expected)
