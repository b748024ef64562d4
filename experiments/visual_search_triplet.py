"""Visual search: given a picture of a thing, find the same thing in a catalogue.

VGG-16 says what the thing is, two shallow networks on small copies of the picture how it looks;
one dense layer joins them to an embedding, and triplets of a picture, one of the same thing and
one of another pull the first two together and push the third away (the recipe follows Deep Ranking,
Wang et al. 2014, and VisNet, Shankar et al. 2017).

    python -m experiments.visual_search_triplet
    python -m experiments.visual_search_triplet --weights vgg16_imagenet_notop_fp16.npz --pooled \\
        --width 1 --depth 4 --size 64 --freeze deep/block1 deep/block2 --learning-rate 1e-4 \\
        --mining semi_hard --margin 0.4 --hard 0.5 --no-symmetries \\
        --batch-size 32 --steps 100 --evaluate-every 25
    python -m experiments.visual_search_triplet --data items.csv --size 224 --width 1 --depth 5 \\
        --hidden 4096 --embedding 4096 --output sigmoid --preprocessing unit \\
        --distance euclidean --margin 20 --cap 5 --mining own --no-augment --l2 \\
        --optimizer sgd --learning-rate 0.008 \\
        --schedule constant --batch-size 2

The defaults train a small network on the embedded emoji (one vendor's picture of an item asks, the
other vendor's answers, on items that training never saw): artwork, which shows that it works and
learns, no more. The last command is the published network and recipe, whose cap leaves no gradient
as long as distances differ by less than 15 (siamjax.losses.triplet).
"""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
import optax

from experiments.visual_search import Config
from siamjax import cli
from siamjax.data.catalogue.splits import load_splits
from siamjax.data.transforms import Augmentation
from siamjax.data.triplets import ListedTriplets, MinedTriplets
from siamjax.distances import euclidean, squared_euclidean
from siamjax.errors import UsageError
from siamjax.mining import semi_hard_negative, soft_negative
from siamjax.models.vgg16 import Vgg16Features
from siamjax.models.visual_search import VisualSearchNet
from siamjax.pretrained import open_weights
from siamjax.runs.fine_tuning import begins_of
from siamjax.runs.folder import folder_for
from siamjax.runs.train import Training
from siamjax.runs.visual_search import train_embedder
from siamjax.training.optimizers import by_layer, make_optimizer
from siamjax.training.parallel import AXIS
from siamjax.training.triplet_loss import l2_penalty, triplet_loss

MINERS = {"own": None, "semi_hard": semi_hard_negative, "soft": soft_negative}
RECIPE_L2 = {"deep/fc1": 0.005, "deep/fc2": 0.005, "embedding": 0.01}


def main(config: Config) -> Any:
    """Train, search and report."""
    splits = load_splits(
        config.data,
        seed=config.seed,
        test_items=config.test_items,
        validation_items=config.validation_items,
        triplets=config.triplets,
    )
    weights = None if config.weights is None else open_weights(config.weights, architecture="vgg16")
    deep: dict[str, Any] = {
        "width": config.width,
        "depth": config.depth,
        "preprocessing": config.preprocessing if weights is None else weights.preprocessing,
        "dtype": jnp.bfloat16 if config.bfloat16 else jnp.float32,
    }
    given = 0
    if config.pooled:
        given = 0 if config.augment else frozen_blocks(config)
        network = Vgg16Features(given=given, **deep)
    else:
        network = VisualSearchNet(
            variant=config.variant,
            output=config.output,
            hidden=config.hidden,
            embedding=config.embedding,
            **deep,
        )
    loss_fn = triplet_loss(
        network,
        euclidean if config.distance == "euclidean" else squared_euclidean,
        margin=config.margin,
        cap=config.cap,
        mine=MINERS[config.mining],
        penalty=l2_penalty(RECIPE_L2) if config.l2 else None,
        axis_name=AXIS,
    )
    if splits.listed is not None:
        triplets = ListedTriplets(splits.listed, seed=config.seed)
    else:
        triplets = MinedTriplets(
            splits.catalogue,
            splits.training,
            seed=config.seed,
            in_class=config.in_class,
            category=config.category,
            hard=config.hard,
            batch_size=config.batch_size,
        )
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("run", "workers")}
    training = Training(
        size=config.size,
        batch_size=config.batch_size,
        steps=config.steps,
        seed=config.seed,
        augmentation=(
            Augmentation(mirror=False, rotation=5.0, symmetries=config.symmetries)
            if config.augment
            else None
        ),
        evaluate_every=config.evaluate_every,
        log_every=config.log_every,
        workers=config.workers,
    )
    return train_embedder(
        network,
        loss_fn,
        optimizer(config),
        splits,
        triplets,
        training,
        run=config.run or folder_for("visual_search", splits.images.name),
        config={
            "experiment": "visual_search_triplet",
            "weights_sha256": None if weights is None else weights.digest,
            **options,
        },
        weights=weights,
        given=given,
    )


def frozen_blocks(config: Config) -> int:
    """How many of the first blocks are never trained, and so need to run once a picture only."""
    frozen = [f"deep/block{n}_".startswith(config.freeze) for n in range(1, config.depth + 1)]
    return ([*frozen, False].index(False)) if config.freeze and config.weights else 0


def optimizer(config: Config) -> optax.GradientTransformation:
    """One for all, but for layers that are frozen and the rate of the deep convolutions."""

    make = partial(
        make_optimizer,
        config.optimizer,
        steps=config.steps,
        schedule=config.schedule,
        momentum=0.0,
    )
    deep = make(learning_rate=config.deep_rate * config.learning_rate)
    later = {}
    for name, step in begins_of(config.unfreeze, steps=config.steps).items():
        if name.startswith(config.freeze) and config.freeze:
            raise UsageError(f"unfreeze {name}: --freeze keeps it as it is for good; leave it out")
        share = config.deep_rate if name.startswith("deep/block") else 1.0
        later[name] = make(learning_rate=share * config.learning_rate, begin=step)
    return by_layer(
        {"deep/block": deep, **later},
        default=make(learning_rate=config.learning_rate),
        frozen=config.freeze,
    )


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
