"""Train steps, the training loop, checkpoints, and runs: a folder for each trained network."""

from typing import TYPE_CHECKING

from siamjax.lazy import contents

if TYPE_CHECKING:
    from siamjax.training.config import RunConfig
    from siamjax.training.finished import Finished
    from siamjax.training.forward_pass import (
        forward,
        forward_labelled,
        forward_pairs,
        forward_triplets,
    )
    from siamjax.training.loop import fit
    from siamjax.training.optimizers import (
        averaged,
        by_layer,
        dampened_sgd,
        from_step,
        warmup_cosine_decay,
    )
    from siamjax.training.run import Run
    from siamjax.training.state import TrainState, create_state, initialize
    from siamjax.training.step import LossFunction, make_train_step

__getattr__, __dir__ = contents(__name__, __file__)

__all__ = [
    "Finished",
    "LossFunction",
    "Run",
    "RunConfig",
    "TrainState",
    "averaged",
    "by_layer",
    "create_state",
    "dampened_sgd",
    "fit",
    "forward",
    "forward_labelled",
    "forward_pairs",
    "forward_triplets",
    "from_step",
    "initialize",
    "make_train_step",
    "warmup_cosine_decay",
]
