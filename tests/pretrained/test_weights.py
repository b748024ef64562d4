from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.inference import Embedder
from siamjax.models.vgg16 import Vgg16Features
from siamjax.models.visual_search import VisualSearchNet
from siamjax.pretrained import Weights, put, read_weights
from siamjax.training import Finished


@pytest.fixture(scope="module")
def network():
    return VisualSearchNet(width=0.0625, depth=1, hidden=4, embedding=4, preprocessing="bgr_mean")


@pytest.fixture(scope="module")
def variables(network):
    return network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture
def tensors(variables, rng):
    deep = variables["params"]["deep"]
    return {
        f"params/block1_conv{k}/{name}": rng.random(deep[f"block1_conv{k}"][name].shape).astype(
            np.float16
        )
        for k in (1, 2)
        for name in ("kernel", "bias")
    }


def weights_of(tensors, preprocessing="bgr_mean"):
    return Weights(
        source="w.npz", architecture="vgg16", tensors=tensors, preprocessing=preprocessing
    )


def test_all_are_placed_and_the_rest_keeps_its_start(network, variables, tensors):
    got = put(network, variables, weights_of(tensors), under="deep", new=("fc",))["params"]
    for path, value in tensors.items():
        _, layer, name = path.split("/")
        assert got["deep"][layer][name].dtype == jnp.float32
        np.testing.assert_array_equal(got["deep"][layer][name], value.astype(np.float32))
    start = variables["params"]
    np.testing.assert_array_equal(got["deep"]["fc1"]["kernel"], start["deep"]["fc1"]["kernel"])
    np.testing.assert_array_equal(got["embedding"]["kernel"], start["embedding"]["kernel"])


def test_other_names_with_slashes_within_them_stay(network, variables, tensors):
    beside = {"spectral": {"Conv_0/kernel/u": np.ones((1, 2))}}  # as linen's SpectralNorm has them
    given = {**variables, "batch_stats": beside}
    got = put(network, given, weights_of(tensors), under="deep", new=("fc",))
    assert got["batch_stats"] == beside
    assert jax.tree.structure(got) == jax.tree.structure(given)


def test_every_tensor_is_accounted_for(network, variables, tensors):
    with pytest.raises(UsageError, match=r"w.npz .*fc1/bias is missing"):
        put(network, variables, weights_of(tensors), under="deep")
    extra = {**tensors, "params/block2_conv1/bias": np.zeros(3)}
    with pytest.raises(UsageError, match="block2_conv1/bias has no place"):
        put(network, variables, weights_of(extra), under="deep", new=("fc",))
    put(network, variables, weights_of(extra), under="deep", new=("fc",), unused=("block2",))
    put(network, variables, weights_of(extra).without("block2"), under="deep", new=("fc",))
    tensors["params/block1_conv1/bias"] = np.zeros(7)
    with pytest.raises(UsageError, match=r"block1_conv1/bias is \(7,\) in the file and \(4,\)"):
        put(network, variables, weights_of(tensors), under="deep", new=("fc",))


def test_the_wrong_preprocessing_is_not_silent(network, variables, tensors):
    with pytest.raises(UsageError, match=r"by 'unit', the network has 'bgr_mean'"):
        put(network, variables, weights_of(tensors, "unit"), under="deep", new=("fc",))
    without_any = network.clone(preprocessing="signed").bind(variables).deep
    with pytest.raises(UsageError, match="does not say how its images are preprocessed"):
        put(without_any, variables["params"], weights_of(tensors))


def test_it_reaches_the_network(rng):
    """The same tensors with another preprocessing stated give other features."""
    network = Vgg16Features(depth=1, width=0.0625)
    images = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    variables = network.init(jax.random.key(0), images)
    features = network.apply(variables, images)
    other = network.clone(preprocessing="unit").apply(variables, images)
    assert np.abs(features - other).max() > 0.01


def test_in_a_notebook_its_numbers_are_not_shown(tensors):
    weights = weights_of(tensors, "unit")
    assert len(repr(weights)) < 200
    size = (32, 32)
    used = {"network": weights.network, "variables": dict(tensors), "size": size}
    finished = Finished(folder=Path("x"), manifest={}, **used)
    assert max(len(repr(one)) for one in (Embedder(**used), finished)) < 1000


def test_saved_and_read_again(tmp_path, tensors):
    weights_of(tensors, "unit").save(tmp_path / "own.npz")
    again = read_weights(tmp_path / "own.npz")
    assert (again.architecture, again.preprocessing) == ("vgg16", "unit")
    assert again.tensors.keys() == tensors.keys()
    for path, tensor in tensors.items():
        np.testing.assert_array_equal(again.tensors[path], tensor)
    with pytest.raises(UsageError, match="preprocessed by 'unit'"):
        read_weights(tmp_path / "own.npz", preprocessing="signed")
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]
