"""The experiment on weights that are random, saved and read as published ones are."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import faces_inception as experiment
from siamjax.data import pipeline
from siamjax.errors import UsageError
from siamjax.models.inception_v3 import ENDS, InceptionV3, layers_of
from siamjax.pretrained import Weights, open_weights
from siamjax.runs.fine_tuning import block_by_block, stages_of
from siamjax.runs.finished import Finished
from siamjax.runs.verifier import Verifier
from siamjax.training.optimizers import make_optimizer


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of mixed0 and the next block: what comes after is left out, as a head is."""
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    network = InceptionV3(end="mixed1")
    picture = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    like = jax.eval_shape(network.init, jax.random.key(0), picture)
    rng = np.random.default_rng(0)
    tensors = {}
    for collection, layers in like.items():
        for layer, own in layers.items():
            for name, leaf in own.items():
                scale = np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1))
                value = rng.normal(size=leaf.shape) * (scale if name == "kernel" else 0.1)
                tensors[f"{collection}/{layer}/{name}"] = (
                    np.ones(leaf.shape, "f4") if name == "var" else value.astype(np.float32)
                )
    Weights(
        source="random", architecture="inception_v3", tensors=tensors, preprocessing="unit"
    ).save(path)
    return path


def config(weights, run, **changes):
    options = {
        "size": 76,
        "end": "mixed1",
        "frozen": "mixed0",
        "embedding": 4,
        "steps": 2,
        "batch_size": 8,
        "evaluate_every": 2,
        "validation_people": 2,
        "test_people": 2,
    }
    return experiment.Config(weights=weights, run=run, **{**options, **changes})


def parameters(run, weights):
    """By layer: did it change?"""
    finished = Finished.open(run)
    assert finished.network.backbone.preprocessing == "unit"
    published = open_weights(weights).tensors
    trunk = finished.variables["params"]["backbone"]["trunk"]
    return {
        f"{layer}/": bool(
            any(np.any(published[f"params/{layer}/{name}"] != leaf) for name, leaf in own.items())
        )
        for layer, own in trunk.items()
    }


@pytest.mark.slow
def test_pairs_of_a_frozen_part_that_runs_once(weights, tmp_path, monkeypatch):
    read = []
    image = pipeline._Pictures.__call__
    monkeypatch.setattr(
        pipeline._Pictures, "__call__", lambda *a: read.append(1) or image(*a), raising=True
    )
    results = experiment.main(config(weights, tmp_path / "run"))
    assert list(results) == ["network", "mixed1, untrained", "raw pixels 32x32"]
    assert not read  # training took the maps
    changed = parameters(tmp_path / "run", weights)
    trained = set(layers_of("mixed1"))
    assert {layer for layer, own in changed.items() if own} == trained
    verifier = Verifier.open(tmp_path / "run")
    assert verifier.measure == "logit"
    # gone on with, it is done: the same results
    assert experiment.main(config(weights, tmp_path / "run")) == results


@pytest.mark.slow
def test_triplets_and_a_stage_that_lets_go(weights, tmp_path):
    results = experiment.main(
        config(weights, tmp_path / "run", triplet=True, frozen="mixed1", unfreeze=("mixed1:1",))
    )
    assert results["network"]["pairs_same"] == 90
    assert Verifier.open(tmp_path / "run").measure == "distance"
    changed = parameters(tmp_path / "run", weights)
    assert {layer for layer, own in changed.items() if own} == set(layers_of("mixed1"))


def test_stages():
    def stages(words, frozen="mixed6", end="mixed7"):
        return stages_of(frozen, words, end=end, steps=200)

    assert stages(["mixed4:50", "mixed0:100"]) == {0: "mixed6", 50: "mixed3", 100: None}
    for words in (["mixed4"], ["mixed4:x"], ["mixed4:0"], ["mixed4:200"], ["mixed4:1", "mixed4:2"]):
        with pytest.raises(UsageError, match="NAME:STEP is needed"):
            stages(words)
    for options in ({"words": ["mixed12:3"]}, {"frozen": "none"}, {"frozen": "mixed8"}):
        with pytest.raises(UsageError, match="no block"):
            stages(**{"words": [], **options})
    with pytest.raises(UsageError, match="no block 'mixed99'"):
        stages([], end="mixed99")
    with pytest.raises(UsageError, match="two blocks at step 1"):
        stages(["mixed4:1", "mixed5:1"])
    with pytest.raises(UsageError, match="freezes again"):
        stages(["mixed4:50"], frozen="mixed2")


def test_rates_keep_their_order_after_a_stage():
    """A block that begins late ends with the others: the further from the end, the slower."""
    optimizer = block_by_block(
        partial(make_optimizer, "adam", steps=20, schedule="cosine"),
        {0: "mixed6", 10: "mixed5"},
        end="mixed7",
        learning_rate=1e-3,
        trunk_rate=0.1,
        block_decay=0.7,
    )
    own = {layers_of(block)[0].rstrip("/"): jnp.ones(1) for block in ENDS[:8]}
    layers = {layer.rstrip("/"): jnp.ones(1) for b in (None, *ENDS[:8]) for layer in layers_of(b)}
    params = {"backbone": {"trunk": {k: {"kernel": v} for k, v in layers.items()}}, "head": own}
    state = optimizer.init(params)
    for step in range(20):
        update, state = optimizer.update(params, state, params)
        trunk = update["backbone"]["trunk"]
        sizes = [abs(trunk[layers_of(f"mixed{n}")[0][:-1]]["kernel"].item()) for n in (5, 6, 7)]
        head = abs(jax.tree.leaves(update["head"])[0].item())
        assert sizes[0] == 0
        assert (sizes[1] > 0) == (step >= 10)
        assert sizes[1] <= 0.7001 * sizes[2]
        assert sizes[2] == pytest.approx(0.1 * head, rel=1e-4)


def test_other_weights_are_refused_on_going_on(weights):
    changed = open_weights(weights)
    digest = changed.digest
    first = next(iter(changed.tensors))
    tensors = {**changed.tensors, first: changed.tensors[first] + 1e-3}
    assert dataclasses.replace(changed, tensors=tensors).digest != digest
    assert dataclasses.replace(changed, preprocessing="signed").digest != digest
    assert dataclasses.replace(changed, source="moved").digest == digest


def test_the_wrong_preprocessing_is_refused(weights, tmp_path):
    with pytest.raises(UsageError, match="preprocessed by 'unit', not 'signed'"):
        experiment.main(config(weights, tmp_path / "run", preprocessing="signed"))
    assert not (tmp_path / "run").exists()
