"""Train a network that verifies pairs, and say how good it is on people it has never seen."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optax
from matplotlib.figure import Figure

from siamjax.data.faces import FaceSplits
from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.metrics import verification
from siamjax.models.siamese import Siamese
from siamjax.report import figures
from siamjax.report.page import result_table
from siamjax.report.writers import read_metrics
from siamjax.runs import folder as runs
from siamjax.runs.finished import KINDS, Results, conclude
from siamjax.runs.train import Examples, Training, pair_examples, train
from siamjax.scoring import PairScorer, pixel_scores
from siamjax.training.step import LossFunction, Stages

Scores = Callable[[ImageSet, PairList], np.ndarray]
"""Scores of pairs, rising with similarity."""

BEST = KINDS["verifier"].best


def train_verifier(
    network: Siamese,
    loss_fn: LossFunction | Stages,
    optimizer: optax.GradientTransformation,
    splits: FaceSplits,
    training: Training,
    *,
    run: Path,
    config: dict[str, Any],
    examples: Examples | None = None,
    start_from: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    baselines: Mapping[str, Scores] | None = None,
) -> Results:
    """Train (or go on with) the run in folder ``run``; returns the test results by name.

    The checkpoint with the best AUC on the validation pairs is the result; its threshold is the
    best one there; both are then asked about the test pairs once, beside raw pixels. The folder
    gets ``config.json``, ``metrics.jsonl``, TensorBoard events, ``checkpoints/``,
    ``manifest.json`` and ``report.html``.

    ``examples`` are what is trained on if not the pairs of ``splits``; ``start_from`` is that of
    :func:`siamjax.runs.train.train`. ``baselines`` stand in the table beside raw pixels.
    """
    scorer = PairScorer(network, size=training.size)

    def evaluate(variables: Any, step: int) -> dict[str, float]:
        values = scorer.values(variables, splits.images, splits.validation)
        curve = verification.roc(scorer.scores(values), splits.validation.same)
        return {
            BEST: verification.auc(curve),
            "validation_eer": verification.eer(curve),
        }

    best, variables = train(
        network,
        loss_fn,
        optimizer,
        splits.images,
        examples or pair_examples(splits.images, splits.training, training),
        training,
        run=run,
        config=(config := runs.as_json({**config, "data_fingerprint": splits.fingerprint()})),
        kind="verifier",
        evaluate=evaluate,
        start_from=start_from,
    )
    ways = {**(baselines or {}), "raw pixels 32x32": pixel_scores}
    return _conclude(run, scorer, best, variables, splits, config, ways)


def _conclude(
    run: Path,
    scorer: PairScorer,
    best: int,
    variables: Any,
    splits: FaceSplits,
    config: dict[str, Any],
    baselines: Mapping[str, Scores],
) -> Results:
    """Judge a checkpoint and write manifest and report."""
    threshold, results, pictures = _judge(scorer, variables, splits, baselines, read_metrics(run))
    measure = scorer.network.head.measure
    return conclude(
        run,
        kind="verifier",
        network=scorer.network,
        variables=variables,
        step=best,
        size=scorer.size,
        splits=splits,
        trained_on=splits.trained_on,
        config=config,
        results=results,
        table=result_table(results),
        remark=(
            f"{splits.test.name}: {results['network']['pairs_same']:,} same and "
            f"{results['network']['pairs_different']:,} different pairs. The {measure} threshold "
            f"{threshold:.4f} was chosen on {splits.validation.name}, the checkpoint of step "
            f"{best} too."
        ),
        pictures=pictures,
        facts={"measure": measure, "threshold": threshold},
    )


def _judge(
    scorer: PairScorer,
    variables: Any,
    splits: FaceSplits,
    baselines: Mapping[str, Scores],
    metrics: list[dict[str, float]],
) -> tuple[float, Results, list[tuple[str, Figure]]]:
    """Threshold in the head's own unit, results by name, and the report's pictures."""
    images, test = splits.images, splits.test
    values = scorer.values(variables, images, test)
    ways: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "network": (
            scorer.scores(scorer.values(variables, images, splits.validation)),
            scorer.scores(values),
        ),
    }
    for name, baseline in baselines.items():
        ways[name] = (baseline(images, splits.validation), baseline(images, test))
    results, curves, thresholds = {}, {}, {}
    for name, (on_validation, on_test) in ways.items():
        thresholds[name], _ = verification.best_threshold(on_validation, splits.validation.same)
        results[name] = verification.summary(
            on_test, test.same, threshold=thresholds[name], fold=test.fold
        )
        curves[name] = verification.roc(on_test, test.same)
    measure = scorer.network.head.measure
    threshold = float(scorer.scores(np.array([thresholds["network"]]))[0])
    score = ways["network"][1]
    where = f"{test.name} of {images.name}"
    pictures = [
        (
            "Training",
            figures.training_curves(metrics, data=images.name, panels=figures.VERIFIER_PANELS),
        ),
        ("ROC", figures.roc_curves(curves, data=where)),
        (
            f"{measure.capitalize()} of same and different pairs",
            figures.histogram(values, test.same, threshold=threshold, measure=measure, data=where),
        ),
        ("Hardest pairs", figures.hardest_pairs(images, test, values, score, measure=measure)),
    ]
    return threshold, results, pictures
