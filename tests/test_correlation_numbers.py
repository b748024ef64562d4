"""The operator's digits where patches are nearly flat, at any scale, and in JAX's strict modes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from siamjax.correlation import (
    cross_input_neighbourhood,
    normxcorr,
    normxcorr_by_definition,
    normxcorr_conv,
    patch_products,
)
from siamjax.correlation.options import options_of
from siamjax.errors import UsageError

SHAPE = (8, 7, 1)
SMALL = {"patch_size": 3, "row_search": 1, "epsilon": 1e-3}
ORACLE = {"patch": 3, "rows": 1, "epsilon": 1e-3}
GUIDE = {**SMALL, "epsilon": 0.0, "ddof": 0}


def noise(seed, scale=1.0):
    return scale * np.random.default_rng(seed).normal(size=(2, *SHAPE))


def beside(values, inside, size=5):
    """A corner of nearly flat patches in maps of other values."""
    values = np.array(values)
    values[:, :size, :size] = inside[:, :size, :size]
    return values


RELU = np.maximum(noise(0), 0)
PEAK = np.zeros((2, *SHAPE))
PEAK[:, 2, 2] = 0.02
LEFT = np.arange(SHAPE[1])[None, None, :, None] < 3
PAIRS = {
    "after a ReLU": RELU,
    "flat beside a ReLU": beside(RELU, noise(1, 0.004)),
    "flat at 3 beside a ReLU": beside(RELU, 3 + noise(1, 0.004)),
    "flat beside hundreds": beside(300 * RELU, np.maximum(noise(1, 0.02), 0)),
    "one small peak": beside(RELU, PEAK),
    "a step of 200": noise(2, 0.003) + np.where(LEFT, 0.0, 200.0),
    "steps both ways": noise(3, 0.01) + 2.0 * LEFT + 3.0 * (np.arange(8)[None, :, None, None] > 3),
    "offset 10,000": noise(4) + 1e4,
    "a ramp": noise(5, 0.01) + np.linspace(0, 30, 8)[None, :, None, None],
    "sparse": np.where(noise(6) > 1.2, noise(7) ** 2, 0.0),
    "bfloat16": np.asarray(jnp.asarray(3 + noise(8), jnp.bfloat16), np.float64),
}
WEIGHT = np.random.default_rng(9).normal(size=(8, 7, 21)).astype(np.float32)


def by_patches(x, y, **options):
    static = options_of(
        **{"column_search": None, "ddof": 1, "reduction": "mean", **options}  # pyright: ignore
    )
    return patch_products.map_of(x[None], y[None], static)[0]


def with_gradient(function, **options):
    def weighed(x, y):
        mapped = function(x, y, **options)
        return (mapped * WEIGHT.astype(mapped.dtype)).sum(), mapped

    return jax.jit(jax.value_and_grad(weighed, (0, 1), has_aux=True))


FORMS = {
    "shifted maps": with_gradient(normxcorr, **SMALL),
    "matrix products": with_gradient(by_patches, **SMALL),
    "definition": with_gradient(normxcorr_by_definition, **SMALL),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("form", FORMS)
def test_nothing_outside_a_patch_costs_a_digit(name, form):
    x, y = PAIRS[name].astype(np.float32)
    (_, found), gradients = FORMS[form](x, y)
    expected = oracles.normxcorr(x, y, **ORACLE)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-6)
    right = oracles.normxcorr_gradient(x, y, WEIGHT, **ORACLE)
    for ours, theirs in zip(gradients, right, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("columns", [None, 2])
def test_the_fused_form_keeps_them_too(columns):
    pairs = np.stack([PAIRS[n] for n in ("flat beside hundreds", "a step of 200")], axis=1)
    x, y = pairs.astype(np.float32)
    mapped = np.stack(
        [oracles.normxcorr(a, b, **ORACLE, columns=columns) for a, b in zip(x, y, strict=True)]
    )
    kernel = np.random.default_rng(1).normal(size=(mapped.shape[-1], 3)).astype(np.float32)
    options = {**SMALL, "column_search": columns}
    found = normxcorr_conv(x, y, jnp.asarray(kernel), activation=jax.nn.relu, **options)
    np.testing.assert_allclose(found, np.maximum(mapped, 0) @ kernel, atol=1e-5)


@pytest.mark.parametrize(
    ("one", "other"), [(1e-30, 1e-30), (1e30, 1e30), (1e-20, 1.0), (1e9, 1e-9)]
)
def test_any_scale(one, other):
    """Without epsilon the correlation has no scale, and gradients have the inverse of the map's."""
    compute = SCALED
    x, y = RELU.astype(np.float32)
    (_, plain), wanted = compute(x, y)
    (_, found), gradients = compute(x * np.float32(one), y * np.float32(other))
    np.testing.assert_allclose(found, plain, atol=1e-6)
    for scale, ours, theirs in zip((one, other), gradients, wanted, strict=True):
        ours = np.asarray(ours, np.float64) * scale
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


SCALED = with_gradient(normxcorr, **GUIDE)


