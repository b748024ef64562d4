"""Faces on a pretrained InceptionV3: one network for both pictures, and a learnt distance.

InceptionV3 up to a block, averaged over all positions and put through one dense layer, embeds each
picture; the logit of P(same) is b - a d, with d the Euclidean distance of the embeddings and a, b
learnt, under the binary cross-entropy. With --triplet the same network takes three pictures, and
semi-hard triplets train it (Schroff et al., FaceNet, CVPR 2015).

    python -m siamjax weights convert inception_v3.h5 --out inception_v3.npz
    python -m experiments.faces_inception --weights inception_v3.npz
    python -m experiments.faces_inception --weights inception_v3.npz --unfreeze mixed4:100

What is frozen all the time runs once a picture and not once a step, unless --augment.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from siamjax import cli
from siamjax.data.catalogue.table import Catalogue
from siamjax.data.faces import FaceSplits, load_splits
from siamjax.data.transforms import Augmentation
from siamjax.data.triplets import SampledTriplets
from siamjax.distances import squared_euclidean
from siamjax.losses import binary_cross_entropy
from siamjax.mining import semi_hard_negative
from siamjax.models.heads import DistanceLogitHead, EuclideanHead
from siamjax.models.inception_embedding import InceptionEmbedding
from siamjax.models.preprocessing import Preprocessing
from siamjax.models.siamese import Siamese
from siamjax.pretrained import HEADS, open_weights
from siamjax.runs import fine_tuning
from siamjax.runs.folder import folder_for
from siamjax.runs.train import Examples, Training, pair_examples, triplet_examples
from siamjax.runs.verification import train_verifier
from siamjax.training.optimizers import make_optimizer
from siamjax.training.pair_loss import pair_loss
from siamjax.training.parallel import AXIS
from siamjax.training.step import LossFunction
from siamjax.training.triplet_loss import triplet_loss


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options; the defaults suit the embedded faces on two CPU cores."""

    weights: Path
    """InceptionV3: a file in any published format, or a name of `siamjax weights list`."""
    preprocessing: Preprocessing | None = None
    """Of the weights' pictures, where the file does not say it."""
    leave_out: tuple[str, ...] = (*HEADS, "dense_")
    """Beginnings of the layers of the file that are no part of InceptionV3's body."""
    data: str = "orl_faces"
    """orl_faces, lfw[/alignment], or a folder of identity folders."""
    validation_people: int = 6
    """People who choose threshold and checkpoint."""
    test_people: int = 10
    """People whom the result is about."""
    run: Path | None = None
    """Folder of the run; one that exists is gone on with. None: runs/EXPERIMENT-DATA."""
    seed: int = 0
    """Seed of people, pairs, augmentation and the dense layer."""
    size: int = 128
    """Side of the network's pictures in pixels, 75 at least; published: 299."""
    end: str = "mixed7"
    """Last block of the network."""
    embedding: int | None = 256
    """Features of the dense layer; None: the mean of the last block."""
    frozen: str | None = "mixed6"
    """Last block that is never trained; None: all are."""
    unfreeze: tuple[str, ...] = ()
    """BLOCK:STEP each: the blocks from this one on are trained from that step on."""
    freeze_statistics: bool = True
    """Keep the running statistics of batch normalisation as published."""
    triplet: bool = False
    """Train on triplets; the distance itself is then the score."""
    margin: float = 0.2
    """Of the triplets, in squared distance."""
    learning_rate: float = 3e-4
    """Of the dense layer, and of a and b; cosine to 0."""
    trunk_rate: float = 0.1
    """Learning rate of the last block, as a share of the above."""
    block_decay: float = 0.7
    """The rate of a block, as a share of that of the block after it."""
    batch_size: int = 32
    """Pairs (or triplets) a step, over all devices."""
    steps: int = 200
    """Batches to train on."""
    augment: bool = False
    """Mirror, shift and turn pictures at random; every step then runs the whole network."""
    evaluate_every: int = 50
    """Steps between two evaluations on the validation pairs; each saves a checkpoint."""
    log_every: int = 20
    """Steps between two lines of metrics."""
    workers: int = 0
    """Processes that read pictures; 0 = threads."""


def main(config: Config) -> Any:
    """Train, evaluate and report."""
    options = {"architecture": "inception_v3", "preprocessing": config.preprocessing}
    weights = open_weights(config.weights, **options).without(*config.leave_out)
    people: dict[str, Any] = {
        "validation_people": config.validation_people,
        "test_people": config.test_people,
    }
    splits = load_splits(config.data, seed=config.seed, **people)
    stages = fine_tuning.stages_of(
        config.frozen, config.unfreeze, end=config.end, steps=config.steps
    )
    body = InceptionEmbedding(
        end=config.end,
        embedding=config.embedding,
        preprocessing=weights.preprocessing,
        given=None if config.augment else stages[max(stages)],
        freeze_statistics=config.freeze_statistics,
        axis_name=AXIS,
    )
    head = EuclideanHead() if config.triplet else DistanceLogitHead()
    network = Siamese(backbone=body, head=head)
    losses = [
        (step, loss(config, network.clone(backbone=body.clone(frozen=block))))
        for step, block in stages.items()
    ]
    names = ("size", "batch_size", "steps", "seed", "evaluate_every", "log_every", "workers")
    own = {name: getattr(config, name) for name in names}
    training = Training(augmentation=Augmentation() if config.augment else None, **own)
    untrained = fine_tuning.untrained_scores(body, weights, size=config.size)
    rows = fine_tuning.frozen_inception_maps(body, weights, splits, size=config.size)
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("run", "workers")}
    return train_verifier(
        network,
        losses,
        fine_tuning.block_by_block(
            partial(make_optimizer, "adam", steps=config.steps, schedule="cosine"),
            stages,
            end=config.end,
            learning_rate=config.learning_rate,
            trunk_rate=config.trunk_rate,
            block_decay=config.block_decay,
        ),
        splits,
        training,
        run=config.run or folder_for("faces_inception", splits.images.name),
        config={"experiment": "faces_inception", "weights_sha256": weights.digest, **options},
        examples=examples(config, splits, training, rows),
        start_from=lambda variables: fine_tuning.from_weights(network, weights, variables),
        baselines={f"{config.end}, untrained": untrained},
    )


def loss(config: Config, network: Siamese) -> LossFunction:
    """Of a stage: its network freezes what the stage does not train."""
    if config.triplet:
        options: Any = {"margin": config.margin, "mine": semi_hard_negative, "axis_name": AXIS}
        return triplet_loss(network, squared_euclidean, **options)
    return pair_loss(
        network,
        binary_cross_entropy,
        active=lambda logit, same: (logit > 0) != same,
        axis_name=AXIS,
    )


def examples(config: Config, splits: FaceSplits, training: Training, rows: Any) -> Examples:
    """Pairs or triplets, of pictures or of the frozen part's maps (rows)."""
    if not config.triplet:
        return pair_examples(splits.images, splits.training, training, rows=rows)
    shown = np.flatnonzero(np.isin(splits.images.identities, splits.trained_on))
    faces = Catalogue(images=splits.images, attributes={})
    triplets = SampledTriplets(faces, shown, seed=config.seed, category=None)
    return triplet_examples(splits.images, triplets, training, rows=rows)


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
