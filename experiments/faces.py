"""What the face experiments share: their options, and how those meet the library."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from siamjax.data.faces import LFW_NAMES, choose_data, load_splits
from siamjax.data.transforms import Augmentation
from siamjax.models.lfw import LfwNet
from siamjax.models.siamese import Siamese
from siamjax.runs.folder import folder_for
from siamjax.runs.train import Training
from siamjax.runs.verification import train_verifier
from siamjax.training.optimizers import OptimizerName, ScheduleName, make_optimizer
from siamjax.training.parallel import AXIS
from siamjax.training.step import LossFunction

# What a set needs by default: the 19-layer network whole for LFW's 13,233 pictures; for a small
# set of faces a narrow one on small pictures, which trains in minutes on two CPU cores.
FULL = {"width": 1.0, "size": 128, "batch_size": 64, "steps": 20_000}
SMALL = {"width": 0.25, "size": 64, "batch_size": 32, "steps": 400}


@dataclass(frozen=True, kw_only=True)
class FaceConfig:
    """Options of the face experiments.

    Where width, size, batch_size and steps are None, the data decides: LFW takes 1, 128, 64 and
    20,000, every other set 0.25, 64, 32 and 400.
    """

    data: str = "auto"
    """auto, orl_faces, lfw, lfw/original, lfw/funneled, lfw/deepfunneled, a folder of identity
    folders, or a list file of lines 'path1 path2 label'."""
    validation_list: Path | None = None
    """With a list file: the list that chooses threshold and checkpoint."""
    test_list: Path | None = None
    """With a list file: the list that the result is about."""
    lfw_fold: int | None = None
    """With LFW: test on this fold of View 2 (1 to 10) and train on the others; None: View 1."""
    validation_people: int = 6
    """People that choose threshold and checkpoint, where people are divided at random."""
    test_people: int = 10
    """People that the result is about, where people are divided at random."""
    positive_share: float | None = 0.5
    """Share of pairs of one person in a batch, between 0 and 1; None: two pictures at random."""
    run: Path | None = None
    """Folder of the run; one that exists is gone on with. None: runs/EXPERIMENT-DATA."""
    seed: int = 0
    """Seed of people, pairs, augmentation and initial parameters."""
    width: float | None = None
    """Factor on the network's channels; 1 = the 19-layer network as published."""
    size: int | None = None
    """Side of the network's pictures in pixels, a multiple of 8; published: 128."""
    standardize: bool = True
    """Take each picture's mean away and divide by its deviation."""
    bfloat16: bool = False
    """Compute convolutions in bfloat16; parameters, statistics and distances stay float32."""
    batch_size: int | None = None
    """Pairs a step, over all devices."""
    steps: int | None = None
    """Batches to train on."""
    optimizer: OptimizerName = "adam"
    """Optax optimizer."""
    learning_rate: float = 1e-3
    """Greatest learning rate."""
    schedule: ScheduleName = "cosine"
    """Learning rate over the steps."""
    warmup_steps: int = 0
    """Updates of linear warm-up."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 0.0
    """L2 added to the gradient (sgd, adam), or decoupled (adamw)."""
    accumulate: int = 1
    """Batches averaged for one update."""
    mirror: bool = True
    """Mirror pictures at random."""
    rotation: float = 5.0
    """Greatest random rotation, in degrees."""
    translation: float = 0.05
    """Greatest random shift, as a share of the side."""
    scale: float = 0.1
    """Greatest random change of size, as a share."""
    evaluate_every: int = 100
    """Steps between two evaluations on the validation pairs; each saves a checkpoint."""
    log_every: int = 20
    """Steps between two lines of metrics."""
    workers: int = 0
    """Processes that read pictures; 0 = threads."""

    @property
    def dtype(self) -> Any:
        """Of the network's products."""
        return jnp.bfloat16 if self.bfloat16 else jnp.float32


# What does not change a result, and so may differ when a run is gone on with.
_OPERATIONAL = ("run", "workers")


def resolve(config: FaceConfig) -> Any:
    """Fill in what was left to the data, and say which data was taken."""
    data, sentence = choose_data(config.data)
    print(sentence)
    defaults = FULL if data in LFW_NAMES else SMALL
    if defaults is FULL and config.steps is None and jax.default_backend() == "cpu":
        print(
            "the whole network on LFW is work for an accelerator (days on a CPU); here try "
            "--width 0.25 --size 64 --batch-size 32 --steps 2000"
        )
    left_open = {name: v for name, v in defaults.items() if getattr(config, name) is None}
    return dataclasses.replace(config, data=data, **left_open)


def backbone(config: Any) -> LfwNet:
    """The 19-layer network with resolved options.

    ``embedding_scale`` None: random embeddings start one margin of 1 apart, and not 45.
    """
    return LfwNet(
        width=config.width,
        standardize=config.standardize,
        dtype=config.dtype,
        axis_name=AXIS,
        embedding_scale=None,
    )


def train(config: Any, *, name: str, network: Siamese, loss_fn: LossFunction) -> Any:
    """Run an experiment with resolved options; returns the results by name."""
    splits = load_splits(
        config.data,
        seed=config.seed,
        validation_people=config.validation_people,
        test_people=config.test_people,
        lfw_fold=config.lfw_fold,
        validation_list=config.validation_list,
        test_list=config.test_list,
        positive_share=config.positive_share,
    )
    optimizer = make_optimizer(
        config.optimizer,
        learning_rate=config.learning_rate,
        steps=config.steps,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        accumulate=config.accumulate,
    )
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OPERATIONAL}
    training = Training(
        size=config.size,
        batch_size=config.batch_size,
        steps=config.steps,
        seed=config.seed,
        augmentation=Augmentation(
            mirror=config.mirror,
            rotation=config.rotation,
            translation=config.translation,
            scale=config.scale,
        ),
        evaluate_every=config.evaluate_every,
        log_every=config.log_every,
        workers=config.workers,
    )
    return train_verifier(
        network,
        loss_fn,
        optimizer,
        splits,
        training,
        run=config.run or folder_for(name, splits.images.name),
        config={"experiment": name, **options},
    )
