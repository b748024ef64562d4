"""Every experiment in small: options, batches, and variables that are drawn without compiling."""

import importlib
import inspect
from pathlib import Path

import jax
import numpy as np

from siamjax.models import VisionTransformer
from siamjax.training import initialize

THIN = {"width": 0.0625}
OPTIONS = {
    "lfw_contrastive": THIN,
    "lfw_bce": {**THIN, "head": "concatenation"},
    "faces_inception": {"weights": Path("none"), "end": "mixed0", "frozen": "mixed0"},
    "reid_normxcorr": {"fused": False, "column_search": 1},
    "visual_search_triplet": {**THIN, "depth": 1, "hidden": 8, "embedding": 4},
    "finetune_embedding": {"weights": Path("none"), "embedding": 4},
}
TRUNK = VisionTransformer(width=64, depth=1, patch=8, grid=2)  # of 16 pixels
SIDES = {"faces_inception": 75, "reid_normxcorr": 40}


def built(name, *, steps=2, **options):
    """Network, loss function and optimizer of an experiment."""
    experiment = importlib.import_module(f"experiments.{name}")
    config = experiment.Config(steps=steps, **{**OPTIONS[name], **options})
    return experiment.build(config, *published_for(experiment))


def published_for(experiment):
    """A tiny network, for an experiment that is built on a published one."""
    return [TRUNK] if "trunk" in inspect.signature(experiment.build).parameters else []


def batch_of(name, examples, *, seed=0):
    """A batch in which half of the pairs show one identity: large patches of colour, and noise."""
    rng, side, places = np.random.default_rng(seed), SIDES.get(name, 16), np.arange(examples)

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


def variables_of(name, network, *, seed=0):
    """Normal kernels of the size that initializers give them, and small biases."""
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        layer, word = jax.tree_util.keystr(path, simple=True, separator="/").split("/")[-2:]
        if not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        if (layer, word) == ("norm5", "scale"):  # LfwNet's embeddings are 1 apart
            return np.full(leaf.shape, (2 * leaf.size) ** -0.5, leaf.dtype)
        if word in ("var", "scale"):
            return np.ones(leaf.shape, leaf.dtype)
        share = 1 / np.sqrt(max(np.prod(leaf.shape[:-1]), 1))
        return (rng.normal(size=leaf.shape) * (share if word == "kernel" else 0.01)).astype("f4")

    like = jax.eval_shape(lambda: initialize(network, size=SIDES.get(name, 16), seed=0)[0])
    return jax.tree_util.tree_map_with_path(drawn, like)