def test_gradients_of_maps_far_below_epsilon():
    """The correlation itself, 1e-54, is 0 in float32, but not its gradient, 1e-24."""
    x, y = (1e-30 * RELU).astype(np.float32)
    (_, found), gradients = FORMS["shifted maps"](x, y)
    np.testing.assert_allclose(found, 0.0, atol=1e-30)
    for ours, theirs in zip(
        gradients, oracles.normxcorr_gradient(x, y, WEIGHT, **ORACLE), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_patches_below_the_least_deviation_count_as_flat():
    x, y = RELU.astype(np.float32)
    x[:5, :5], x[2, 2] = 0, 1e-17
    (_, found), gradients = SCALED(x, y)
    assert np.abs(np.asarray(found).reshape(8, 7, 3, 7)[2, 2]).max() == 0
    assert all(np.isfinite(g).all() for g in gradients)


def summed(function, **options):
    return lambda *arguments: function(*arguments, **options).sum()


def test_float64_has_its_own_digits():
    x, y = PAIRS["a step of 200"]
    with jax.enable_x64(True):
        (_, found), gradients = with_gradient(normxcorr, **SMALL)(x, y)
    np.testing.assert_allclose(found, oracles.normxcorr(x, y, **ORACLE), atol=1e-11)
    for ours, theirs in zip(
        gradients, oracles.normxcorr_gradient(x, y, WEIGHT, **ORACLE), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-10 * np.abs(theirs).max())


@pytest.mark.slow
def test_forward_mode_is_the_definition_s():
    """As the docstring says: reverse over reverse works, forward mode raises TypeError."""
    x, y = (jnp.asarray(u[:4, :3]) for u in beside(RELU, np.zeros((2, *SHAPE)), 3))
    few = {"patch_size": 3, "row_search": 1}

    def square(function, x):
        return jnp.square(function(x, y, **few)).sum()

    fast, definition = partial(square, normxcorr), partial(square, normxcorr_by_definition)
    for forward in (lambda: jax.jvp(fast, (x,), (x,)), lambda: jax.hessian(fast)(x)):
        with pytest.raises(TypeError, match="forward-mode"):
            forward()
    expected = jax.jit(jax.hessian(definition))(x)
    found = jax.jit(jax.jacrev(jax.grad(fast)))(x)  # y is a constant of the jit
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    slope = jax.jvp(definition, (x,), (y,))[1]
    np.testing.assert_allclose(slope, (jax.grad(fast)(x) * y).sum(), rtol=1e-4)


def test_a_map_may_be_a_constant_under_jit():
    x, y = (jnp.asarray(u, jnp.float32) for u in RELU)
    few = {"patch_size": 3, "row_search": 0, "column_search": 0}
    found = jax.jit(lambda x: normxcorr(x, y, **few))(x)
    np.testing.assert_allclose(found, normxcorr(x, y, **few), atol=1e-6)
    endless = jnp.full(SHAPE, jnp.inf)
    with pytest.raises(UsageError, match=r"second map is inf at \(0, 0, 0\)"):
        jax.jit(lambda x: normxcorr(x, endless))(x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e-3, "0.01", None, True])
def test_epsilon_is_a_number_from_0(value):
    x, y = (jnp.asarray(u, jnp.float32) for u in RELU)
    for function in (normxcorr, normxcorr_by_definition):
        with pytest.raises(UsageError, match="epsilon"):
            function(x, y, epsilon=value)


@pytest.mark.parametrize("name", ["patch_size", "row_search", "column_search", "ddof"])
@pytest.mark.parametrize("value", [-1, 2.5, float("nan"), "3", True, 10**30])
def test_sizes_are_whole_numbers(name, value):
    x, y = (jnp.asarray(u, jnp.float32) for u in RELU)
    with pytest.raises(UsageError, match=name):
        normxcorr(x, y, **{name: value})


def test_other_options_that_cannot_be():
    x, y = (jnp.asarray(u, jnp.float32) for u in RELU)
    refused = [
        (lambda: normxcorr(x, y, patch_size=1), "patch_size 1: must be at least 3"),
        (lambda: normxcorr(x, y, gradient="papers"), "choose one of exact, paper"),
        (lambda: jax.jit(lambda e: normxcorr(x, y, epsilon=e))(0.1), "epsilon is traced"),
        (lambda: jax.vmap(lambda e: normxcorr(x, y, epsilon=e))(jnp.ones(2)), "epsilon is traced"),
        (lambda: cross_input_neighbourhood(x, y, size=0), "size 0: must be at least 1"),
        (lambda: cross_input_neighbourhood(x, y, size=float("nan")), "size nan"),
    ]
    for call, message in refused:
        with pytest.raises(UsageError, match=message):
            call()


def test_numpy_s_numbers_are_as_good_as_python_s():
    x, y = (jnp.asarray(u, jnp.float32) for u in RELU)
    found = normxcorr(x, y, patch_size=np.int64(3), row_search=np.int8(1), epsilon=np.float32(1e-3))
    np.testing.assert_array_equal(found, normxcorr(x, y, **SMALL))
