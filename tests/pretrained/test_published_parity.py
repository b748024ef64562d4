"""Against the libraries that publish: what they save we read, and give what they give."""

import os

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import furthest

from siamjax.errors import UsageError
from siamjax.models.inception_v3 import ENDS, InceptionV3
from siamjax.models.preprocessing import preprocess
from siamjax.models.vgg16 import Vgg16
from siamjax.pretrained import put, read_weights
from siamjax.pretrained.torch_files import read_state_dict

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CLASSES = 7


class Published(nn.Module):
    """A network and its preprocessing, as weights ask for it."""

    network: nn.Module
    preprocessing: str

    def __call__(self, x):
        return self.network(preprocess(x, self.preprocessing))


@pytest.fixture(scope="module")
def keras():
    os.environ["KERAS_BACKEND"] = "jax"
    return pytest.importorskip("keras")


def randomise(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        name = variable.path.rpartition("/")[2]
        if name == "moving_variance":
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        elif name in ("moving_mean", "beta", "bias"):
            variable.assign(0.3 * rng.normal(size=variable.shape))


def saved(keras, model, folder):
    """By layout: the old one, Keras 3's, and Keras 3's before it had names."""
    paths = [folder / name for name in ("old.h5", "new.weights.h5", "unnamed.weights.h5")]
    model.save(paths[0])
    for path in paths[1:]:
        model.save_weights(path)
    with h5py.File(paths[2], "r+") as file:
        for layer in file["layers"].values():
            if "name" in layer["vars"].attrs:
                del layer["vars"].attrs["name"]
    return paths


CASES = {
    "vgg16": (Vgg16, "VGG16", 64, "bgr_mean", [f"block{n}_pool" for n in range(1, 6)]),
    "inception_v3": (InceptionV3, "InceptionV3", 96, "signed", list(ENDS)),
}


@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_keras_applications(keras, tmp_path, name, top, row):
    ours, theirs, side, preprocessing, layers = CASES[name]
    keras.applications.InceptionV3(weights=None, include_top=False)  # so that numbers begin later
    build = getattr(keras.applications, theirs)
    options = {"classes": CLASSES, "classifier_activation": None} if top else {}
    model = build(weights=None, include_top=top, input_shape=(side, side, 3), **options)
    randomise(model)
    fields = {"classes": CLASSES} if top else {}
    if top and name == "vgg16":
        fields["hidden"] = 4096
    network = Published(network=ours(**fields), preprocessing=preprocessing)
    images = np.random.default_rng(1).integers(0, 256, (2, side, side, 3), np.uint8)
    like = jax.eval_shape(network.init, jax.random.key(0), images)

    known = getattr(keras.applications, name).preprocess_input
    both = keras.Model(model.input, [*(model.get_layer(n).output for n in layers), model.output])
    expected = [np.asarray(x) for x in both(known(images.astype(np.float32)))]
    first = None
    for path in saved(keras, model, tmp_path):
        weights = read_weights(path)
        assert weights.preprocessing == preprocessing
        variables = put(network, like, weights, under="network")
        if first is not None:  # the same tensors: what they give was compared already
            jax.tree.map(np.testing.assert_array_equal, variables, first)
            continue
        first = variables
        output, state = network.apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"]
        )
        inside = state["intermediates"]["network"]
        results = [*(inside[layer]["__call__"][0] for layer in layers), output]
        for layer, one, other in zip([*layers, "end"], results, expected, strict=True):
            assert one.shape == other.shape
            assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max(), layer
        title = f"{theirs}{' with its classifier' if top else ''}, Keras"
        row("same", title, [(side, side)], furthest(output, expected[-1]), None)


@pytest.mark.parametrize("name", CASES)
def test_any_size(keras, name):
    ours, theirs, _, _, _ = CASES[name]
    build = getattr(keras.applications, theirs)
    for size in ((80, 101), (77, 139)):
        model = build(weights=None, include_top=False, input_shape=(*size, 3))
        like = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        output, _ = jax.eval_shape(ours().init_with_output, jax.random.key(0), like)
        assert output.shape[1:] == model.output.shape[1:]


def torch_vgg16(torch):
    layers, channels = [], 3
    for size in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if size:
            layers += [torch.nn.Conv2d(channels, size, 3, padding=1), torch.nn.ReLU()]
            channels = size
        else:
            layers.append(torch.nn.MaxPool2d(2))
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("legacy", [False, True])
def test_torchvision(tmp_path, legacy, row):
    torch = pytest.importorskip("torch")
    features = torch_vgg16(torch).eval()
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    weights = read_weights(tmp_path / "w.pth")
    network = Published(network=Vgg16(), preprocessing=weights.preprocessing)
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    like = jax.eval_shape(network.init, jax.random.key(0), images)
    ours = network.apply(put(network, like, weights, under="network"), images)
    x = preprocess(jnp.asarray(images), "torchvision").transpose(0, 3, 1, 2)
    with torch.no_grad():
        theirs = features(torch.tensor(np.array(x))).numpy().transpose(0, 2, 3, 1)
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    saved = "before 1.6" if legacy else "zip"
    row("same", f"VGG16, PyTorch ({saved})", [(64, 64)], furthest(ours, theirs), None)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_pickle_with_code_is_not_run(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Bomb()}, "a.pth")
    torch.save({"x": Bomb()}, "b.pth", _use_new_zipfile_serialization=False)
    for name in ("a.pth", "b.pth"):
        with pytest.raises(UsageError, match=r"holds code \(posix.mkdir\)"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "exploded").exists()
    torch.save(torch.zeros(3), "c.pth")
    with pytest.raises(UsageError, match="not a state dict"):
        read_weights(tmp_path / "c.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_state_dicts_as_torch_reads_them(tmp_path, legacy):
    """Views, other types, a shared storage; and no prefix of the file passes for it."""
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32)
    state = {
        "view": base.reshape(4, 6)[1:, ::2].t(),
        "shared": base[5:9],
        "half": torch.ones(3, dtype=torch.float16),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "w.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    ours = read_state_dict(path)
    assert ours.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(ours[name], tensor.detach().numpy())
    content = path.read_bytes()
    for length in range(1, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises((UsageError, ValueError, EOFError)):
            read_state_dict(path)
