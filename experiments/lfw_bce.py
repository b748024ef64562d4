"""Faces with the binary cross-entropy of P(same).

One network embeds both images of a pair, and a dense layer turns the embeddings into a logit z:

    L = -log P if same, -log(1 - P) if not,        P = sigmoid(z)

A head on the concatenated embeddings, z = w . [f(x1), f(x2)] + b, is a sum g(f1) + h(f2) without
any term of both, which cannot say whether two faces match (siamjax.models.heads has the proof). The
default is z = w . |f(x1) - f(x2)| + b (Koch, Zemel, Salakhutdinov, *Siamese Neural Networks for
One-shot Image Recognition*, 2015, section 3.1).

    python -m experiments.lfw_bce       # ORL faces, two CPU cores: 85 s, AUC 0.969
    python -m experiments.lfw_bce --head concatenation --run runs/concatenation        # about 0.5

The AUC is that of ten people who are not in the training data (raw pixels: 0.884).
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax

from siamjax import cli, losses, options
from siamjax.data import Augmentation, VerificationOptions, load_verification, pair_batches
from siamjax.inference import PairScorer, pixel_scores
from siamjax.metrics import Mean, pair_monitors, verification
from siamjax.models import ConcatenationHead, DifferenceHead, LfwNet, Siamese
from siamjax.parallel import data_parallel
from siamjax.report import verification_report
from siamjax.training import Run, RunConfig, fit, forward_pairs, make_train_step
from siamjax.training.state import create_state, initialize


@dataclass(frozen=True, kw_only=True)
class Config(VerificationOptions, RunConfig):
    """A Siamese network on faces, with the binary cross-entropy."""

    head: Literal["difference", "concatenation"] = "difference"
    """Input of the dense layer: |f1 - f2|, or f1 and f2 concatenated."""
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
        embedding_scale=None,
        dtype=jnp.dtype(config.dtype),
    )
    head = DifferenceHead() if config.head == "difference" else ConcatenationHead()
    network = Siamese(backbone=backbone, head=head)

    # One value for each pair; the step averages over the pairs of all devices.
    def loss_fn(params, model_state, batch, key):
        same, weight = batch["same"], batch.get("weight")
        logit, embeddings, model_state = forward_pairs(network, params, model_state, batch, key)
        metrics = pair_monitors(embeddings, same, weight, logit=logit)
        return Mean.of(losses.binary_cross_entropy(logit, same), weight), (model_state, metrics)

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
