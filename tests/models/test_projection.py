"""The linear layer on a network: its value, its start, and what it passes on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.models import Embeds, Projection


class Means(nn.Module):
    """Of each image the mean of each channel, times 3 in training, less 100 times the weight."""

    def __call__(self, x, *, train=False, weight=None):
        means = x.mean(axis=(1, 2)) * (3.0 if train else 1.0)
        return means if weight is None else means - 100.0 * weight[:, None]


@pytest.fixture
def images(rng):
    return rng.random((4, 5, 6, 3), np.float32)


def test_the_value(images):
    """W f / |W f|, whatever the length of f; of features as of the images that they are of."""
    network, kernel = Projection(backbone=Means(), embedding=2), np.array([[1, 2], [0, 3], [-5, 1]])
    variables = {"params": {"dense": {"kernel": jnp.asarray(kernel, jnp.float32)}}}
    assert isinstance(network, Embeds)
    features = images.mean(axis=(1, 2))
    expected = features.astype(np.float64) @ kernel
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for given in (images, features, 7 * features):
        np.testing.assert_allclose(network.apply(variables, given), expected, atol=1e-5)
        np.testing.assert_array_equal(
            network.apply(variables, given, method="embed"), network.apply(variables, given)
        )


@pytest.mark.parametrize("embedding", [2, 3, 7])
def test_it_starts_as_a_projection_without_a_bias(images, embedding):
    network = Projection(backbone=Means(), embedding=embedding)
    params = network.init(jax.random.key(0), images)["params"]
    assert jax.tree.map(jnp.shape, params) == {"dense": {"kernel": (3, embedding)}}
    kernel = np.asarray(params["dense"]["kernel"])
    small = kernel @ kernel.T if embedding > 3 else kernel.T @ kernel
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-5)


def test_training_and_weights_reach_the_network(images):
    weight = np.array([1, 0, 1, 1], np.float32)
    network = Projection(backbone=Means())
    plain = images.mean(axis=(1, 2))

    def trunk(**options):
        return network.apply({}, images, method="trunk", **options)

    np.testing.assert_allclose(trunk(), plain, rtol=1e-5)
    np.testing.assert_allclose(trunk(train=True), 3 * plain, rtol=1e-5)
    expected = 3 * plain - 100 * weight[:, None]
    np.testing.assert_allclose(trunk(train=True, weight=weight), expected, rtol=1e-5)
    variables = network.init(jax.random.key(0), images)
    for options in ({"train": True}, {"weight": weight}):
        given = network.apply(variables, images, **options)
        np.testing.assert_allclose(given, network.apply(variables, trunk(**options)), atol=1e-5)


def test_refusal(images):
    with pytest.raises(UsageError, match="embedding 0"):
        Projection(backbone=Means(), embedding=0).init(jax.random.key(0), images)
