"""Person re-identification by inexact matching (Subramaniam, Chatterjee, Mittal, NIPS 2016).

Both images go through the same two convolutions; every patch of the first map is correlated with
the patches of the second in the five rows around it and over the whole width (normxcorr):

    c(p, q) = sum (p - mean p) (q - mean q) / (24 (s_p + 0.01) (s_q + 0.01)),    patches of 5x5

A small network turns these 1500 correlations into the logit of P(same), for the binary
cross-entropy. In the fused network (default) a cross-input neighbourhood layer (Ahmed, Jones,
Marks, CVPR 2015) works beside it and sees what normxcorr cannot: the colour of plain clothes.

    python -m experiments.reid_normxcorr       # pedestrians, two CPU cores: 7 min, 0.8 GB
    python -m experiments.reid_normxcorr --no-fused --run runs/normxcorr_alone
    python -m experiments.reid_normxcorr --data cuhk03/labeled --home cuhk-03.mat \\
        --batch-size 128 --steps 20000                # not measured yet

Measured on four walkers who are not in the training data: rank-1 0.952, mAP 0.722 (colour
histograms: 0.830, 0.629). This set is tiny: it shows that the code works and says nothing about
re-identification. The released code differs in the optimizer (named in `build`), takes all pairs
of a person as positives (cameras=None), and has no random colours (recolor=False).
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import optax

from siamjax import cli, losses, options
from siamjax.data import Augmentation, PositivesOfAnEpoch, ReidOptions, load_reid, pair_batches
from siamjax.inference import ReidEvaluation, hsv_stripe_features, pixel_features, score_pairs
from siamjax.metrics import Mean
from siamjax.models import NormXCorrNet
from siamjax.parallel import data_parallel
from siamjax.report import reid_report
from siamjax.training import Run, RunConfig, fit, forward_pairs, make_train_step
from siamjax.training.state import create_state, initialize

SIZE = (160, 60)  # as published


@dataclass(frozen=True, kw_only=True)
class Config(ReidOptions, RunConfig):
    """The Normalized X-Corr network on people."""

    fused: bool = True
    """Add the cross-input neighbourhood layer."""
    column_search: options.Whole | None = None
    """Columns searched on either side; None: the whole width, as published."""
    symmetric: bool = False
    """Test with the score (P(A, B) + P(B, A)) / 2, which takes twice the time."""
    dtype: options.Precision = "float32"
    """Type of the products; parameters, statistics, distances and losses are float32."""
    learning_rate: options.Positive = 1e-3
    """Peak learning rate; cosine decay to 0."""
    steps: int = 200


def build(config: Config):
    """Network, loss function and optimizer, which need no data."""
    network = NormXCorrNet(
        fused=config.fused, column_search=config.column_search, dtype=jnp.dtype(config.dtype)
    )

    # One value for each pair; the step averages over the pairs of all devices.
    def loss_fn(params, model_state, batch, key):
        same, weight = batch["same"], batch.get("weight")
        logit, _, model_state = forward_pairs(network, params, model_state, batch, key)
        accuracy = Mean.of((logit > 0) == same, weight)
        loss = Mean.of(losses.binary_cross_entropy(logit, same), weight)
        return loss, (model_state, {"accuracy": accuracy})

    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    # As released: siamjax.training.dampened_sgd(0.05, learning_rate_decay=1e-4, weight_decay=5e-4)
    return network, loss_fn, optimizer


def main(config: Config):
    """Train, choose the checkpoint, rank the test gallery once."""
    # Data: an epoch has every pair of one person on two cameras, each with two random negatives.
    people = load_reid(config)
    pairs = PositivesOfAnEpoch(
        people.images, people.training, seed=config.seed, negatives=2, cameras=people.cameras
    )
    # Random colours, the same for both images of a pair, make up for the few people.
    augmentation = Augmentation(mirror=True, rotation=0, translation=0.05, scale=0, recolor=True)
    batches = pair_batches(people.images, pairs, config, size=SIZE, augmentation=augmentation)

    # The train step: a pure function, pmapped over all devices.
    network, loss_fn, optimizer = build(config)
    step = data_parallel(make_train_step(loss_fn, optimizer, nonfinite=config.nonfinite))

    # Validation: the mAP chooses the checkpoint; of few queries, because every pair is scored.
    validation = ReidEvaluation.of(people, people.validation, most_queries=24)

    def evaluate(variables):
        queries, gallery = validation.ranking.query, validation.ranking.gallery
        scores = score_pairs(
            network, variables, people.images, queries, gallery, size=SIZE, progress=False
        )
        measured = validation.summary(scores)
        return {"validation_map": measured["map"], "validation_rank1": measured["rank1"]}

    # Train, or resume: Orbax keeps the two latest checkpoints and the best.
    run = Run.open(config, network, people, best="validation_map")
    variables, key = initialize(network, SIZE, config.seed)
    state = create_state(run.initial(variables), optimizer, key=key)
    fit(run, state, step, batches, evaluate=evaluate)

    # Rank once, by the rule of the data set, beside baselines without training.
    baselines = {
        "HSV histograms of stripes": hsv_stripe_features,
        "raw pixels 64x24": partial(pixel_features, size=(64, 24)),
    }
    options = {"size": SIZE, "baselines": baselines, "symmetric": config.symmetric}
    return reid_report(run, network, run.best_variables(), people, **options)


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
