"""Small files in every format, each tensor of another value; no library that writes them."""

import json
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from test_torch_files import pickled, tensor, write

from siamjax.errors import UsageError
from siamjax.models.inception_v3 import InceptionV3
from siamjax.models.preprocessing import MOMENTS
from siamjax.models.vgg16 import BLOCKS, Vgg16Features
from siamjax.pretrained import published_form, put, read_weights
from siamjax.pretrained.architectures import _torch_inception, of_torch
from siamjax.pretrained.networks import NETWORKS
from siamjax.pretrained.published import is_published

REAL = Path(__file__).parents[3] / "shared/weights"
VGG, INCEPTION = REAL / "vgg16_imagenet_notop_fp16.npz", REAL / "inception_v3_tfjs"
CONVS = [f"block{b}_conv{n}" for b, (_, c) in enumerate(BLOCKS, 1) for n in range(1, c + 1)]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def tiny_shapes(architecture):
    """The shapes of the tiny files here, in place of the published ones."""
    if architecture == "vgg16":
        kinds = {"params/{}/kernel": (3, 3, 2, 2), "params/{}/bias": (2,)}
        return {kind.format(name): shape for name in CONVS for kind, shape in kinds.items()}
    kinds = {"params/conv2d_{}/kernel": (1, 1, 1, 1), "params/batch_normalization_{}/bias": (1,)}
    kinds |= {f"batch_stats/batch_normalization_{{}}/{name}": (1,) for name in ("mean", "var")}
    return {kind.format(k): shape for k in range(1, 95) for kind, shape in kinds.items()}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(published_form, "published_shapes", tiny_shapes)


def vgg(names=CONVS):
    """13 tiny layers, the k-th full of k."""
    return {
        name: {"kernel": np.full((3, 3, 2, 2), k, "f4"), "bias": np.full(2, -k, "f4")}
        for k, name in enumerate(names, 1)
    }


def inception(first=1):
    """94 convolutions and normalisations, the k-th full of k."""
    layers = {}
    for k in range(1, 95):
        layers[f"conv2d_{k + first - 1}"] = {"kernel": np.full((1, 1, 1, 1), k, "f4")}
        layers[f"batch_normalization_{k + first - 1}"] = {
            name: np.full(1, k + offset, "f4")
            for name, offset in (("beta", 0.1), ("moving_mean", 0.2), ("moving_variance", 0.3))
        }
    return layers


def write_h5(path, layers, *, inside=None, encode=False):
    """Keras' old layout: groups of layers, their names as attributes."""
    with h5py.File(path, "w") as file:
        group = file if inside is None else file.create_group(inside)
        group.attrs["layer_names"] = [n.encode() if encode else n for n in layers]
        for layer, own in layers.items():
            names = [f"{layer}/{name}:0" for name in own]
            group.create_group(layer).attrs["weight_names"] = [
                n.encode() if encode else n for n in names
            ]
            for name, array in zip(names, own.values(), strict=True):
                group[layer][name] = array


def write_keras3(path, layers, *, named):
    """Keras 3's layout: class and number in the order of the layers, ``vars/0`` ..."""
    count: dict[str, int] = {}
    with h5py.File(path, "w") as file:
        for layer, own in layers.items():
            norm = "moving_mean" in own
            kind = "batch_normalization" if norm else "conv2d"
            if not norm and own["kernel"].ndim == 2:
                kind = "dense"
            number = count.get(kind, 0)
            count[kind] = number + 1
            group = file.create_group(f"layers/{kind}_{number}" if number else f"layers/{kind}")
            variables = group.create_group("vars")
            if named:
                variables.attrs["name"] = layer
            for place, array in enumerate(own.values()):
                variables[str(place)] = array
        file.create_group("layers/input_layer/vars")


