"""Finished runs: of this version, of the one before, of a later one, and incomplete ones."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siamjax.errors import UsageError
from siamjax.inference.verification import Verifier
from siamjax.models import EuclideanHead, LfwNet, Siamese
from siamjax.training import Finished, create_state, initialize
from siamjax.training.checkpoints import Checkpoints
from siamjax.training.description import describe_module

NETWORK = Siamese(
    backbone=LfwNet(width=0.05, standardize=True, embedding_scale=None, dtype=jnp.bfloat16),
    head=EuclideanHead(),
)

# What the version before wrote, without what opening a run does not read.
FORMAT_1 = {
    "kind": "verifier",
    "network": {
        "class": "siamjax.models.siamese:Siamese",
        "fields": {
            "backbone": {
                "class": "siamjax.models.lfw:LfwNet",
                "fields": {
                    "width": 0.05,
                    "standardize": True,
                    "dtype": {"dtype": "bfloat16"},
                    "axis_name": "devices",
                    "embedding_scale": None,
                },
            },
            "head": {"class": "siamjax.models.heads:EuclideanHead", "fields": {}},
        },
    },
    "size": [16, 24],
    "step": 2,
    "measure": "distance",
    "threshold": 0.25,
    "data": "orl_faces",
    "trained_on": ["s01"],
    "config": {"experiment": "lfw_contrastive", "margin": 1.0},
}


@pytest.fixture(scope="module")
def variables():
    found, _ = initialize(NETWORK, (16, 24), 0)
    return found


@pytest.fixture
def make(variables, tmp_path):
    """A run's folder with checkpoints of the steps 2 and 4, and a manifest."""

    def made(manifest, network_variables=variables):
        optimizer = optax.sgd(0.1)
        state = create_state(network_variables, optimizer, key=jax.random.key(0))
        checkpoints = Checkpoints(tmp_path / "checkpoints", best="score")
        for step in (2, 4):
            # Of step 4 all is 1 more: another network.
            params = jax.tree.map(lambda leaf, step=step: leaf + (step > 2), state.params)
            saved = state.replace(step=jnp.asarray(step, jnp.int32), params=params)
            checkpoints.save(saved, {"score": float(step)})
        checkpoints.close()
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        return tmp_path

    return made


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_a_run_of_the_version_before(make, variables):
    """Its networks took the axis of devices as an argument."""
    run = Finished.open(make(FORMAT_1))
    assert run.network == NETWORK
    assert run.size == (16, 24)
    assert_same(run.variables, variables)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    value, _ = jax.jit(run.network.apply)(run.variables, images[:1], images[1:])
    assert np.isfinite(value).all()


def test_a_verifier_of_the_version_before(make):
    verifier = Verifier.open(make(FORMAT_1))
    assert (verifier.threshold, verifier.measure) == (0.25, "distance")
    image = np.full((20, 20, 3), 100, np.uint8)
    assert verifier.compare(image, image) == (0.0, True)


def test_a_size_of_one_number(make):
    square, _ = initialize(NETWORK, (16, 16), 0)
    assert Finished.open(make({**FORMAT_1, "size": 16}, square)).size == (16, 16)


def changed(**fields):
    description = json.loads(json.dumps(FORMAT_1))["network"]
    description["fields"]["backbone"]["fields"] |= fields
    return {"network": description}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": [16, 16]}, "do not fit images of 16x16 .*kernel"),
        ({"size": [7, 7]}, "do not fit images of 7x7"),
        ({"size": [10, 60_000]}, "do not fit images of 10x60000"),
        ({"size": [1, 2, 3]}, r"manifest.json: .*size"),
        ({"size": 10**20}, r"manifest.json: .*size"),
        ({"size": None}, r"manifest.json: .*size"),
        ({"size": [16, 0]}, r"manifest.json: .*size\[1\]"),
        ({"step": -1}, r"manifest.json: .*step"),
        ({"step": 2.5}, r"manifest.json: .*step"),
        ({"threshold": float("nan")}, r"manifest.json: .*threshold"),
        ({"format": "2"}, r"manifest.json: .*format"),
        ({"config": []}, r"manifest.json: .*config"),
        ({"trained_on": [1]}, r"manifest.json: .*trained_on\[0\]"),
        (changed(width=1), "do not fit images of 16x24 .*kernel"),
        (changed(width=10**20), "network"),
        (changed(width="x"), "network"),
        (changed(width=-2), "network"),
        (changed(width=float("nan")), "network"),
        (changed(dtype=5), "network"),
    ],
    ids=range(19),
)
def test_a_manifest_that_does_not_fit_is_one_line(make, change, said):
    with pytest.raises(UsageError, match=said) as error:
        Finished.open(make({**FORMAT_1, **change}))
    assert "\n" not in str(error.value)


