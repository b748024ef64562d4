"""Files of the convolutional networks: names as their publishers write them, and what is wrong."""

import json
import re
from pathlib import Path

import flax.traverse_util
import jax
import numpy as np
import pytest
from random_variables import random_variables

from siamjax.data.transforms import Framing
from siamjax.errors import UsageError
from siamjax.models import IResNet, OSNet, ResNet
from siamjax.pretrained import read_weights

TORCHREID = Path(__file__).parent / "frozen/torchreid_osnet.npz"
KINDS = {"kernel": "weight", "scale": "weight", "slope": "weight"}
KINDS |= {"mean": "running_mean", "var": "running_var", "bias": "bias"}
# Of insightface's names to AdaFace's; the blocks are counted through.
ADAFACE = {
    r"^conv1": "input_layer.0",
    r"^bn1": "input_layer.1",
    r"^prelu": "input_layer.2",
    r"^bn2": "output_layer.0",
    r"^fc": "output_layer.3",
    r"^features": "output_layer.4",
    r"^layer1.0": "body.0",
    r"^layer1.1": "body.1",
    r"^layer2.0": "body.2",
    r"^layer3.0": "body.3",
    r"^layer4.0": "body.4",
    r"(body..)\.bn1": r"\1.res_layer.0",
    r"(body..)\.conv1": r"\1.res_layer.1",
    r"(body..)\.bn2": r"\1.res_layer.2",
    r"(body..)\.prelu": r"\1.res_layer.3",
    r"(body..)\.conv2": r"\1.res_layer.4",
    r"(body..)\.bn3": r"\1.res_layer.5",
    r"downsample": "shortcut_layer",
}
NETWORKS = {
    "resnet": (ResNet((2, 1, 1, 1)), (224, 224), {}),
    "arcface": (IResNet((2, 1, 1, 1)), (112, 112), {}),
    "adaface": (
        IResNet((2, 1, 1, 1), variant="adaface", preprocessing="bgr_signed"),
        (112, 112),
        ADAFACE,
    ),
    "osnet": (OSNet((16, 64, 128, 64), (1, 2, 1)), (256, 128), {}),
}


def state_of(name):
    """A state dict in float16 as PyTorch has it, and what is to be read."""
    network, size, renames = NETWORKS[name]
    variables = jax.tree.map(lambda x: x.astype(np.float16), random_variables(network, size))
    tensors = flax.traverse_util.flatten_dict(variables, sep="/")
    state = {}
    for path, tensor in tensors.items():
        layer, _, kind = path.partition("/")[2].rpartition("/")
        layer = re.sub(r"_(\d+)", r".\1", layer).replace("/", ".")
        for pattern, replacement in renames.items():
            layer = re.sub(pattern, replacement, layer)
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(tensor.ndim, (0,))
        state[f"{layer}.{KINDS[kind]}"] = np.ascontiguousarray(tensor.transpose(axes))
    norms = [key for key in state if key.endswith("running_var")]
    state |= {key.replace("running_var", "num_batches_tracked"): np.array(7) for key in norms}
    return state, tensors


@pytest.fixture(scope="module")
def save_file():
    return pytest.importorskip("safetensors.numpy").save_file


@pytest.mark.parametrize("name", NETWORKS)
def test_names_of_publishers(name, tmp_path, save_file):
    state, tensors = state_of(name)
    if name in ("resnet", "osnet"):
        head = "fc" if name == "resnet" else "classifier"
        state |= {f"{head}.weight": np.ones((5, 512)), f"{head}.bias": np.ones(5)}
    save_file(
        {f"module.backbone.{key}": value for key, value in state.items()},
        tmp_path / "w.safetensors",
    )
    weights = read_weights(tmp_path / "w.safetensors")
    network, size, _ = NETWORKS[name]
    assert weights.network == network
    assert weights.size == (Framing(size=size, shorter=232) if name == "resnet" else size)
    assert weights.tensors.keys() == tensors.keys()
    for path, tensor in weights.tensors.items():
        assert tensor.dtype == np.float16
        np.testing.assert_array_equal(tensor, tensors[path])
    assert {leaf.dtype for leaf in jax.tree.leaves(weights.variables)} == {np.dtype("float32")}
    weights.save(tmp_path / "w.npz")
    again = read_weights(tmp_path / "w.npz")
    assert (again.network, again.size) == (weights.network, weights.size)
    assert again.digest == weights.digest


def test_the_whole_osnet_by_torchreid_s_own_names(tmp_path, save_file):
    shapes = json.loads(str(np.load(TORCHREID)["shapes"]))
    state = {f"module.{name}": np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_file(state, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors").network == OSNet()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_wrong_is_named(name, tmp_path, save_file):
    state, _ = state_of(name)
    own = {"osnet": "conv4.0.conv2a.conv2.weight", "adaface": "body.4.res_layer.4.weight"}
    own = own.get(name, "layer4.0.conv2.weight")
    inside = "conv4_0/conv2a/conv2" if name == "osnet" else "layer4_0/conv2"
    broken = {
        "is missing in the file": {key: value for key, value in state.items() if key != own},
        rf"\({own}\) is \(1, 3, .* expected, as \(height, width, in, out\)": {
            **state,
            own: state[own][:, :, :1].copy(),
        },
        rf"\({own}\) has .* values that are not finite": {
            **state,
            own: state[own] * np.float16(np.nan),
        },
    }
    for message, tensors in broken.items():
        save_file(tensors, tmp_path / "w.safetensors")
        with pytest.raises(UsageError, match=f"{inside}/kernel {message}"):
            read_weights(tmp_path / "w.safetensors")
    save_file({**state, "layer9.0.weight": np.ones(3)}, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"layer9_0/scale \(layer9.0.weight\) has no place"):
        read_weights(tmp_path / "w.safetensors")
