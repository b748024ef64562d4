"""Visual search: given a picture of a thing, find the same thing in a catalogue.

VGG-16 says what the thing is, two shallow networks on small copies of the picture how it looks;
one dense layer joins them to an embedding, and triplets of a picture, one of the same thing and
one of another pull the first two together and push the third away (the recipe follows Deep Ranking,
Wang et al. 2014, and VisNet, Shankar et al. 2017).

    python -m experiments.visual_search_triplet
    python -m experiments.visual_search_triplet --weights vgg16_imagenet_notop_fp16.npz
    python -m experiments.visual_search_triplet --data items.csv --size 224 --width 1 --depth 5 \\
        --hidden 4096 --embedding 4096 --output sigmoid --distance euclidean --margin 20 --cap 5 \\
        --no-semi-hard --no-augment --l2 --optimizer sgd --learning-rate 0.008 \\
        --schedule constant --batch-size 2

The defaults train a small network on the embedded emoji (one vendor's picture of an item asks, the
other vendor's answers, on items that training never saw): artwork, which shows that it works and
learns, no more. The last command is the published network and recipe, whose cap leaves no gradient
as long as distances differ by less than 15 (siamjax.losses.triplet).
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import optax

from siamjax import cli
from siamjax.data.catalogue.splits import load_splits
from siamjax.data.transforms import Augmentation
from siamjax.data.triplets import MinedTriplets, SampledTriplets
from siamjax.distances import euclidean, squared_euclidean
from siamjax.mining import semi_hard_negative
from siamjax.models.visual_search import Output, Variant, VisualSearchNet
from siamjax.pretrained import read_vgg16
from siamjax.runs.folder import folder_for
from siamjax.runs.visual_search import train_embedder
from siamjax.training.optimizers import OptimizerName, ScheduleName, by_layer, make_optimizer
from siamjax.training.parallel import AXIS
from siamjax.training.triplet_loss import l2_penalty, triplet_loss

RECIPE_L2 = {"deep/fc1": 0.005, "deep/fc2": 0.005, "embedding": 0.01}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options; the defaults suit the embedded set on two CPU cores."""

    data: str = "emoji"
    """emoji, stanford_online_products, a table (.csv, .tsv) or a folder with one."""
    run: Path | None = None
    """Folder of the run; one that exists is gone on with. None: runs/EXPERIMENT-DATA."""
    seed: int = 0
    """Seed of splits, triplets, augmentation and initial parameters."""
    test_items: int | None = None
    """Items that are tested on; None: 200 of the emoji, a tenth of a table's."""
    validation_items: int | None = None
    """Items that choose the checkpoint; None: 100 of the emoji, a tenth of a table's."""
    variant: Variant = "recipe"
    """recipe, or visnet: its shallow networks and dropout 0.4."""
    output: Output = "ball"
    """sigmoid, as in the recipe, or ball: x / sqrt(1 + |x|^2), as in VisNet."""
    size: int = 64
    """Side of the pictures in pixels; published: 224."""
    width: float = 0.5
    """Factor on the channels of the convolutions; published: 1."""
    depth: int = 4
    """Blocks of VGG-16; published: 5."""
    hidden: int = 512
    """Features of fc1 and fc2; published: 4096."""
    embedding: int = 256
    """Features of the embedding; published: 4096."""
    weights: Path | None = None
    """ImageNet's VGG-16 (.npz): its convolutions are where training starts."""
    freeze: tuple[str, ...] = ()
    """Layers that stay as they are, by the beginning of their path, such as deep/block1."""
    deep_rate: float = 1.0
    """Factor on the learning rate of the deep network's convolutions."""
    distance: Literal["euclidean", "squared"] = "euclidean"
    """Of the loss; the recipe's is euclidean, VisNet's squared."""
    margin: float = 1.0
    """How much further than the positive the negative should be; recipe: 20, VisNet: 9e-4."""
    cap: float | None = None
    """Most that a triplet can lose; recipe: 5."""
    l2: bool = False
    """The recipe's L2 penalties: 0.005 of fc1 and fc2, 0.01 of the last layer."""
    in_class: float = 0.5
    """Share of the negatives that are of the anchor's category."""
    hard: float = 0.0
    """Share of the negatives that are among the nearest by the last evaluation's embeddings."""
    semi_hard: bool = True
    """Take each anchor's negative from the whole batch: the nearest beyond its positive."""
    optimizer: OptimizerName = "adam"
    """sgd (momentum 0), adam or adamw."""
    learning_rate: float = 1e-3
    """Recipe: 0.008 (sgd)."""
    schedule: ScheduleName = "cosine"
    """constant or cosine."""
    batch_size: int = 32
    """Triplets a step, over all devices; recipe: 2."""
    steps: int = 1000
    """Batches to train on."""
    augment: bool = True
    """Turn by up to 10 degrees, shift and scale by up to 5 and 10 %, at random."""
    evaluate_every: int = 200
    """Steps between two validations; each saves a checkpoint."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    bfloat16: bool = False
    """Compute convolutions and deep dense products in bfloat16."""
    workers: int = 0
    """Processes that read pictures; 0 = threads."""


def main(config: Config) -> Any:
    """Train, search and report."""
    splits = load_splits(
        config.data,
        seed=config.seed,
        test_items=config.test_items,
        validation_items=config.validation_items,
    )
    weights = None if config.weights is None else read_vgg16(config.weights)
    network = VisualSearchNet(
        variant=config.variant,
        output=config.output,
        width=config.width,
        depth=config.depth,
        hidden=config.hidden,
        embedding=config.embedding,
        preprocessing="unit" if weights is None else weights.preprocessing,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
    )
    loss_fn = triplet_loss(
        network,
        euclidean if config.distance == "euclidean" else squared_euclidean,
        margin=config.margin,
        cap=config.cap,
        mine=semi_hard_negative if config.semi_hard else None,
        penalty=l2_penalty(RECIPE_L2) if config.l2 else None,
        axis_name=AXIS,
    )
    drawn: dict[str, Any] = {"seed": config.seed, "in_class": config.in_class}
    if config.hard:
        drawn |= {"hard": config.hard, "batch_size": config.batch_size}
    sampler = MinedTriplets if config.hard else SampledTriplets
    triplets = sampler(splits.catalogue, splits.training, **drawn)
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("run", "workers")}
    return train_embedder(
        network,
        loss_fn,
        optimizer(config),
        splits,
        triplets,
        run=config.run or folder_for("visual_search", splits.images.name),
        config={"experiment": "visual_search_triplet", **options},
        size=config.size,
        batch_size=config.batch_size,
        steps=config.steps,
        seed=config.seed,
        augmentation=Augmentation(mirror=False, rotation=10.0) if config.augment else None,
        evaluate_every=config.evaluate_every,
        log_every=config.log_every,
        workers=config.workers,
        weights=weights,
    )


def optimizer(config: Config) -> optax.GradientTransformation:
    """One for all, but for layers that are frozen and the rate of the deep convolutions."""

    make = partial(
        make_optimizer,
        config.optimizer,
        steps=config.steps,
        schedule=config.schedule,
        momentum=0.0,
    )
    special = {layer: optax.set_to_zero() for layer in config.freeze}
    if config.deep_rate != 1.0:
        special["deep/block"] = make(learning_rate=config.deep_rate * config.learning_rate)
    return by_layer(special, default=make(learning_rate=config.learning_rate))


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
