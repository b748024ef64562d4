import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.models.preprocessing import preprocess, require_images
from siamjax.models.vgg16 import BLOCKS, Vgg16, Vgg16Features, layers_between
from siamjax.models.visual_search import (
    ShallowNet,
    VisualSearchNet,
    local_response_normalization,
)
from siamjax.training.description import build_module, describe_module

SMALL = {"width": 0.0625, "depth": 2, "hidden": 8, "embedding": 6}


def shapes(network, side):
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
    return jax.eval_shape(network.init, jax.random.key(0), image)["params"]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_published_sizes_part_by_part():
    params = shapes(VisualSearchNet(), 224)
    convolutions = {k: v for k, v in params["deep"].items() if k.startswith("block")}
    assert count(convolutions) == 14_714_688
    assert count(params["deep"]) == 134_260_544
    assert count(params["shallow1"]) == count(params["shallow2"]) == 18_528
    assert params["embedding"]["kernel"].shape == (4096 + 1536 + 1536, 4096)
    assert count(params) == 163_661_824
    assert [k for k in params["deep"] if k.startswith("block")] == [
        f"block{block}_conv{number}"
        for block, (_, convs) in enumerate(BLOCKS, start=1)
        for number in range(1, convs + 1)
    ]


def test_visnet_s_shallow_networks_have_864_features():
    params = shapes(VisualSearchNet(variant="visnet"), 224)
    assert params["embedding"]["kernel"].shape == (4096 + 864 + 864, 4096)


@pytest.mark.parametrize("stride", [4, 8])
def test_shallow_networks_by_hand(rng, stride):
    """Against loops: every stride-th pixel, zero padded convolution, pool that ignores padding."""
    x = rng.random((1, 64, 64, 3)).astype(np.float32)
    network = ShallowNet(stride, width=2 / 96)
    variables = network.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["conv"]["kernel"], np.float64)
    small = np.asarray(x[0, ::stride, ::stride], np.float64)
    side = len(small)
    padded = np.pad(small, ((2, 2), (2, 2), (0, 0)))  # "same": 8 - 4 = 4 more, evenly
    conv = np.array(
        [
            [
                np.maximum(0, np.tensordot(padded[i : i + 8, j : j + 8], kernel, 3))
                for j in range(0, side, 4)
            ]
            for i in range(0, side, 4)
        ]
    )
    window, step = {4: (7, 4), 8: (3, 2)}[stride]
    rows = len(conv)
    places = -(-rows // step)
    before = ((places - 1) * step + window - rows) // 2
    pooled = [
        conv[max(0, a) : a + window, max(0, b) : b + window].max(axis=(0, 1))
        for a in range(-before, places * step - before, step)
        for b in range(-before, places * step - before, step)
    ]
    got = network.apply(variables, x)[0]
    np.testing.assert_allclose(got, np.ravel(pooled), rtol=1e-4, atol=1e-6)


def test_visnet_s_pools_round_up(rng):
    """Of 13 rows the third window of 7 begins at row 8 and reaches beyond the map."""
    x = rng.random((1, 224, 224, 3)).astype(np.float32)
    for stride in (4, 8):
        network = ShallowNet(stride, variant="visnet", width=1 / 96)
        variables = network.init(jax.random.key(0), x)
        assert network.apply(variables, x).shape == (1, 9)
    with pytest.raises(UsageError, match="too small"):
        network.init(jax.random.key(0), x[:, :64, :64])


def test_lrn_by_hand():
    # middle channel of 3 with size 3: 2 / (1 + 3/3 * (1 + 4 + 9))^0.5; ends see two channels
    got = local_response_normalization(
        jnp.array([1.0, 2.0, 3.0]), size=3, alpha=3.0, beta=0.5, bias=1.0
    )
    np.testing.assert_allclose(got, [1 / 6**0.5, 2 / 15**0.5, 3 / 14**0.5], rtol=1e-6)


@pytest.mark.parametrize("variant", ["strided", "visnet"])
def test_embeddings(rng, variant):
    side = {"strided": 32, "visnet": 128}[variant]
    network = VisualSearchNet(variant=variant, **SMALL)
    x = rng.integers(0, 256, (3, side, side, 3), np.uint8)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    embedded = network.apply(variables, x)
    assert embedded.shape == (3, 6)
    assert np.ptp(np.asarray(embedded), axis=0).max() > 0
    norm = np.linalg.norm(embedded, axis=1)
    assert (embedded > 0).all() if variant == "strided" else (norm < 1).all()
    # uint8 and the same images as floats in [0, 1]; one by one and together
    np.testing.assert_allclose(
        network.apply(variables, x.astype(np.float32) / 255), embedded, atol=1e-6
    )
    np.testing.assert_allclose(
        network.apply(variables, x[1:2], method="embed"), embedded[1:2], atol=1e-6
    )
    half = VisualSearchNet(variant=variant, dtype=jnp.bfloat16, **SMALL).apply(variables, x)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, embedded, atol=0.03)


def test_every_part_changes_the_embedding(rng):
    network = VisualSearchNet(**SMALL)
    x = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    before = network.apply(variables, x)
    for part in ("deep", "shallow1", "shallow2", "embedding"):
        params = dict(variables["params"])
        params[part] = jax.tree.map(lambda a: a + 0.1, params[part])
        assert np.abs(network.apply({"params": params}, x) - before).max() > 1e-5, part


