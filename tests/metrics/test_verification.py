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
