import decimal
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stand_in import (
    GALLERY,
    QUERIES,
    SIZE,
    TILE,
    CrossInput,
    Stopped,
    noise_images,
    pair_by_pair,
    png,
    stop_after,
    variables_of,
)

from siamjax.data.images import ImageSet
from siamjax.errors import UsageError
from siamjax.inference import record as record_module
from siamjax.inference import score_pairs
from siamjax.inference.record import DiskRecord
from siamjax.inference.tiles import TileScorer, symmetric_logit
from siamjax.models.heads import EuclideanHead
from siamjax.models.normxcorr_net import NormXCorrNet
from siamjax.models.siamese import Siamese

NETWORK = CrossInput()


@pytest.fixture(scope="module")
def variables():
    return variables_of(NETWORK)


@pytest.fixture(scope="module")
def noise():
    return noise_images(13)


@pytest.fixture(scope="module")
def expected(variables, noise):
    return pair_by_pair(NETWORK, variables, noise[1], QUERIES, GALLERY)


def score(variables, images, *, network=NETWORK, queries=QUERIES, gallery=GALLERY, **options):
    options = {"size": SIZE, "tile": TILE, "progress": False, **options}
    return score_pairs(network, variables, images, queries, gallery, **options)


def test_is_the_cross_input_network_pair_by_pair():
    size = (40, 44)
    images, pixels = noise_images(6, size=size)
    network = NormXCorrNet()
    variables = variables_of(network, size=size)
    queries, gallery = np.asarray([4, 1, 0]), np.asarray([2, 4, 5, 3])
    options = {"queries": queries, "gallery": gallery, "size": size, "tile": (2, 3)}
    scores = score(variables, images, network=network, **options)
    right = pair_by_pair(network, variables, pixels, queries, gallery)
    assert np.ptp(right) > 1e-3
    np.testing.assert_allclose(scores, right, atol=1e-6)


class Plain(nn.Module):
    """Embeds and does not compare: every pixel is a feature."""

    def embed(self, x, *, train=False):
        return x.reshape(x.shape[0], -1) / 255.0


class MapsAlone(nn.Module):
    """Gives maps, and cannot compare them."""

    def embed(self, x, *, train=False):
        return x / 255.0


@pytest.mark.parametrize("own", [True, False], ids=["its own compare", "no compare"])
def test_networks_of_distances_rank_by_the_nearest(noise, own):
    """The score is the negated distance, which rises with similarity as a logit does."""
    network = Siamese(backbone=Flat(), head=EuclideanHead()) if own else Plain()
    scores = score({"params": {"unused": np.zeros(1)}}, noise[0], network=network)
    rows = noise[1].reshape(len(noise[1]), -1) / 255.0
    right = np.sqrt(np.square(rows[QUERIES][:, None] - rows[GALLERY]).sum(-1))
    np.testing.assert_allclose(scores, -right, rtol=1e-5)


