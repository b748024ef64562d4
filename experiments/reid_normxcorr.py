"""Person re-identification by inexact matching: patches of one picture searched in the other.

Both pictures go through the same two convolutions; every patch of the first map is correlated
with the patches of the second in the rows around it (normxcorr), and a small network on the 1500
correlations says whether the two show the same walker. With --fused a cross-input neighbourhood
layer works beside it (Subramaniam, Chatterjee, Mittal, NIPS 2016).

    python -m experiments.reid_normxcorr
    python -m experiments.reid_normxcorr --no-fused     # normxcorr alone
    python -m experiments.reid_normxcorr --data cuhk03/labeled --home cuhk-03.mat \\
        --optimizer released --batch-size 128 --steps 20000 --no-recolor --no-across-cameras

Sampling as released: an epoch has every pair of one person (by default of two cameras) as a
positive, and two random negatives to each.
The fused network is the default: normxcorr takes each patch's mean away, and with it the colour of
plain clothes, which the neighbourhood layer sees. The embedded pedestrians (9 walkers, of whom 5
are trained on) show that it works; no claim about re-identification rests on them.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from siamjax import cli
from siamjax.data.pairs import PositivesOfAnEpoch
from siamjax.data.reid.splits import Disjoint, Protocol, load_splits
from siamjax.data.transforms import Augmentation
from siamjax.losses import binary_cross_entropy
from siamjax.models.normxcorr_net import NormXCorrNet, Variant
from siamjax.runs.folder import folder_for
from siamjax.runs.ranking import train_matcher
from siamjax.runs.train import Training
from siamjax.training.optimizers import ScheduleName, dampened_sgd, make_optimizer
from siamjax.training.pair_loss import pair_loss
from siamjax.training.parallel import AXIS


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options; the defaults suit the embedded set on two CPU cores."""

    data: str = "pedestrians"
    """pedestrians, cuhk03/labeled, cuhk03/detected, cuhk01, grid, market1501, or a folder in
    Market-1501's naming."""
    home: Path | None = None
    """Folder, archive or .mat file with the raw files; None: $SIAMJAX_REID, or TFDS's folder."""
    protocol: Protocol = "classic"
    """Of CUHK03: classic (20 splits, single-shot) or new (767/700)."""
    split: int = 0
    """Number of the official split (CUHK03 classic, GRID)."""
    test_people: int | None = None
    """Of CUHK01 (100 or 486) and pedestrians (4)."""
    validation_people: int | None = None
    """People who choose the checkpoint; None: as docs/reid.md says."""
    disjoint: Disjoint = "person"
    """Of pedestrians: what training and test do not share."""
    run: Path | None = None
    """Folder of the run; one that exists is gone on with. None: runs/EXPERIMENT-DATA."""
    seed: int = 0
    """Seed of splits, pairs, augmentation, initial parameters and trials."""
    fused: bool = True
    """Add the cross-input neighbourhood layer."""
    variant: Variant = "released"
    """released, or guide: without two ReLUs, population deviation, plain sum."""
    column_search: int | None = None
    """Columns searched on either side; None: the whole width, as published."""
    bfloat16: bool = False
    """Compute convolutions and dense products in bfloat16."""
    optimizer: Literal["adam", "released"] = "adam"
    """released: Torch7's dampened SGD, decay 1e-4 a step, weight decay 5e-4."""
    learning_rate: float | None = None
    """None: 1e-3 for adam, 0.05 as released."""
    schedule: ScheduleName = "cosine"
    """Of adam's rate: cosine to 0, or constant."""
    batch_size: int = 32
    """Pairs a step, over all devices; released: 128."""
    steps: int = 200
    """Batches to train on."""
    negatives: int = 2
    """Random pairs of two people to each pair of one."""
    across_cameras: bool = True
    """Take positives of two cameras (tracklets) only; released: all pairs."""
    translation: float = 0.05
    """Greatest random shift, as a share of height and width."""
    mirror: bool = True
    """Mirror pictures at random."""
    recolor: bool = True
    """Same random colours for both pictures of a pair, so that few people stand for many."""
    symmetric: bool = False
    """Score by (P(A, B) + P(B, A)) / 2 at twice the cost."""
    trials: int = 10
    """Random galleries of a single-shot protocol."""
    validation_queries: int = 24
    """Queries of a validation at most: a matcher has to look at every pair."""
    evaluate_every: int = 100
    """Steps between two validations; each saves a checkpoint."""
    log_every: int = 20
    """Steps between two lines of metrics."""
    workers: int = 0
    """Processes that read pictures; 0 = threads."""


def main(config: Config) -> Any:
    """Train, rank and report."""
    splits = load_splits(
        config.data,
        home=config.home,
        seed=config.seed,
        split=config.split,
        protocol=config.protocol,
        test_people=config.test_people,
        validation_people=config.validation_people,
        disjoint=config.disjoint,
    )
    network = NormXCorrNet(
        fused=config.fused,
        variant=config.variant,
        column_search=config.column_search,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
    )
    loss_fn = pair_loss(
        network,
        binary_cross_entropy,
        active=lambda logit, same: (logit > 0) != same,
        axis_name=AXIS,
    )
    pairs = PositivesOfAnEpoch(
        splits.images,
        splits.training,
        seed=config.seed,
        negatives=config.negatives,
        cameras=splits.cameras if config.across_cameras else None,
    )
    if config.optimizer == "released":
        rate = 0.05 if config.learning_rate is None else config.learning_rate
        optimizer = dampened_sgd(rate, learning_rate_decay=1e-4, weight_decay=5e-4)
    else:
        rate = 1e-3 if config.learning_rate is None else config.learning_rate
        options = {"steps": config.steps, "schedule": config.schedule}
        optimizer = make_optimizer("adam", learning_rate=rate, **options)
    augmentation = Augmentation(
        mirror=config.mirror,
        rotation=0.0,
        translation=config.translation,
        scale=0.0,
        recolor=config.recolor,
    )
    name = "reid_normxcorr" if config.fused else "reid_normxcorr_plain"
    operational = ("run", "workers", "home", "trials")
    options = {k: v for k, v in dataclasses.asdict(config).items() if k not in operational}
    training = Training(
        size=(160, 60),
        batch_size=config.batch_size,
        steps=config.steps,
        seed=config.seed,
        augmentation=augmentation,
        evaluate_every=config.evaluate_every,
        log_every=config.log_every,
        workers=config.workers,
    )
    return train_matcher(
        network,
        loss_fn,
        optimizer,
        splits,
        pairs,
        training,
        run=config.run or folder_for(name, splits.images.name),
        config={"experiment": name, **options},
        symmetric=config.symmetric,
        trials=config.trials,
        validation_queries=config.validation_queries,
    )


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
