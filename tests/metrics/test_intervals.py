import numpy as np
import oracles
import pytest
from scipy import special

from siamjax.data.datasets import orl_faces
from siamjax.errors import UsageError
from siamjax.metrics import intervals
from siamjax.metrics.intervals import people_rate


@pytest.fixture(scope="module")
def orl():
    """Cosine of all pairs of ORL's faces, less each picture's mean, and who they are."""
    images = orl_faces.open_images()
    pixels = np.stack([images.image(n)[..., 0].ravel() for n in range(400)]).astype(float)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    one, other = np.triu_indices(400, 1)
    who = np.asarray(images.identities)
    return (pixels @ pixels.T)[one, other], who[one], who[other]


def test_rate_over_people_by_hand():
    """4 people, one image each; 0-1 and 0-2 are falsely matched.

    p = 2/6. Without 0: 0 of 3. Without 1 or 2: 1 of 3. Without 3: 2 of 3.
    V = 3/4 (1/9 + 0 + 0 + 1/9) = 1/6, and with the furthest twice 3/4 (3/9) = 1/4.
    p(1-p)/V = (2/9)/(1/4) = 8/9. Kurtosis 4 (2/81)/(2/9)^2 = 2: 8/(2-1) degrees, at most 3.
    """
    first, second = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 2, 3, 2, 3, 3])
    away = intervals.deviations(2, np.array([2.0, 1, 1, 0]), np.full(4, 3), 6)
    np.testing.assert_allclose(away, [1 / 3, 0, 0, -1 / 3], atol=1e-15)
    assert 3 / 4 * np.square(away).sum() == pytest.approx(1 / 6)
    rate = people_rate(np.arange(6) < 2, first, second)
    assert rate[0] == pytest.approx(1 / 3)
    assert rate[2:] == (6, 4, pytest.approx(8 / 9))
    z2 = 3.182446**2  # t of 3 degrees of freedom, 97.5 %
    middle = (8 / 27 + z2 / 2) / (8 / 9 + z2)
    half = np.sqrt(z2 * (16 / 81 + z2 / 4)) / (8 / 9 + z2)
    assert rate.interval == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_orl_faces(orl):
    """697 of 78,000 pairs of different people reach 0.7; they are as good as 925 independent."""
    score, first, second = orl
    different = first != second
    wrong, one, other = score[different] >= 0.7, first[different], second[different]
    assert (wrong.sum(), wrong.size) == (697, 78000)
    low, high = people_rate(wrong, None, None).interval
    assert (low, high) == pytest.approx((0.00830, 0.00962), abs=5e-6)
    without = oracles.without_each_person(wrong, one, other)
    p = wrong.mean()
    variance = 39 / 40 * np.square(without - p).sum()
    assert p * (1 - p) / variance == pytest.approx(925, abs=0.5)
    plain = intervals.wilson(p, p * (1 - p) / variance, certainty=0.975, freedom=39)
    assert plain == pytest.approx((0.00449, 0.01771), abs=5e-6)
    rate = people_rate(wrong, one, other)
    assert (rate.value, rate.comparisons, rate.people) == (p, 78000, 40)
    assert rate.interval.low < plain[0] < plain[1] < rate.interval.high < 0.021
    pairs = {*zip(one.tolist(), other.tolist(), strict=True)}
    assert len(pairs) == 780
    assert len({*zip(one[wrong].tolist(), other[wrong].tolist(), strict=True)}) == 122
    missed, who = score[~different] < 0.7, first[~different]
    without = oracles.without_each_person(missed, who, who)
    spread = np.sqrt(39 / 40 * np.square(without - missed.mean()).sum())
    assert (missed.mean(), spread) == pytest.approx((0.4983, 0.0386), abs=5e-5)


def test_bounds_against_leaving_out_one_by_one(rng):
    """People of unlike numbers of comparisons, genuine ones among them, called by name."""
    first, second = rng.integers(0, 9, (2, 300))
    wrong = rng.random(300) < 0.05 + 0.6 * (first == 3)
    without = oracles.without_each_person(wrong, first, second)
    p, away = wrong.mean(), wrong.mean() - without
    squares = away**2
    variance = 8 / 9 * (squares.sum() + squares.max())
    freedom = min(8, 2 * 9 / (9 * (squares**2).sum() / squares.sum() ** 2 - 1))
    n, z = p * (1 - p) / variance, special.stdtrit(freedom, 0.975)
    assert freedom < 8  # so that Satterthwaite's matter
    middle, half = (p * n + z * z / 2), z * np.sqrt(p * (1 - p) * n + z * z / 4)
    rate = people_rate(
        wrong, np.char.add("p", first.astype(str)), np.char.add("p", second.astype(str))
    )
    assert rate.effective == pytest.approx(n)
    assert rate.interval == pytest.approx(
        ((middle - half) / (n + z * z), (middle + half) / (n + z * z))
    )
    swapped = people_rate(wrong, second, first)
    assert swapped == people_rate(wrong, first, second)
    low, high = people_rate(~wrong, first, second).interval
    assert (1 - high, 1 - low) == pytest.approx(swapped.interval)
    narrow = people_rate(wrong, first, second, confidence=0.5).interval
    assert swapped.interval.low < narrow.low < p < narrow.high < swapped.interval.high


