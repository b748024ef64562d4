"""The re-identification network: its layers as published, its start, its asymmetry."""

import functools

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.correlation import cross_input_neighbourhood, normxcorr
from siamjax.errors import UsageError
from siamjax.models.normxcorr_net import NormXCorrConv, NormXCorrNet, torch_uniform

SMALL = (64, 48)  # features of 13 x 9: the network takes any size, and compiles in half the time
KINDS = {"plain": {}, "fused": {"fused": True}, "guide": {"variant": "guide"}}


def images(rng, count, side=SMALL):
    return jnp.asarray(rng.integers(0, 256, (count, *side, 3)), jnp.uint8)


@pytest.fixture(scope="module")
def networks():
    """The three networks with variables for small images."""
    one = jnp.zeros((1, *SMALL, 3), jnp.uint8)
    made = {name: NormXCorrNet(**options) for name, options in KINDS.items()}
    key = jax.random.key(0)
    return {name: (net, jax.jit(net.init)(key, one, one)) for name, net in made.items()}


def test_layers_as_published():
    """Weights and biases counted by hand, layer by layer."""
    plain = {
        "conv1": 5 * 5 * 3 * 20 + 20,
        "conv2": 5 * 5 * 20 * 25 + 25,
        "correlation": 25 * 60 * 25 + 25,
        "conv4": 3 * 3 * 25 * 25 + 25,
        "dense": 17 * 5 * 25 * 500 + 500,
        "last": 500 * 2 + 2,
    }
    fused = {
        **plain,
        "neighbourhood1": 1250 * 25 + 25,
        "neighbourhood2": 3 * 3 * 25 * 25 + 25,
        "neighbourhood_dense": 17 * 5 * 25 * 500 + 500,
        "last": 1000 * 2 + 2,
    }
    for name, expected in (("plain", plain), ("fused", fused), ("guide", plain)):
        net, one = NormXCorrNet(**KINDS[name]), jax.ShapeDtypeStruct((1, 160, 60, 3), jnp.uint8)
        shapes = jax.eval_shape(net.init, jax.random.key(0), one, one)
        params = shapes["params"]
        counted = {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in params.items()}
        assert counted == expected
        embed = functools.partial(net.apply, method="embed")
        assert jax.eval_shape(embed, shapes, one).shape == (1, 37, 12, 25)


def test_starts_as_torch(networks):
    """Weights and biases uniform in +-1/sqrt(fan in)."""
    params = networks["plain"][1]["params"]
    for layer, fan_in in (("conv1", 75), ("conv2", 500), ("correlation", 1125), ("conv4", 225)):
        bound = fan_in**-0.5
        for name in ("kernel", "bias"):
            values = np.asarray(params[layer][name])
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.8 * bound
    kernel = np.asarray(params["dense"]["kernel"])
    assert kernel.std() == pytest.approx((kernel.shape[0] * 3) ** -0.5, rel=0.01)  # uniform
    drawn = torch_uniform(4)(jax.random.key(0), (1000,))
    assert np.abs(drawn).max() == pytest.approx(0.5, rel=0.01)


