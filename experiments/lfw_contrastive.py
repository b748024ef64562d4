"""Faces with the contrastive loss (Hadsell, Chopra, LeCun, CVPR 2006).

One network embeds both images of a pair. The loss pulls images of one person together, and pushes
images of two people apart until their distance is the margin:

    L = d^2 if same, max(0, margin - d)^2 if not,        d = ||f(x1) - f(x2)||

    python -m experiments.lfw_contrastive       # ORL faces, two CPU cores: 90 s, AUC 0.987
    python -m experiments.lfw_contrastive --data lfw --width 1 --size 128 --batch-size 64 \\
        --steps 20000                           # the whole 19-layer network; not measured yet

The AUC is that of ten people who are not in the training data (raw pixels: 0.884). Other divisions
of the people: docs/measurements.md.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from siamjax import cli, losses, options
from siamjax.data import Augmentation, VerificationOptions, load_verification, pair_batches
from siamjax.inference import PairScorer, pixel_scores
from siamjax.metrics import Mean, pair_monitors, verification
from siamjax.models import EuclideanHead, LfwNet, Siamese
from siamjax.parallel import data_parallel
from siamjax.report import verification_report
from siamjax.training import Run, RunConfig, fit, forward_pairs, make_train_step
from siamjax.training.state import create_state, initialize


@dataclass(frozen=True, kw_only=True)
class Config(VerificationOptions, RunConfig):
    """A Siamese network on faces, with the contrastive loss."""

    margin: options.Positive = 1.0
    """Distance beyond which two people are not pushed further apart."""
    width: options.Positive = 0.25
    """Channels, as a share of the whole network's."""
    size: options.Count = 64
    """Side of the images in pixels, a multiple of 8; 128 for the whole network."""
    dtype: options.Precision = "float32"
    """Type of the products; parameters, statistics, distances and losses are float32."""
    learning_rate: options.Positive = 1e-3
    """Peak learning rate; cosine decay to 0."""
    steps: int = 400


def build(config: Config):
    """Network, loss function and optimizer, which need no data."""
    backbone = LfwNet(
        width=config.width,
        standardize=True,  # light and contrast of the whole image must not tell people apart
        embedding_scale=None,  # embeddings start 1 apart and not 45, where no negative is pushed
        dtype=jnp.dtype(config.dtype),
    )
    network = Siamese(backbone=backbone, head=EuclideanHead())

    # One value for each pair; the step averages over the pairs of all devices.
    def loss_fn(params, model_state, batch, key):
        same, weight = batch["same"], batch.get("weight")
        distance, embeddings, model_state = forward_pairs(network, params, model_state, batch, key)
        loss = losses.contrastive(distance, same, margin=config.margin)
        metrics = pair_monitors(embeddings, same, weight, margin=config.margin)
        return Mean.of(loss, weight), (model_state, metrics)

    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    return network, loss_fn, optimizer


def main(config: Config):
    """Train, choose the checkpoint, test once."""
    # Data: people for training, for validation and for the test.
    faces = load_verification(config)
    augmentation = Augmentation(mirror=True, rotation=5.0, translation=0.05, scale=0.1)
    batches = pair_batches(
        faces.images, faces.training, config, size=config.size, augmentation=augmentation
    )

    # The train step: a pure function, pmapped over all devices.
    network, loss_fn, optimizer = build(config)
    step = data_parallel(make_train_step(loss_fn, optimizer, nonfinite=config.nonfinite))

    # Validation: the AUC on people who are not in the training data chooses the checkpoint.
    scorer = PairScorer(network, config.size)

    def evaluate(variables):
        scores = scorer.scores(variables, faces.images, faces.validation)
        curve = verification.roc(scores, faces.validation.same)
        return {
            "validation_auc": verification.auc(curve),
            "validation_eer": verification.eer(curve),
        }

    # Train, or resume: Orbax keeps the two latest checkpoints and the best.
    run = Run.open(config, network, faces, best="validation_auc")
    variables, key = initialize(network, config.size, config.seed)
    state = create_state(run.initial(variables), optimizer, key=key)
    fit(run, state, step, batches, evaluate=evaluate)

    # Test once, at the threshold of the validation people, beside a baseline without training.
    baselines = {"raw pixels 32x32": pixel_scores}
    return verification_report(run, scorer, run.best_variables(), faces, baselines=baselines)


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
