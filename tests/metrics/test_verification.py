import numpy as np
import oracles
import pytest

from siamjax.errors import UsageError
from siamjax.metrics import verification as v

# scores        0.9   0.8    0.7   0.6    0.5
SCORE = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
SAME = np.array([True, False, True, False, False])


def test_roc_by_hand():
    curve = v.roc(SCORE, SAME)
    np.testing.assert_allclose(curve.true_accept, [0, 0.5, 0.5, 1, 1, 1])
    np.testing.assert_allclose(curve.false_accept, [0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert (curve.positives, curve.negatives) == (2, 3)


def test_auc_by_hand_and_by_counting(rng):
    assert v.auc(v.roc(SCORE, SAME)) == pytest.approx(5 / 6)  # 5 of 2 x 3 couples in order
    score = rng.integers(0, 8, 60).astype(float)  # many ties
    same = rng.random(60) < 0.4
    assert v.auc(v.roc(score, same)) == pytest.approx(oracles.auc(score, same))


def test_eer_by_hand():
    # FAR and 1 - TAR: (0, .5) -> (1/3, .5) -> (1/3, 0): they meet on the vertical piece, at 1/3
    assert v.eer(v.roc(SCORE, SAME)) == pytest.approx(1 / 3)
    # one tie of everything: the line from (0, 0) to (1, 1) meets FAR = FRR at one half
    assert v.eer(v.roc(np.zeros(4), np.array([True, False, True, False]))) == pytest.approx(0.5)
    assert v.eer(v.roc(np.array([2.0, 1.0]), np.array([True, False]))) == 0.0
    assert v.eer(v.roc(np.array([1.0, 2.0]), np.array([True, False]))) == 1.0


def test_constant_score_is_chance():
    same = np.arange(100) % 4 == 0
    curve = v.roc(np.full(100, 3.0), same)
    assert v.auc(curve) == 0.5
    assert v.tar_at_far(curve, 0.1) == 0.0
    threshold, accuracy = v.best_threshold(np.full(100, 3.0), same)
    assert accuracy == 0.75
    assert v.accuracy(np.full(100, 3.0), same, threshold) == 0.75


def test_monotone_change_of_score_changes_nothing(rng):
    score, same = rng.normal(size=80), rng.random(80) < 0.5
    one, other = v.roc(score, same), v.roc(np.exp(3 * score), same)
    assert v.auc(one) == v.auc(other)
    assert v.eer(one) == v.eer(other)


def test_order_of_pairs_changes_nothing(rng):
    score, same = rng.integers(0, 5, 80).astype(float), rng.random(80) < 0.5
    order = rng.permutation(80)
    assert v.auc(v.roc(score, same)) == v.auc(v.roc(score[order], same[order]))


def test_tar_at_far():
    score = np.concatenate([[10.0, 6.5, 3.5], np.arange(10)])
    same = np.arange(13) < 3
    curve = v.roc(score, same)
    assert v.tar_at_far(curve, 0.1) == pytest.approx(1 / 3)  # 9 may pass; 6.5 is under 9, 8, 7
    assert v.tar_at_far(curve, 0.3) == pytest.approx(2 / 3)
    assert v.tar_at_far(curve, 0.01) is None  # 10 different pairs cannot show 1 in 100


def test_tar_is_not_claimed_between_tied_pairs():
    """Points (0, .4) and (.5, .9): at FAR .25 no threshold has more than .4; a line says .65."""
    score = np.repeat([3.0, 2.0, 1.0, 2.0, 1.0], [4, 5, 1, 5, 5])
    curve = v.roc(score, np.arange(20) < 10)
    assert v.tar_at_far(curve, 0.25) == 0.4
    assert np.interp(0.25, curve.false_accept, curve.true_accept) == pytest.approx(0.65)


def test_auc_of_two_scores_of_the_same_pairs():
    """8 and 7 of 3 x 3 couples in order."""
    same = np.arange(6) < 3
    for score, couples in (
        ([0.9, 0.8, 0.4, 0.7, 0.3, 0.2], 8),
        ([0.6, 0.9, 0.5, 0.65, 0.4, 0.1], 7),
    ):
        assert v.auc(v.roc(np.array(score), same)) == pytest.approx(couples / 9)


def test_best_threshold_lies_between_scores_and_is_found_again(rng):
    threshold, accuracy = v.best_threshold(SCORE, SAME)
    assert accuracy == 0.8
    assert v.accuracy(SCORE, SAME, threshold) == 0.8
    assert threshold not in SCORE
    for _ in range(20):
        score, same = rng.integers(0, 6, 30).astype(float), rng.random(30) < 0.5
        threshold, accuracy = v.best_threshold(score, same)
        tried = [np.mean((score >= t) == same) for t in np.arange(-0.5, 7)]
        assert accuracy == pytest.approx(max(tried))
        assert v.accuracy(score, same, threshold) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    "score", [[1.0, np.nextafter(1.0, 2)], [1e17, 1e17], [-1e17, -1e17], [0.0, 5e-324]]
)
def test_best_threshold_keeps_its_word_at_the_ends_of_float(score):
    score, same = np.array(score), np.array([False, True])
    threshold, accuracy = v.best_threshold(score, same)
    assert v.accuracy(score, same, threshold) == accuracy


def test_k_fold_takes_each_threshold_from_the_others():
    """Fold 1's own best threshold (1.5) would score 1.0; the other fold's (11.5) scores 0.5."""
    score = np.array([1.0, 2.0, 11.0, 12.0])
    same = np.array([False, True, False, True])
    folds = v.k_fold(score, same, np.array([1, 1, 2, 2]))
    assert folds.thresholds == (11.5, 1.5)
    assert folds.accuracies == (0.5, 0.5)
    assert folds.mean == 0.5


def test_k_fold_statistics():
    folds = v.KFold(accuracies=(0.5, 0.7, 0.9), thresholds=(0, 0, 0))
    assert folds.mean == pytest.approx(0.7)
    assert folds.standard_deviation == pytest.approx(0.2)  # sqrt((.04 + 0 + .04) / 2)
    assert folds.standard_error == pytest.approx(0.2 / np.sqrt(3))


@pytest.mark.parametrize(
    ("score", "same", "message"),
    [
        (np.ones(3), np.array([1, 0, 1]), "must be bool"),
        (np.ones(2), np.array([True, True]), "kind 'different'"),
        (np.ones(2), np.array([False, False]), "kind 'same'"),
        (
            np.array([1.0, np.nan]),
            np.array([True, False]),
            "score: 1 of 2 .* is nan at 1",
        ),
        (np.ones((2, 1)), np.array([True, False]), "one value for each pair"),
    ],
)
def test_bad_input(score, same, message):
    with pytest.raises(UsageError, match=message):
        v.roc(score, same)


def test_summary_marks_what_cannot_be_measured():
    values = v.summary(SCORE, SAME, threshold=0.65)
    assert values["tar_at_far_0.001"] is None
    assert values["accuracy"] == 0.8
    assert "fold_accuracy" not in values


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("centre", [0.0, 0.7, -3e4, 1e-3])
def test_a_threshold_separates_scores_in_their_own_type(dtype, centre, rng):
    """Neighbouring numbers of the type: most midpoints are no numbers of it."""
    for _ in range(50):
        score = [dtype(centre)]
        for _ in range(7):
            score.append(np.nextafter(score[-1], dtype(np.inf)))
        score = rng.permutation(np.array(score, dtype))
        same = rng.random(8) < 0.5
        same[:2] = True, False
        threshold, accuracy = v.best_threshold(score, same)
        assert np.mean((score >= dtype(threshold)) == same) == accuracy
        assert np.mean((score >= threshold) == same) == accuracy
        assert v.accuracy(score, same, threshold) == accuracy
        assert accuracy == max(np.mean((score >= one) == same) for one in [*score, np.inf])
    folds = v.k_fold(score, np.arange(8) % 2 == 0, np.arange(8) // 4)
    assert all(float(dtype(one)) == one for one in folds.thresholds)


def test_scores_of_whole_numbers_have_thresholds_between():
    assert v.best_threshold(np.array([1, 2, 4, 5]), np.arange(4) > 1) == (3.0, 1.0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_of_the_scores_changes_nothing(scale, rng):
    score, same = rng.normal(size=60).astype(np.float32), rng.random(60) < 0.5
    one, other = v.roc(score, same), v.roc(score * np.float32(scale), same)
    assert (v.auc(one), v.eer(one)) == (v.auc(other), v.eer(other))
    threshold, accuracy = v.best_threshold(score * np.float32(scale), same)
    assert accuracy == v.best_threshold(score, same)[1]
    assert v.accuracy(score * np.float32(scale), same, threshold) == accuracy


@pytest.mark.parametrize(
    "same", [[1, 0], [1, -1], ["yes", "no"], [1.0, 0.0], [True, None]], ids=str
)
def test_labels_that_are_not_bool_are_refused_everywhere(same):
    score, fold = np.array([0.9, 0.1]), np.array([0, 1])
    for measure in (
        lambda: v.roc(score, same),
        lambda: v.best_threshold(score, same),
        lambda: v.accuracy(score, same, 0.5),
        lambda: v.k_fold(score, same, fold),
        lambda: v.summary(score, same, threshold=0.5),
    ):
        with pytest.raises(UsageError, match="same must be bool"):
            measure()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_counted(bad):
    score, same = np.array([0.5, bad, 0.2, bad]), np.arange(4) % 2 == 0
    for measure in (v.roc, v.best_threshold, lambda *pair: v.k_fold(*pair, np.arange(4))):
        with pytest.raises(UsageError, match=f"score: 2 of 4 values .* the first is {bad} at 1"):
            measure(score, same)


@pytest.mark.parametrize("far", [np.nan, np.inf, -0.1, 1.1, "0.1", None])
def test_a_far_that_is_none_is_refused(far):
    with pytest.raises(UsageError, match="far"):
        v.tar_at_far(v.roc(SCORE, SAME), far)


def test_far_of_0_and_1():
    assert v.tar_at_far(v.roc(SCORE, SAME), 0) is None  # no number of pairs shows it
    assert v.tar_at_far(v.roc(SCORE, SAME), 1) == 1.0


@pytest.mark.parametrize("threshold", [np.nan, None, "0.5", [0.5, 0.6]])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(UsageError, match="threshold"):
        v.accuracy(SCORE, SAME, threshold)


def test_a_threshold_may_accept_all_or_none():
    assert v.accuracy(SCORE, SAME, -np.inf) == 2 / 5
    assert v.accuracy(SCORE, SAME, np.inf) == 3 / 5


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        (np.array([1, 1, 2, np.nan]), "fold: 1 of 4 are not known .* nan at 3"),
        (np.array([1.0, 1, 2, 2]), "fold: 4 of 4"),
        (np.array([1, 1, 2]), r"fold of shape \(3,\); give one for each of 4"),
        (np.array([1, 1, 1, 1]), "0 fold cannot be cross-validated; give at least 2"),
        (np.array([1, 2, 2, 2]), "all folds but 2: none of the 1 pairs is of the kind"),
    ],
)
def test_folds_that_are_none_are_refused(fold, message):
    with pytest.raises(UsageError, match=message):
        v.k_fold(np.arange(4.0), np.array([True, False, True, False]), fold)


def test_folds_may_have_names():
    score, same = np.array([1.0, 2.0, 11.0, 12.0]), np.array([False, True, False, True])
    assert v.k_fold(score, same, ["a", "a", "b", "b"]) == v.k_fold(score, same, [1, 1, 2, 2])


def test_one_fold_has_no_deviation():
    with pytest.raises(UsageError, match="1 fold cannot"):
        v.KFold(accuracies=(0.5,), thresholds=(0.1,))


def test_no_pair_and_one():
    for count in (0, 1):
        with pytest.raises(UsageError, match=f"none of the {count} pairs is of the kind"):
            v.roc(np.zeros(count), np.zeros(count, bool))
