"""What the visual search experiments ask for: their options, the defaults for the embedded set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from siamjax.models.preprocessing import Preprocessing
from siamjax.models.visual_search import Output, Variant
from siamjax.training.optimizers import OptimizerName, ScheduleName

Mining = Literal["own", "semi_hard", "soft"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options; the defaults suit the embedded set on two CPU cores."""

    data: str = "emoji"
    """emoji, stanford_online_products, a table (.csv, .tsv) or a folder with one."""
    triplets: Path | None = None
    """File of listed triplets of the table, row numbers from 0; None: they are drawn."""
    run: Path | None = None
    """Folder of the run; one that exists is gone on with. None: runs/EXPERIMENT-DATA."""
    seed: int = 0
    """Seed of splits, triplets, augmentation and initial parameters."""
    test_items: int | None = None
    """Items that are tested on; None: 200 of the emoji, a fifth of a table's."""
    validation_items: int | None = None
    """Items that choose the checkpoint; None: 100 of the emoji, a tenth of a table's."""
    pooled: bool = False
    """VGG-16's last map, averaged over its positions, instead of all three networks."""
    variant: Variant = "recipe"
    """recipe, or visnet: its shallow networks and dropout 0.4."""
    output: Output = "sphere"
    """sigmoid, as in the recipe, ball: x / sqrt(1 + |x|^2), as in VisNet, or sphere: x / |x|."""
    size: int = 32
    """Side of the pictures in pixels; published: 224."""
    width: float = 0.25
    """Factor on the channels of the convolutions; published: 1."""
    depth: int = 2
    """Blocks of VGG-16; published: 5."""
    hidden: int = 512
    """Features of fc1 and fc2; published: 4096."""
    embedding: int = 256
    """Features of the embedding; published: 4096."""
    preprocessing: Preprocessing = "torchvision"
    """Of the deep network's pictures: about 0 on average, or unit, as in the recipe; with weights
    it is theirs."""
    weights: Path | None = None
    """VGG-16 to start from: a file in any published format, or a name of `siamjax weights list`."""
    unfreeze: tuple[str, ...] = ()
    """LAYERS:STEP each: layers that begin so are trained from that step on, such as
    deep/block3:50."""
    freeze: tuple[str, ...] = ()
    """Layers that stay as they are, by the beginning of their path, such as deep/block1."""
    deep_rate: float = 1.0
    """Factor on the learning rate of the deep network's convolutions."""
    distance: Literal["euclidean", "squared"] = "squared"
    """Of the loss; the recipe's is euclidean, VisNet's squared."""
    margin: float = 0.2
    """How much further than the positive the negative should be; recipe: 20, VisNet: 9e-4."""
    cap: float | None = None
    """Most that a triplet can lose; recipe: 5."""
    l2: bool = False
    """The recipe's L2 penalties: 0.005 of fc1 and fc2, 0.01 of the last layer."""
    category: str | None = "category"
    """Column of the table that says what kind of thing it is; None: there is none."""
    in_class: float = 0.5
    """Share of the negatives that are of the anchor's category."""
    hard: float = 0.0
    """Share of the negatives that are among the nearest by the last evaluation's embeddings."""
    mining: Mining = "soft"
    """Each anchor's negative: the triplet's own, or of the whole batch the nearest beyond its
    positive (semi_hard) or a smooth minimum (soft)."""
    optimizer: OptimizerName = "adam"
    """sgd (momentum 0), adam or adamw."""
    learning_rate: float = 1e-3
    """Recipe: 0.008 (sgd)."""
    schedule: ScheduleName = "cosine"
    """constant or cosine."""
    batch_size: int = 64
    """Triplets a step, over all devices; recipe: 2."""
    steps: int = 1000
    """Batches to train on."""
    augment: bool = True
    """Turn by up to 5 degrees, shift and scale by up to 5 and 10 %, at random."""
    symmetries: bool = True
    """And mirror, turn by quarters and exchange colours, the whole triplet alike; for artwork."""
    evaluate_every: int = 100
    """Steps between two validations; each saves a checkpoint."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    bfloat16: bool = False
    """Compute convolutions and deep dense products in bfloat16."""
    workers: int = 0
    """Processes that read pictures; 0 = threads."""
