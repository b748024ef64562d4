from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.models.vgg16 import Vgg16
from siamjax.pretrained import Weights, put, read_vgg16

REAL = Path(__file__).parents[3] / "shared/weights/vgg16_imagenet_notop_fp16.npz"


@pytest.fixture(scope="module")
def params():
    picture = jnp.zeros((1, 16, 16, 3))
    return {
        "deep": Vgg16(width=0.0625, depth=1, hidden=4).init(jax.random.key(0), picture)["params"]
    }


@pytest.fixture
def tensors(params, rng):
    return {
        f"block1_conv{k}/{name}": rng.random(params["deep"][f"block1_conv{k}"][name].shape).astype(
            np.float16
        )
        for k in (1, 2)
        for name in ("kernel", "bias")
    }


def placed(params, tensors, **options):
    weights = Weights(source="w.npz", tensors=tensors, preprocessing="bgr_mean")
    return put(params, weights, under="deep", **options)


def test_all_are_placed_and_the_rest_keeps_its_start(params, tensors):
    got = placed(params, tensors, new=("fc",))["deep"]
    for path, value in tensors.items():
        layer, name = path.split("/")
        assert got[layer][name].dtype == jnp.float32
        np.testing.assert_array_equal(got[layer][name], value.astype(np.float32))
    np.testing.assert_array_equal(got["fc1"]["kernel"], params["deep"]["fc1"]["kernel"])


def test_every_tensor_is_accounted_for(params, tensors):
    with pytest.raises(UsageError, match=r"w.npz .*fc1/bias is missing"):
        placed(params, tensors)
    extra = {**tensors, "block2_conv1/bias": np.zeros(3)}
    with pytest.raises(UsageError, match="block2_conv1/bias has no place"):
        placed(params, extra, new=("fc",))
    placed(params, extra, new=("fc",), unused=("block2",))
    tensors["block1_conv1/bias"] = np.zeros(7)
    with pytest.raises(UsageError, match=r"block1_conv1/bias is \(7,\) in the file and \(4,\)"):
        placed(params, tensors, new=("fc",))


def test_files_that_are_none(tmp_path):
    with pytest.raises(UsageError, match="no such file of weights"):
        read_vgg16(tmp_path / "w.npz")
    (tmp_path / "w.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UsageError, match="damaged"):
        read_vgg16(tmp_path / "w.npz")
    np.save(tmp_path / "w.npy", np.zeros(3))
    with pytest.raises(UsageError, match="a single array"):
        read_vgg16(tmp_path / "w.npy")
    np.savez_compressed(tmp_path / "w.npz", bias=np.arange(1000))
    content = bytearray((tmp_path / "w.npz").read_bytes())
    content[200] ^= 255
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        read_vgg16(tmp_path / "w.npz")


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not here")
def test_the_real_ones_fit():
    like = jax.eval_shape(
        Vgg16().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    )["params"]
    weights = read_vgg16(REAL)
    got = put(like, weights)
    assert weights.preprocessing == "bgr_mean"
    np.testing.assert_array_equal(
        got["block5_conv3"]["kernel"], weights.tensors["block5_conv3/kernel"].astype(np.float32)
    )
