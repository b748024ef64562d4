"""Visual search: given a picture of a thing, find the same thing in a catalogue.

VGG-16 says what the thing is, two shallow networks on small copies of the picture how it looks;
one dense layer joins them to an embedding, and triplets of a picture, one of the same thing and
one of another pull the first two together and push the third away (the recipe follows Deep Ranking,
Wang et al. 2014, and VisNet, Shankar et al. 2017).

    python -m experiments.visual_search_triplet
    python -m experiments.visual_search_triplet --weights vgg16_imagenet_notop_fp16.npz
    python -m experiments.visual_search_triplet --data items.csv --size 224 --width 1 --depth 5 \\
        --hidden 4096 --embedding 4096 --margin 20 --cap 5 --l2-hidden 0.005 \\
        --l2-embedding 0.01 --optimizer sgd --learning-rate 0.008 --schedule constant --batch-size 2

The defaults train a small network on the embedded emoji (one vendor's picture of an item asks, the
other vendor's answers, on items that training never saw): artwork, which shows that it works and
learns, no more. The last command is the published network and recipe, whose cap leaves no gradient
as long as distances differ by less than 15 (siamjax.losses.triplet).
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import optax
from siamjax.data.catalogue.splits import load_splits
from siamjax.data.triplets import MinedTriplets

from siamjax import cli
from siamjax.data.transforms import Augmentation
from siamjax.distances import euclidean, squared_euclidean
from siamjax.models.visual_search import Variant, VisualSearchNet
from siamjax.pretrained import read_vgg16
from siamjax.runs.folder import folder_for
from siamjax.runs.visual_search import train_embedder
from siamjax.training.optimizers import OptimizerName, ScheduleName, by_layer, make_optimizer
from siamjax.training.parallel import AXIS
from siamjax.training.triplet_loss import l2_penalty, triplet_loss


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
    """recipe, or visnet: its shallow networks, dropout 0.4, embeddings in the unit ball."""
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
    l2_hidden: float = 0.0
    """L2 penalty of fc1 and fc2; recipe: 0.005."""
    l2_embedding: float = 0.0
    """L2 penalty of the last layer; recipe: 0.01."""
    in_class: float = 0.5
    """Share of the negatives that are of the anchor's category."""
    hard: float = 0.0
    """Share of the negatives that are mined: among the nearest by the last evaluation."""
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
    mirror: bool = False
    """Mirror pictures at random."""
    rotation: float = 10.0
    """Greatest random turn in degrees."""
    translation: float = 0.05
    """Greatest random shift, as a share of the size."""
    scale: float = 0.1
    """Greatest random change of size, as a share."""
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
        width=config.width,
        depth=config.depth,
        hidden=config.hidden,
        embedding=config.embedding,
        preprocessing="unit" if weights is None else weights.preprocessing,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
    )
    penalties = {"deep/fc1": config.l2_hidden, "deep/fc2": config.l2_hidden}
    penalties["embedding"] = config.l2_embedding
    loss_fn = triplet_loss(
        network,
        euclidean if config.distance == "euclidean" else squared_euclidean,
        margin=config.margin,
        cap=config.cap,
        penalty=l2_penalty({layer: weight for layer, weight in penalties.items() if weight}),
        axis_name=AXIS,
    )
    triplets = MinedTriplets(
        splits.catalogue,
        splits.training,
        seed=config.seed,
        in_class=config.in_class,
        hard=config.hard,
        batch_size=config.batch_size,
    )
    augmentation = Augmentation(
        mirror=config.mirror,
        rotation=config.rotation,
        translation=config.translation,
        scale=config.scale,
    )
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("run", "workers")}
    name = "visual_search_triplet"
    return train_embedder(
        network,
        loss_fn,
        optimizer(config),
        splits,
        triplets,
        run=config.run or folder_for(name, splits.images.name),
        config={"experiment": name, **options},
        size=config.size,
        batch_size=config.batch_size,
        steps=config.steps,
        seed=config.seed,
        augmentation=augmentation,
        evaluate_every=config.evaluate_every,
        log_every=config.log_every,
        workers=config.workers,
        weights=weights,
    )


def optimizer(config: Config) -> optax.GradientTransformation:
    """One for all, but for layers that are frozen and the rate of the deep convolutions."""

    def at(rate: float) -> optax.GradientTransformation:
        return make_optimizer(
            config.optimizer,
            learning_rate=rate,
            steps=config.steps,
            schedule=config.schedule,
            momentum=0.0,
        )

    special = {layer: optax.set_to_zero() for layer in config.freeze}
    if config.deep_rate != 1.0:
        special["deep/block"] = at(config.deep_rate * config.learning_rate)
    return by_layer(special, default=at(config.learning_rate))


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
