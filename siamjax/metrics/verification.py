"""Verification: are two images of the same identity? Measures of a score against the truth.

Contract: ``score`` (pairs,) rises with similarity (negate a distance); ``same`` (pairs,) is
bool, True = same identity. Plain NumPy in float64, outside jit: these run once, on the host.
Pairs of equal score cross every threshold together, so a constant score has an AUC of 0.5 and an
accuracy of chance, whatever the order of the pairs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from siamjax.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Roc:
    """Points of the ROC curve, from (0, 0) to (1, 1); a pair is accepted if score >= threshold."""

    false_accept: Float[np.ndarray, " points"]
    true_accept: Float[np.ndarray, " points"]
    threshold: Float[np.ndarray, " points"]
    positives: int
    negatives: int


def _checked(score, same) -> tuple[np.ndarray, np.ndarray]:
    score = np.asarray(score, np.float64)
    same = np.asarray(same)
    if same.dtype != np.bool_:
        raise UsageError(f"same must be bool (True = same identity), not {same.dtype}")
    if score.shape != same.shape or score.ndim != 1:
        raise UsageError(f"score {score.shape} and same {same.shape}: give one value for each pair")
    if not np.isfinite(score).all():
        bad = int(np.flatnonzero(~np.isfinite(score))[0])
        raise UsageError(f"the score of pair {bad} is {score[bad]}: the network has diverged")
    if not same.any() or same.all():
        missing = "same" if not same.any() else "different"
        raise UsageError(
            f"none of the {same.size} pairs is of the kind '{missing}'; give pairs of both kinds"
        )
    return score, same


def roc(score: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]) -> Roc:
    """The empirical ROC curve, one point for each distinct score.

    Raises ``UsageError`` for scores that are not finite, or if one kind of pair is missing.
    """
    score, same = _checked(score, same)
    order = np.argsort(-score, kind="stable")
    score, same = score[order], same[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(score)), score.size - 1)
    true_accepts = np.cumsum(same)[last_of_tie]
    false_accepts = np.cumsum(~same)[last_of_tie]
    positives, negatives = int(same.sum()), int((~same).sum())
    return Roc(
        false_accept=np.append(0.0, false_accepts / negatives),
        true_accept=np.append(0.0, true_accepts / positives),
        threshold=np.append(np.inf, score[last_of_tie]),
        positives=positives,
        negatives=negatives,
    )


def auc(curve: Roc) -> float:
    """Area under the curve = P(a same pair scores higher than a different one) + P(equal) / 2."""
    return float(np.trapezoid(curve.true_accept, curve.false_accept))


def eer(curve: Roc) -> float:
    """Equal error rate in [0, 1]: the FAR where the ROC curve meets FAR = 1 - TAR."""
    far, frr = curve.false_accept, 1.0 - curve.true_accept
    after = int(np.argmax(far >= frr))  # the first point at or past the crossing; never 0
    gap_before, gap_after = frr[after - 1] - far[after - 1], far[after] - frr[after]
    share = gap_before / (gap_before + gap_after)
    return float(far[after - 1] + share * (far[after] - far[after - 1]))


def tar_at_far(curve: Roc, far: float) -> float | None:
    """Highest true accept rate at a false accept rate of at most ``far``.

    None = not measurable: with fewer than ``1 / far`` different pairs, a single false accept is
    already too many.
    """
    if curve.negatives * far < 1.0 - 1e-9:
        return None
    return float(curve.true_accept[curve.false_accept <= far + 1e-12].max())


def best_threshold(
    score: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]
) -> tuple[float, float]:
    """The threshold of highest accuracy on these pairs, and that accuracy.

    A pair is accepted if ``score >= threshold``. The threshold lies midway between two
    neighbouring scores, so that it does not depend on one pair; of equally good thresholds the
    middle one is taken. No grid and no range of the score is assumed.
    """
    curve = roc(score, same)
    correct = curve.true_accept * curve.positives + (1 - curve.false_accept) * curve.negatives
    best = np.flatnonzero(correct >= correct.max() - 1e-6)
    at = int(best[len(best) // 2])
    scores = curve.threshold[1:]
    step = max(float(np.ptp(scores)), 1.0, 4 * float(np.spacing(np.abs(scores).max())))
    above = scores[0] + step if at == 0 else scores[at - 1]  # the last score that is accepted
    below = scores[-1] - step if at == len(scores) else scores[at]
    threshold = (above + below) / 2
    if not below < threshold <= above:  # there is no float between the two
        threshold = above
    return float(threshold), float(correct[at] / len(np.asarray(same)))


def accuracy(
    score: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"], threshold: float
) -> float:
    """Share of pairs with ``(score >= threshold) == same``."""
    score, same = _checked(score, same)
    return float(np.mean((score >= threshold) == same))


@dataclass(frozen=True, kw_only=True)
class KFold:
    """Accuracy of each fold, at the threshold that is best on the others."""

    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the folds' accuracies."""
        return float(np.mean(self.accuracies))

    @property
    def standard_deviation(self) -> float:
        """Sample standard deviation (ddof 1) of the folds' accuracies."""
        return float(np.std(self.accuracies, ddof=1))

    @property
    def standard_error(self) -> float:
        """Standard deviation / sqrt(folds): the LFW tables' number after the +-."""
        return self.standard_deviation / float(np.sqrt(len(self.accuracies)))


def k_fold(
    score: Float[np.ndarray, " pairs"],
    same: Bool[np.ndarray, " pairs"],
    fold: Int[np.ndarray, " pairs"],
) -> KFold:
    """Accuracy of each fold at the threshold that is best on all the others.

    Huang et al., *Labeled Faces in the Wild*, 2007, section 3 (View 2: ten folds of 600 pairs).
    """
    score, same = _checked(score, same)
    fold = np.asarray(fold)
    names = np.unique(fold)
    if len(names) < 2:
        raise UsageError(f"{len(names)} fold cannot be cross-validated; give at least 2")
    accuracies, thresholds = [], []
    for name in names:
        held_out = fold == name
        threshold, _ = best_threshold(score[~held_out], same[~held_out])
        thresholds.append(threshold)
        accuracies.append(float(np.mean((score[held_out] >= threshold) == same[held_out])))
    return KFold(accuracies=tuple(accuracies), thresholds=tuple(thresholds))


FARS = (1e-1, 1e-2, 1e-3, 1e-4)


def summary(
    score: Float[np.ndarray, " pairs"],
    same: Bool[np.ndarray, " pairs"],
    *,
    threshold: float,
    fold: Int[np.ndarray, " pairs"] | None = None,
) -> dict[str, float | None]:
    """All measures of one set of pairs, by name; None = not measurable.

    ``threshold`` must come from pairs of other people. ``fold`` adds the k-fold accuracy, its
    standard deviation and its standard error, which choose their own thresholds.
    """
    curve = roc(score, same)
    values: dict[str, float | None] = {
        "auc": auc(curve),
        "eer": eer(curve),
        "accuracy": accuracy(score, same, threshold),
        **{f"tar_at_far_{far:g}": tar_at_far(curve, far) for far in FARS},
        "pairs_same": curve.positives,
        "pairs_different": curve.negatives,
    }
    if fold is not None and len(np.unique(fold)) > 1:
        folds = k_fold(score, same, fold)
        values["fold_accuracy"] = folds.mean
        values["fold_standard_deviation"] = folds.standard_deviation
        values["fold_standard_error"] = folds.standard_error
    return values
