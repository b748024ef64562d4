"""Verification: are two images of the same identity? Measures of a score against the truth.

Contract: ``score`` (pairs,) rises with similarity (negate a distance); ``same`` (pairs,) is
bool, True = same identity. Plain NumPy in float64, outside jit: these run once, on the host.
``UsageError`` for labels of another type, and for scores, thresholds, folds and rates that are not
finite.
Pairs of equal score cross every threshold together, so a constant score has an AUC of 0.5 and an
accuracy of chance, whatever the order of the pairs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from siamjax.checks import require_bool, require_finite, require_names, require_number
from siamjax.errors import UsageError
from siamjax.metrics.intervals import FARS


@dataclass(frozen=True, kw_only=True)
class Roc:
    """Points of the ROC curve, from (0, 0) to (1, 1); a pair is accepted if score >= threshold."""

    false_accept: Float[np.ndarray, " points"]
    true_accept: Float[np.ndarray, " points"]
    threshold: Float[np.ndarray, " points"]
    positives: int
    negatives: int


def _checked(score: Any, same: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores in their own type, which thresholds must fit, and the truth."""
    same = require_bool("same", same, true="the same identity")
    if np.shape(score) != same.shape or same.ndim != 1:
        raise UsageError(
            f"score {np.shape(score)} and same {same.shape}: give one value for each pair"
        )
    remedy = "the network has diverged: use an earlier checkpoint"
    score = require_finite("score", score, axes=1, remedy=remedy)
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
    score = score.astype(np.float64)
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

    ``far`` lies in [0, 1]. None = the curve has no such point: with fewer than ``1 / far``
    different pairs, a single false accept is already too many. Whether the people suffice to know
    the number is another question, which :func:`siamjax.metrics.intervals.why_unknown` answers.
    """
    require_number("far", far, at_least=0, at_most=1)
    if curve.negatives * far < 1.0 - 1e-9:
        return None
    return float(curve.true_accept[curve.false_accept <= far + 1e-12].max())


def best_threshold(
    score: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"]
) -> tuple[float, float]:
    """The threshold of highest accuracy on these pairs, and that accuracy.

    A pair is accepted if ``score >= threshold``. The threshold lies midway between two
    neighbouring scores, so that it does not depend on one pair; of equally good thresholds the
    middle one is taken. No grid and no range of the score is assumed. It is a number of the
    scores' own type, so that it separates them when compared in that type too.
    """
    score, same = _checked(score, same)
    curve = roc(score, same)
    correct = curve.true_accept * curve.positives + (1 - curve.false_accept) * curve.negatives
    best = np.flatnonzero(correct >= correct.max() - 1e-6)
    at = int(best[len(best) // 2])
    scores, own = curve.threshold[1:], score.dtype if score.dtype.kind == "f" else np.float64
    unit = float(np.spacing(np.abs(scores).max().astype(own)))
    step = max(float(np.ptp(scores)), 1.0, 4 * unit)
    above = scores[0] + step if at == 0 else scores[at - 1]  # the last score that is accepted
    below = scores[-1] - step if at == len(scores) else scores[at]
    with np.errstate(over="ignore"):
        threshold = float(np.float64(below + (above - below) / 2).astype(own))
    if not below < threshold <= above:  # there is no number of that type between the two
        threshold = above
    return float(threshold), float(correct[at] / len(same))


def accuracy(
    score: Float[np.ndarray, " pairs"], same: Bool[np.ndarray, " pairs"], threshold: float
) -> float:
    """Share of pairs with ``(score >= threshold) == same``, compared in float64.

    The threshold may be infinite, where all pairs are accepted or none, but not NaN.
    """
    score, same = _checked(score, same)
    limit = np.asarray(threshold)
    if limit.ndim or limit.dtype.kind not in "fiu" or np.isnan(limit):
        raise UsageError(f"threshold {threshold}: give one number to compare the scores with")
    return float(np.mean((score.astype(np.float64) >= limit.astype(np.float64)) == same))


@dataclass(frozen=True, kw_only=True)
class KFold:
    """Accuracy of each fold, at the threshold that is best on the others; at least 2 folds."""

    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.accuracies) < 2:
            raise UsageError(
                f"{len(self.accuracies)} fold cannot be cross-validated; give at least 2"
            )

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
    fold: Shaped[np.ndarray, " pairs"],
) -> KFold:
    """Accuracy of each fold at the threshold that is best on all the others.

    ``fold`` is the number or name of each pair's fold. Raises ``UsageError`` for fewer than two
    folds, and where all pairs outside a fold are of one kind.

    Huang et al., *Labeled Faces in the Wild*, 2007, section 3 (View 2: ten folds of 600 pairs).
    """
    score, same = _checked(score, same)
    fold = require_names("fold", fold, count=len(score))
    accuracies, thresholds = [], []
    for name in np.unique(fold):
        held_out = fold == name
        if held_out.all():
            break  # KFold says that one is not enough
        try:
            threshold, _ = best_threshold(score[~held_out], same[~held_out])
        except UsageError as error:
            raise UsageError(f"all folds but {name}: {error}") from None
        thresholds.append(threshold)
        right = (score[held_out].astype(np.float64) >= threshold) == same[held_out]
        accuracies.append(float(np.mean(right)))
    return KFold(accuracies=tuple(accuracies), thresholds=tuple(thresholds))


def summary(
    score: Float[np.ndarray, " pairs"],
    same: Bool[np.ndarray, " pairs"],
    *,
    threshold: float | None,
    fold: Shaped[np.ndarray, " pairs"] | None = None,
) -> dict[str, float | None]:
    """All measures of one set of pairs, by name; None = not measurable.

    ``threshold`` must come from pairs of other people; None: there is none, and no accuracy.
    ``fold`` adds the k-fold accuracy, its standard deviation and its standard error, which choose
    their own thresholds.
    """
    curve = roc(score, same)
    values: dict[str, float | None] = {
        "auc": auc(curve),
        "eer": eer(curve),
        "accuracy": None if threshold is None else accuracy(score, same, threshold),
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
