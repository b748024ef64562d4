"""The convolutional networks that are published: what holds of each, on random weights.

What they compute is compared with their peers in ``tests/pretrained``.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_variables import random_variables

from siamjax.errors import UsageError
from siamjax.models import Embeds, FaceEmbedding, IResNet, OSNet, ResNet, iresnet, osnet

# Parameters without classifier and running statistics: published, or counted in the peers.
COUNTS = {
    5_614_592: FaceEmbedding(),
    43_590_848: IResNet(),
    65_156_160: IResNet(depths=(3, 13, 30, 3)),
    43_585_600: IResNet(variant="adaface"),
    65_150_912: IResNet(depths=(3, 13, 30, 3), variant="adaface"),
    2_169_508: OSNet(),
    23_508_032: ResNet(),
}
# Reduced networks, two sizes that they take, and their features.
SMALL = {
    "face": (FaceEmbedding(), (103, 110), (150, 121), 128),
    "arcface": (IResNet(depths=(1, 1, 1, 1)), (112, 112), (98, 105), 512),
    "adaface": (IResNet(depths=(1, 1, 1, 1), variant="adaface"), (112, 112), (98, 105), 512),
    "osnet": (OSNet(channels=(16, 64, 64, 64), depths=(1, 0, 0)), (64, 32), (13, 17), 512),
    "resnet": (ResNet(depths=(1, 1)), (32, 48), (33, 17), 512),
}


@pytest.mark.parametrize("count", COUNTS)
def test_published_counts(count):
    image = jax.ShapeDtypeStruct((1, 112, 112, 3), jnp.uint8)
    variables = jax.eval_shape(COUNTS[count].init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize("name", SMALL)
def test_ranks_and_types_are_not_promoted(name):
    network, size, *_ = SMALL[name]

    def loss(variables, image):
        return jnp.sum(network.apply(variables, image).astype(jnp.float32))

    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        image = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
        variables = jax.eval_shape(network.init, jax.random.key(0), image)
        jax.eval_shape(jax.grad(loss), variables, image)


def made(name):
    network, size, *_ = SMALL[name]
    coarse = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    rows, columns = (np.arange(side) * 4 // side for side in size)
    return network, random_variables(network, size), coarse[:, rows][:, :, columns]


@pytest.mark.parametrize("name", SMALL)
def test_embeddings_and_their_gradient(name):
    network, variables, images = made(name)
    *_, other, features = SMALL[name]
    assert isinstance(network, Embeds)
    assert jax.eval_shape(network.apply, variables, np.zeros((2, *other, 3), np.uint8)).shape == (
        2,
        features,
    )

    def loss(params):
        embeddings = network.apply({**variables, "params": params}, images, train=True)
        return (embeddings * jnp.arange(3 * features).reshape(3, -1)).sum(), embeddings

    def both(variables):
        gradient, embeddings = jax.grad(loss, has_aux=True)(variables["params"])
        half = network.clone(dtype=jnp.bfloat16).apply(variables, images)
        return embeddings, half, gradient, network.apply(variables, images)

    embeddings, half, gradient, in_use = jax.jit(both)(variables)
    assert embeddings.shape == (3, features)
    assert embeddings.dtype == half.dtype == jnp.float32
    # With frozen statistics training is as use, up to what XLA fuses.
    np.testing.assert_allclose(embeddings, in_use, atol=1e-5 * np.abs(in_use).max())
    size = np.linalg.norm(embeddings, axis=1)
    if name in ("arcface", "adaface"):
        np.testing.assert_allclose(size, 1.0, rtol=1e-5)
    differences = np.linalg.norm(half - embeddings, axis=1)
    assert (differences > 1e-4 * size).all()
    assert (differences < 0.05 * size).all()
    assert np.linalg.norm(embeddings[0] - embeddings[1]) > 2 * differences.max()
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize("name", ["arcface", "osnet", "resnet"])
def test_statistics_of_the_batch_without_padding(name):
    network, variables, images = made(name)
    network = network.clone(freeze_statistics=False)

    @jax.jit
    def train(variables, images, weight):
        return network.apply(variables, images, train=True, weight=weight, mutable=["batch_stats"])

    padded, padded_state = train(variables, images, jnp.array([1.0, 1.0, 0.0]))
    plain, state = train(variables, images[:2], jnp.ones(2))
    np.testing.assert_allclose(padded[:2], plain, atol=1e-4 * np.abs(plain).max())
    pairs = zip(*map(jax.tree.leaves, (padded_state, state)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-4)
    for own, before in zip(*map(jax.tree.leaves, (state, variables["batch_stats"])), strict=True):
        assert np.abs(own - before).max() > 1e-4


def test_the_slope_of_prelu_by_hand():
    variables = {"params": {"slope": jnp.array([0.25, -1.0])}}
    x = jnp.array([[-2.0, 3.0], [4.0, -5.0]])
    out, pull = jax.vjp(iresnet._PReLU().apply, variables, x)
    np.testing.assert_allclose(out, [[-0.5, 3.0], [4.0, 5.0]])
    of_slope, of_x = pull(jnp.ones_like(x))
    np.testing.assert_allclose(of_slope["params"]["slope"], [-2.0, -5.0])
    np.testing.assert_allclose(of_x, [[0.25, 1.0], [1.0, -1.0]])


def test_each_channel_by_itself_as_a_grouped_convolution():
    a, b, c = jax.random.split(jax.random.key(0), 3)
    x, gradient = jax.random.normal(a, (3, 5, 4, 6)), jax.random.normal(b, (3, 5, 4, 6))
    kernel = jax.random.normal(c, (3, 3, 1, 6))

    def grouped(x, kernel):
        names = ("NHWC", "HWIO", "NHWC")
        border = [(1, 1), (1, 1)]
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), border, dimension_numbers=names, feature_group_count=6
        )

    for function in (lambda f: f(x, kernel), lambda f: jax.vjp(f, x, kernel)[1](gradient)):
        found, expected = (function(f) for f in (osnet._depthwise, grouped))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected)


def test_refusals():
    for network, side in ((FaceEmbedding(), 102), (OSNet(), 12)):
        with pytest.raises(UsageError, match=f"sides of at least {side + 1}"):
            jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 110, side, 3)))
    for side in (96, 113):
        with pytest.raises(UsageError, match="sides of 97 to 112"):
            jax.eval_shape(IResNet().init, jax.random.key(0), jnp.zeros((1, 100, side, 3)))
    with pytest.raises(UsageError, match="variant x: choose one of arcface, adaface"):
        jax.eval_shape(IResNet(variant="x").init, jax.random.key(0), jnp.zeros((1, 112, 112, 3)))
