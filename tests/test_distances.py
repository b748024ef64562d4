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


@pytest.mark.parametrize("block", [1, 3, 128])
@pytest.mark.parametrize("name", ["squared_euclidean", "euclidean", "cosine"])
def test_pairwise_is_every_pair(rng, name, block):
    x, y = rng.normal(size=(7, 5)), rng.normal(size=(4, 5))
    single = getattr(distances, name)
    expected = [[float(single(a, b)) for b in y] for a in x]
    got = getattr(distances, f"pairwise_{name}")(jnp.asarray(x), jnp.asarray(y), block=block)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_pairwise_survives_a_common_offset(rng):
    """||x||^2 + ||y||^2 - 2xy alone would leave nothing of a distance of 1 at an offset of 1e4."""
    x = rng.normal(size=(6, 8)) + 1e4
    exact = ((x[:, None].astype(np.float32).astype(np.float64) - x.astype(np.float32)) ** 2).sum(-1)
    got = distances.pairwise_squared_euclidean(jnp.asarray(x), jnp.asarray(x))
    np.testing.assert_allclose(got, exact, rtol=1e-3, atol=1e-2)


def test_bfloat16_sums_in_float32(rng):
    x = jnp.asarray(rng.normal(size=(1, 4096)), jnp.bfloat16)
    got = distances.squared_euclidean(x, jnp.zeros_like(x))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.square(np.asarray(x, np.float64)).sum(-1), rtol=1e-5)
