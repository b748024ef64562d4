"""Train a network that verifies pairs, and say how good it is on people it has never seen."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from siamjax.data.faces import FaceSplits
from siamjax.data.transforms import Augmentation
from siamjax.metrics import verification
from siamjax.models.siamese import Siamese
from siamjax.report import figures
from siamjax.report.page import result_table, text_table, write_page
from siamjax.report.writers import read_metrics
from siamjax.scoring import PairScorer, pixel_scores
from siamjax.training import run as runs
from siamjax.training.step import LossFunction
from siamjax.training.train import train


def train_verifier(
    network: Siamese,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    splits: FaceSplits,
    *,
    run: Path,
    config: dict[str, Any],
    size: int,
    batch_size: int,
    steps: int,
    seed: int,
    augmentation: Augmentation | None,
    evaluate_every: int,
    log_every: int,
    workers: int = 0,
) -> dict[str, dict[str, float | None]]:
    """Train (or go on with) the run in folder ``run``; returns the test results by name.

    The checkpoint with the best AUC on the validation pairs is the result; its threshold is the
    best one there; both are then asked about the test pairs once, beside raw pixels. The folder
    gets ``config.json``, ``metrics.jsonl``, TensorBoard events, ``checkpoints/``,
    ``manifest.json`` and ``report.html``.
    """
    scorer = PairScorer(network, size=size)

    def evaluate(variables: Any) -> dict[str, float]:
        values = scorer.values(variables, splits.images, splits.validation)
        curve = verification.roc(scorer.scores(values), splits.validation.same)
        return {
            runs.BEST_METRIC: verification.auc(curve),
            "validation_eer": verification.eer(curve),
        }

    best, variables = train(
        network,
        loss_fn,
        optimizer,
        splits.images,
        splits.training,
        run=run,
        config=(config := runs.as_json({**config, "data_fingerprint": splits.fingerprint()})),
        best_metric=runs.BEST_METRIC,
        evaluate=evaluate,
        size=size,
        batch_size=batch_size,
        steps=steps,
        seed=seed,
        augmentation=augmentation,
        evaluate_every=evaluate_every,
        log_every=log_every,
        workers=workers,
    )
    return _conclude(run, scorer, best, variables, splits, config)


def _conclude(
    run: Path,
    scorer: PairScorer,
    best: int,
    variables: Any,
    splits: FaceSplits,
    config: dict[str, Any],
) -> dict[str, dict[str, float | None]]:
    """Judge a checkpoint and write manifest and report."""
    threshold, results, pictures = _judge(scorer, variables, splits, read_metrics(run))
    network, size = scorer.network, scorer.size
    measure = network.head.measure
    manifest = {
        "network": runs.describe_module(network),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "size": size,
        "step": best,
        "measure": measure,
        "threshold": threshold,
        "data": splits.images.name,
        "data_credit": splits.images.credit,
        "data_sha256": splits.images.checksum(),
        "protocol": splits.protocol,
        "trained_on": list(splits.trained_on),
        "results": results,
        "config": config,
        "splits": splits.request,
        "sessions": runs.sessions(run),
        "judged": runs.environment(),
    }
    runs.write_json(run / "manifest.json", manifest)
    remark = (
        f"{splits.test.name}: {results['network']['pairs_same']:,} same and "
        f"{results['network']['pairs_different']:,} different pairs. The {measure} threshold "
        f"{threshold:.4f} was chosen on {splits.validation.name}, the checkpoint of step "
        f"{best} too."
    )
    write_page(
        run / "report.html",
        title=f"{run.name} on {splits.images.name}",
        protocol=splits.protocol,
        table=result_table(results),
        remark=remark,
        pictures=pictures,
        manifest={
            **{name: value for name, value in manifest.items() if name != "results"},
            "trained_on": f"{len(splits.trained_on)} identities",
        },
    )
    print(splits.protocol)
    print(text_table(*result_table(results)))
    print(remark)
    print(f"report: {run / 'report.html'}")
    return results


def _judge(
    scorer: PairScorer, variables: Any, splits: FaceSplits, metrics: list[dict[str, float]]
) -> tuple[float, dict[str, dict[str, float | None]], list[tuple[str, str]]]:
    """Threshold in the head's own unit, results by name, and the report's pictures."""
    images, test = splits.images, splits.test
    values = scorer.values(variables, images, test)
    ways: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "network": (
            scorer.scores(scorer.values(variables, images, splits.validation)),
            scorer.scores(values),
        ),
        "raw pixels 32x32": (pixel_scores(images, splits.validation), pixel_scores(images, test)),
    }
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
    return threshold, results, [(name, figures.as_png(figure)) for name, figure in pictures]