def step_by_step(params, first, second, *, fused, guide):
    """The network from its description, with the map stored and jnp alone."""

    def conv(x, layer):
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x + layer["bias"]

    def pool(x):
        x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        n, h, w, c = x.shape
        return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))

    def relu(x):
        return jnp.maximum(x, 0)

    def trunk(x):
        x = pool(relu(conv(x.astype(jnp.float32) / 255, params["conv1"])))
        return pool(relu(conv(x, params["conv2"])))

    def summary(x, name, dense):
        x = pool(conv(relu(x), params[name]))
        return x.reshape(len(x), -1) @ params[dense]["kernel"] + params[dense]["bias"]

    a, b = trunk(first), trunk(second)
    if guide:
        matched = normxcorr(a, b, ddof=0, epsilon=0.0, reduction="sum")
    else:
        matched = relu(normxcorr(a, b))
    matched = matched @ params["correlation"]["kernel"] + params["correlation"]["bias"]
    parts = [summary(matched, "conv4", "dense")]
    if fused:
        around = relu(cross_input_neighbourhood(a, b))
        around = around @ params["neighbourhood1"]["kernel"] + params["neighbourhood1"]["bias"]
        parts.append(summary(around, "neighbourhood2", "neighbourhood_dense"))
    both = jnp.concatenate(parts, -1)
    both = both if guide else relu(both)
    classes = both @ params["last"]["kernel"] + params["last"]["bias"]
    return jax.nn.log_softmax(classes)[:, 1]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 6, 5, 3), {}),
        ((6, 5, 3), {"features": 7, "activation": jax.nn.relu}),
        ((1, 2, 6, 5, 3), {"patch_size": 3, "row_search": 1, "column_search": 1}),
        ((2, 6, 5, 3), {"epsilon": 0.1, "ddof": 0, "reduction": "sum"}),
    ],
    ids=["published", "one pair", "band", "sum"],
)
def test_layer_is_the_operator(rng, shape, options):
    """The stored map, activated, times the layer's own parameters; their size is found."""
    x, y = rng.normal(size=(2, *shape)).astype(np.float32)
    layer = NormXCorrConv(**options)
    variables = jax.jit(layer.init)(jax.random.key(0), x, y)
    features = options.pop("features", 25)
    activation = options.pop("activation", lambda u: u)
    mapped = activation(normxcorr(x, y, **options))
    params = variables["params"]
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "kernel": (mapped.shape[-1], features),
        "bias": (features,),
    }
    expected = mapped @ params["kernel"] + params["bias"]
    got = jax.jit(layer.apply)(variables, x, y)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    wider = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, 1), (0, 0)])
    if "column_search" in options:
        shaped = jax.eval_shape(layer.apply, variables, wider, wider)
        assert shaped.shape == (*wider.shape[:-1], features)
    else:
        with pytest.raises(flax.errors.ScopeParamShapeError):
            layer.apply(variables, wider, wider)


@pytest.mark.parametrize("name", ["plain", "fused", "guide"])
def test_equals_its_description(networks, rng, name):
    net, variables = networks[name]
    first, second = images(rng, 2), images(rng, 2)
    apply = jax.jit(net.apply)
    logit, features = apply(variables, first, second)
    assert features.shape == (4, 13 * 9 * 25)
    options = {"fused": net.fused, "guide": net.variant == "guide"}
    described = jax.jit(functools.partial(step_by_step, **options))
    expected = described(variables["params"], first, second)
    np.testing.assert_allclose(jax.nn.log_sigmoid(logit), expected, rtol=1e-4, atol=1e-4)
    turned, _ = apply(variables, second, first)
    assert np.abs(turned - logit).max() > 1e-5


def test_other_sizes_and_bfloat16(rng):
    net = NormXCorrNet(column_search=2, dtype=jnp.bfloat16)
    pair = images(rng, 2)
    variables = jax.jit(net.init)(jax.random.key(0), pair, pair)
    apply = jax.jit(lambda net, *arguments: net.apply(*arguments)[0], static_argnums=0)
    assert variables["params"]["correlation"]["kernel"].shape == (25 * 5 * 5, 25)
    logit = apply(net, variables, pair, pair[::-1])
    wide = apply(NormXCorrNet(column_search=2), variables, pair, pair[::-1])
    assert logit.dtype == jnp.float32
    np.testing.assert_allclose(logit, wide, atol=0.02)
    for side, message in (((62, 48), "multiples of 4"), ((36, 48), "at least 40")):
        with pytest.raises(UsageError, match=message):
            net.init(jax.random.key(0), images(rng, 1, side), images(rng, 1, side))
    with pytest.raises(UsageError, match="variant other: choose one of"):
        NormXCorrNet(variant="other").init(jax.random.key(0), pair, pair)


def test_a_batch_of_uniform_images_has_finite_gradients(networks):
    """After ReLU and padding flat patches are ordinary; here all of them are."""
    net, variables = networks["plain"]
    flat = jnp.full((2, *SMALL, 3), 128, jnp.uint8)

    def total(params):
        return net.apply({"params": params}, flat, flat)[0].sum()

    gradient = jax.jit(jax.grad(total))(variables["params"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
