"""A network applied in a loss function: its key, its weights and its state, for every batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.models import EuclideanHead, Siamese
from siamjax.models.normalization import BatchNorm
from siamjax.training import forward, forward_labelled, forward_pairs, forward_triplets


class Tower(nn.Module):
    """Batch normalisation, a dense layer, dropout."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train=False, weight=None):
        x = BatchNorm(name="norm", momentum=0.0)(x, train=train, weight=weight)
        return nn.Dropout(self.dropout, deterministic=not train)(nn.Dense(3, name="dense")(x))


class Embedding(nn.Module):
    """A tower that only embeds."""

    dropout: float = 0.0

    def setup(self):
        self.tower = Tower(dropout=self.dropout)

    def embed(self, x, *, train=False, weight=None):
        return self.tower(x, train=train, weight=weight)

    def __call__(self, x, *, train=False):
        return self.embed(x, train=train)


def pair_network(dropout=0.0):
    return Siamese(backbone=Tower(dropout=dropout), head=EuclideanHead())


def of_pairs(dropout, variables, batch, key):
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    value, rows, state = forward_pairs(pair_network(dropout), params, state, batch, key)
    return (value, *jnp.split(rows, 2)), state


def of_triplets(dropout, variables, batch, key):
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    return forward_triplets(Embedding(dropout), params, state, batch, key)


def of_labelled(dropout, variables, batch, key):
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    rows, state = forward_labelled(Embedding(dropout), params, state, batch, key)
    return (rows,), state


KINDS = {
    "pairs": (of_pairs, ("x1", "x2")),
    "triplets": (of_triplets, ("anchor", "positive", "negative")),
    "labelled": (of_labelled, ("image",)),
}


@pytest.fixture(params=KINDS)
def case(request, rng):
    """What applies a network, its variables, a batch of 6, and the names of its images."""
    apply, names = KINDS[request.param]
    batch = {name: jnp.asarray(rng.normal(size=(6, 4)), jnp.float32) for name in names}
    batch |= {"same": np.arange(6) % 2 == 0, "identity": np.arange(6)}
    x = batch[names[0]]
    network = pair_network() if apply is of_pairs else Embedding()
    shown = (x, x) if apply is of_pairs else (x,)
    return apply, network.init(jax.random.key(0), *shown), batch, names


def assert_same(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_by_hand(case):
    """Statistics of all images of the batch together; each image normalised by them."""
    apply, variables, batch, names = case
    got, state = apply(0.0, variables, batch, jax.random.key(0))
    images = np.concatenate([np.asarray(batch[name], np.float64) for name in names])
    mean, variance = images.mean(axis=0), images.var(axis=0)
    found = jax.tree.leaves(state)
    np.testing.assert_allclose(found[0], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], variance, rtol=1e-5, atol=1e-6)
    dense = {
        path[-1].key: leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
        if path[-2].key == "dense"
    }
    rows = (images - mean) / np.sqrt(variance + 1e-5) @ dense["kernel"] + dense["bias"]
    rows = np.split(rows, len(names))
    if apply is of_pairs:
        rows = [np.linalg.norm(rows[0] - rows[1], axis=-1), *rows]
    assert len(got) == len(rows)
    for one, other in zip(got, rows, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_padded_example_changes_nothing(case):
    apply, variables, batch, names = case
    first = {name: values[:4] for name, values in batch.items()}
    expected, expected_state = apply(0.0, variables, first, jax.random.key(0))
    padded = {**batch, "weight": jnp.array([1.0, 1, 1, 1, 0, 0])}
    for name in names:
        padded[name] = padded[name].at[4:].set(1e4)
    got, state = apply(0.0, variables, padded, jax.random.key(0))
    assert_same([rows[:4] for rows in got], list(expected))
    assert_same(state, expected_state)
    unweighted, _ = apply(0.0, variables, batch, jax.random.key(0))
    assert not np.allclose(unweighted[-1][:4], expected[-1], rtol=1e-2)


def test_weights_count_as_often_in_the_statistics(case):
    """Weight 2 is the example twice."""
    apply, variables, batch, _ = case
    twice = {name: values[np.array([0, 1, 1, 2, 3, 4, 5])] for name, values in batch.items()}
    _, expected = apply(0.0, variables, twice, jax.random.key(0))
    weighted = {**batch, "weight": jnp.array([1.0, 2, 1, 1, 1, 1])}
    _, got = apply(0.0, variables, weighted, jax.random.key(0))
    assert_same(got, expected)


def test_dropout_draws_from_the_key(case):
    apply, variables, batch, _ = case
    first, again, other = (
        apply(0.5, variables, batch, jax.random.key(number))[0] for number in (0, 0, 1)
    )
    assert_same(first, again)
    assert not np.allclose(first[-1], other[-1])
    # Every image has a mask of its own: half of the values are 0, and not the same ones.
    dropped = np.concatenate([np.asarray(rows == 0) for rows in first if rows.ndim == 2])
    assert 0.1 < dropped.mean() < 0.9
    assert len({row.tobytes() for row in dropped}) > 2


def test_weight_that_the_network_does_not_take_is_an_error():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(2)(x)

    x = jnp.ones((2, 3))
    params = Plain().init(jax.random.key(0), x)["params"]
    rows, state = forward(Plain(), params, {}, jax.random.key(0), x)
    assert (rows.shape, state) == ((2, 2), {})
    with pytest.raises(TypeError, match="weight"):
        forward(Plain(), params, {}, jax.random.key(0), x, weight=jnp.ones(2))
