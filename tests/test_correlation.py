"""normxcorr against loops in float64, its gradients, its fused form, and both formulations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from siamjax import correlation
from siamjax.correlation import cross_input_neighbourhood, normxcorr, normxcorr_conv, patch_products
from siamjax.correlation.options import Options
from siamjax.errors import UsageError

GUIDE = {"ddof": 0, "epsilon": 0.0, "reduction": "sum"}
CASES = {
    "paper": ((7, 6, 2), {}),
    "one row": ((6, 5, 2), {"row_search": 0}),
    "small patch": ((5, 6, 1), {"patch_size": 3, "row_search": 1}),
    "large patch on a small map": ((4, 3, 2), {"patch_size": 7, "row_search": 3}),
    "guide": ((6, 5, 2), GUIDE),
    "band": ((6, 9, 2), {"column_search": 2}),
    "band wider than the map": ((5, 4, 1), {"column_search": 6, "patch_size": 3}),
    "one column": ((5, 1, 2), {"row_search": 1}),
}


def as_oracle(options):
    names = {"patch_size": "patch", "row_search": "rows", "column_search": "columns"}
    named = {names.get(k, k): v for k, v in options.items() if k != "reduction"}
    return {**named, "mean": options.get("reduction", "mean") == "mean"}


def internal(options, activation=None):
    o = as_oracle(options)
    return Options(
        patch=o.get("patch", 5),
        rows=o.get("rows", 2),
        columns=o.get("columns"),
        epsilon=o.get("epsilon", 1e-2),
        ddof=o.get("ddof", 1),
        mean=o["mean"],
        paper_gradient=False,
        activation=activation,
    )


def maps(rng, shape, count=2):
    """Features as after a ReLU: a third of them 0, some patches flat."""
    pair = np.maximum(rng.normal(size=(2, count, *shape)) + 0.4, 0).astype(np.float32)
    pair[0, 0, :4, :4, 0] = 0.0
    return jnp.asarray(pair[0]), jnp.asarray(pair[1])


@pytest.mark.parametrize(("shape", "options"), CASES.values(), ids=CASES)
def test_equals_the_definition_in_loops(rng, shape, options):
    x, y = maps(rng, shape)
    expected = np.stack(
        [oracles.normxcorr(a, b, **as_oracle(options)) for a, b in zip(x, y, strict=True)]
    )
    assert expected.std() > 0.1
    scale = np.abs(expected).max()
    found = jax.jit(partial(normxcorr, **options))(x, y)
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)
    definition = partial(correlation.normxcorr_by_definition, **options)
    readable = jax.jit(jax.vmap(definition))(x, y)
    np.testing.assert_allclose(readable, expected, atol=1e-5 * scale)
    products = jax.jit(patch_products.map_of, static_argnums=2)(x, y, internal(options))
    np.testing.assert_allclose(products, expected, atol=1e-5 * scale)


def test_shape_and_order_of_the_channels(rng):
    """8 x 8 x 5 gives 8 x 8 x 200; a channel of its own changes its own block alone."""
    x, y = maps(rng, (8, 8, 5), count=1)
    found = normxcorr(x[0], y[0]).reshape(8, 8, 5, 5, 8)
    changed = normxcorr(x[0].at[..., 3].multiply(-1.0), y[0]).reshape(8, 8, 5, 5, 8)
    np.testing.assert_allclose(changed[:, :, 3], -found[:, :, 3], atol=1e-6)
    np.testing.assert_array_equal(np.delete(changed, 3, 2), np.delete(found, 3, 2))
    # Row offset r of x's row i and r - 1 of its row i + 1 look at the same patches of y.
    assert not np.allclose(found[2, :, :, 1], found[2, :, :, 2])


def test_a_map_finds_itself(rng):
    """At offset (0, own column) a patch meets itself: n s^2 / (n (s + e)^2), 1 without epsilon."""
    x = jnp.asarray(rng.normal(size=(6, 7, 2)), jnp.float32)
    found = normxcorr(x, x, epsilon=0.0).reshape(6, 7, 2, 5, 7)
    own = np.asarray(found)[:, np.arange(7), :, 2, np.arange(7)]
    np.testing.assert_allclose(own, 1.0, atol=1e-5)
    band = normxcorr(x, x, epsilon=0.0, column_search=1).reshape(6, 7, 2, 5, 3)
    np.testing.assert_allclose(band[..., 2, 1], 1.0, atol=1e-5)
    assert np.abs(found).max() <= 1 + 1e-5


@pytest.mark.parametrize("ratio", [10.0, 100.0])
def test_large_means_do_not_cancel(rng, ratio):
    x, y = (rng.normal(size=(9, 8, 2)) + ratio for _ in range(2))
    found = normxcorr(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    expected = oracles.normxcorr(np.float32(x), np.float32(y))
    inner = np.s_[2:-2, 2:-2]  # at the border the padding of 0 makes another image of both
    np.testing.assert_allclose(found[inner], expected[inner], atol=2e-5)


FUSED = {"usual": {}, "band": {"column_search": 2}, "guide": GUIDE}
ACTIVATIONS = {"relu": jax.nn.relu, "none": None, "tanh": jnp.tanh}


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        pytest.param(o, a, marks=() if o == "usual" or a == "relu" else pytest.mark.slow)
        for o in FUSED
        for a in ACTIVATIONS
    ],
)
def test_fused_form_equals_two_steps(rng, options, activation):
    """Values and all four gradients, in chunks and with a rest."""
    options, activation = FUSED[options], ACTIVATIONS[activation]
    x, y = maps(rng, (7, 6, 3), count=3)
    features = jax.eval_shape(partial(normxcorr, **options), x, y).shape[-1]
    kernel = jnp.asarray(rng.normal(size=(features, 4)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=4), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(3, 7, 6, 4)), jnp.float32)

    def fused(x, y, kernel, bias):
        out = normxcorr_conv(x, y, kernel, bias, activation=activation, **options)
        return (out * weight).sum(), out

    def stepwise(x, y, kernel, bias):
        correlated = normxcorr(x, y, **options)
        out = (activation or (lambda u: u))(correlated) @ kernel + bias
        return (out * weight).sum(), out

    arguments = (x, y, kernel, bias)
    ours, theirs = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2, 3), has_aux=True))(*arguments)
        for f in (fused, stepwise)
    )
    close(ours[0][1], theirs[0][1], 1e-5)
    for one, other in zip(ours[1], theirs[1], strict=True):
        close(one, other, 2e-4)


def close(one, other, tolerance):
    one, other = np.asarray(one), np.asarray(other)
    assert np.abs(other).max() > 0
    np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize("options", [{}, {"column_search": 1}, {"patch_size": 3}], ids=str)
def test_both_formulations_have_one_gradient(rng, options):
    x, y = maps(rng, (6, 5, 2))
    shape = jax.eval_shape(partial(normxcorr, **options), x, y).shape
    weight = jnp.asarray(rng.normal(size=shape), jnp.float32)
    static = internal(options)
    ours, others = (
        jax.jit(jax.grad(lambda x, y, f=f: (f(x, y) * weight).sum(), (0, 1)))(x, y)
        for f in (partial(normxcorr, **options), partial(patch_products.map_of, options=static))
    )
    for one, two in zip(ours, others, strict=True):
        close(one, two, 1e-4)
    kernel = jnp.asarray(rng.normal(size=(weight.shape[-1], 3)), jnp.float32)
    by_offset = kernel.reshape(2, static.offsets, -1, 3).swapaxes(0, 1)
    with_relu = partial(patch_products.conv_of, options=static._replace(activation=jax.nn.relu))
    products = jax.jit(with_relu)(x, y, by_offset.reshape(static.offsets, -1, 3))
    fused = jax.jit(partial(normxcorr_conv, activation=jax.nn.relu, **options))
    close(fused(x, y, kernel), products, 1e-5)


@pytest.mark.parametrize("gradient", ["exact", "paper"])
@pytest.mark.parametrize("scale", [1.0, 0.03])
def test_gradient_equals_loops(rng, gradient, scale):
    """At a deviation of 0.03 the two differ by a third; each must equal its own."""
    x, y = (scale * rng.normal(size=(6, 5, 2)).astype(np.float32) for _ in range(2))
    weight = rng.normal(size=(6, 5, 50)).astype(np.float32)

    def total(x, y):
        return (normxcorr(x, y, gradient=gradient) * weight).sum()

    found = jax.jit(jax.grad(total, (0, 1)))(jnp.asarray(x), jnp.asarray(y))
    expected = oracles.normxcorr_gradient(x, y, weight, paper=gradient == "paper")
    other = oracles.normxcorr_gradient(x, y, weight, paper=gradient != "paper")
    for one, two, three in zip(found, expected, other, strict=True):
        close(one, two, 2e-5)
        assert np.abs(two - three).max() > 5e-3 * np.abs(two).max()


@pytest.mark.parametrize("gradient", ["exact", "paper"])
@pytest.mark.parametrize("epsilon", [1e-2, 0.0])
def test_flat_patches_correlate_0_with_finite_gradients(gradient, epsilon, rng):
    flat, other = jnp.full((6, 5, 2), 3.7), jnp.asarray(rng.normal(size=(6, 5, 2)), jnp.float32)
    options = {"gradient": gradient, "epsilon": epsilon, "patch_size": 3, "row_search": 1}
    found = jax.jit(partial(normxcorr, **options))(flat, other)
    np.testing.assert_array_equal(found[1:-1, 1:-1], 0.0)  # inside; at the border is an edge
    gradient_of = jax.jit(jax.grad(lambda x, y: normxcorr(x, y, **options).sum(), (0, 1)))
    for pair in ((flat, other), (other, flat), (flat * 0, flat * 0)):
        gradients = gradient_of(*pair)
        assert all(np.isfinite(g).all() for g in gradients)
    if epsilon and gradient == "exact":
        # The deviation has a kink there, the correlation has none: a real derivative, kept.
        weight = rng.normal(size=(6, 5, 50)).astype(np.float32)
        ours = jax.jit(jax.grad(lambda x: (normxcorr(x, other) * weight).sum()))(flat * 0)
        expected, _ = oracles.normxcorr_gradient(np.zeros((6, 5, 2)), other, weight)
        close(ours, expected, 1e-4)


def test_transformations_and_batch_axes(rng):
    x, y = maps(rng, (6, 5, 2), count=6)
    plain = normxcorr(x, y)
    np.testing.assert_allclose(jax.jit(normxcorr)(x, y), plain, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(normxcorr))(x, y), plain, atol=1e-6)
    np.testing.assert_allclose(normxcorr(x[0], y[0]), plain[0], atol=1e-6)
    shaped = normxcorr(x.reshape(2, 3, 6, 5, 2), y.reshape(2, 3, 6, 5, 2))
    np.testing.assert_allclose(shaped.reshape(plain.shape), plain, atol=1e-6)
    assert normxcorr(x[:0], y[:0]).shape == (0, *plain.shape[1:])
    assert normxcorr_conv(x[:0], y[:0], jnp.ones((50, 3))).shape == (0, 6, 5, 3)
    np.testing.assert_array_equal(normxcorr(np.float64(x), np.float64(y)), plain)
    gradient = jax.grad(lambda x, y: normxcorr(x, y).sum())
    close(jax.jit(jax.vmap(gradient))(x, y), jax.jit(gradient)(x, y), 1e-5)
    assert not np.allclose(normxcorr(y, x), plain, atol=0.1)  # asymmetric


def test_bfloat16_has_float32_statistics(rng):
    x, y = (u.astype(jnp.bfloat16) for u in maps(rng, (6, 5, 2)))
    found = normxcorr(x, y)
    assert found.dtype == jnp.bfloat16
    wide = normxcorr(x.astype(jnp.float32), y.astype(jnp.float32))
    np.testing.assert_array_equal(found, wide.astype(jnp.bfloat16))


def test_fused_form_never_holds_the_map(rng):
    """64 pairs of 37x12x25: the map alone is 171 MB."""
    maps_like = jax.ShapeDtypeStruct((64, 37, 12, 25), jnp.float32)
    kernel = jax.ShapeDtypeStruct((1500, 25), jnp.float32)

    def total(x, y, kernel):
        return normxcorr_conv(x, y, kernel, activation=jax.nn.relu).sum()

    compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(maps_like, maps_like, kernel).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 32e6


def test_cross_input_neighbourhood(rng):
    """Written from the paper's equation, value by value."""
    x, y = rng.normal(size=(2, 4, 5, 2)).astype(np.float32)
    found = np.asarray(cross_input_neighbourhood(jnp.asarray(x), jnp.asarray(y)))
    assert found.shape == (4, 5, 100)
    for start, one, other in ((0, x, y), (50, y, x)):
        for i, j, c, a, b in np.ndindex(4, 5, 2, 5, 5):
            k, m = i + a - 2, j + b - 2
            inside = 0 <= k < 4 and 0 <= m < 5
            expected = one[i, j, c] - (other[k, m, c] if inside else 0.0)
            assert found[i, j, start + c * 25 + a * 5 + b] == pytest.approx(expected, abs=1e-6)


