"""Products whose gradients are written out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.models.products import Conv, Dense


def _gradients(layer, x):
    variables = nn.Conv(5, (1, 1)).init(jax.random.key(0), jnp.ones((1, 1, 1, 3)))
    kernel = variables["params"]["kernel"]
    if isinstance(layer, nn.Dense):
        kernel = kernel[0, 0]

    def total(kernel, x):
        out = layer.apply({"params": {"kernel": kernel}}, x)
        return jnp.sum(out**3), out

    return jax.jit(jax.grad(total, (0, 1), has_aux=True))(kernel, x)


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({"strides": 1}, True),
        ({"strides": (2, 3)}, True),
        ({"strides": 2, "padding": ((0, 0), (0, 0))}, True),
        ({"strides": 2, "padding": "VALID"}, True),
        ({"strides": 2, "padding": ((1, 1), (1, 1))}, False),
        ({"input_dilation": 2, "padding": ((0, 0), (0, 0))}, False),
    ],
)
def test_a_convolution_of_single_pixels_is_a_product(options, plain):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, 8, 3)), jnp.float32)
    layer = Conv(5, (1, 1), use_bias=False, **options)
    found, expected = (
        _gradients(one, x) for one in (layer, nn.Conv(5, (1, 1), use_bias=False, **options))
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), found, expected
    )
    kinds = str(jax.make_jaxpr(lambda x: layer.init(jax.random.key(0), x))(x))
    assert ("conv_general_dilated" not in kinds) == plain


def test_the_gradients_of_a_dense_layer_are_flax_s():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 3)), jnp.float32)
    found, expected = (_gradients(one(5, use_bias=False), x) for one in (Dense, nn.Dense))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )


def test_groups_of_channels_are_no_product():
    x = jnp.ones((1, 2, 2, 4))
    options = {"features": 4, "kernel_size": (1, 1), "feature_group_count": 2}
    variables = nn.Conv(**options).init(jax.random.key(0), x)
    np.testing.assert_allclose(
        Conv(**options).apply(variables, x), nn.Conv(**options).apply(variables, x), rtol=1e-6
    )
