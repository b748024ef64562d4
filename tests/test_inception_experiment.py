"""The experiment on weights that are random, saved and read as published ones are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import faces_inception as experiment
from siamjax import distances, losses, mining
from siamjax.data import SampledTriplets, batches, load_verification, triplet_batches
from siamjax.data.images import images_of
from siamjax.errors import UsageError
from siamjax.inference import PairScorer, pixel_scores
from siamjax.inference.verification import Verifier
from siamjax.metrics import Mean, triplet_monitors, verification
from siamjax.models import InceptionEmbedding
from siamjax.models.inception_v3 import InceptionV3, layers_between, layers_of
from siamjax.parallel import data_parallel
from siamjax.pretrained import Weights, open_weights, put
from siamjax.report import verification_report
from siamjax.training import (
    Finished,
    Run,
    by_layer,
    create_state,
    fit,
    forward_triplets,
    initialize,
    make_train_step,
)


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
        "steps": 2,
        "batch_size": 8,
        "evaluate_every": 2,
        "validation_people": 2,
        "test_people": 2,
    }
    return experiment.Config(weights=weights, run=run, **{**options, **changes})


def changed(trunk, weights):
    """The layers of a trunk that are no longer as published."""
    published = open_weights(weights).tensors
    return {
        f"{layer}/"
        for layer, own in trunk.items()
        if any(np.any(published[f"params/{layer}/{name}"] != leaf) for name, leaf in own.items())
    }


@pytest.mark.slow
def test_pairs_of_a_frozen_part_that_runs_once(weights, tmp_path, monkeypatch):
    read = []
    image = batches._Images.__call__
    monkeypatch.setattr(
        batches._Images, "__call__", lambda *a: read.append(1) or image(*a), raising=True
    )
    results = experiment.main(config(weights, tmp_path / "run"))
    assert list(results) == ["network", "mixed1, untrained", "raw pixels 32x32"]
    assert not read  # training took the maps
    finished = Finished.open(tmp_path / "run")
    assert finished.network.backbone.preprocessing == "unit"
    trunk = finished.variables["params"]["backbone"]["trunk"]
    assert changed(trunk, weights) == set(layers_of("mixed1"))
    verifier = Verifier.open(tmp_path / "run")
    assert verifier.measure == "logit"
    # Resumed, it is done: the same results.
    assert experiment.main(config(weights, tmp_path / "run")) == results
    other = dataclasses.replace(open_weights(weights), preprocessing="signed")
    other.save(tmp_path / "other.npz")
    with pytest.raises(
        UsageError, match=r"network.backbone.preprocessing is 'unit' there and 'signed' here"
    ):
        experiment.main(config(tmp_path / "other.npz", tmp_path / "run"))
    # From its weights with more blocks frozen: these are its own, and no longer as published.
    mapped, maps = [], experiment.frozen_maps
    monkeypatch.setattr(
        experiment, "frozen_maps", lambda *a, **options: mapped.append(a[1]) or maps(*a, **options)
    )
    more = config(weights, tmp_path / "more", start_from=tmp_path / "run", frozen="mixed1")
    assert experiment.main(more)["mixed1, untrained"] == results["mixed1, untrained"]
    frozen = Finished.open(tmp_path / "more").variables["params"]["backbone"]["trunk"]
    jax.tree.map(np.testing.assert_array_equal, frozen, trunk)
    jax.tree.map(np.testing.assert_array_equal, mapped[0]["params"]["backbone"]["trunk"], trunk)


def train_on_triplets(config, faces):
    """Another experiment from the same parts: semi-hard triplets, and blocks let go at step 1."""
    weights = open_weights(config.weights, architecture="inception_v3")
    network = InceptionEmbedding(end="mixed1", embedding=4, preprocessing=weights.preprocessing)

    def loss_of(network):
        def loss_fn(params, model_state, batch, key):
            distance, weight = distances.squared_euclidean, batch.get("weight")
            rows, model_state = forward_triplets(network, params, model_state, batch, key)
            near = distance(rows[0], rows[1])
            far = mining.negatives_of_batch(mining.semi_hard_negative, distance, rows, batch)
            metrics = triplet_monitors(rows, near, far, weight, margin=0.2)
            return Mean.of(losses.triplet(near, far, margin=0.2), weight), (model_state, metrics)

        return loss_fn

    optimizer = by_layer(
        {}, default=experiment.optax.adam(1e-3), frozen=[f"trunk/{x}" for x in below("mixed1")]
    )
    triplets = SampledTriplets(faces.images, faces.training_images, seed=config.seed)
    batches = triplet_batches(faces.images, triplets, config, size=config.size)
    scorer = PairScorer(network, size=config.size)

    def evaluate(variables):
        scores = scorer.scores(variables, faces.images, faces.validation)
        return {"validation_auc": verification.auc(verification.roc(scores, faces.validation.same))}

    run = Run.open(config, network, faces, best="validation_auc", weights=weights)
    variables, key = initialize(network, size=config.size, seed=config.seed)
    state = create_state(put(network, variables, weights, under="trunk"), optimizer, key=key)
    stages = []
    for frozen, until in (("mixed1", 1), ("mixed0", None)):
        step = data_parallel(make_train_step(loss_of(network.clone(frozen=frozen)), optimizer))
        state = fit(run, state, step, batches, evaluate=evaluate, until=until)
        stages.append(jax.device_get(state.params))
    results = verification_report(
        run, scorer, run.best_variables(), faces, baselines={"raw pixels": pixel_scores}
    )
    return stages, results


def below(block):
    """The layers before a block."""
    every = (*layers_of(None), *layers_of("mixed0"), *layers_of("mixed1"))
    return [layer for layer in every if layer not in layers_of(block)]


@pytest.mark.slow
def test_triplets_and_a_stage_that_lets_go(weights, tmp_path):
    options = config(weights, tmp_path / "run", evaluate_every=1)
    faces = load_verification(options)
    (first, second), results = train_on_triplets(options, faces)
    assert results["network"]["pairs_same"] == 90
    assert Verifier.open(tmp_path / "run").measure == "distance"
    assert changed(first["trunk"], weights) == set()
    assert changed(second["trunk"], weights) == set(layers_of("mixed1"))
    shown = images_of(faces.images, faces.trained_on)
    np.testing.assert_array_equal(shown, faces.training_images)
    # Nothing is left to do: the same stages give the same results, without a step.
    again, resumed = train_on_triplets(options, faces)
    assert resumed == results
    jax.tree.map(np.testing.assert_array_equal, again[1], second)


def test_what_is_pretrained_learns_slower_than_what_is_new(tmp_path):
    options = config(tmp_path, tmp_path, end="mixed2", frozen="mixed0", steps=4, trunk_rate=0.25)
    network, _, optimizer = experiment.build(options, "unit")
    assert network.backbone.preprocessing == "unit"
    assert (network.backbone.frozen, network.backbone.given) == ("mixed0", "mixed0")
    blocks = (None, "mixed0", "mixed1", "mixed2")
    layers = [layer.rstrip("/") for block in blocks for layer in layers_of(block)]
    trunk = {layer: {"kernel": jnp.ones(1)} for layer in layers}
    params = {
        "backbone": {"trunk": trunk, "dense": {"kernel": jnp.ones(1)}},
        "head": {"scale": jnp.ones(1)},
    }
    state = optimizer.init(params)
    trained = {layer.rstrip("/") for layer in layers_between("mixed0", "mixed2")}
    assert 0 < len(trained) < len(layers)
    # Adam moves by its rate at a constant gradient: that of a cosine from 3e-4 to 0 in 4 steps.
    for step in range(4):
        update, state = optimizer.update(params, state, params)
        rate = 3e-4 * 0.5 * (1 + np.cos(np.pi * step / 4))
        for new in (update["head"]["scale"], update["backbone"]["dense"]["kernel"]):
            assert -new.item() == pytest.approx(rate, rel=1e-4)
        for layer, own in update["backbone"]["trunk"].items():
            expected = 0.25 * rate if layer in trained else 0.0
            assert -own["kernel"].item() == pytest.approx(expected, rel=1e-4)


def test_the_digest_of_weights_is_that_of_what_they_say(weights):
    changed = open_weights(weights)
    digest = changed.digest
    first = next(iter(changed.tensors))
    tensors = {**changed.tensors, first: changed.tensors[first] + 1e-3}
    assert dataclasses.replace(changed, tensors=tensors).digest != digest
    assert dataclasses.replace(changed, preprocessing="signed").digest != digest
    assert dataclasses.replace(changed, facts={"shorter": 256}).digest != digest
    assert dataclasses.replace(changed, source="moved").digest == digest


def test_refusals(weights, tmp_path):
    for change, message in (
        ({"end": "mixed99"}, "no block 'mixed99'"),
        ({"frozen": "none"}, "no block 'none'"),
        ({"frozen": "mixed5"}, "mixed5"),  # after the end
        ({"size": 64}, "75"),
        ({"weights": tmp_path / "none.npz"}, "no such file"),
    ):
        with pytest.raises(UsageError, match=message):
            experiment.main(config(**{"weights": weights, "run": tmp_path / "run", **change}))
        assert not (tmp_path / "run").exists()
