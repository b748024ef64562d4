import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.metrics import intervals


def test_rate_over_people_by_hand():
    """4 people, one image each; 0-1 and 0-2 are falsely matched.

    p = 2/6. Without 0: 0 of 3. Without 1 or 2: 1 of 3. Without 3: 2 of 3.
    V = 3/4 (1/9 + 0 + 0 + 1/9) = 1/6, and with the furthest twice 3/4 (3/9) = 1/4.
    p(1-p)/V = (2/9)/(1/4) = 8/9. Kurtosis 4 (2/81)/(2/9)^2 = 2: 8/(2-1) degrees, at most 3.
    """
    first, second = np.array([0, 0, 0, 1, 1, 2]), np.array([1, 2, 3, 2, 3, 3])
    errors, compared = np.array([2.0, 1, 1, 0]), np.full(4, 3)
    away = intervals.deviations(2, errors, compared, 6)
    np.testing.assert_allclose(away, [1 / 3, 0, 0, -1 / 3], atol=1e-15)
    assert 3 / 4 * np.square(away).sum() == pytest.approx(1 / 6)
    rate = intervals.people_rate(np.arange(6) < 2, first, second)
    assert rate[0] == pytest.approx(1 / 3)
    assert rate[2:] == (6, 4, pytest.approx(8 / 9))
    z2 = 3.182446**2  # t of 3 degrees of freedom, 97.5 %
    middle = (8 / 27 + z2 / 2) / (8 / 9 + z2)
    half = np.sqrt(z2 * (16 / 81 + z2 / 4)) / (8 / 9 + z2)
    assert rate.interval == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_people_that_a_rate_needs():
    assert [intervals.people_needed(f) for f in (1e-2, 1e-3, 1e-4)] == [25, 78, 246]
    assert [intervals.people_needed(f, disjoint=True) for f in (1e-2, 1e-3, 1e-4)] == [
        598,
        5990,
        59912,
    ]
    assert [intervals.comparisons_needed(f) for f in (1e-2, 1e-3, 1e-4)] == [299, 2995, 29956]
    assert intervals.smallest_fmr(40) == pytest.approx(0.0038, abs=5e-5)
    assert intervals.smallest_fmr(40, disjoint=True) == pytest.approx(0.139, abs=5e-4)
    assert intervals.smallest_fmr(1) == 1.0


def test_why_unknown():
    assert intervals.why_unknown(0.01, pairs=299) is None
    assert intervals.why_unknown(0.001, pairs=780, people=40) == (
        "FAR 0.001 needs at least 2,995 pairs of different people (78 people, all compared); "
        "there are 780, of 40 people: 38 people are missing"
    )


def test_names_of_one_side_alone():
    with pytest.raises(UsageError, match="both sides"):
        intervals.people_rate(np.array([True]), np.array(["a"]), None)
