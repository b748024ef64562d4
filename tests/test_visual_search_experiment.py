"""visual_search_triplet end to end on the embedded emoji, with a tiny network; then its use."""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import visual_search_triplet as experiment
from siamjax import __main__ as program
from siamjax.data.catalogue.splits import load_splits
from siamjax.data.triplets import MinedTriplets
from siamjax.errors import UsageError
from siamjax.pretrained import read_weights
from siamjax.training.writers import read_metrics
from siamjax.runs import mining, train
from siamjax.runs.finished import Finished
from siamjax.runs.verifier import Verifier
from siamjax.inference.embedder import Embedder
from siamjax.training.loop import Interrupted

TINY = {
    "size": 32,
    "width": 0.0625,
    "depth": 2,
    "hidden": 16,
    "embedding": 8,
    "steps": 2,
    "batch_size": 8,
    "evaluate_every": 1,
    "log_every": 1,
    "test_items": 30,
    "validation_items": 10,
    "hard": 0.0,
}
VGG16 = Path(__file__).parents[2] / "shared/weights/vgg16_imagenet_notop_fp16.npz"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "straight"
    config = experiment.Config(**TINY, run=folder)
    return folder, config, experiment.main(config)


def test_run_folder_and_report(finished):
    folder, _, results = finished
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["kind"] == "embedder"
    assert manifest["results"] == json.loads(json.dumps(results))
    assert set(results) == {"network", "raw pixels 16x16"}
    assert results["network"]["queries"] == 30
    # One match a query: MAP@R is recall@1; pixels find what a network of two steps does not.
    for values in results.values():
        assert values["map_at_r"] == values["recall_at_1"]
    assert results["raw pixels 16x16"]["recall_at_1"] > 0.4
    counted = manifest["by_category"]["network"]
    assert sum(values["queries"] for values in counted.values()) == 30
    right = sum(values["queries"] * values["recall_at_1"] for values in counted.values())
    assert right / 30 == pytest.approx(results["network"]["recall_at_1"])
    assert len(manifest["trained_on"]) == 1127 - 40
    rows = read_metrics(folder)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert all(row["embedding_nonzero"] == 8 for row in rows if "loss" in row)
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "recall@20" in page


def test_a_run_that_searches_does_not_verify(finished):
    with pytest.raises(UsageError, match="of kind embedder, one of kind verifier is needed"):
        Verifier.open(finished[0])


def test_stopped_and_gone_on_with_is_straight(finished, tmp_path, monkeypatch):
    """Bit for bit, with negatives mined before the stop and used after it."""
    monkeypatch.setattr(mining, "LAG", 6)
    options = {**TINY, "steps": 12, "evaluate_every": 3, "hard": 1.0}
    straight, stopped = (
        experiment.Config(**options, run=tmp_path / name) for name in ("straight", "stopped")
    )
    experiment.main(straight)
    original = train.triplet_batches

    def batches_with_sigterm(*args, **options):
        for number, batch in enumerate(original(*args, **options), start=1):
            if number == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(train, "triplet_batches", batches_with_sigterm)
        with pytest.raises(Interrupted):
            experiment.main(stopped)
    experiment.main(stopped)
    assert {path.name for path in (tmp_path / "stopped/mined").iterdir()} == {
        "3.npy",  # before the stop, used after it
        "6.npy",
        "9.npy",
    }
    one, other = (Finished.open(config.run, kind="embedder") for config in (straight, stopped))
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)
    losses = [
        {row["step"]: row["loss"] for row in read_metrics(config.run) if "loss" in row}
        for config in (straight, stopped)
    ]
    assert losses[0] == losses[1]


@pytest.mark.skipif(not VGG16.exists(), reason=f"{VGG16} is not here")
def test_published_weights_are_the_start_and_a_baseline(tmp_path):
    config = experiment.Config(
        **{**TINY, "steps": 1, "width": 1.0, "depth": 1},
        weights=VGG16,
        freeze=("deep/block1_conv1",),
        run=tmp_path / "run",
    )
    results = experiment.main(config)
    assert set(results) == {"network", "VGG-16 (ImageNet), block 4", "raw pixels 16x16"}
    run = Finished.open(config.run, kind="embedder")
    assert run.network.preprocessing == "bgr_mean"
    published = read_weights(VGG16).tensors
    for layer, stays in (("block1_conv1", True), ("block1_conv2", False)):
        kernel = np.asarray(run.variables["params"]["deep"][layer]["kernel"])
        change = np.abs(kernel - published[f"params/{layer}/kernel"].astype(np.float32)).max()
        assert change == 0 if stays else 0 < change < 0.01


@pytest.mark.slow
@pytest.mark.skipif(not VGG16.exists(), reason=f"{VGG16} is not here")
def test_frozen_blocks_run_once_and_change_nothing(tmp_path):
    """Trained on the maps of the frozen block: the parameters of training on pictures."""
    options = {**TINY, "steps": 2, "width": 1.0, "depth": 2, "hard": 0.0, "augment": False}
    config = experiment.Config(
        **{**options, "pooled": True}, weights=VGG16, freeze=("deep/block1",), run=tmp_path / "once"
    )
    assert experiment.frozen_blocks(config) == 1
    experiment.main(config)
    other = dataclasses.replace(config, run=tmp_path / "each")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "frozen_blocks", lambda config: 0)
        experiment.main(other)
    ours, theirs = (
        Finished.open(one.run, kind="embedder").variables["params"] for one in (config, other)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)