def write_tfjs(folder, layers, *, shards=2, quantize=()):
    """model.json and its shards; of quantised tensors value = 0.5 + 2 q."""
    entries, content = [], b""
    for layer, own in layers.items():
        for name, array in own.items():
            entry = {"name": f"{layer}/{name}", "shape": array.shape, "dtype": "float32"}
            if layer in quantize:
                entry["quantization"] = {"dtype": "uint8", "min": 0.5, "scale": 2.0}
                array = array.astype(np.uint8)
            content += array.tobytes()
            entries.append(entry)
    paths = [f"group1-shard{n + 1}of{shards}" for n in range(shards)]
    folder.mkdir(exist_ok=True)
    manifest = [{"paths": paths, "weights": entries}]
    (folder / "model.json").write_text(json.dumps({"weightsManifest": manifest}))
    cut = len(content) // shards + 1
    for n, name in enumerate(paths):
        (folder / name).write_bytes(content[n * cut : (n + 1) * cut])
    return content


def write_keras1(path, layers):
    """Keras 1's layout: as the one after it, but for the names of the tensors."""
    names = {"kernel": "W", "bias": "b", "moving_mean": "running_mean"}
    names |= {"moving_variance": "running_std"}
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"input_1", *(n.encode() for n in layers)]
        file.create_group("input_1").attrs["weight_names"] = np.array([], "S1")
        for layer, own in layers.items():
            group = file.create_group(layer)
            stored = {f"{layer}_{names.get(n, n)}_1:0": array for n, array in own.items()}
            group.attrs["weight_names"] = [n.encode() for n in stored]
            for name, array in stored.items():
                group[name] = array


def check_vgg(weights):
    assert weights.architecture == "vgg16"
    for k, name in enumerate(CONVS, 1):
        assert (weights.tensors[f"params/{name}/kernel"] == k).all(), name
        assert (weights.tensors[f"params/{name}/bias"] == -k).all(), name


def check_inception(weights):
    assert weights.architecture == "inception_v3"
    for k in range(1, 95):
        norm = f"batch_normalization_{k}"
        assert weights.tensors[f"params/conv2d_{k}/kernel"].item() == k
        for path, offset in ((f"params/{norm}/bias", 0.1), (f"batch_stats/{norm}/mean", 0.2)):
            assert weights.tensors[path].item() == pytest.approx(k + offset)
        assert weights.tensors[f"batch_stats/{norm}/var"].item() == pytest.approx(k + 0.3)


def test_old_keras(tmp_path, tiny):
    write_h5(tmp_path / "w.h5", vgg())
    weights = read_weights(tmp_path / "w.h5")
    check_vgg(weights)
    assert weights.preprocessing == "bgr_mean"
    # numbered by a process that had built another before, as a whole model, names as bytes
    write_h5(tmp_path / "i.h5", inception(95), inside="model_weights", encode=True)
    weights = read_weights(tmp_path / "i.h5")
    check_inception(weights)
    assert weights.preprocessing == "signed"
    assert read_weights(tmp_path / "i.h5", preprocessing="unit").preprocessing == "unit"


def test_keras_1(tmp_path, tiny):
    write_keras1(tmp_path / "w.h5", vgg())
    check_vgg(read_weights(tmp_path / "w.h5"))
    layers = {
        name.replace("conv2d", "convolution2d").replace("batch_normal", "batchnormal"): own
        for name, own in inception().items()
    }
    write_keras1(tmp_path / "i.h5", layers)
    check_inception(read_weights(tmp_path / "i.h5"))


def test_keras_3(tmp_path, tiny):
    for named in (True, False):
        write_keras3(tmp_path / "w.weights.h5", vgg(), named=named)
        check_vgg(read_weights(tmp_path / "w.weights.h5"))
    write_keras3(tmp_path / "i.weights.h5", inception(7), named=True)
    check_inception(read_weights(tmp_path / "i.weights.h5"))


def test_unnamed_dense_layers_are_the_published_ones(tmp_path, tiny):
    top = {f"dense_{n}": {"kernel": np.full((2, 2), n), "bias": np.zeros(2)} for n in range(3)}
    write_keras3(tmp_path / "w.weights.h5", {**vgg(), **top}, named=False)
    tensors = read_weights(tmp_path / "w.weights.h5").tensors
    for n, name in enumerate(("fc1", "fc2", "predictions")):
        assert (tensors[f"params/{name}/kernel"] == n).all()


