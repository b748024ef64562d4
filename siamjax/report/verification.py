"""The report of a verification run: are these two the same?"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.inference.pairs import PairScorer
from siamjax.metrics import verification
from siamjax.report.page import Table, write_report
from siamjax.training.run import Results, Run
from siamjax.training.writers import read_metrics

if TYPE_CHECKING:
    from siamjax.data.verification import VerificationSplits

Scores = Callable[[ImageSet, PairList], np.ndarray]
"""Scores of pairs, rising with similarity."""

_COLUMNS = {
    "auc": "AUC",
    "eer": "EER",
    "accuracy": "accuracy at threshold",
    "tar_at_far_0.1": "TAR at FAR 0.1",
    "tar_at_far_0.01": "0.01",
    "tar_at_far_0.001": "0.001",
    "tar_at_far_0.0001": "0.0001",
}


def result_table(results: Results) -> Table:
    """Columns and rows, as text, of summaries by name; what cannot be measured says so."""
    columns = dict(_COLUMNS)
    if any("fold_accuracy" in values for values in results.values()):
        columns["fold_accuracy"] = "k-fold accuracy (± standard error; standard deviation)"
    rows = []
    for name, values in results.items():
        cells = []
        for key in columns:
            value = values.get(key)
            cells.append("not measurable" if value is None else f"{value:.4f}")
            if key == "fold_accuracy" and value is not None:
                error, deviation = (
                    values["fold_standard_error"],
                    values["fold_standard_deviation"],
                )
                cells[-1] += f" ± {error:.4f}; {deviation:.4f}"
        rows.append((name, cells))
    return list(columns.values()), rows


def verification_report(
    run: Run,
    scorer: PairScorer,
    variables: Any,
    splits: "VerificationSplits",
    *,
    baselines: Mapping[str, Scores],
) -> Results:
    """Judge the chosen checkpoint on the test pairs, once, and end the run.

    Every threshold, of the network and of each of the ``baselines``, is the best one on the
    validation pairs. Manifest and page get the results; the manifest also the network's
    threshold, in the unit of its value. Returns measures by name.
    """
    from siamjax.report import figures

    images, test = splits.images, splits.test
    values = scorer.values(variables, images, test)
    on_validation = scorer.scores(variables, images, splits.validation)
    ways = {"network": (on_validation, scorer.rising(values))}
    for name, baseline in baselines.items():
        ways[name] = (baseline(images, splits.validation), baseline(images, test))
    results, curves, thresholds = {}, {}, {}
    for name, (validating, testing) in ways.items():
        thresholds[name], _ = verification.best_threshold(validating, splits.validation.same)
        results[name] = verification.summary(
            testing, test.same, threshold=thresholds[name], fold=test.fold
        )
        curves[name] = verification.roc(testing, test.same)
    measure, score = scorer.measure, ways["network"][1]
    threshold = float(scorer.rising(np.array([thresholds["network"]]))[0])
    where = f"{test.name} of {images.name}"
    return write_report(
        run,
        results,
        size=scorer.size,
        table=result_table(results),
        remark=(
            f"{test.name}: {results['network']['pairs_same']:,} same and "
            f"{results['network']['pairs_different']:,} different pairs. The {measure} threshold "
            f"{threshold:.4f} and the checkpoint of step {run.best_step} were chosen on "
            f"{splits.validation.name}."
        ),
        figures=[
            (
                "Training",
                figures.training_curves(
                    read_metrics(run.folder), data=images.name, panels=figures.VERIFICATION_PANELS
                ),
            ),
            ("ROC", figures.roc_curves(curves, data=where)),
            (
                f"{measure.capitalize()} of same and different pairs",
                figures.histogram(
                    values, test.same, threshold=threshold, measure=measure, data=where
                ),
            ),
            ("Hardest pairs", figures.hardest_pairs(images, test, values, score, measure=measure)),
        ],
        facts={"measure": measure, "threshold": threshold},
    )
