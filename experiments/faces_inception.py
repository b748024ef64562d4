"""Faces with a pretrained InceptionV3, of which the last block and a new head are trained.

InceptionV3 up to a block, averaged over all positions, and one dense layer embed each image:
f, of norm 1. The logit of P(same) is a learnt distance, for the binary cross-entropy:

    L = -log sigmoid(z) if same, -log sigmoid(-z) if not,        z = b - a |f(x1) - f(x2)|

    python -m siamjax weights convert inception_v3.h5 --out v3.npz
    python -m experiments.faces_inception --weights v3.npz          # two CPU cores: 2 min, 1.4 GB

The AUC on ten people who are not in the training data, with the weights of docs/pretrained.md, is
0.960; that of the published features is 0.938, that of raw pixels 0.884.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from siamjax import cli, losses, options
from siamjax.data import VerificationOptions, load_verification, pair_batches
from siamjax.inference import PairScorer, frozen_maps, pixel_scores
from siamjax.metrics import Mean, pair_monitors, verification
from siamjax.models import DistanceLogitHead, EuclideanHead, InceptionEmbedding, Siamese
from siamjax.models.inception_v3 import layers_between
from siamjax.parallel import data_parallel
from siamjax.pretrained import HEADS, Preprocessing, open_weights, put
from siamjax.report import verification_report
from siamjax.training import Run, RunConfig, by_layer, fit, forward_pairs, make_train_step
from siamjax.training.state import create_state, initialize

TRUNK = "backbone/trunk"  # where InceptionV3 lies in the parameters


@dataclass(frozen=True, kw_only=True)
class Config(VerificationOptions, RunConfig):
    """A Siamese network on a pretrained InceptionV3."""

    weights: Path
    """InceptionV3: a file in any published format, or a name from `siamjax weights list`."""
    size: options.Count = 128
    """Side of the images in pixels, at least 75; published: 299."""
    end: str = "mixed7"
    """Last block of the network, mixed0 to mixed10."""
    frozen: str = "mixed6"
    """Last block that is not trained."""
    dtype: options.Precision = "float32"
    """Type of the products; parameters, statistics, distances and losses are float32."""
    learning_rate: options.Positive = 3e-4
    """Peak learning rate of the dense layer, a and b; cosine decay to 0."""
    trunk_rate: options.Positive = 0.1
    """Learning rate of the trained blocks, as a share of learning_rate."""
    steps: int = 200
    evaluate_every: int = 50


def build(config: Config, preprocessing: Preprocessing = "signed"):
    """Network, loss function and optimizer, which need no data."""
    # No gradient flows into the frozen blocks, and their maps can be passed in place of images.
    backbone = InceptionEmbedding(
        end=config.end, frozen=config.frozen, given=config.frozen, preprocessing=preprocessing
    ).clone(dtype=jnp.dtype(config.dtype))
    network = Siamese(backbone=backbone, head=DistanceLogitHead())

    # One value for each pair; the step averages over the pairs of all devices.
    def loss_fn(params, model_state, batch, key):
        same, weight = batch["same"], batch.get("weight")
        logit, embeddings, model_state = forward_pairs(network, params, model_state, batch, key)
        metrics = pair_monitors(embeddings, same, weight, logit=logit)
        return Mean.of(losses.binary_cross_entropy(logit, same), weight), (model_state, metrics)

    def adam(rate):
        return optax.adam(optax.cosine_decay_schedule(rate, config.steps))

    # Pretrained layers learn more slowly than new ones.
    trained = tuple(f"{TRUNK}/{layer}" for layer in layers_between(config.frozen, config.end))
    rates = {TRUNK: optax.set_to_zero(), trained: adam(config.trunk_rate * config.learning_rate)}
    return network, loss_fn, by_layer(rates, default=adam(config.learning_rate))


def main(config: Config):
    """Train, choose the checkpoint, test once."""
    # Data: people to learn from, people to choose by, people to report on.
    faces = load_verification(config)

    # All but the dense layer and the head starts as published.
    left_out = (*HEADS, "dense_", *layers_between(config.end, "mixed10"))
    weights = open_weights(config.weights, architecture="inception_v3").without(*left_out)
    network, loss_fn, optimizer = build(config, weights.preprocessing)
    variables, key = initialize(network, config.size, config.seed)
    published = put(network, variables, weights, under=TRUNK)
    run = Run.open(config, network, faces, best="validation_auc", weights=weights)
    start = run.initial(published)

    # The published features are the baseline, and the frozen blocks' maps are computed only once.
    published, frozen = jax.device_get((published, start))
    features = network.backbone.clone(embedding=None)
    plain = PairScorer(Siamese(backbone=features, head=EuclideanHead()), config.size)
    part = plain.network.clone(backbone=features.clone(end=config.frozen))
    shown = (faces.images, faces.training_images)
    rows = partial(frozen_maps, part, frozen, *shown, size=config.size)
    batches = pair_batches(faces.images, faces.training, config, size=config.size, rows=rows)

    # The train step: a pure function, pmapped over all devices.
    step = data_parallel(make_train_step(loss_fn, optimizer, nonfinite=config.nonfinite))

    # Validation: the AUC on people who are not in the training data chooses the checkpoint.
    scorer = PairScorer(network, config.size)

    def evaluate(variables):
        scores = scorer.scores(variables, faces.images, faces.validation)
        roc = verification.roc(scores, faces.validation.same)
        return {"validation_auc": verification.auc(roc), "validation_eer": verification.eer(roc)}

    # Train, or resume: Orbax keeps the two latest checkpoints and the best.
    fit(run, create_state(start, optimizer, key=key), step, batches, evaluate=evaluate)

    # Test once, at the threshold of the validation people, beside baselines without training.
    untrained = partial(plain.scores, published)
    baselines = {f"{config.end}, untrained": untrained, "raw pixels 32x32": pixel_scores}
    return verification_report(run, scorer, run.best_variables(), faces, baselines=baselines)


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
