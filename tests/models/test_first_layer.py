import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.models.first_layer import conv_relu_pool
from siamjax.models.pooling import max_pool_2x2

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def three_steps(x, kernel, bias):
    conv = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=DIMENSIONS)
    return max_pool_2x2(jax.nn.relu(conv + bias))


@pytest.mark.parametrize(("side", "channels"), [((5, 5), 3), ((3, 5), 2), ((1, 1), 1)])
def test_value_and_every_gradient_equal_the_three_steps(rng, side, channels):
    x = jnp.asarray(rng.normal(size=(3, 12, 10, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*side, channels, 4)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=4), jnp.float32)
    weight = jnp.asarray(rng.normal(size=three_steps(x, kernel, bias).shape), jnp.float32)

    def weighted(function):
        return lambda *arguments: (function(*arguments) * weight).sum()

    np.testing.assert_allclose(
        jax.jit(conv_relu_pool)(x, kernel, bias), three_steps(x, kernel, bias), atol=1e-5
    )
    ours = jax.jit(jax.grad(weighted(conv_relu_pool), (0, 1, 2)))(x, kernel, bias)
    theirs = jax.grad(weighted(three_steps), (0, 1, 2))(x, kernel, bias)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_no_gradient_where_relu_cuts_and_one_of_equals():
    x = jnp.ones((1, 2, 2, 1))
    kernel = jnp.ones((1, 1, 1, 2))

    def total(x, bias):
        return conv_relu_pool(x, kernel, bias).sum()

    of_x, of_bias = jax.grad(total, (0, 1))(x, jnp.array([1.0, -3.0]))
    np.testing.assert_array_equal(of_x[0, :, :, 0], [[1, 0], [0, 0]])
    np.testing.assert_array_equal(of_bias, [1, 0])


def test_bfloat16_stays():
    x = jnp.ones((1, 6, 6, 3), jnp.bfloat16)
    assert conv_relu_pool(x, jnp.ones((5, 5, 3, 2), x.dtype), jnp.ones(2, x.dtype)).dtype == x.dtype


@pytest.mark.parametrize(("shape", "side"), [((1, 7, 8, 1), 3), ((1, 8, 8, 1), 2)])
def test_odd_images_and_even_kernels_are_refused(shape, side):
    with pytest.raises(UsageError, match="even height and width and a kernel of odd sides"):
        conv_relu_pool(jnp.zeros(shape), jnp.zeros((side, side, 1, 1)), jnp.zeros(1))