class Flat(nn.Module):
    """A backbone: every pixel, in [0, 1], is a feature."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return x.reshape(x.shape[0], -1)


@pytest.mark.parametrize("tile", [(2, 3), (1, 1), (4, 5), (32, 256)])
def test_any_tile_gives_the_same(variables, noise, expected, tile):
    scores = score(variables, noise[0], tile=tile)
    assert scores.dtype == np.float32
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(scores, expected, atol=2e-6)


def test_one_device_gives_the_same(variables, noise, expected, monkeypatch):
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    np.testing.assert_allclose(score(variables, noise[0]), expected, atol=2e-6)


def test_symmetric_scores(variables, noise, expected):
    backward = pair_by_pair(NETWORK, variables, noise[1], QUERIES, GALLERY, backward=True)
    scores = score(variables, noise[0], symmetric=True)
    np.testing.assert_allclose(scores, symmetric_logit(expected, backward), atol=3e-6)
    turned = score(variables, noise[0], symmetric=True, queries=GALLERY, gallery=QUERIES)
    np.testing.assert_allclose(turned.T, scores, atol=1e-6)


def test_mean_probability_keeps_what_saturates():
    values = np.float32([-300, -90, -40, -17, -2, -1e-4, 0, 3e-6, 1, 20, 41, 95, 250])
    a, b = (u.ravel() for u in np.meshgrid(values, values))
    with decimal.localcontext() as context:
        context.prec = 400  # 1 - P(300) has 131 zeros
        one = decimal.Decimal(1)

        def probability(x):
            return one / (one + (-decimal.Decimal(float(x))).exp())

        means = [(probability(x) + probability(y)) / 2 for x, y in zip(a, b, strict=True)]
        right = [float((mean / (one - mean)).ln()) for mean in means]
    np.testing.assert_allclose(symmetric_logit(a, b), right, rtol=2e-7, atol=1e-15)
    rising = np.arange(50, 60, dtype=np.float32)  # all of probability 1 in float32 and float64
    assert (np.diff(symmetric_logit(rising, rising + 3)) > 0.9).all()
    np.testing.assert_array_equal(symmetric_logit(rising, -rising), 0)


def test_features_of_another_dtype_are_compared_in_it(noise):
    class Narrow(CrossInput):
        def compare(self, first, second):
            assert first.dtype == second.dtype == jnp.bfloat16
            return super().compare(first, second)

    network = Narrow(dtype=jnp.bfloat16)
    variables = variables_of(network)
    right = pair_by_pair(network, variables, noise[1], QUERIES, GALLERY)
    scores = score(variables, noise[0], network=network)
    np.testing.assert_allclose(scores, right, atol=0.02)  # XLA rounds less within one function


def test_each_image_is_read_once(variables, noise, monkeypatch):
    read = []
    image = ImageSet.image
    monkeypatch.setattr(ImageSet, "image", lambda self, i: read.append(i) or image(self, i))
    score(variables, noise[0], batch_size=3)
    assert sorted(read) == sorted({*QUERIES.tolist(), *GALLERY.tolist()})


def test_each_query_with_candidates_of_its_own(variables, noise):
    candidates = np.random.default_rng(1).integers(0, 13, (5, 4))
    options = {"size": SIZE, "tile": TILE, "progress": False}
    scores = score_pairs(NETWORK, variables, noise[0], QUERIES, candidates, **options)
    right = [
        pair_by_pair(NETWORK, variables, noise[1], [query], row)[0]
        for query, row in zip(QUERIES, candidates, strict=True)
    ]
    np.testing.assert_allclose(scores, right, atol=2e-6)


def test_file_has_the_scores_and_is_returned_when_finished(
    variables, noise, expected, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "new" / "scores.npy"
    monkeypatch.setattr("siamjax.progress.EVERY", 0)
    scores = score(variables, noise[0], output=output, progress=True)
    assert "scoring: 40 of 40 pairs" in capsys.readouterr().err
    np.testing.assert_allclose(np.load(output), expected, atol=2e-6)
    assert isinstance(scores, np.memmap)
    assert not scores.flags.writeable
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "scores.npy",
        "scores.npy.json",
    ]
    monkeypatch.setattr(TileScorer, "__call__", None)  # nothing may be computed
    np.testing.assert_array_equal(score(variables, noise[0], output=output), scores)


def test_memory_is_that_of_a_tile(variables, noise, tmp_path, monkeypatch):
    taken = []
    take = DiskRecord.take_features
    monkeypatch.setattr(
        DiskRecord, "take_features", lambda self, rows: taken.append(rows.size) or take(self, rows)
    )
    score(variables, noise[0], output=tmp_path / "scores.npy")
    assert len(taken) == 2 * 9
    assert max(taken) == 3


@pytest.mark.parametrize("tiles", [0, 1, 4, 8])
def test_resumes_at_the_tile_it_was_stopped_at(
    variables, noise, expected, tmp_path, monkeypatch, tiles
):
    output = tmp_path / "scores.npy"
    with monkeypatch.context() as patch:
        stop_after(patch, TileScorer, "__call__", tiles)
        with pytest.raises(Stopped):
            score(variables, noise[0], output=output)
    stopped = np.load(output)
    assert json.loads((tmp_path / "scores.npy.json").read_text())["tiles"] == tiles
    assert np.isnan(stopped).any()
    assert np.isfinite(stopped).sum() == sum([6, 6, 4, 6, 6, 4, 3, 3, 2][:tiles])
    done = []
    call = TileScorer.__call__
    monkeypatch.setattr(TileScorer, "__call__", lambda *a: done.append(1) or call(*a))
    monkeypatch.setattr(ImageSet, "image", None)  # features are there
    np.testing.assert_allclose(score(variables, noise[0], output=output), expected, atol=2e-6)
    assert len(done) == 9 - tiles


@pytest.mark.parametrize("writes", range(0, 13, 2))
def test_resumes_wherever_it_was_stopped(variables, noise, expected, tmp_path, monkeypatch, writes):
    """The manifest is written twice before the work, twice for features, 9 times for tiles."""
    output = tmp_path / "scores.npy"
    with monkeypatch.context() as patch:
        stop_after(patch, record_module, "write_json", writes)
        with pytest.raises(Stopped):
            score(variables, noise[0], output=output, batch_size=1)
    scores = score(variables, noise[0], output=output, batch_size=1)
    np.testing.assert_allclose(scores, expected, atol=2e-6)


KILLED = """
import sys, time
from pathlib import Path
from siamjax.inference import score_pairs
from siamjax.inference.tiles import TileScorer
from stand_in import GALLERY, QUERIES, SIZE, TILE, CrossInput, noise_images, variables_of
call = TileScorer.__call__
TileScorer.__call__ = lambda *a: time.sleep(0.1) or call(*a)
score_pairs(CrossInput(), variables_of(CrossInput()), noise_images(13)[0], QUERIES, GALLERY,
            size=SIZE, tile=TILE, output=Path(sys.argv[1]), progress=False)