def test_tensorflow_js(tmp_path, tiny):
    head = {"dense_1": {"kernel": np.zeros((2, 2), "f4")}}
    content = write_tfjs(tmp_path / "m", {**inception(), **head}, shards=3)
    with pytest.raises(UsageError, match="does not say how its images are preprocessed"):
        read_weights(tmp_path / "m")
    weights = read_weights(tmp_path / "m", preprocessing="unit")
    check_inception(weights)
    assert "params/dense_1/kernel" not in weights.without("dense_").tensors
    assert "params/dense_1/kernel" in weights.tensors
    (tmp_path / "m/group1-shard2of3").write_bytes(POINTER)
    with pytest.raises(UsageError, match=r"/group1-shard2of3 is not the file but Git LFS's"):
        read_weights(tmp_path / "m")
    for shard in tmp_path.glob("m/group1*"):
        shard.unlink()
    with pytest.raises(UsageError, match=r"group1-shard1of3: a shard of model.json is missing"):
        read_weights(tmp_path / "m" / "model.json", preprocessing="unit")
    (tmp_path / "m" / "weights.bin").write_bytes(content)
    check_inception(read_weights(tmp_path / "m", preprocessing="unit"))
    (tmp_path / "m" / "weights.bin").write_bytes(content[:-9])
    with pytest.raises(UsageError, match=r"damaged.*cut short at"):
        read_weights(tmp_path / "m", preprocessing="unit")
    (tmp_path / "m" / "weights.bin").write_bytes(content + b"1234")
    with pytest.raises(UsageError, match="bytes of weights"):
        read_weights(tmp_path / "m", preprocessing="unit")


def test_quantised(tmp_path, tiny):
    write_tfjs(tmp_path / "m", inception(), quantize=("conv2d_3",))
    tensors = read_weights(tmp_path / "m", preprocessing="unit").tensors
    assert tensors["params/conv2d_3/kernel"].item() == 0.5 + 2.0 * 3
    assert tensors["params/conv2d_4/kernel"].item() == 4.0


def torch_vgg():
    state = {}
    for place, k in zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), range(1, 14), strict=True
    ):
        state[f"features.{place}.weight"] = np.full((2, 2, 3, 3), k, "f4")
        state[f"features.{place}.bias"] = np.full(2, -k, "f4")
    return state


def test_torchvision_vgg16(rng):
    state = torch_vgg()
    state["features.0.weight"] = rng.random((2, 4, 3, 5))
    dense = rng.random((6, 512 * 7 * 7)).astype("f4")
    state |= {"classifier.0.weight": dense, "classifier.0.bias": np.zeros(6)}
    architecture, tensors, preprocessing = of_torch("f", state)
    assert (architecture, preprocessing) == ("vgg16", "torchvision")
    first = tensors["params/block1_conv1/kernel"]
    assert first.shape == (3, 5, 4, 2)
    assert first[1, 2, 3, 0] == state["features.0.weight"][0, 3, 1, 2]
    assert (tensors["params/block5_conv3/kernel"] == 13).all()
    # the same answer from a map, flattened channels first there and channels last here
    features = rng.random((7, 7, 512)).astype("f4")
    ours = features.reshape(-1) @ tensors["params/fc1/kernel"]
    np.testing.assert_allclose(ours, dense @ features.transpose(2, 0, 1).reshape(-1), rtol=1e-4)
    with pytest.raises(UsageError, match=r"extra\.weight has no place"):
        of_torch("f", {**state, "extra.weight": np.zeros(1)})
    with pytest.raises(UsageError, match=r"classifier\.0\.weight is \(6, 100\) in the file, exp"):
        of_torch("f", {**state, "classifier.0.weight": dense[:, :100]})
    with pytest.raises(UsageError, match=r"features\.2\.weight is \(4,\), expected a kernel"):
        of_torch("f", {**state, "features.2.weight": np.zeros(4)})
    with pytest.raises(UsageError, match="another network: 14 layers of features") as refused:
        of_torch("f", {**state, "features.34.weight": np.zeros((2, 2, 3, 3))})
    assert all(network.title in str(refused.value) for network in NETWORKS.values())


