import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.models.pooling import max_pool_2x2


def test_by_hand():
    x = jnp.array([[1.0, 2.0, 5.0, 5.0], [4.0, 3.0, 5.0, 1.0]])[None, :, :, None]
    np.testing.assert_array_equal(max_pool_2x2(x)[0, :, :, 0], [[4.0, 5.0]])
    gradient = jax.grad(lambda x: (max_pool_2x2(x)[0, 0, :, 0] * jnp.array([2.0, 3.0])).sum())(x)
    # the first of the three fives in row-major order takes all of it
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 0, 3.0, 0], [2.0, 0, 0, 0]])


def test_gradient_equals_that_of_reduce_max(rng):
    x = jnp.asarray(rng.permutation(2 * 4 * 6 * 3).reshape(2, 4, 6, 3), jnp.float32)  # no ties
    weight = jnp.asarray(rng.normal(size=(2, 2, 3, 3)), jnp.float32)

    def reference(x):
        return (x.reshape(2, 2, 2, 3, 2, 3).max((2, 4)) * weight).sum()

    np.testing.assert_array_equal(
        jax.grad(lambda x: (max_pool_2x2(x) * weight).sum())(x), jax.grad(reference)(x)
    )


def test_batch_axes_and_bfloat16():
    x = jnp.arange(2 * 3 * 2 * 2 * 1, dtype=jnp.bfloat16).reshape(2, 3, 2, 2, 1)
    pooled = max_pool_2x2(x)
    assert pooled.shape == (2, 3, 1, 1, 1)
    assert pooled.dtype == jnp.bfloat16
    np.testing.assert_array_equal(max_pool_2x2(x[0, 0]), pooled[0, 0])
    np.testing.assert_array_equal(jax.vmap(max_pool_2x2)(x), pooled)


def test_odd_side_is_refused():
    with pytest.raises(UsageError, match="3x4 cannot be pooled"):
        max_pool_2x2(jnp.zeros((1, 3, 4, 1)))
