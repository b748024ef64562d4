"""Train steps, the training loop, checkpoints, and runs: a folder for each trained network."""

from siamjax.training.config import RunConfig
from siamjax.training.finished import Finished
from siamjax.training.forward import forward, forward_pairs, forward_triplets
from siamjax.training.loop import fit
from siamjax.training.optimizers import by_layer, dampened_sgd, from_step, warmup_cosine_decay
from siamjax.training.run import Run
from siamjax.training.state import TrainState, create_state, initialize
from siamjax.training.step import LossFunction, make_train_step

__all__ = [
    "Finished",
    "LossFunction",
    "Run",
    "RunConfig",
    "TrainState",
    "by_layer",
    "create_state",
    "dampened_sgd",
    "fit",
    "forward",
    "forward_pairs",
    "forward_triplets",
    "from_step",
    "initialize",
    "make_train_step",
    "warmup_cosine_decay",
]
