"""visual_search_triplet end to end on the embedded emoji, with a tiny network; then its use."""

import dataclasses
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import visual_search_triplet as experiment
from siamjax import __main__ as program
from siamjax.data import MinedTriplets, RetrievalOptions, load_retrieval, triplet_batches
from siamjax.errors import Interrupted, UsageError
from siamjax.inference import (
    Embedder,
    Miner,
    evaluate_retrieval,
    evaluate_run,
    frozen_maps,
    hard_negatives,
)
from siamjax.inference.verification import Verifier
from siamjax.models import Vgg16Features
from siamjax.parallel import data_parallel
from siamjax.pretrained import Weights, read_weights
from siamjax.training import (
    Finished,
    Run,
    by_layer,
    create_state,
    fit,
    initialize,
    make_train_step,
)
from siamjax.training.writers import read_metrics

TINY = {
    "size": 16,
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
    assert manifest["config"]["experiment"] == "visual_search_triplet"
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
    for one, found in [
        (manifest["intervals"], results),
        *(
            (
                {"network": manifest["intervals_by_category"]["network"][name]},
                {"network": manifest["by_category"]["network"][name]},
            )
            for name in counted
        ),
    ]:
        for method, values in one.items():
            assert "recall_at_1" in values
            for measure, (low, high) in values.items():
                assert 0 <= low <= found[method][measure] <= high <= 1
    assert "over 30 items, 30 queries" in page[: page.index("<h2>")]
    assert all(f"<th>{name.replace('&', '&amp;')}</th>" in page for name in counted)


def test_evaluate_is_the_run_s_own_result(finished):
    folder, _, results = finished
    done = evaluate_run(Finished.open(folder))
    assert {name: pytest.approx(one) for name, one in done.judged.results.items()} == results
    assert done.leaks.startswith("0 of 30 queries show someone")


def test_a_run_that_searches_compares_two_images_and_decides_nothing(finished):
    """By the Euclidean distance of its embeddings; no threshold was ever set."""
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    verifier = Verifier.open(finished[0])
    distance, same = verifier.compare(one, other)
    run = verifier.run
    rows = run.network.apply(run.variables, np.stack([one, other]), method="embed")
    assert distance == pytest.approx(float(np.linalg.norm(rows[0] - rows[1])), rel=1e-4)
    assert (verifier.measure, same) == ("distance", None)


def train(config, network, loss_fn, optimizer, things, batches, mine=None):
    """What ``main`` does between its data and its report."""
    run = Run.open(config, network, things, best="validation_recall_at_1")
    miner = mine and mine(folder=run.folder / "mined")

    def evaluate(variables):
        embedder = Embedder(network=network, variables=variables, size=config.size)
        if miner and run.step < config.steps:
            miner.mine(run.step, embedder)
        found = evaluate_retrieval(embedder.embeddings, things.images, things.validation)
        return {"validation_recall_at_1": found.summary()["recall_at_1"]}

    step = data_parallel(make_train_step(loss_fn, optimizer))
    variables, key = initialize(network, size=config.size, seed=config.seed)
    start = create_state(variables, optimizer, key=key)
    return jax.device_get(fit(run, start, step, batches, evaluate=evaluate).variables)


def train_on_mined(config, make_batches=triplet_batches):
    """The experiment, but that every negative is one of the nearest at an earlier evaluation."""
    things = load_retrieval(config)
    options = {"seed": config.seed, "batch_size": config.batch_size, "hard": 1.0}
    triplets = MinedTriplets(things.catalogue, things.training, **options)
    batches = make_batches(things.images, triplets, config, size=config.size)
    mine = partial(Miner, triplets, things.images, things.training)
    return train(config, *experiment.build(config), things, batches, mine)


@pytest.mark.slow
def test_stopped_and_resumed_with_mined_negatives_is_straight(tmp_path, monkeypatch):
    """Bit for bit, with negatives mined before the stop and used after it."""
    monkeypatch.setattr(hard_negatives, "LAG", 6)
    options = {**TINY, "steps": 12, "evaluate_every": 3}
    straight, stopped = (
        experiment.Config(**options, run=tmp_path / name) for name in ("straight", "stopped")
    )
    expected = train_on_mined(straight)

    def stopping(*args, **options):
        batches = triplet_batches(*args, **options)

        def begin(start):
            for number, batch in enumerate(batches(start), start=1):
                if number == 5:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return begin

    with pytest.raises(Interrupted):
        train_on_mined(stopped, stopping)
    assert {path.name for path in (tmp_path / "stopped/mined").iterdir()} == {"3.npy"}
    found = train_on_mined(stopped)
    assert {path.name for path in (tmp_path / "stopped/mined").iterdir()} == {
        "3.npy",  # before the stop, used after it
        "6.npy",
        "9.npy",
    }
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    losses = [
        {row["step"]: row["loss"] for row in read_metrics(config.run) if "loss" in row}
        for config in (straight, stopped)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with the first three blocks of a VGG-16, of random numbers."""
    network, rng = Vgg16Features(depth=3), np.random.default_rng(0)
    like = jax.eval_shape(lambda: initialize(network, size=16, seed=0)[0])["params"]["deep"]
    tensors = {
        f"params/{layer}/{name}": rng.normal(size=leaf.shape).astype(np.float32)
        * np.float32(np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1)) if name == "kernel" else 0.1)
        for layer, own in like.items()
        for name, leaf in own.items()
    }
    path = tmp_path_factory.mktemp("weights") / "w.npz"
    Weights(source="random", architecture="vgg16", tensors=tensors, preprocessing="bgr_mean").save(
        path
    )
    return path


@pytest.mark.slow
def test_published_weights_are_the_start_and_a_baseline(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "Vgg16Features", partial(Vgg16Features, depth=3))
    config = experiment.Config(**{**TINY, "steps": 1}, weights=weights, run=tmp_path / "run")
    results = experiment.main(config)
    assert set(results) == {"network", "VGG-16 as it is", "raw pixels 16x16"}
    run = Finished.open(config.run)
    assert run.network.preprocessing == "bgr_mean"
    published = read_weights(weights).tensors
    for layer, stays in (("block1_conv1", 1), ("block2_conv2", 1), ("block3_conv1", 0)):
        kernel = np.asarray(run.variables["params"]["deep"][layer]["kernel"])
        change = np.abs(kernel - published[f"params/{layer}/kernel"]).max()
        assert change == 0 if stays else 0 < change < 0.01
    # A baseline of the start, and not of what was trained: Adam moves every weight by its rate.
    embedder = Embedder(network=run.network, variables=run.variables, size=16)
    things = load_retrieval(config)
    trained = evaluate_retrieval(embedder.embeddings, things.images, things.test).summary()
    assert trained == results["network"]
    tensors = {name: 2 * tensor for name, tensor in published.items()}
    twice = dataclasses.replace(read_weights(weights), tensors=tensors)
    twice.save(tmp_path / "twice.npz")
    other = dataclasses.replace(config, weights=tmp_path / "twice.npz")
    with pytest.raises(UsageError, match=r"weights_sha256 is .* there and .* here"):
        experiment.main(other)


@pytest.mark.slow
@pytest.mark.skipif(not VGG16.exists(), reason=f"{VGG16} is not here")
def test_the_published_network_whole(tmp_path):
    options = {**TINY, "steps": 1, "size": 64}  # of 16 pixels block 4 leaves one
    config = experiment.Config(**options, weights=VGG16, run=tmp_path / "run")
    results = experiment.main(config)
    assert results["VGG-16 as it is"]["recall_at_1"] > results["raw pixels 16x16"]["recall_at_1"]


def test_frozen_blocks_that_run_once_change_nothing(tmp_path):
    """Trained on the maps of the frozen block: the parameters of training on images."""
    things = load_retrieval(RetrievalOptions(test_items=30, validation_items=10))
    network = Vgg16Features(depth=2, width=0.0625, given="block1")
    found = []
    for name in ("once", "each"):
        config = experiment.Config(**TINY, run=tmp_path / name)
        _, loss_fn, optimizer = experiment.build(config)
        with pytest.MonkeyPatch.context() as patch:  # the loss of the experiment, of this network
            patch.setattr(experiment, "VisualSearchNet", lambda **_: network)
            _, loss_fn, optimizer = experiment.build(config)
        optimizer = by_layer({}, default=optimizer, frozen=("deep/block1",))
        part, (start, _) = network.clone(depth=1, given=None), initialize(network, size=16, seed=0)
        rows = partial(frozen_maps, part, start, things.images, things.training, size=16)
        batches = triplet_batches(
            things.images,
            things.triplets("category"),
            config,
            size=16,
            rows=rows if name == "once" else None,
        )
        found.append(train(config, network, loss_fn, optimizer, things, batches)["params"])
        block1 = found[-1]["deep"]["block1_conv1"]["kernel"]
        np.testing.assert_array_equal(block1, start["params"]["deep"]["block1_conv1"]["kernel"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)
    moved = found[0]["deep"]["block2_conv1"]["kernel"]
    assert (moved != start["params"]["deep"]["block2_conv1"]["kernel"]).any()


def test_mined_negatives_outlive_a_kill(tmp_path, monkeypatch):
    """A stream that takes the kept tables up gives the triplets of the one that mined them."""
    monkeypatch.setattr(hard_negatives, "LAG", 1)
    splits = load_retrieval(RetrievalOptions(test_items=100, validation_items=1000))
    features = np.random.default_rng(0).normal(size=(len(splits.images), 4)).astype(np.float32)

    class Stub:
        def embeddings(self, images, indices):
            return features[indices]

    def stream():
        triplets = MinedTriplets(splits.catalogue, splits.training, seed=0, batch_size=4, hard=1.0)
        folder = tmp_path / "mined"
        return triplets, Miner(triplets, splits.images, splits.training, folder=folder)

    plain, _ = stream()
    mined, miner = stream()
    miner.mine(2, Stub())
    again, _ = stream()
    triplets = [[one[k] for k in range(40)] for one in (plain, mined, again)]
    assert triplets[1] == triplets[2]
    assert triplets[0][:12] == triplets[1][:12]  # steps 0 to 2: before the table
    later = list(zip(triplets[0][12:], triplets[1][12:], strict=True))
    assert all(a[:2] == b[:2] for a, b in later)
    assert any(a[2] != b[2] for a, b in later)
    with pytest.raises(UsageError, match="cannot reach worker processes"):
        Miner(mined, splits.images, splits.training, folder=tmp_path, workers=2)


def test_embed_search_and_inspect_from_the_command_line(finished, tmp_path, monkeypatch, capsys):
    """As a user would: the image itself is found first, at distance 0."""
    folder = finished[0]
    splits = load_retrieval(RetrievalOptions(test_items=30, validation_items=10))
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
    run = Finished.open(finished[0])
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
        ({"batch_size": 9}, "batch of 9 examples cannot be split over 8"),
        ({"category": "colour"}, "no attribute 'colour'"),
        ({"depth": 6}, "depth 6"),
        ({"size": 2}, "sides of at least 4"),
        ({"steps": 0}, "steps 0"),
        ({"weights": tmp_path / "w.npz"}, "no such file"),
        ({"test_items": 5000}, "5000"),
    ):
        options = {**TINY, "run": tmp_path / "run", **change}
        with pytest.raises(UsageError, match=message):
            experiment.main(experiment.Config(**options))
        assert not (tmp_path / "run").exists()