def test_dropout_draws_while_training_only(rng):
    network = VisualSearchNet(dropout=0.5, **SMALL)
    x = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    one, other = (
        network.apply(variables, x, train=True, rngs={"dropout": jax.random.key(k)}) for k in (0, 1)
    )
    assert np.abs(one - other).max() > 0
    np.testing.assert_array_equal(network.apply(variables, x), network.apply(variables, x))


def test_the_deep_network_sees_its_preprocessing(rng):
    x = rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    network = VisualSearchNet(**SMALL)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    other = VisualSearchNet(preprocessing="bgr_mean", **SMALL)
    assert np.abs(other.apply(variables, x) - network.apply(variables, x)).max() > 1e-3


@pytest.mark.parametrize("dtype", [np.int32, bool, np.int8])
def test_images_of_another_type_are_refused(dtype):
    """Of int32 nobody knows whether 1 is black or white."""
    with pytest.raises(UsageError, match=rf"images of {np.dtype(dtype)}; expected uint8, or fl"):
        preprocess(np.ones((1, 2, 2, 3), dtype), "unit")


def test_preprocessing_by_hand():
    x = jnp.array([[[[0, 51, 255]]]], jnp.uint8)  # red 0, green 51, blue 255
    expected = {
        "unit": [0, 0.2, 1],
        "signed": [-1, -0.6, 1],
        "bgr_mean": [255 - 103.939, 51 - 116.779, -123.68],
        "bgr_signed": [1, -0.6, -1],
        "face_api": [-122.782 / 255, (51 - 117.001) / 255, (255 - 104.298) / 255],
        "torchvision": [-0.485 / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225],
        "clip": [
            -0.48145466 / 0.26862954,
            (0.2 - 0.4578275) / 0.26130258,
            (1 - 0.40821073) / 0.27577711,
        ],
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(preprocess(x, kind)[0, 0, 0], values, rtol=1e-5, atol=1e-5)
    with pytest.raises(UsageError, match="preprocessing rgb: choose one of unit"):
        preprocess(x, "rgb")


def test_what_is_no_batch_of_images():
    require_images(jnp.zeros((2, 8, 9, 3)), least=8, most=9)
    for shape in ((8, 9, 3), (2, 8, 9, 1), (2, 7, 9, 3), (2, 8, 10, 3)):
        with pytest.raises(UsageError, match=r"of shape \(.*3\) with sides of 8 to 9"):
            require_images(jnp.zeros(shape), least=8, most=9)


def test_refusals():
    image = jnp.zeros((1, 36, 7, 3), jnp.uint8)
    with pytest.raises(UsageError, match="sides of at least 8"):
        Vgg16(depth=3).init(jax.random.key(0), image)
    with pytest.raises(UsageError, match="depth 6"):
        Vgg16(depth=6).init(jax.random.key(0), image)
    with pytest.raises(UsageError, match="variant x: choose one of strided, visnet"):
        VisualSearchNet(variant="x").init(jax.random.key(0), image)
    with pytest.raises(UsageError, match="output x: choose one of sigmoid, ball, sphere"):
        VisualSearchNet(output="x").init(jax.random.key(0), image)
    with pytest.raises(UsageError, match="stride 5"):
        ShallowNet(5).init(jax.random.key(0), image)


@pytest.fixture(scope="module")
def features():
    """VGG-16's first three blocks, with variables and images."""
    network = Vgg16Features(depth=3, width=0.0625, given="block2", frozen="block1")
    images = np.random.default_rng(0).integers(0, 256, (2, 17, 16, 3), np.uint8)
    return network, jax.jit(network.init)(jax.random.key(0), images), images


def test_vgg16_from_a_map_on(features):
    network, variables, images = features
    maps = network.clone(depth=2, given=None).apply(variables, images, method="maps")
    np.testing.assert_allclose(
        network.apply(variables, maps), network.apply(variables, images), atol=1e-6
    )


@pytest.mark.parametrize(("frozen", "after"), [(None, None), ("block1", "block1")])
def test_no_gradient_reaches_the_frozen_blocks_of_vgg16(features, frozen, after):
    network, variables, images = features
    network = network.clone(frozen=frozen)

    def loss(params):
        one, other = network.apply({"params": params}, images, train=True)
        return (one * other).sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])["deep"]
    reached = {f"{layer}/" for layer, own in gradient.items() if own["kernel"].any()}
    assert reached == set(layers_between(after, "block3"))


def test_layers_between_the_blocks_of_vgg16():
    assert layers_between("block2", "block3") == tuple(f"block3_conv{n}/" for n in (1, 2, 3))
    assert layers_between("block3", "block3") == ()
    every = shapes(Vgg16(width=0.0625), 32)
    assert layers_between(None, "block5") == tuple(f"{layer}/" for layer in every)
    for wrong in ((None, "block6"), ("mixed1", "block2")):
        with pytest.raises(
            UsageError, match=r"no block '(block|mixed)\d+'; choose from block1 to block5"
        ):
            layers_between(*wrong)
    for options in ({"frozen": "block3"}, {"frozen": "block0"}):
        with pytest.raises(
            UsageError, match=r"block 3 is beyond the last one, 2|no block 'block0'"
        ):
            shapes(Vgg16(depth=2, **options), 32)


def test_networks_of_earlier_runs_are_built():
    """There a block was its number, 0 for none, and ``strided`` had another name."""
    for given, block in ((0, None), (2, "block2")):
        description = describe_module(Vgg16Features(given=block))
        description["fields"]["given"] = given
        del description["fields"]["frozen"]
        assert build_module(description) == Vgg16Features(given=block)
    description = describe_module(VisualSearchNet())
    description["fields"]["variant"] = "recipe"
    assert build_module(description) == VisualSearchNet()