class Wide(nn.Module):
    """Makes a large array of a small image and few parameters."""

    factor: int = 1

    def embed(self, x):
        return self.scale * jnp.tile(x.reshape(len(x), -1), self.factor).mean(axis=-1)

    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones, ())

    def __call__(self, x):
        return self.embed(x)


def test_a_network_that_would_take_all_memory_is_refused_before(make):
    variables = {"params": {"scale": jnp.ones(())}}
    for factor in (1, 10**9):
        manifest = {"network": describe_module(Wide(factor)), "size": 4, "step": 2}
        folder = make(manifest, variables)
        if factor == 1:
            assert Finished.open(folder).size == (4, 4)
        else:
            with pytest.raises(UsageError, match="an array of 96,000,000,000 numbers"):
                Finished.open(folder)


def snapshot(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")])


def test_nothing_is_written_into_a_finished_run(make, monkeypatch):
    """So that a run on a read-only disk can be used; also one whose other metrics are damaged."""
    folder = make(FORMAT_1)
    (folder / "checkpoints/4/metrics/metrics").write_text("[[[")
    before = snapshot(folder)
    Verifier.open(str(folder))
    assert snapshot(folder) == before


class Nested(nn.Module):
    """Parts in a tuple and in a field that is called as format 1's axis."""

    parts: tuple = ()
    axis_name: str = "mine"

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x)


def test_a_field_of_one_s_own_of_that_name_is_kept(make):
    """In this format ``axis_name`` means what the network says, and nothing is taken away."""
    network = Nested(parts=(Nested(axis_name="deep"),), axis_name="top")
    variables = network.init(jax.random.key(0), jnp.ones((1, 3)))
    manifest = {"format": 2, "network": describe_module(network), "size": [4, 4], "step": 4}
    assert Finished.open(make(manifest, variables)).network == network


def test_this_format_and_a_later_one(make, variables):
    manifest = {**FORMAT_1, "format": 2, "network": describe_module(NETWORK), "step": 4}
    folder = make(manifest)
    run = Finished.open(folder)
    assert (run.network, run.manifest, run.folder) == (NETWORK, manifest, folder)
    assert_same(run.variables["params"], jax.tree.map(lambda leaf: leaf + 1, variables["params"]))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 3, "network": "new"}))
    with pytest.raises(UsageError, match=r"later version of siamjax \(format 3, .* up to 2\); pip"):
        Finished.open(folder)


@pytest.mark.parametrize("name", ["network", "size", "step"])
def test_what_a_manifest_lacks_is_named(make, name):
    folder = make({key: value for key, value in FORMAT_1.items() if key != name})
    with pytest.raises(UsageError, match=f"manifest.json: .*missing required field `{name}`"):
        Finished.open(folder)


def test_no_threshold_no_decision(make):
    folder = make({key: value for key, value in FORMAT_1.items() if key != "threshold"})
    image = np.full((20, 20, 3), 100, np.uint8)
    assert Verifier.open(folder).compare(image, image) == (0.0, None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
def test_the_manifest_s_checkpoint_and_no_other(make):
    """Where it is gone, the other one would not fit the manifest's results."""
    folder = make({**FORMAT_1, "step": 3})
    with pytest.raises(
        UsageError, match=r"checkpoint of step 3 is gone or damaged .*no such folder.*run the exper"
    ):
        Finished.open(folder)
    (folder / "manifest.json").unlink()
    neither = r"is not a finished run: manifest.json is missing.* nor is it published weights: a fi"
    for which in (folder, "dinov2-smal"):
        with pytest.raises(UsageError, match=neither):
            Finished.open(which)


def test_jax_without_its_device_is_no_damage(make, monkeypatch):
    def no_device():
        raise AssertionError

    folder = make(FORMAT_1)
    monkeypatch.setattr(jax, "devices", no_device)
    with pytest.raises(AssertionError):  # which siamjax.cli knows to explain
        Finished.open(folder)