def test_independent_trials():
    """3 of 1000: Wilson [.001021, .008783]. 0 of 1000: .003682, one-sided .002991."""
    wrong = np.arange(1000) < 3
    rate = people_rate(wrong, None, None)
    assert rate.interval == pytest.approx((0.001021, 0.008783), abs=5e-7)
    assert (rate.people, rate.effective) == (None, 1000)
    for confidence, upper in ((0.95, 0.003682), (0.90, 0.002991)):
        none = people_rate(np.zeros(1000, bool), None, None, confidence=confidence)
        assert none.interval == pytest.approx((0, upper), abs=5e-7)


def test_without_errors_pairs_of_people_are_the_units():
    """5 people of 20 images, 4 of each compared with 4 of each other: 10 pairs of people."""
    one, other = (np.repeat(x, 16) for x in np.triu_indices(5, 1))
    rate = people_rate(np.zeros(160, bool), one, other)
    assert rate.interval == pytest.approx((0, 1 - 0.025 ** (1 / 10)))
    assert rate.effective == 10
    all_wrong = people_rate(np.ones(160, bool), other, one)
    assert all_wrong.interval == pytest.approx((0.025 ** (1 / 10), 1))


def test_some_errors_show_no_lower_rate_than_none_would():
    """6, or 1, of 25 comparisons of one of the 190 pairs of 20 people are wrong."""
    one, other = (np.repeat(x, 25) for x in np.triu_indices(20, 1))
    wrong = np.arange(4750) < 6
    errors, compared = np.bincount([0, 1], [6, 6], 20), np.full(20, 19.0 * 25)
    away = intervals.deviations(6, errors, compared, 4750)
    alone = intervals.people_bounds(6 / 4750, away, 4750, certainty=0.975)[1]
    none = people_rate(np.zeros(4750, bool), one, other).interval.high
    assert alone > none == pytest.approx(1 - 0.025 ** (1 / 190))
    assert people_rate(wrong, one, other).interval.high == alone
    assert people_rate(np.arange(4750) < 1, one, other).interval.high == none
    low, high = people_rate(np.arange(4750) >= 1, one, other).interval
    assert (low, high) == (1 - none, pytest.approx(1, abs=1e-4))


def test_nothing_is_known_where_one_person_is_in_all_comparisons():
    star = people_rate(np.arange(6) < 2, np.zeros(6, int), np.arange(1, 7))
    assert star.interval == (0, 1)
    alone = people_rate(np.arange(6) < 2, np.zeros(6, int), np.zeros(6, int))
    assert (alone.interval, alone.people) == ((0, 1), 1)


def test_people_that_a_rate_needs():
    rates = (1e-2, 1e-3, 1e-4)
    assert [intervals.people_needed(f) for f in rates] == [25, 78, 246]
    assert [intervals.people_needed(f, disjoint=True) for f in rates] == [598, 5990, 59912]
    assert [intervals.comparisons_needed(f) for f in rates] == [299, 2995, 29956]
    assert intervals.smallest_fmr(40) == pytest.approx(0.0038, abs=5e-5)
    assert intervals.smallest_fmr(40, disjoint=True) == pytest.approx(0.139, abs=5e-4)
    assert intervals.smallest_fmr(1) == 1.0
    for rate in rates:
        people = intervals.people_needed(rate)
        assert intervals.smallest_fmr(people) <= rate < intervals.smallest_fmr(people - 1)


def test_why_unknown():
    assert intervals.why_unknown(0.01, pairs=299) is None
    assert intervals.why_unknown(0.001, pairs=780, people=40) == (
        "FAR 0.001 needs at least 2,995 pairs of different people (78 people, all compared); "
        "there are 780, of 40 people: 38 people are missing"
    )
    assert intervals.why_unknown(0.001, pairs=2994, name="FMR") == (
        "FMR 0.001 needs at least 2,995 impostor pairs; there are 2,994"
    )


def test_percentiles_of_few_people_are_wider():
    """Phi(-2.2622 sqrt(10/9)) = 0.0086 of the draws of 10 people lie outside on each side."""
    draws = np.arange(100_001) / 100_000
    assert intervals.percentile(draws) == pytest.approx((0.025, 0.975))
    assert intervals.percentile(draws, people=10) == pytest.approx((0.00855, 0.99145), abs=2e-5)
    one, other = draws + 0.5, np.full_like(draws, 0.25)
    assert intervals.paired_difference(one, other) == pytest.approx((0.275, 1.225))
    with pytest.raises(UsageError, match="same"):
        intervals.paired_difference(one, other[:-1])


@pytest.mark.parametrize(
    ("wrong", "first", "second", "message"),
    [
        ([True], ["a"], None, "both sides"),
        ([True, False], ["a", "b"], ["b"], "one for each side"),
        ([1, 0], ["a", "b"], ["b", "a"], "must be bool"),
        ([], [], [], "one value for each comparison"),
        ([True, False], ["a", ""], ["b", "a"], "not known"),
    ],
)
def test_refused(wrong, first, second, message):
    with pytest.raises(UsageError, match=message):
        people_rate(np.array(wrong) if wrong else np.zeros(0, bool), first, second)
