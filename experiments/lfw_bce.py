"""Faces as a yes-no question: a head on both embeddings gives the logit of P(same).

The 19-layer network embeds both pictures with the same weights; a dense layer makes a logit of
the two embeddings, trained with binary cross-entropy.

    python -m experiments.lfw_bce
    python -m experiments.lfw_bce --head concatenation      # the head of the recipe

The recipe concatenates the embeddings. Its logit is a sum of a term for each picture, so it
cannot say that two *unseen* people match or not (siamjax.models.heads tells why); the default is
therefore the dense layer on |f1 - f2| of Koch, Zemel, Salakhutdinov 2015.
Takes LFW if it is on this machine, else the embedded ORL faces (40 people).

Cost on ORL: 80 s and 0.8 GB on 2 CPU cores. Measured there (10 people never seen, 4,950 pairs):
AUC 0.961, EER 0.112; raw pixels AUC 0.884. Not measured on LFW.
"""

from dataclasses import dataclass
from typing import Any, Literal

from experiments.faces import FaceConfig, backbone, resolve, train
from siamjax import cli
from siamjax.losses import binary_cross_entropy
from siamjax.models.heads import ConcatenationHead, DifferenceHead
from siamjax.models.siamese import Siamese
from siamjax.training.pair_loss import pair_loss
from siamjax.training.parallel import AXIS


@dataclass(frozen=True, kw_only=True)
class Config(FaceConfig):
    """Options."""

    head: Literal["difference", "concatenation"] = "difference"
    """What the dense layer sees: |f1 - f2|, or f1 and f2 one after the other (the recipe)."""


def main(config: Config) -> Any:
    """Train, evaluate and report."""
    options = resolve(config)
    head = DifferenceHead() if config.head == "difference" else ConcatenationHead()
    network = Siamese(backbone=backbone(options), head=head)

    loss_fn = pair_loss(
        network,
        binary_cross_entropy,
        active=lambda logit, same: (logit > 0) != same,  # on the wrong side
        axis_name=AXIS,
    )
    return train(options, name="lfw_bce", network=network, loss_fn=loss_fn)


if __name__ == "__main__":
    cli.run(main, Config, description=__doc__)
