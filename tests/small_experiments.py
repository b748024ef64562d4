"""Every experiment in small: options, sides of images, batches."""

import importlib
import inspect
from pathlib import Path

import numpy as np

from siamjax.models import VisionTransformer

THIN = {"width": 0.0625}
OPTIONS = {
    "lfw_contrastive": THIN,
    "lfw_bce": THIN,
    "faces_inception": {"weights": Path("none"), "end": "mixed0", "frozen": "mixed0"},
    "reid_normxcorr": {"fused": False, "column_search": 1},
    "visual_search_triplet": {**THIN, "depth": 1, "hidden": 8, "embedding": 8},
    "finetune_embedding": {"weights": Path("none"), "embedding": 4},
}
TRUNK = VisionTransformer(width=64, depth=1, patch=8, grid=2)  # of 16 pixels
SIDES = {**dict.fromkeys(OPTIONS, 16), "faces_inception": 75, "reid_normxcorr": 40}  # of images


def built(name, *, steps=2, **options):
    """Network, loss function and optimizer of an experiment, tiny."""
    experiment = importlib.import_module(f"experiments.{name}")
    config = experiment.Config(steps=steps, **{**OPTIONS[name], **options})
    on_published = "trunk" in inspect.signature(experiment.build).parameters
    return experiment.build(config, *([TRUNK] if on_published else []))


def batch_of(name, examples, *, seed=0):
    """A batch in which half of the pairs show one identity: large patches of colour, and noise."""
    rng, side, places = np.random.default_rng(seed), SIDES[name], np.arange(examples)

    def images():
        patches = rng.integers(0, 192, (examples, 4, 4, 3)).repeat(-(-side // 4), 1)
        noise = rng.integers(0, 64, (examples, side, side, 3))
        return (patches.repeat(-(-side // 4), 2)[:, :side, :side] + noise).astype(np.uint8)

    if name == "finetune_embedding":
        return {"image": images(), "identity": places // 2}
    if name == "visual_search_triplet":
        identity = places % 5
        shown = {word: images() for word in ("anchor", "positive", "negative")}
        return {**shown, "identity": identity, "negative_identity": (identity + 1 + places % 3) % 5}
    return {"x1": images(), "x2": images(), "same": places % 2 == 0}
