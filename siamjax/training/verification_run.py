"""Train a network that verifies pairs, and say how good it is on people it has never seen."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from siamjax.data.faces import FaceSplits
from siamjax.data.pipeline import pair_batches
from siamjax.data.transforms import Augmentation
from siamjax.errors import UsageError
from siamjax.metrics import verification
from siamjax.metrics.monitors import collapse_message
from siamjax.models.siamese import Siamese
from siamjax.report import figures
from siamjax.report.page import result_table, text_table, write_page
from siamjax.report.writers import MetricWriter, read_metrics
from siamjax.scoring import PairScorer, pixel_scores
from siamjax.training import run as runs
from siamjax.training.checkpoints import Checkpoints
from siamjax.training.loop import fit
from siamjax.training.parallel import replicate
from siamjax.training.state import TrainState, create_state
from siamjax.training.step import LossFunction, make_train_step


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
    started = time.time()
    numbers = (steps, batch_size, evaluate_every, log_every, size)
    if min(numbers) < 1:
        raise UsageError(
            "steps, batch_size, evaluate_every, log_every and size must be at least 1, not "
            f"{', '.join(map(str, numbers))}"
        )
    if jax.process_count() > 1:
        raise UsageError("several hosts would write one run folder; train on the devices of one")
    if batch_size % jax.device_count():
        raise UsageError(
            f"batch of {batch_size} pairs cannot be split over {jax.device_count()} devices; use a "
            f"multiple of {jax.device_count()}"
        )
    # First all that can refuse the options, so that a refused run leaves no folder behind.
    state = _initial_state(network, optimizer, size=size, seed=seed)
    config = runs.as_json({**config, "data_fingerprint": splits.fingerprint()})
    checkpoints, state = _open(run, config, state, steps=steps)
    scorer = PairScorer(network, size=size)

    def evaluate(state: TrainState) -> dict[str, float]:
        values = scorer.values(state.variables, splits.images, splits.validation)
        curve = verification.roc(scorer.scores(values), splits.validation.same)
        return {
            runs.BEST_METRIC: verification.auc(curve),
            "validation_eer": verification.eer(curve),
        }

    begin = int(state.step)
    if begin < steps:
        writer = MetricWriter(run, start=begin)
        try:
            state = fit(
                state,
                make_train_step(loss_fn, optimizer),
                pair_batches(
                    splits.images,
                    splits.training,
                    batch_size=batch_size,
                    steps=steps,
                    size=size,
                    augmentation=augmentation,
                    seed=seed,
                    start=begin,
                    workers=workers,
                ),
                steps=steps,
                batch_size=batch_size,
                checkpoints=checkpoints,
                writer=writer,
                evaluate=evaluate,
                evaluate_every=evaluate_every,
                log_every=log_every,
                describe_batch=_batch_describer(splits, batch_size),
                diagnose=collapse_message,
            )
        finally:
            writer.close()
            end = max(checkpoints.steps(), default=begin)
            runs.note_session(run, start=begin, end=end, seconds=time.time() - started)
    best, variables, messages = checkpoints.load_best(state.variables)
    checkpoints.close()
    for message in messages:
        print(f"warning: {message}")
    return _conclude(run, scorer, best, variables, splits, config)


def _open(
    run: Path, config: dict[str, Any], state: TrainState, *, steps: int
) -> tuple[Checkpoints, TrainState]:
    """The run's checkpoints and, on every device, its latest state, or ``state`` in a new run."""
    existed = runs.open_folder(run, config)
    checkpoints = Checkpoints(run / "checkpoints", best=runs.BEST_METRIC)
    if existed:
        restored, messages = checkpoints.restore(state)
        for message in (*checkpoints.messages, *messages):
            print(f"warning: {message}")
        if restored is not None:
            state = restored
            print(f"{run}: going on from step {int(state.step)} of {steps}")
    return checkpoints, replicate(state)


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
        results=results,
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


def _initial_state(
    network: Siamese, optimizer: optax.GradientTransformation, *, size: int, seed: int
) -> TrainState:
    init_key, train_key = jax.random.split(jax.random.key(seed))
    picture = jnp.zeros((1, size, size, 3), jnp.uint8)

    def create() -> TrainState:
        return create_state(
            dict(network.init(init_key, picture, picture)), optimizer, key=train_key
        )

    return jax.jit(create)()


def _batch_describer(splits: FaceSplits, batch_size: int) -> Callable[[int], str]:
    def describe(step: int, shown: int = 4) -> str:
        pairs = [splits.training[step * batch_size + place] for place in range(batch_size)]
        keys = splits.images.keys
        named = ", ".join(f"{keys[first]} + {keys[second]}" for first, second, _ in pairs[:shown])
        return f"{named}, ... ({batch_size} pairs)" if batch_size > shown else named

    return describe


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
        ("Training", figures.training_curves(metrics, data=images.name)),
        ("ROC", figures.roc_curves(curves, data=where)),
        (
            f"{measure.capitalize()} of same and different pairs",
            figures.histogram(values, test.same, threshold=threshold, measure=measure, data=where),
        ),
        ("Hardest pairs", figures.hardest_pairs(images, test, values, score, measure=measure)),
    ]
    return threshold, results, [(name, figures.as_png(figure)) for name, figure in pictures]