def test_layers_that_are_let_go_later(tmp_path):
    config = experiment.Config(
        **{**TINY, "steps": 2, "evaluate_every": 1},
        unfreeze=("deep/block1:1",),
        run=tmp_path / "run",
    )
    optimizer = experiment.optimizer(config)
    params = {"deep": {"block1_conv1": {"bias": np.ones(1)}}, "embedding": {"bias": np.ones(1)}}
    state = optimizer.init(params)
    changes = []
    for _ in range(2):
        update, state = optimizer.update(params, state, params)
        changes.append([float(x.item()) for x in jax.tree.leaves(update)])
    assert changes[0][0] == 0 != changes[0][1]
    assert changes[1][0] != 0
    for options in ({"freeze": ("deep/block1",)}, {"steps": 1}):
        with pytest.raises(UsageError, match="unfreeze"):
            experiment.optimizer(dataclasses.replace(config, **options))


def test_mined_negatives_outlive_a_kill(tmp_path, monkeypatch):
    """A stream that takes the kept tables up gives the triplets of the one that mined them."""
    monkeypatch.setattr(mining, "LAG", 1)
    splits = load_splits("emoji", test_items=100, validation_items=1000)
    features = np.random.default_rng(0).normal(size=(len(splits.images), 4)).astype(np.float32)

    class Stub:
        def embeddings(self, images, indices):
            return features[indices]

    def stream():
        triplets = MinedTriplets(splits.catalogue, splits.training, seed=0, batch_size=4, hard=1.0)
        options = {"folder": tmp_path / "mined", "workers": 0}
        return triplets, mining.Miner(triplets, splits.images, splits.training, **options)

    plain, _ = stream()
    mined, miner = stream()
    miner.mine(2, Stub())
    again, taken_up = stream()
    taken_up.take_up()
    triplets = [[one[k] for k in range(40)] for one in (plain, mined, again)]
    assert triplets[1] == triplets[2]
    assert triplets[0][:12] == triplets[1][:12]  # steps 0 to 2: before the table
    later = list(zip(triplets[0][12:], triplets[1][12:], strict=True))
    assert all(a[:2] == b[:2] for a, b in later)
    assert any(a[2] != b[2] for a, b in later)
    with pytest.raises(UsageError, match="cannot reach worker processes"):
        mining.Miner(mined, splits.images, splits.training, folder=tmp_path, workers=2)


def test_embed_search_and_inspect_from_the_command_line(finished, tmp_path, monkeypatch, capsys):
    """As a user would: the picture itself is found first, at distance 0."""
    folder = finished[0]
    splits = load_splits("emoji", test_items=30, validation_items=10)
    pictures = tmp_path / "things"
    pictures.mkdir()
    for index in splits.test.gallery[:12]:
        path = pictures / (splits.images.keys[index].replace("/", "-") + ".png")
        Image.fromarray(splits.images.image(int(index))).save(path)
    query = sorted(pictures.iterdir())[3]

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["siamjax", *map(str, words)])
        program.main()
        return capsys.readouterr().out

    index, page = tmp_path / "index", tmp_path / "page.html"
    assert "12 items added" in command("embed", pictures, "--run", folder, "--out", index)
    assert "0 items added, 12 were there" in command(
        "embed", pictures, "--run", folder, "--out", index
    )
    said = command("search", query, "--index", index, "--top", 3, "--out", page)
    first = next(line for line in said.splitlines() if line.startswith("   1  "))
    assert query.name in first
    assert float(first.split()[3]) < 1e-6
    assert page.read_text().count("data:image/jpeg") == 4
    said = command("inspect", "--run", folder)
    assert "deep/block2_conv1" in said
    said = command(
        "inspect", "--run", folder, "--image", query, "--layer", "block1_conv1", "--data", pictures
    )
    drawn = list((folder / "activations").glob("*block1_conv1.png"))
    assert len(drawn) == 1
    assert "deep/block1_conv1:" in said


def test_fingerprints_tell_weights_apart(finished):
    """Same network, other weights: its embeddings cannot be compared."""
    run = Finished.open(finished[0], kind="embedder")
    own = Embedder(network=run.network, variables=run.variables, size=run.size)
    other = Embedder(
        network=run.network,
        variables={"params": _scaled(run.variables["params"])},
        size=run.size,
    )
    assert own.fingerprint["network"] == other.fingerprint["network"]
    assert own.fingerprint["weights"] != other.fingerprint["weights"]


def _scaled(tree):
    return {k: _scaled(v) if isinstance(v, dict) else v * 1.01 for k, v in tree.items()}


def test_refusals(tmp_path):
    for change, message in (
        ({"data": "nowhere"}, "nowhere"),
        ({"in_class": 2.0}, "in_class 2"),
        ({"margin": 0.0}, "margin 0"),
        ({"batch_size": 9}, "batch of 9 triplets cannot be split over 8"),
        ({"freeze": ("block9",)}, "no layer begins with 'block9'"),
        ({"weights": tmp_path / "w.npz"}, "no such file of weights"),
        ({"hard": 0.5, "workers": 1}, "cannot reach worker processes"),
        ({"test_items": 5000}, "5000"),
    ):
        options = {**TINY, "run": tmp_path / "run", **change}
        with pytest.raises(UsageError, match=message):
            experiment.main(experiment.Config(**options))
        assert not (tmp_path / "run").exists()
