from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.distances import euclidean
from siamjax.errors import UsageError
from siamjax.models.heads import ConcatenationHead, DifferenceHead, EuclideanHead
from siamjax.models.lfw import LfwNet
from siamjax.models.siamese import Siamese

SMALL = LfwNet(width=0.0625)


def images(rng, count=2, side=16):
    return jnp.asarray(rng.integers(0, 256, (count, side, side, 3)), jnp.uint8)


def count(tree):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(tree))


def test_published_network_has_135_907_840_parameters():
    shapes = jax.eval_shape(LfwNet().init, jax.random.key(0), jnp.zeros((1, 128, 128, 3)))
    params = shapes["params"]
    # kernels and biases by hand, then scale and bias of each batch norm
    assert count(params["conv1"]) == 5 * 5 * 3 * 64 + 64
    assert count(params["conv2"]) == 5 * 5 * 64 * 128 + 128
    assert count(params["conv3"]) == 3 * 3 * 128 * 256 + 256
    assert count(params["conv4"]) == 3 * 3 * 256 * 512 + 512
    assert count(params["dense"]) == 16 * 16 * 512 * 1024 + 1024
    assert count(params) == 135_907_840
    assert params["norm5"]["scale"].shape == (1024,)


def test_relu_comes_before_batch_norm(rng):
    """With a batch norm of scale 0 and bias -1 every map is -1; a ReLU after it would give 0."""
    x = jnp.zeros((2, 16, 16, 3))
    variables = SMALL.init(jax.random.key(0), x)
    norm = variables["params"]["norm5"]
    norm["scale"], norm["bias"] = jnp.zeros_like(norm["scale"]), jnp.full_like(norm["bias"], -1.0)
    np.testing.assert_array_equal(SMALL.apply(variables, x), -1.0)


def test_start_of_embedding_scale(rng):
    """None starts random embeddings about 1 apart."""
    net = LfwNet(width=0.25, embedding_scale=None)
    x = jnp.asarray(rng.random((16, 16, 16, 3)), jnp.float32)
    variables = jax.jit(net.init)(jax.random.key(0), x)
    apply = partial(net.apply, train=True, mutable=["batch_stats"])
    f, _ = jax.jit(apply)(variables, x)
    distance = euclidean(f[:8], f[8:]).mean()
    assert 0.7 < distance < 1.3


@pytest.mark.parametrize("head", [EuclideanHead(), ConcatenationHead(), DifferenceHead()])
def test_one_apply_equals_two_and_bytes_equal_floats(rng, head):
    network = Siamese(backbone=SMALL, head=head)
    x1, x2 = images(rng), images(rng)
    variables = network.init(jax.random.key(0), x1, x2)
    value, embeddings = network.apply(variables, x1, x2)
    f1, f2 = (
        network.apply(variables, x.astype(jnp.float32) / 255, method="embed") for x in (x1, x2)
    )
    np.testing.assert_allclose(embeddings, jnp.concatenate([f1, f2]), rtol=1e-5, atol=1e-6)
    compared = network.apply(variables, f1, f2, method="compare")
    np.testing.assert_allclose(value, compared, rtol=1e-5, atol=1e-6)
    assert value.shape == (2,)


def test_concatenation_is_the_recipe(rng):
    f1, f2 = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
    head = ConcatenationHead()
    variables = head.init(jax.random.key(0), f1, f2)
    kernel = variables["params"]["dense"]["kernel"]
    assert kernel.shape == (10, 1)
    np.testing.assert_allclose(
        head.apply(variables, f1, f2), np.concatenate([f1, f2], -1) @ kernel[:, 0], rtol=1e-5
    )


def test_concatenation_is_additive_and_difference_is_not(rng):
    """logit(a, a) + logit(b, b) = logit(a, b) + logit(b, a): no term of both images."""
    a, b = jnp.asarray(rng.normal(size=(2, 5)), jnp.float32)
    for head, additive in ((ConcatenationHead(), True), (DifferenceHead(), False)):
        variables = head.init(jax.random.key(1), a, b)
        alike = head.apply(variables, a, a) + head.apply(variables, b, b)
        crossed = head.apply(variables, a, b) + head.apply(variables, b, a)
        assert bool(jnp.abs(alike - crossed) < 1e-5) == additive


def test_standardized_images_do_not_show_light_and_contrast(rng):
    net = LfwNet(width=0.0625, standardize=True)
    x = jnp.asarray(rng.random((2, 16, 16, 3)), jnp.float32)
    variables = net.init(jax.random.key(0), x)
    expected = net.apply(variables, x)
    np.testing.assert_allclose(net.apply(variables, x + 0.3), expected, rtol=1e-3, atol=1e-4)
    flat = net.apply(variables, jnp.ones_like(x))  # one colour: no division by 0
    assert np.isfinite(flat).all()
    gradient = jax.grad(lambda x: net.apply(variables, x).sum())(jnp.ones_like(x))
    assert np.isfinite(gradient).all()


def test_bfloat16_computes_near_float32(rng):
    x = jnp.asarray(rng.random((2, 16, 16, 3)), jnp.float32)
    variables = SMALL.init(jax.random.key(0), x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    exact = SMALL.apply(variables, x)
    got = LfwNet(width=0.0625, dtype=jnp.bfloat16).apply(variables, x)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, atol=0.05 * float(jnp.abs(exact).max()))
    assert not np.array_equal(got, exact)


def test_sides_must_be_multiples_of_8():
    with pytest.raises(UsageError, match="multiples of 8"):
        SMALL.init(jax.random.key(0), jnp.zeros((1, 20, 20, 3)))
