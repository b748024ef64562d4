"""Faces with the contrastive loss: the distance says whether two pictures show one person.

The 19-layer network embeds both pictures with the same weights; pairs of one person are drawn
together, others pushed apart up to a margin (Hadsell, Chopra, LeCun, CVPR 2006):

    L = d^2 if same else max(0, margin - d)^2,    d = ||f1 - f2||.

    python -m experiments.lfw_contrastive

Takes LFW if it is on this machine, else the embedded ORL faces (40 people).

Cost on ORL: 90 s and 0.8 GB on 2 CPU cores. Measured there (10 people never seen, 4,950 pairs):
AUC 0.986, EER 0.064; raw pixels AUC 0.884. Other divisions of the people: docs/measurements.md.
Not measured on LFW.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from experiments.faces import FaceConfig, backbone, resolve, train
from siamjax import cli
from siamjax.losses import contrastive
from siamjax.models.heads import EuclideanHead
from siamjax.models.siamese import Siamese
from siamjax.training.pair_loss import pair_loss
from siamjax.training.parallel import AXIS


@dataclass(frozen=True, kw_only=True)
class Config(FaceConfig):
    """Options."""

    margin: float = 1.0
    """Distance from which a pair of two people is left alone."""


def main(config: Config) -> Any:
    """Train, evaluate and report."""
    options = resolve(config)
    network = Siamese(backbone=backbone(options), head=EuclideanHead())

    loss_fn = pair_loss(
        network,
        lambda distance, same: contrastive(distance, same, margin=config.margin),
        active=lambda distance, same: distance < config.margin,
        counted=jnp.logical_not,  # a pair of one person is always pulled
        axis_name=AXIS,
    )
    return train(options, name="lfw_contrastive", network=network, loss_fn=loss_fn)


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