@pytest.mark.parametrize("wrap", ["module.{}", "_orig_mod.module.{}", "features.module.{}"])
def test_wrapped_by_torch(tmp_path, tiny, wrap):
    state = {
        wrap.format(name) if wrap[0] != "f" else name.replace("features", "features.module"): tensor
        for name, tensor in torch_vgg().items()
    }
    save_file(state, tmp_path / "w.safetensors")
    check_vgg(read_weights(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_scales_of_half_precision_are_multiplied_in_float32(dtype, rng):
    """In float16 300 times 300 is infinite, and every other product is rounded."""
    state, numbers = {}, rng.uniform(1, 300, (94, 3)).astype(dtype)
    numbers[0] = 300
    for name, (kernel, scale, mean) in zip(_torch_inception(), numbers, strict=True):
        state[f"{name}.conv.weight"] = kernel.reshape(1, 1, 1, 1)
        state[f"{name}.bn.weight"], state[f"{name}.bn.running_mean"] = scale[None], mean[None]
    _, tensors, _ = of_torch("f", state)
    for number, (kernel, scale, mean) in enumerate(numbers.astype(float), start=1):
        for path, expected in (
            (f"params/conv2d_{number}/kernel", kernel * scale),
            (f"batch_stats/batch_normalization_{number}/mean", mean * scale),
        ):
            np.testing.assert_allclose(np.squeeze(tensors[path]), expected, rtol=1e-6)


@pytest.mark.parametrize(("moments", "expected"), [(0.5, "signed"), (None, "torchvision")])
def test_an_inception_of_timm_says_its_mean_and_deviation(moments, expected, tmp_path, tiny):
    """Gluon's was trained on other images than Google's; its names are torchvision's."""
    state = {}
    for number, name in enumerate(_torch_inception(), start=1):
        state[f"{name}.conv.weight"] = np.full((1, 1, 1, 1), number, np.float32)
        for offset, kind in ((1, "bias"), (2, "running_mean"), (3, "running_var")):
            state[f"{name}.bn.{kind}"] = np.array([number + offset / 10], np.float32)
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    assert read_weights(path).preprocessing == "signed"
    mean, deviation = ([moments] * 3,) * 2 if moments else MOMENTS["torchvision"]
    images = {"input_size": [3, 299, 299], "crop_pct": 0.875, "interpolation": "bicubic"}
    images |= {"mean": list(mean), "std": list(deviation)}
    config = {"architecture": "inception_v3", "pretrained_cfg": images}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = read_weights(path)
    check_inception(weights)
    assert weights.preprocessing == weights.network.preprocessing == expected


def test_what_is_of_no_known_layer_is_not_dropped(tmp_path, tiny):
    arrays = {f"{layer}/{name}": a for layer, own in vgg().items() for name, a in own.items()}
    np.savez(tmp_path / "w.npz", **arrays, **{"normalization/mean": np.zeros(3)})
    weights = read_weights(tmp_path / "w.npz")
    check_vgg(weights)
    assert "params/normalization/mean" in weights.tensors
    assert len(weights.tensors) == 2 * 13 + 1


def test_bfloat16_becomes_float32(tmp_path, tiny):
    state = {name: tensor.astype(jnp.bfloat16) for name, tensor in torch_vgg().items()}
    save_file(state, tmp_path / "w.safetensors")
    read_weights(tmp_path / "w.safetensors").save(tmp_path / "own.npz")
    weights = read_weights(tmp_path / "own.npz")
    check_vgg(weights)
    assert {tensor.dtype for tensor in weights.tensors.values()} == {np.dtype(np.float32)}


def test_safetensors(tmp_path, tiny):
    save_file(torch_vgg(), tmp_path / "w.safetensors")
    weights = read_weights(tmp_path / "w.safetensors")
    check_vgg(weights)
    assert weights.preprocessing == "torchvision"
    with pytest.raises(UsageError, match="leave the option out"):
        read_weights(tmp_path / "w.safetensors", preprocessing="bgr_mean")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-5])
    with pytest.raises(UsageError, match="damaged"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("first", [b"{", b"[", b" {", b"\n["])
def test_the_length_of_a_header_is_no_json(first, tmp_path, tiny):
    path = tmp_path / "w.safetensors"
    save_file(torch_vgg(), path)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header, rest = path.read_bytes()[8 : 8 + length], path.read_bytes()[8 + length :]
    wanted = int.from_bytes(first, "little")
    while wanted < length:
        wanted += 256 ** len(first)
    path.write_bytes(wanted.to_bytes(8, "little") + header.ljust(wanted) + rest)
    check_vgg(read_weights(path))


def write_shard(path, tensors):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
        return
    flat = {name: tensor_of(f"{n}", one) for n, (name, one) in enumerate(tensors.items())}
    storages = {f"s{n}": np.ravel(one) for n, one in enumerate(tensors.values())}
    write(path, pickled(flat), **storages)


def tensor_of(key, array):
    strides = [step // array.itemsize for step in array.strides]
    return tensor(key, array.size, array.shape, strides)


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("model.safetensors.index.json", "model-{}-of-2.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model-{}-of-2.bin"),
    ],
)
def test_shards_of_hugging_face(index, shard, tmp_path, tiny):
    one, two = shard.format(1), shard.format(2)
    state = torch_vgg()
    parts = {one: dict(list(state.items())[:9]), two: dict(list(state.items())[9:])}
    for name, part in parts.items():
        write_shard(tmp_path / name, part)
    places = {name: place for place, part in parts.items() for name in part}

    def indexed(**changes):
        content = {"metadata": {"total_size": 1}, "weight_map": places | changes}
        (tmp_path / index).write_text(json.dumps(content))

    indexed()
    check_vgg(read_weights(tmp_path))
    check_vgg(read_weights(tmp_path / index))
    with pytest.raises(UsageError, match=rf"/{one} is one of several shards; give the .index.json"):
        read_weights(tmp_path / one)
    whole = tmp_path / one.replace("of-2", "of-1")
    write_shard(whole, state)
    check_vgg(read_weights(whole))
    last = "features.28.bias"
    for wrong, message in (
        ({last: one}, rf"/{one} lacks {last}, which {index} says is there"),
        ({"a": one, "b": one}, rf"/{one} lacks a, b, which {index} says is there"),
        ({last: f"../{two}"}, rf"{index}: the shard '../{two}' is not beside it"),
        ({last: f"{tmp_path}/{two}"}, "is not beside it"),
        ({last: ".."}, r"/\.\.: this shard is missing"),
        ({last: ""}, ": this shard is missing"),
        ({last: "other.bin"}, r"/other.bin: this shard is missing; put it there"),
    ):
        indexed(**wrong)
        with pytest.raises(UsageError, match=message):
            read_weights(tmp_path)
    indexed()
    write_shard(tmp_path / two, parts[two] | dict(list(state.items())[:1]))
    with pytest.raises(UsageError, match=rf"/{two}: features.0.weight is in another shard as well"):
        read_weights(tmp_path)
    for content, message in (
        ((tmp_path / two).read_bytes()[:-30], "is damaged, or not what it seems to be"),
        (POINTER, "is not the file but Git LFS's pointer to it: git lfs pull"),
    ):
        (tmp_path / two).write_bytes(content)
        with pytest.raises(UsageError, match=rf"/{two} {message}"):
            read_weights(tmp_path)