"""


def test_resumes_after_a_kill_and_on_other_devices(variables, noise, expected, tmp_path):
    output = tmp_path / "scores.npy"
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(output)], env=environment)
    manifest, deadline = tmp_path / "scores.npy.json", time.monotonic() + 60
    while not manifest.exists() or json.loads(manifest.read_text())["tiles"] < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert np.isnan(np.load(output)).any()
    np.testing.assert_allclose(score(variables, noise[0], output=output), expected, atol=2e-6)


@pytest.fixture
def begun(variables, noise, tmp_path):
    output = tmp_path / "scores.npy"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, TileScorer, "__call__", 4)
        with pytest.raises(Stopped):
            score(variables, noise[0], output=output)
    return output


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"network": CrossInput(scale=5.0)}, "network"),
        ({"size": (4, 8)}, "size"),
        ({"queries": QUERIES[::-1]}, "queries"),
        ({"gallery": GALLERY[::-1]}, "gallery"),
        ({"symmetric": True}, "symmetric"),
        ({"tile": (3, 3)}, "tile"),
    ],
)
def test_refuses_to_resume_with_something_else(variables, noise, expected, begun, change, named):
    with pytest.raises(UsageError, match=f"something else: {named} is .* Give another output"):
        score(variables, noise[0], output=begun, **change)
    np.testing.assert_allclose(score(variables, noise[0], output=begun), expected, atol=2e-6)


def test_refuses_to_resume_with_other_weights_or_images(variables, noise, begun):
    other = jax.tree.map(lambda leaf: leaf, variables)
    other["params"]["last"]["bias"] = other["params"]["last"]["bias"] + 1e-6
    with pytest.raises(UsageError, match="something else: weights is"):
        score(other, noise[0], output=begun)
    changed = list(noise[0].source)
    changed[8] = png(255 - noise[1][8])
    with pytest.raises(UsageError, match="something else: images is 9 of noise"):
        score(variables, replace(noise[0], source=tuple(changed)), output=begun)
    changed = (*noise[0].source[:4], b"another", *noise[0].source[5:])  # in neither list
    score(variables, replace(noise[0], source=changed), output=begun)


def test_refuses_a_broken_manifest_and_keeps_what_is_there(variables, noise, expected, begun):
    manifest = begun.with_name("scores.npy.json")
    content = manifest.read_text()
    for broken in (
        "",
        content[: len(content) // 2],
        "[]",
        "{}",
        content.replace('"tiles": 4', '"tiles": 99'),
    ):
        manifest.write_text(broken)
        with pytest.raises(UsageError, match=r"npy\.json: .* remove it and scores"):
            score(variables, noise[0], output=begun)
        assert manifest.read_text() == broken
    manifest.write_text(content)
    np.testing.assert_allclose(score(variables, noise[0], output=begun), expected, atol=2e-6)


def test_refuses_files_that_are_not_its_own_or_damaged(variables, noise, begun, tmp_path):
    other = tmp_path / "other.npy"
    np.save(other, np.zeros(3))
    with pytest.raises(UsageError, match=r"other\.npy exists and other\.npy\.json does not"):
        score(variables, noise[0], output=other)
    assert np.load(other).shape == (3,)
    features = begun.with_name("scores.npy.features")
    features.write_bytes(features.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"npy.features: damaged.* start again"):
        score(variables, noise[0], output=begun)
    begun.unlink()
    with pytest.raises(UsageError, match=r"scores.npy: no such file.*cannot be resumed"):
        score(variables, noise[0], output=begun)


def full(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_loses_nothing(variables, noise, expected, begun, monkeypatch):
    for owner, name in ((np.memmap, "flush"), (record_module, "write_json")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(UsageError, match=r"No space left.* 4 of 9 tiles are done and safe"):
                score(variables, noise[0], output=begun)
    np.testing.assert_allclose(score(variables, noise[0], output=begun), expected, atol=2e-6)


def test_disk_too_small_is_said_before_the_work(variables, noise, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"No space left.* files take 0.0 MB"):
        score(variables, noise[0], output=tmp_path / "scores.npy")
    assert list(tmp_path.iterdir()) == []


def test_features_that_are_not_finite_name_the_image(variables, noise):
    broken = jax.tree.map(lambda leaf: leaf, variables)
    # The trunk is Dense on 24 numbers; only p7's first is 255.
    pixels = np.minimum(noise[1], 254)
    pixels[7, 0, 0, 0] = 255
    images = replace(noise[0], source=tuple(map(png, pixels)))

    class Bursting(CrossInput):
        def embed(self, x):
            burst = (x == 255).any(axis=(1, 2, 3))[:, None, None]
            return jnp.where(burst, jnp.inf, super().embed(x))

    with pytest.raises(UsageError, match=r"features of p7\.png of noise are not finite"):
        score(broken, images, network=Bursting(), batch_size=1)


def test_scores_that_are_not_finite_name_the_pair(variables, noise):
    limit = pair_by_pair(NETWORK, variables, noise[1], [3], [12])[0, 0]

    class Bursting(CrossInput):
        def compare(self, first, second):
            value = super().compare(first, second)
            return jnp.where(jnp.abs(value - limit) < 1e-5, jnp.nan, value)

    with pytest.raises(UsageError, match=r"score of p3\.png and p12\.png is nan"):
        score(variables, noise[0], network=Bursting())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": np.asarray([13])}, "queries: 13 is not an index of 13 images"),
        ({"gallery": np.asarray([2, -1])}, "gallery: -1 is not an index"),
        ({"gallery": np.asarray([], int)}, r"gallery: int64 of shape \(0,\)"),
        ({"queries": np.asarray([0.5])}, "queries: float64"),
        ({"queries": QUERIES[None]}, "in 1 axes"),
        ({"gallery": np.tile(GALLERY, (4, 1))}, "4 rows for 5 queries"),
        ({"tile": (0, 3)}, r"tile \(0, 3\)"),
        ({"network": Plain(), "symmetric": True}, "Plain compares by a distance .* leave out symm"),
        ({"network": MapsAlone()}, r"MapsAlone gives maps of shape .* no method compare"),
        ({"network": EuclideanHead()}, r"EuclideanHead has no method embed"),
    ],
)
def test_refuses(variables, noise, change, message):
    with pytest.raises(UsageError, match=message):
        score(variables, noise[0], **change)
