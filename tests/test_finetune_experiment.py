"""finetune_embedding end to end, on a tiny published network, for data of each task."""

import json
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from random_variables import random_variables
from small_experiments import TRUNK, batch_of

from experiments import finetune_embedding as experiment
from siamjax.commands.export import export
from siamjax.data import LabelledOptions, load_labelled
from siamjax.errors import UsageError
from siamjax.pretrained import Weights, read_weights
from siamjax.training import Finished

TINY = {"embedding": 8, "steps": 2, "evaluate_every": 1, "log_every": 1, "batch_size": 8}
FACES = {"validation_identities": 3, "test_identities": 3, "per_identity": 2}
FRAMED = {"box": (0.1, 0.0, 1.1, 1.0), "size": 24}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A vision transformer for images of 16x16, as `weights convert` writes it."""
    path = tmp_path_factory.mktemp("published") / "tiny.npz"
    flat = flax.traverse_util.flatten_dict(random_variables(TRUNK, (16, 16)), sep="/")
    Weights(
        source="drawn", architecture="vit", tensors=flat, preprocessing=TRUNK.preprocessing
    ).save(path)
    return path


@pytest.fixture(scope="module")
def tuned(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "faces"
    config = experiment.Config(weights=published, run=folder, **TINY, **FACES, **FRAMED)
    return folder, experiment.main(config)


def test_the_network_stays_as_published_and_the_layer_learns(published, tuned):
    folder, results = tuned
    assert set(results) == {"network", "as published", "raw pixels"}
    assert (folder / "report.html").exists()
    opened, weights = Finished.open(folder), read_weights(published)
    jax.tree.map(
        np.testing.assert_array_equal,
        opened.variables["params"]["backbone"],
        weights.variables["params"],
    )
    assert opened.size.box == (0.1, 0.0, 1.1, 1.0)  # how images are framed is part of the run
    assert json.loads((folder / "manifest.json").read_text())["framing"]["size"] == [24, 24]
    start = experiment.initialize(opened.network, opened.size, 0)[0]["params"]["dense"]["kernel"]
    assert np.abs(start - opened.variables["params"]["dense"]["kernel"]).max() > 1e-4


def test_export_tells_the_size_of_a_framed_network_as_numbers(tuned, tmp_path, capsys):
    export(run=tuned[0], out=tmp_path / "model", platforms=("cpu",), json=True)
    assert json.loads(capsys.readouterr().out)["size"] == [24, 24]


def test_what_runs_once_has_the_products_of_the_run(published, tmp_path, monkeypatch):
    once, parts, made, asked = experiment.frozen_maps, [], experiment.labelled_batches, []
    monkeypatch.setattr(
        experiment, "frozen_maps", lambda part, *a, **b: parts.append(part) or once(part, *a, **b)
    )
    monkeypatch.setattr(
        experiment, "labelled_batches", lambda *a, **b: asked.append(b) or made(*a, **b)
    )
    options = {**TINY, **FACES, "steps": 1, "dtype": "bfloat16", "per_identity": 4}
    experiment.main(experiment.Config(weights=published, run=tmp_path / "run", **options))
    assert [part.dtype.name for part in parts] == ["bfloat16"]
    assert [batch["per_identity"] for batch in asked] == [4]
    assert parts == [Finished.open(tmp_path / "run").network.backbone]


def test_what_is_published_learns_slower_than_the_new_layer(tmp_path):
    """Adam moves by its rate at a constant gradient: that of a cosine to 0 in 4 steps."""
    options = {"steps": 4, "learning_rate": 2e-3, "trunk_rate": 0.25}
    frozen = ("backbone/blocks_0/attn", "backbone/cls_token")
    config = experiment.Config(weights=tmp_path, frozen=frozen, **options)
    network, _, optimizer = experiment.build(config, TRUNK)
    shapes = jax.eval_shape(lambda: experiment.initialize(network, 16, 0)[0])["params"]
    assert shapes["dense"]["kernel"].shape == (64, 128)
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    state = optimizer.init(params)
    for step in range(4):
        updates, state = jax.jit(optimizer.update)(params, state, params)
        rate = 1e-3 * (1 + np.cos(np.pi * step / 4))
        for path, update in flax.traverse_util.flatten_dict(updates, sep="/").items():
            share = 0.0 if path.startswith(frozen) else 0.25 if "backbone" in path else 1.0
            np.testing.assert_allclose(update, -share * rate, rtol=1e-4, err_msg=path)


def test_the_loss_is_info_nce_at_the_temperature(tmp_path):
    config = experiment.Config(weights=tmp_path, temperature=0.4, embedding=8)
    network, loss_fn, _ = experiment.build(config, TRUNK)
    variables, batch = random_variables(network, 16), batch_of("finetune_embedding", 8)
    batch |= {"weight": np.array([2, 1, 1, 1, 1, 1, 0, 1], np.float32)}
    rows = jax.jit(network.apply)(variables, batch["image"])
    assert rows.shape == (8, 8)
    mean, _ = jax.jit(lambda params: loss_fn(params, {}, batch, jax.random.key(0)))(
        variables["params"]
    )
    labels = batch["identity"], batch["weight"]
    each, weights = oracles.info_nce(rows, *labels, 0.4)
    assert float(mean.count) == weights.sum() == 7  # 7 shows nobody else who counts
    assert float(mean.total) == pytest.approx((each * weights).sum(), rel=1e-5)


@pytest.mark.slow
def test_what_ran_once_gives_the_same_losses(published, tuned, tmp_path):
    """With all of the network's layers frozen by their own names, it runs in every step."""
    layers = tuple(f"backbone/{layer}" for layer in read_weights(published).variables["params"])
    options = {**TINY, **FACES, **FRAMED, "frozen": layers}
    config = experiment.Config(weights=published, run=tmp_path / "run", **options)
    again = experiment.main(config)
    assert again["network"]["auc"] == pytest.approx(tuned[1]["network"]["auc"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "measure", "options"),
    [
        ("emoji", "recall_at_1", {"validation_identities": 10, "test_identities": 20}),
        ("pedestrians", "map", {"per_identity": 4, "frozen": ()}),
    ],
)
def test_data_of_another_task(published, tmp_path, data, measure, options):
    options = {**TINY, "per_identity": 2, **options}
    config = experiment.Config(weights=published, run=tmp_path / "run", data=data, **options)
    results = experiment.main(config)
    assert set(results) == {"network", "as published", "raw pixels"}
    assert all(0 <= values[measure] <= 1 for values in results.values())


def test_data_that_cannot_be(tmp_path):
    (tmp_path / "pairs.txt").write_text("a.png b.png 1\n")
    with pytest.raises(UsageError, match="cannot be for reid, only for verification"):
        load_labelled(LabelledOptions(data="orl_faces", task="reid"))
    with pytest.raises(UsageError, match=r"home .* does not apply to orl_faces"):
        load_labelled(LabelledOptions(data="orl_faces", home=Path("there")))
    with pytest.raises(UsageError, match=r"pairs.txt is a list"):
        load_labelled(LabelledOptions(data=str(tmp_path / "pairs.txt")))
    named = r"hold out fewer \(--validation-identities, --test-identities\)"
    with pytest.raises(UsageError, match=named):  # as the experiment has its options
        load_labelled(LabelledOptions(data="orl_faces", test_identities=39))