@pytest.mark.parametrize("writer", [write_h5, lambda p, x: write_keras3(p, x, named=True)])
def test_files_of_another_network(tmp_path, writer):
    writer(tmp_path / "w.h5", vgg([f"conv_{k}" for k in range(12)]))
    with pytest.raises(UsageError, match="another network: 12 convolutions and 0 batch normal"):
        read_weights(tmp_path / "w.h5")


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UsageError, match=r"has no file of weights by .*model.safetensors, .*give"):
        read_weights(tmp_path)
    link = tmp_path / "model.safetensors"
    link.symlink_to("../blobs/gone")  # as in a copy of a part of Hugging Face's cache
    for one in (tmp_path, link):
        assert is_published(str(one))
        with pytest.raises(UsageError, match=r"model.safetensors: what this link leads to is mis"):
            read_weights(one)
    (tmp_path / "pytorch_model.bin").write_bytes(POINTER)  # which is there
    with pytest.raises(UsageError, match=r"model.bin is not the file but Git LFS's"):
        read_weights(tmp_path)
    link.unlink()
    save_file({"params/a": np.ones(3, np.float32)}, link)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match=r"is a run and no published weights; .* --start-from"):
        read_weights(tmp_path)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "w.npz"
    with pytest.raises(UsageError, match=r"w.npz: no such file"):
        read_weights(path)
    path.write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UsageError, match="damaged"):
        read_weights(path)
    path.write_bytes(b"GIF89a")
    with pytest.raises(UsageError, match="not a known file of weights, expected PyTorch"):
        read_weights(path)
    path = tmp_path / "group1-shard1of1.bin"
    path.write_bytes(np.ones(9, np.float32).tobytes())
    with pytest.raises(UsageError, match=r"bin is not a file of PyTorch's; of TensorFlow.js give"):
        read_weights(path)
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "vit"}')
    with pytest.raises(UsageError, match=r"config.json: .*weightsManifest.*; expected the mod"):
        read_weights(path)
    path = tmp_path / "w.safetensors"
    path.write_bytes(POINTER)
    with pytest.raises(UsageError, match="not the file but Git LFS's pointer to it: git lfs pull"):
        read_weights(path)
    save_file({"a": np.ones(3, ml_dtypes.float8_e4m3fn)}, path)
    with pytest.raises(UsageError, match=r"float8.*: save the network as float16 or float32"):
        read_weights(path)
    write_h5(tmp_path / "w.h5", vgg())
    content = (tmp_path / "w.h5").read_bytes()
    (tmp_path / "w.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="damaged"):
        read_weights(tmp_path / "w.h5")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["something"] = 1
    with pytest.raises(UsageError, match="not of Keras weights"):
        read_weights(tmp_path / "w.h5")
    with pytest.raises(UsageError, match="preprocessing caffe: choose one of unit"):
        read_weights(tmp_path / "w.h5", preprocessing="caffe")


@pytest.mark.skipif(not VGG.exists(), reason=f"{VGG} is not here")
def test_the_real_vgg16_fits():
    network = Vgg16Features(depth=5)
    like = jax.eval_shape(
        network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    )
    params = put(network, like, read_weights(VGG), under="deep")["params"]["deep"]
    # Small but for rounding to float16; the first layer sees edges: its kernels sum to about 0.
    kernel = np.asarray(params["block1_conv1"]["kernel"])
    assert kernel.shape == (3, 3, 3, 64)
    assert 0.01 < kernel.std() < 1.0
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 14_714_688


@pytest.mark.skipif(not INCEPTION.exists(), reason=f"{INCEPTION} is not here")
def test_the_real_inception_v3_fits():
    weights = read_weights(INCEPTION, preprocessing="unit").without("dense_")
    network = InceptionV3()
    like = jax.eval_shape(
        network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    )
    flat = {
        f"{collection}/{layer}/{name}": leaf.shape
        for collection, layers in like.items()
        for layer, own in layers.items()
        for name, leaf in own.items()
    }
    assert flat == {path: tensor.shape for path, tensor in weights.tensors.items()}
    assert all(
        (tensor > 0).all() for path, tensor in weights.tensors.items() if path.endswith("/var")
    )
