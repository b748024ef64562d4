"""Products in bfloat16: what is rounded, and what is not.

bfloat16 has 8 significant bits: rounding changes a number by at most 2^-9 of it.
"""

import dataclasses
import importlib

import device_cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_experiments import SIDES, batch_of

from siamjax.models.lfw import LfwNet
from siamjax.models.normalization import BatchNorm
from siamjax.models.pooling import average_pool_3x3
from siamjax.models.products import Conv, Dense
from siamjax.models.visual_search import local_response_normalization
from siamjax.options import Precision
from siamjax.training import create_state, initialize, make_train_step
from siamjax.training.description import build_module, describe_module

ROUNDING = 2.0**-9
HALF, WIDE = jnp.bfloat16, jnp.float32


def distance(got, expected):
    """Norm of the difference, as a share of that of what is expected."""
    got, expected = (
        np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])
        for tree in (got, expected)
    )
    assert np.isfinite(got).all()
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


LAYERS = {
    "conv": (Conv(3, (3, 3), dtype=HALF), nn.Conv(3, (3, 3)), (16, 32, 32, 2)),
    "dense": (Dense(3, dtype=HALF), nn.Dense(3), (16384, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_bias_learns_from_a_float32_sum(name, rng):
    """16,384 terms: a sum in bfloat16 stands still at 256 times a term."""
    layer, plain, shape = LAYERS[name]
    x = jnp.asarray(rng.random(shape), WIDE)
    cotangent = jnp.asarray(rng.random((*shape[:-1], 3)), HALF)
    variables = layer.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, plain.init(jax.random.key(0), x))

    def total(params):
        return jnp.sum((layer.apply({"params": params}, x) * cotangent).astype(WIDE))

    gradient = jax.jit(jax.grad(total))(variables["params"])["bias"]
    assert gradient.dtype == WIDE
    expected = np.asarray(cotangent, np.float64).reshape(-1, 3).sum(0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    biased = {"params": {**variables["params"], "bias": jnp.array([1.0, -2.0, 3.0])}}
    got, wanted = layer.apply(biased, x), plain.apply(biased, x)
    assert got.dtype == HALF
    # The inputs, the kernel, the products, the bias and the sum are rounded.
    assert distance(got.astype(WIDE), wanted) < 5 * ROUNDING
    float32 = layer.clone(dtype=WIDE).apply(biased, x)
    np.testing.assert_allclose(float32, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [Conv(3, (3, 3), use_bias=False), Dense(3, use_bias=False)])
def test_a_layer_without_a_bias(layer):
    assert list(layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))["params"]) == ["kernel"]


def exact(rng, *shape):
    """Numbers far from 0 beside their deviation, which bfloat16 holds as they are."""
    x = 128.0 + rng.integers(-4, 5, shape)
    np.testing.assert_array_equal(jnp.asarray(x, HALF).astype(WIDE), x)
    return jnp.asarray(x, WIDE)


SUMS = {
    "average pool": average_pool_3x3,
    "local response": lambda x: local_response_normalization(x, alpha=1e-3),
    "batch norm": lambda x: BatchNorm().apply(
        BatchNorm().init(jax.random.key(0), x, train=True), x, train=True, mutable="batch_stats"
    ),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_bfloat16_are_float32(name, rng):
    """What float32 gives of the same numbers, rounded once; statistics not even that."""
    x = exact(rng, 8, 12, 12, 6)
    expected = SUMS[name](x)
    got = SUMS[name](x.astype(HALF))
    for wanted, found in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        if found.dtype == HALF:
            wanted, found = wanted.astype(HALF).astype(WIDE), found.astype(WIDE)
            # Another order of float32 sums may round the other way, which is rare.
            assert (wanted != found).mean() < 0.01
            np.testing.assert_allclose(found, wanted, rtol=2 * ROUNDING)
        else:
            np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_light_and_contrast_are_taken_off_before_anything_is_rounded(rng):
    """Bright images of so little contrast that bfloat16 would hold a few shades of them."""
    x = jnp.asarray(0.9 + 0.003 * rng.standard_normal((4, 16, 16, 3)), WIDE)
    network = LfwNet(width=0.0625, standardize=True)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    expected = network.apply(variables, x)
    half = network.clone(dtype=HALF)
    assert distance(half.apply(variables, x), expected) < 15 * ROUNDING  # 5 layers of 3 roundings
    rounded = x.astype(HALF).astype(WIDE)
    assert distance(network.apply(variables, rounded), expected) > 30 * ROUNDING


# Slow to compile: the others have the same layers, but for normxcorr, which has its own tests.
SLOW = ("faces_inception", "reid_normxcorr")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in device_cases.EXPERIMENTS
    ],
)
def test_an_experiment_in_bfloat16_is_near_itself_in_float32(name):
    """The loss and its gradients; parameters, state and metrics stay float32.

    How far a rounding moves a gradient depends on the network (ReLUs and maxima switch), so the
    measure is what float32 does with rounded parameters: one rounding a product. In bfloat16 there
    are three, of the inputs, the kernel and the result, and as many in the backward pass: six.
    """
    size, batch = SIDES[name], batch_of(name, 4)
    optimizer = optax.sgd(1.0)  # what a step takes away is then the gradient

    def stepped(dtype):
        network, loss_fn, _ = device_cases.experiment_of(name, dtype=dtype)
        assert build_module(describe_module(network)) == network
        step = jax.jit(make_train_step(loss_fn, optimizer))

        def of(variables):
            state = create_state(variables, optimizer, key=jax.random.key(1))
            after, metrics = step(state, batch)
            for leaf in jax.tree.leaves((after.params, after.model_state, metrics)):
                assert leaf.dtype == WIDE
            gradient = jax.tree.map(np.subtract, state.params, after.params)
            return metrics["loss"].compute(), gradient

        return network, of

    network, wide = stepped("float32")
    _, half = stepped("bfloat16")
    variables, _ = initialize(network, size, seed=0)
    rounded = jax.tree.map(lambda p: p.astype(HALF).astype(WIDE), variables["params"])
    loss, gradient = wide(variables)
    one_rounding = distance(wide({**variables, "params": rounded})[1], gradient)
    half_loss, half_gradient = half(variables)
    assert one_rounding / 2 < distance(half_gradient, gradient) < 6 * one_rounding
    assert abs(half_loss - loss) < 6 * 3 * ROUNDING * loss
    assert half_loss != loss


@pytest.mark.parametrize("name", device_cases.EXPERIMENTS)
def test_the_option_is_the_same_in_every_experiment(name):
    config = importlib.import_module(f"experiments.{name}").Config
    (field,) = (field for field in dataclasses.fields(config) if field.name == "dtype")
    assert (field.type, field.default) == (Precision, "float32")