def test_neighbourhood_conv_equals_two_steps(rng):
    x, y = maps(rng, (6, 5, 3))
    kernel, bias = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((150, 4), (4,)))
    weight = jnp.asarray(rng.normal(size=(2, 6, 5, 4)), jnp.float32)

    def fused(x, y, kernel, bias):
        out = correlation.cross_input_neighbourhood_conv(x, y, kernel, bias, activation=jax.nn.relu)
        return (out * weight).sum()

    def stepwise(x, y, kernel, bias):
        out = jax.nn.relu(cross_input_neighbourhood(x, y)) @ kernel + bias
        return (out * weight).sum()

    ours, theirs = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(x, y, kernel, bias) for f in (fused, stepwise)
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        close(one, other, 1e-5)
    with pytest.raises(UsageError, match=r"expected \(150, outputs\)"):
        correlation.cross_input_neighbourhood_conv(x, y, kernel[:75])


def test_refusals(rng):
    x, y = maps(rng, (6, 5, 2))
    refused = [
        (lambda: normxcorr(x, y[:, :5]), r"\(2, 6, 5, 2\) .* and \(2, 5, 5, 2\)"),
        (lambda: normxcorr(x, y[..., :1]), "must have the same shape"),
        (lambda: normxcorr(x, y.astype(jnp.bfloat16)), "bfloat16"),
        (lambda: normxcorr(x, y, patch_size=4), "patch_size 4: .* odd"),
        (lambda: normxcorr(x, y, row_search=-1), "row_search -1: must be at least 0"),
        (lambda: normxcorr(x, y, column_search=-2), "column_search -2"),
        (lambda: normxcorr(x, y, epsilon=-1.0), "epsilon -1.0"),
        (lambda: normxcorr(x, y, ddof=25), "ddof 25"),
        (lambda: normxcorr(x, y, reduction="max"), "reduction max: choose one of mean, sum"),
        (lambda: normxcorr(x[0, 0], y[0, 0]), "batch, height, width, channels"),
        (lambda: normxcorr(x.astype(int), y.astype(int)), "int"),
        (
            lambda: normxcorr(x, y.at[1, 2, 3, 0].set(jnp.nan)),
            r"second map is nan at \(1, 2, 3, 0\)",
        ),
        (lambda: normxcorr_conv(x, y, jnp.ones((49, 3))), r"2 channels x 5 rows x 5 columns"),
        (lambda: normxcorr_conv(x, y, jnp.ones((50, 1)), jnp.ones(7)), r"bias of shape \(7,\)"),
        (lambda: cross_input_neighbourhood(x, y, size=4), "odd"),
    ]
    for call, message in refused:
        with pytest.raises(UsageError, match=message):
            call()


@pytest.mark.parity
def test_opencv_agrees_where_the_definitions_meet(faces):
    """TM_CCOEFF_NORMED has no epsilon and no padding: compare inner patches of real images.

    OpenCV correlates images of 0..255 in float32, good to some 3e-4 here.
    """
    cv2 = pytest.importorskip("cv2")
    one, other = (faces.image(i)[20:60:2, 20:60:2, :1].astype(np.float32) for i in (0, 1))
    rows, half = 2, 2
    found = normxcorr(jnp.asarray(one), jnp.asarray(other), epsilon=0.0)
    found = np.asarray(found).reshape(20, 20, 5, 20)
    compared = 0
    for i in range(half + rows, 20 - half - rows):
        for j in range(half, 20 - half):
            template = one[i - half : i + half + 1, j - half : j + half + 1, 0]
            strip = other[i - half - rows : i + half + rows + 1, :, 0]
            expected = cv2.matchTemplate(strip, template, cv2.TM_CCOEFF_NORMED)
            np.testing.assert_allclose(found[i, j, :, half : 20 - half], expected, atol=1e-3)
            compared += expected.size
    assert compared == 12 * 16 * 5 * 16
