from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.test_util import check_grads

from siamjax import distances


def test_euclidean_of_3_4_5():
    assert float(distances.euclidean(jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0]))) == 5.0
    assert float(distances.squared_euclidean(jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0]))) == 25.0


def test_against_oracle_over_any_batch_axes(rng):
    x, y = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5))
    expected = np.empty(x.shape[:-1])
    for place in np.ndindex(expected.shape):
        expected[place] = oracles.euclidean(x[place], y[place])
    np.testing.assert_allclose(distances.euclidean(x, y), expected, rtol=1e-6)


def test_gradient_is_right_apart_and_zero_when_equal(rng):
    x, y = jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32)
    check_grads(distances.euclidean, (x, y), order=1, modes=["rev"], rtol=1e-2)
    for function in (distances.euclidean, distances.squared_euclidean):
        gradient = jax.grad(lambda a, f=function: f(a, x).sum())(x)
        np.testing.assert_array_equal(gradient, 0.0)


def test_nan_stays_nan():
    """A broken network must not look as if all its embeddings were equal."""
    broken, x = jnp.array([jnp.nan, 1.0]), jnp.ones(2)
    assert np.isnan(distances.euclidean(broken, x))
    assert np.isnan(distances.cosine(broken, x))


def test_cosine_by_hand_and_at_zero():
    x, y = jnp.array([3.0, 4.0]), jnp.array([4.0, 3.0])
    assert float(distances.cosine(x, y)) == pytest.approx(1 - 24 / 25, abs=1e-6)
    assert float(distances.cosine(x, -x)) == pytest.approx(2.0)
    assert float(distances.cosine(x, jnp.zeros(2))) == 1.0
    assert np.isfinite(jax.grad(lambda a: distances.cosine(a, y))(jnp.zeros(2))).all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_by_hand_and_at_zero(scale):
    """(3, 4) is 5 long. Its gradient is (1, 0) less the part along (0.6, 0.8), over 5."""
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]]) * scale
    np.testing.assert_allclose(distances.unit(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    gradient = jax.grad(lambda x: distances.unit(x)[:, 0].sum())(x)
    np.testing.assert_allclose(gradient[0] * scale, [0.64 / 5, -0.48 / 5], rtol=1e-5)
    assert np.isfinite(gradient[1]).all()


@pytest.mark.parametrize("block", [1, 3, 128])
@pytest.mark.parametrize("name", ["squared_euclidean", "euclidean", "cosine"])
def test_pairwise_is_every_pair(rng, name, block):
    x, y = rng.normal(size=(7, 5)), rng.normal(size=(4, 5))
    single = getattr(distances, name)
    expected = [[float(single(a, b)) for b in y] for a in x]
    got = getattr(distances, f"pairwise_{name}")(jnp.asarray(x), jnp.asarray(y), block=block)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


SCALES = [1e-30, 1e-22, 1e-12, 1.0, 1e12, 1e22, 1e30]


def by_definition(name, x, y):
    """In float64; the cosine from unit vectors, which keep the digits of small angles there."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if name == "cosine":
        x, y = (u / np.linalg.norm(u, axis=-1, keepdims=True) for u in (x, y))
        return np.square(x - y).sum(-1) / 2
    return np.linalg.norm(x - y, axis=-1)


@pytest.mark.parametrize("name", ["euclidean", "cosine"])
@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_that_float32_holds(rng, name, scale):
    """Squares would overflow above 1e19 and vanish below 1e-19."""
    x, y = (scale * rng.normal(size=(2, 6, 20))).astype(np.float32)
    x[0], y[1] = 0, -x[1]
    x[2, 1:], y[2, 1:] = 0, 0  # one entry only
    function = getattr(distances, name)
    expected = by_definition(name, np.where(x == 0, 0, x)[1:], y[1:])
    np.testing.assert_allclose(function(x, y)[1:], expected, rtol=1e-6, atol=0)
    assert float(function(x[0], y[0])) == pytest.approx(
        1.0 if name == "cosine" else np.linalg.norm(y[0].astype(np.float64)), rel=1e-6
    )
    gradient = jax.grad(lambda x: function(x, y).sum())(jnp.asarray(x))
    assert np.isfinite(gradient).all()
    unscaled = jax.grad(lambda x: function(x, y / np.float32(scale)).sum())(
        jnp.asarray(x / np.float32(scale))
    )
    factor = 1.0 if name == "euclidean" else scale
    np.testing.assert_allclose(np.float64(gradient) * factor, unscaled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6])
@pytest.mark.parametrize("name", ["squared_euclidean", "euclidean"])
def test_tight_groups_far_from_the_origin_and_from_each_other(rng, name, offset):
    """|x|^2 + |y|^2 - 2xy has no digit left here, about the mean of all too."""
    rows = offset + rng.normal(size=(40, 8)) + np.repeat([[-3e4], [5e4]], 20, axis=0)
    rows = rows.astype(np.float32)
    got = np.asarray(getattr(distances, f"pairwise_{name}")(rows, rows))
    expected = by_definition("euclidean", rows[:, None], rows[None])
    if name == "squared_euclidean":
        expected = expected**2
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=0)
    np.testing.assert_array_equal(np.diag(got), 0.0)


@pytest.mark.parametrize("name", ["squared_euclidean", "euclidean", "cosine"])
@pytest.mark.parametrize("features", [3, 31, 130])
def test_equal_embeddings_tie_to_the_last_bit(rng, name, features):
    x, one = rng.normal(size=(9, features)), rng.normal(size=features)
    pairwise = partial(getattr(distances, f"pairwise_{name}"), block=4)
    for function in (pairwise, jax.jit(pairwise)):
        got = np.asarray(function(x, np.tile(one, (37, 1))))
        np.testing.assert_array_equal(got, np.broadcast_to(got[:, :1], got.shape))


@pytest.mark.parametrize("angle", [1e-7, 1e-5, 1e-3, 0.1, np.pi - 1e-3])
def test_cosine_of_small_angles_and_of_other_lengths(rng, angle):
    """At lengths of one size all digits are right; at others the angle is to 1e-7."""
    x = rng.normal(size=(30, 64))
    across = rng.normal(size=x.shape)
    across -= (across * x).sum(-1, keepdims=True) / np.square(x).sum(-1, keepdims=True) * x
    across *= np.linalg.norm(x, axis=-1, keepdims=True) / np.linalg.norm(across, axis=-1)[:, None]
    for length in (1.0, 1.1, 1e-9, 1e9):
        y = (length * (np.cos(angle) * x + np.sin(angle) * across)).astype(np.float32)
        got = np.asarray(distances.cosine(x, y))
        assert (got >= 0).all()
        assert (got <= 2).all()
        expected = by_definition("cosine", x.astype(np.float32), y)
        if length == 1.0:
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=0)
        wrong = np.sqrt(2 * got) - np.sqrt(2 * expected)
        np.testing.assert_allclose(wrong, 0, atol=1e-6)


def test_cosine_is_symmetric_and_0_of_equal_directions(rng):
    x, y = jnp.asarray(rng.normal(size=(2, 50, 20)), jnp.float32)
    np.testing.assert_array_equal(distances.cosine(x, y), distances.cosine(y, x))
    np.testing.assert_array_equal(distances.cosine(x, 2**20 * x), 0.0)
    np.testing.assert_array_equal(jax.grad(lambda a: distances.cosine(a, x).sum())(x), 0.0)


@pytest.mark.parametrize("name", ["squared_euclidean", "euclidean", "cosine"])
@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0, 3)])
def test_pairwise_of_nothing(name, shape):
    rows, columns, features = shape
    pairwise = getattr(distances, f"pairwise_{name}")
    assert pairwise(jnp.ones((rows, features)), jnp.ones((columns, features))).shape == shape[:2]


def test_bfloat16_sums_in_float32(rng):
    x = jnp.asarray(rng.normal(size=(1, 4096)), jnp.bfloat16)
    got = distances.squared_euclidean(x, jnp.zeros_like(x))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.square(np.asarray(x, np.float64)).sum(-1), rtol=1e-5)
