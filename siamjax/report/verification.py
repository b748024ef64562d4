"""The report of a verification run: are these two the same?"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.inference.pairs import PairScorer
from siamjax.metrics import verification
from siamjax.report.page import Table, table_of, write_report
from siamjax.training.run import Results, Run

if TYPE_CHECKING:
    from siamjax.data.verification import VerificationSplits

Scores = Callable[[ImageSet, PairList], np.ndarray]
"""Scores of pairs, which rise with similarity."""

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
    """Verification measures of methods by name; k-fold accuracy with its spread, where measured."""
    columns = dict(_COLUMNS)
    if any("fold_accuracy" in values for values in results.values()):
        columns["fold_accuracy"] = "k-fold accuracy (± standard error; standard deviation)"
    titles, rows = table_of(results, columns=columns)
    for values, (_, cells) in zip(results.values(), rows, strict=True):
        if values.get("fold_accuracy") is not None:
            error, deviation = values["fold_standard_error"], values["fold_standard_deviation"]
            cells[-1] += f" ± {error:.4f}; {deviation:.4f}"
    return titles, rows


def verification_report(
    run: Run,
    scorer: PairScorer,
    variables: Any,
    splits: "VerificationSplits",
    *,
    baselines: Mapping[str, Scores],
) -> Results:
    """Evaluate the chosen checkpoint on the test pairs, once, and end the run.

    The thresholds of the network and of the ``baselines`` are the best ones on the validation
    pairs. The network's threshold goes into the manifest, as a distance or a logit. Returns
    measures by name.
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
        panels=figures.VERIFICATION_PANELS,
        figures=[
            ("ROC", partial(figures.roc_curves, curves, data=where)),
            (
                f"{measure.capitalize()} of same and different pairs",
                partial(
                    figures.histogram,
                    values,
                    test.same,
                    threshold=threshold,
                    measure=measure,
                    data=where,
                ),
            ),
            (
                "Hardest pairs",
                partial(figures.hardest_pairs, images, test, values, score, measure=measure),
            ),
        ],
        facts={"task": "verification", "measure": measure, "threshold": threshold},
    )
