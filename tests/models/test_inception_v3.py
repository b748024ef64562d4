import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.models.inception_embedding import InceptionEmbedding
from siamjax.models.inception_v3 import ENDS, InceptionV3, layers_between, layers_of
from siamjax.models.pooling import average_pool_2x2, average_pool_3x3, max_pool_3x3

IMAGE = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)


def shapes(network):
    return jax.eval_shape(network.init, jax.random.key(0), IMAGE)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_published_counts():
    whole = shapes(InceptionV3())
    assert count(whole) == 21_802_784
    assert count(shapes(InceptionV3(classes=1000))) == 23_851_784
    assert len(whole["params"]) == 2 * 94
    assert len(whole["batch_stats"]) == 94


def test_the_layers_of_the_blocks_are_all_layers():
    """Those of a block are what a network that ends with it has more than the one before."""
    before = set()
    for block in ENDS:
        layers = {f"{layer}/" for layer in shapes(InceptionV3(end=block))["params"]}
        own = set(layers_of(block)) | (set(layers_of(None)) if block == "mixed0" else set())
        assert layers - before == own, block
        before = layers


def test_layers_between_blocks():
    assert layers_between("mixed2", "mixed4") == layers_of("mixed3") + layers_of("mixed4")
    assert layers_between(None, "mixed0") == layers_of(None) + layers_of("mixed0")
    assert layers_between("mixed10", "mixed10") == ()
    for wrong in ((None, "block1"), ("mixed11", "mixed3")):
        with pytest.raises(
            UsageError, match=r"no block '(block|mixed)\d+'; choose from mixed0 to mixed10"
        ):
            layers_between(*wrong)


@pytest.fixture(scope="module")
def embedding():
    network = InceptionEmbedding(
        end="mixed1", embedding=4, preprocessing="unit", frozen="mixed0", given="mixed0"
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 76, 80, 3), np.uint8)
    return network, jax.jit(network.init)(jax.random.key(0), images), images


def test_maps_in_place_of_images(embedding):
    network, variables, images = embedding
    part = network.clone(end="mixed0", embedding=None, frozen=None, given=None)
    maps = jax.jit(lambda v, x: part.apply(v, x, method="maps"))(variables, images)
    assert maps.shape == (2, 7, 7, 256)
    apply = jax.jit(network.apply)
    np.testing.assert_allclose(apply(variables, maps), apply(variables, images), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(apply(variables, images), axis=1), 1.0, rtol=1e-5)


def test_no_gradient_and_no_statistics_behind_the_frozen_block(embedding):
    network, variables, images = embedding
    network = network.clone(freeze_statistics=False)

    def loss(params):
        embeddings, state = network.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return (embeddings[0] * embeddings[1]).sum(), state["batch_stats"]

    gradient, statistics = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    trained = set(layers_of("mixed1"))
    for layer, own in gradient["trunk"].items():
        assert any(bool(g.any()) for g in own.values()) == (f"{layer}/" in trained), layer
    for layer, own in statistics["trunk"].items():
        change = np.abs(own["mean"] - variables["batch_stats"]["trunk"][layer]["mean"]).max()
        assert (change > 0) == (f"{layer}/" in trained), layer


def test_what_is_no_block_and_too_small():
    with pytest.raises(UsageError, match="no block 'mixed11' up to 'mixed11'"):
        shapes(InceptionV3(end="mixed11"))
    with pytest.raises(UsageError, match="no block 'mixed3' up to 'mixed2'"):
        shapes(InceptionV3(end="mixed2", frozen="mixed3"))
    with pytest.raises(UsageError, match="at least 75x75"):
        jax.eval_shape(InceptionV3().init, jax.random.key(0), jnp.zeros((1, 74, 80, 3)))


def test_pools_by_the_definition(rng):
    x = rng.normal(size=(2, 6, 9, 3)).astype(np.float32)
    largest = max_pool_3x3(jnp.asarray(x))
    assert largest.shape == (2, 2, 4, 3)
    for row in range(2):
        for column in range(4):
            window = x[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            np.testing.assert_array_equal(largest[:, row, column], window.max((1, 2)))
    quarters = average_pool_2x2(jnp.asarray(x))
    np.testing.assert_allclose(
        quarters, x[:, :, :8].reshape(2, 3, 2, 4, 2, 3).mean((2, 4)), atol=1e-6
    )
    mean = average_pool_3x3(jnp.asarray(x))
    for row in range(6):
        for column in range(9):
            window = x[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            np.testing.assert_allclose(mean[:, row, column], window.mean((1, 2)), atol=1e-6)
