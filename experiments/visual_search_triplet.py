"""Visual search: given an image of a thing, find the same thing in a catalogue.

VGG-16 sees what the thing is, two shallow networks on small copies of the image how it looks, and
one dense layer joins them to an embedding f. Triplets of an anchor a, a positive p (the same thing)
and a negative train it (Wang et al., CVPR 2014; VisNet: Shankar et al., arXiv 1703.02344, 2017):

    L = max(0, margin + |f(a) - f(p)|^2 - D),   D = -t log sum_n exp(-|f(a) - f(n)|^2 / t)

D is a soft minimum over the images n of other things in the batch of all devices.

    python -m experiments.visual_search_triplet     # emoji, two CPU cores: 4 min, recall@1 0.695
    python -m experiments.visual_search_triplet --weights vgg16_imagenet_notop_fp16.npz --size 64 \\
        --learning-rate 1e-4 --batch-size 32 --steps 100 --evaluate-every 25 --no-symmetries

On 200 items not in the training data (raw pixels: 0.575). As published: docs/visual_search.md.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from siamjax import cli, distances, losses, mining, options
from siamjax.data import Augmentation, RetrievalOptions, load_retrieval, triplet_batches
from siamjax.inference import Embedder, evaluate_retrieval, pixel_features
from siamjax.metrics import Mean, triplet_monitors
from siamjax.models import Vgg16Features, VisualSearchNet
from siamjax.parallel import data_parallel
from siamjax.pretrained import HEADS, Weights, open_weights, put
from siamjax.report import retrieval_report
from siamjax.training import Run, RunConfig, by_layer, fit, forward_triplets, make_train_step
from siamjax.training.state import create_state, initialize


@dataclass(frozen=True, kw_only=True)
class Config(RetrievalOptions, RunConfig):
    """An embedding of things, trained on triplets."""

    weights: Path | None = None
    """VGG-16, of which block 3 and 4 are tuned: a file, or a name from `siamjax weights list`."""
    size: options.Count = 32
    """Side of the images in pixels; published: 224."""
    width: options.Positive = 0.25
    """Channels of the convolutions, as a share of the published network's."""
    depth: Literal[1, 2, 3, 4, 5] = 2
    """Number of blocks of VGG-16; published: 5."""
    hidden: options.Count = 512
    """Features of fc1 and fc2; published: 4096."""
    embedding: options.Count = 256
    """Features of the embedding; published: 4096."""
    dtype: options.Precision = "float32"
    """Type of the products; parameters, statistics, distances and losses are float32."""
    margin: options.Positive = 0.2
    """How much further away than the positive the negative should be, in squared distance."""
    augment: bool = True
    """Rotate, shift and scale images at random."""
    symmetries: bool = True
    """Also mirror, rotate by 90 degrees and exchange colours, alike in a triplet; for artwork."""
    learning_rate: options.Positive = 1e-3
    """Peak learning rate; cosine decay to 0."""
    batch_size: int = 64
    steps: int = 1000


def build(config: Config, weights: Weights | None = None):
    """Network, loss function and optimizer, which need no data."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    if weights is None:
        sizes = {name: getattr(config, name) for name in ("width", "depth", "hidden", "embedding")}
        network = VisualSearchNet(output="sphere", preprocessing="torchvision", **sizes)
    else:
        network = Vgg16Features(preprocessing=weights.preprocessing)
        optimizer = by_layer({}, default=optimizer, frozen=("deep/block1", "deep/block2"))
    network = network.clone(dtype=jnp.dtype(config.dtype))

    # One value for each triplet; the step averages over the triplets of all devices.
    def loss_fn(params, model_state, batch, key):
        distance, weight = distances.squared_euclidean, batch.get("weight")
        rows, model_state = forward_triplets(network, params, model_state, batch, key)
        near = distance(rows[0], rows[1])
        far = mining.negatives_of_batch(mining.soft_negative, distance, rows, batch)
        loss = losses.triplet(near, far, margin=config.margin)
        metrics = triplet_monitors(rows, near, far, weight, margin=config.margin)
        return Mean.of(loss, weight), (model_state, metrics)

    return network, loss_fn, optimizer


def main(config: Config):
    """Train, choose the checkpoint, search the test catalogue once."""
    # Data: items for training, for validation and for the test.
    things = load_retrieval(config)
    drawn = things.triplets(config.category)
    change = Augmentation(mirror=False, symmetries=config.symmetries) if config.augment else None
    batches = triplet_batches(things.images, drawn, config, size=config.size, augmentation=change)

    # The train step: a pure function, pmapped over all devices.
    weights = config.weights and open_weights(config.weights, architecture="vgg16")
    network, loss_fn, optimizer = build(config, weights)
    step = data_parallel(make_train_step(loss_fn, optimizer, nonfinite=config.nonfinite))

    # Validation: recall@1 on items that are not in the training data chooses the checkpoint.
    def embedder(variables):
        return Embedder(network=network, variables=variables, size=config.size)

    def evaluate(variables):
        features = embedder(variables).embeddings
        found = evaluate_retrieval(features, things.images, things.validation).summary()
        return {f"validation_{name}": found[name] for name in ("recall_at_1", "map_at_r")}

    # Train, or resume: Orbax keeps the two latest checkpoints and the best.
    run = Run.open(config, network, things, best="validation_recall_at_1", weights=weights)
    variables, key = initialize(network, config.size, config.seed)
    baselines = {"raw pixels 16x16": partial(pixel_features, size=16)}
    if weights is not None:
        variables = put(network, variables, weights.without(*HEADS, "block5"), under="deep")
        baselines |= {"VGG-16 as it is": embedder(jax.device_get(variables)).embeddings}
    state = create_state(run.initial(variables), optimizer, key=key)
    fit(run, state, step, batches, evaluate=evaluate)

    # Search once, beside baselines without training.
    return retrieval_report(run, embedder(run.best_variables()), things, baselines=baselines)


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
