"""The report of a verification run: are these two the same?"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.inference.judging import judge_pairs
from siamjax.inference.pairs import PairScorer
from siamjax.metrics import verification
from siamjax.report.page import write_report
from siamjax.training.run import Results, Run

if TYPE_CHECKING:
    from siamjax.data.verification import VerificationSplits

Scores = Callable[[ImageSet, PairList], np.ndarray]
"""Scores of pairs, which rise with similarity."""


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
    thresholds, curves = {}, {}
    for name, (validating, testing) in ways.items():
        thresholds[name], _ = verification.best_threshold(validating, splits.validation.same)
        curves[name] = verification.roc(testing, test.same)
    scores = {name: testing for name, (_, testing) in ways.items()}
    judged = judge_pairs(images, test, scores, thresholds=thresholds)
    measure, score = scorer.measure, ways["network"][1]
    threshold = float(scorer.rising(np.array([thresholds["network"]]))[0])
    where = f"{test.name} of {images.name}"
    unknown_to = max((float(name.rpartition("_")[2]) for name in judged.unknown), default=0.0)
    return write_report(
        run,
        judged,
        size=scorer.size,
        task="verification",
        remark=(
            f"The {measure} threshold {threshold:.4f} and the checkpoint of step {run.best_step} "
            f"were chosen on {splits.validation.name}."
        ),
        panels=figures.VERIFICATION_PANELS,
        figures=[
            ("ROC", partial(figures.roc_curves, curves, data=where, unknown_to=unknown_to)),
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
        facts={"measure": measure, "threshold": threshold},
    )
