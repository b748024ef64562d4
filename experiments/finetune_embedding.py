"""A published network, tuned to your images: faces, people on cameras, or things.

The network's embedding g, of norm 1, goes through one linear layer W to f = W g / |W g|. Batches of
P identities with K images each train W, and what is not frozen of the network, by InfoNCE (van den
Oord et al., arXiv 1807.03748, 2018; with several positives: Khosla et al., NeurIPS 2020, eq. 2):

    L_i = -1/|P(i)| sum_p log(exp(f_i f_p / t) / sum_(a != i) exp(f_i f_a / t))

over the positives p and all others a of anchor i in the batch of all devices.

    python -m experiments.finetune_embedding --weights face-embedding --data my_people/
    python -m experiments.finetune_embedding --weights vgg16-imagenet --data emoji --per-identity 2

What it reaches, beside training from scratch and the network as published: docs/finetuning.md.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from siamjax import cli, losses, options
from siamjax.data import Framing, LabelledOptions, labelled_batches, load_labelled
from siamjax.inference import Embedder, as_test, frozen_maps, pixel_features
from siamjax.metrics import Mean, labelled_monitors
from siamjax.models import Projection
from siamjax.parallel import data_parallel
from siamjax.pretrained import open_weights
from siamjax.report import embedding_report
from siamjax.training import Run, RunConfig, by_layer, fit, forward_labelled, make_train_step
from siamjax.training.state import create_state, initialize

TRUNK = "backbone"


@dataclass(frozen=True, kw_only=True)
class Config(LabelledOptions, RunConfig):
    """A published network with one linear layer, trained by InfoNCE."""

    weights: Path
    """Published weights: a file, or a name from `siamjax weights list`."""
    size: options.Count | None = None
    """Shorter side of the images in pixels; None: as published."""
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """Part of each image: top, left, bottom, right as shares; its border goes on outside of it."""
    embedding: options.Count = 128
    """Features of the embedding."""
    frozen: tuple[str, ...] = (TRUNK,)
    """Layers not to train, by the beginning of their paths; backbone: all but the new one."""
    temperature: options.Positive = 0.1
    """t: what cosines are divided by."""
    per_identity: options.Count = 4
    """K: images of each identity in a batch."""
    learning_rate: options.Positive = 1e-3
    """Peak learning rate of the new layer; cosine decay to 0."""
    trunk_rate: options.Share = 0.01
    """Learning rate of the published layers, as a share of the new layer's."""
    dtype: options.Precision = "float32"
    """Type of the products; parameters, statistics and the loss are float32."""
    batch_size: int = 64
    steps: int = 100
    evaluate_every: int = 20


def build(config: Config, trunk: nn.Module):
    """Network, loss function and optimizer, which need no data; ``trunk`` is the published one."""
    trunk = trunk.clone(dtype=jnp.dtype(config.dtype))
    network = Projection(backbone=trunk, embedding=config.embedding)

    # One value for each anchor; the step averages over those of all devices that have a positive.
    def loss_fn(params, model_state, batch, key):
        rows, model_state = forward_labelled(network, params, model_state, batch, key)
        labels = batch["identity"], batch.get("weight")
        loss, weight = losses.info_nce(rows, *labels, temperature=config.temperature)
        return Mean.of(loss, weight), (model_state, labelled_monitors(rows, *labels))

    # Published layers learn more slowly than the new one, or not at all.
    def adam(rate):
        return optax.adam(optax.cosine_decay_schedule(rate, config.steps))

    rates = {TRUNK: adam(config.trunk_rate * config.learning_rate)}
    optimizer = by_layer(rates, default=adam(config.learning_rate), frozen=config.frozen)
    return network, loss_fn, optimizer


def main(config: Config):
    """Train, choose the checkpoint, test once."""
    # Data: identities to learn from, to choose by, and to report on.
    things = load_labelled(config)
    weights = open_weights(config.weights)
    size = Framing.of(weights.size, side=config.size, box=config.box)

    # All but the linear layer starts as published.
    network, loss_fn, optimizer = build(config, weights.network)
    variables, key = initialize(network, size, config.seed)
    variables = weights.into(network, variables, under=TRUNK)
    published = Embedder(network=weights.network, variables=weights.variables, size=size)

    # What a frozen network says of an image is computed once.
    shown = things.images, things.training_images
    part = network.backbone, weights.variables
    once = partial(frozen_maps, *part, *shown, size=size, method="embed")
    rows = once if TRUNK in config.frozen else None
    batches = labelled_batches(
        *shown, config, size=size, per_identity=config.per_identity, rows=rows
    )

    # The train step: a pure function, pmapped over all devices.
    step = data_parallel(make_train_step(loss_fn, optimizer, nonfinite=config.nonfinite))

    # Validation: the task's measure on identities not in the training data chooses the checkpoint.
    validation = as_test(things, things.validation)
    best = f"validation_{validation.chosen}"

    def evaluate(variables):
        now = Embedder(network=network, variables=variables, size=size)
        return {best: validation.measured(validation.scores(now))}

    # Train, or resume: Orbax keeps the two latest checkpoints and the best.
    run = Run.open(config, network, things, best=best, weights=weights)
    state = create_state(run.initial(jax.device_get(variables)), optimizer, key=key)
    fit(run, state, step, batches, evaluate=evaluate)

    # Test once, beside the published network and pixels.
    baselines = {"as published": published.embeddings, "raw pixels": pixel_features}
    chosen = Embedder(network=network, variables=run.best_variables(), size=size)
    return embedding_report(run, chosen, things, baselines=baselines)


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
