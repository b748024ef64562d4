"""JAX's own strictness: no promotion of ranks or types, no NaN on the way, float64 switched on.

Each function and layer as the settings find it: traced and run anew under all of them at once.
"""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device_cases import CASES, EXPERIMENTS, gradient_of, step_of

from siamjax.distances import euclidean
from siamjax.losses import contrastive, triplet
from siamjax.metrics import Mean
from siamjax.metrics.monitors import pair_monitors
from siamjax.mining import negatives_of_batch, soft_negative
from siamjax.models import DifferenceHead, EuclideanHead, Siamese
from siamjax.models.first_layer import conv_relu_pool
from siamjax.models.heads import ConcatenationHead, DistanceLogitHead
from siamjax.models.normalization import BatchNorm
from siamjax.models.pooling import average_pool_3x3, max_pool_2x2, max_pool_3x3
from siamjax.training import (
    create_state,
    dampened_sgd,
    forward_pairs,
    forward_triplets,
    make_train_step,
)

PROMOTION = [("numpy_rank_promotion", "raise"), ("numpy_dtype_promotion", "strict")]
SETTINGS = {"nan": [("debug_nans", True)], "x64": [("enable_x64", True), *PROMOTION]}


@pytest.fixture(params=SETTINGS)
def strict(request):
    """All that runs in the test runs under these settings."""
    with contextlib.ExitStack() as stack:
        for name, value in SETTINGS[request.param]:
            stack.enter_context(getattr(jax, name)(value))
        yield request.param


def floats(tree, dtype):
    def cast(u):
        return jnp.asarray(u, dtype if np.issubdtype(u.dtype, np.floating) else u.dtype)

    return jax.tree.map(cast, tree)


@pytest.mark.parametrize("name", CASES)
def test_a_public_function_and_its_gradient(name, strict):
    case = CASES[name]
    arguments = floats(case.arguments, jnp.float64 if strict == "x64" else jnp.float32)
    got = jax.jit(case.function)(*arguments)
    if name.startswith(("correlation", "distances")):
        assert got.dtype == arguments[0].dtype
    expected = case.expected(*jax.tree.map(np.asarray, floats(case.arguments, np.float32)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-4), got, expected)
    cotangents = jax.tree.map(lambda u: jnp.where(jnp.isfinite(u), jnp.ones_like(u), 0), got)
    for leaf in jax.tree.leaves(jax.jit(gradient_of(case, cotangents))(*arguments)):
        assert np.isfinite(leaf).all()


def of_module(module, *inputs, **options):
    variables = module.init(jax.random.key(0), *inputs, **options)
    return module.apply(variables, *inputs, **options, mutable=True)[0]


def maps(*shape):
    return jnp.linspace(-1, 1, int(np.prod(shape)), dtype=jnp.float32).reshape(shape)


WEIGHT = np.array([1, 0], np.float32)
LAYERS = {
    "batch norm": lambda: of_module(BatchNorm(), maps(2, 4, 4, 3), train=True, weight=WEIGHT),
    "batch norm, evaluated": lambda: of_module(BatchNorm(), maps(2, 3), train=False),
    "max pool 2x2": lambda: max_pool_2x2(maps(2, 4, 6, 3)),
    "max pool 3x3": lambda: max_pool_3x3(maps(2, 5, 7, 3)),
    "average pool": lambda: average_pool_3x3(maps(2, 4, 5, 3)),
    "first layer": lambda: conv_relu_pool(maps(2, 8, 8, 3), maps(3, 3, 3, 4), maps(4)),
    **{
        type(head).__name__: lambda head=head: of_module(head, maps(2, 3), -maps(2, 3))
        for head in (EuclideanHead(), DifferenceHead(), ConcatenationHead(), DistanceLogitHead())
    },
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name, strict):
    assert np.isfinite(jax.jit(LAYERS[name])()).all()


class Tower(nn.Module):
    """What an experiment's backbone is made of, in small."""

    @nn.compact
    def __call__(self, x, *, train=False, weight=None):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = max_pool_2x2(nn.relu(BatchNorm(name="norm")(x, train=train, weight=weight)))
        return nn.Dense(3, name="dense")(x.reshape(len(x), -1))


def pairs_loss(network):
    def loss_fn(params, model_state, batch, key):
        weight = batch["weight"]
        distance, rows, state = forward_pairs(network, params, model_state, batch, key)
        loss = Mean.of(contrastive(distance, batch["same"]), weight)
        return loss, (state, pair_monitors(rows, batch["same"], weight, margin=1.0))

    return loss_fn


def triplets_loss(network):
    def loss_fn(params, model_state, batch, key):
        rows, state = forward_triplets(network, params, model_state, batch, key)
        far = negatives_of_batch(soft_negative, euclidean, rows, batch)
        return Mean.of(triplet(euclidean(*rows[:2]), far, margin=0.2), batch["weight"]), (state, {})

    return loss_fn


@pytest.mark.parametrize("loss", [pairs_loss, triplets_loss])
def test_a_train_step(loss, strict, rng):
    names = ("x1", "x2", "anchor", "positive", "negative")
    batch = {name: jnp.asarray(rng.integers(0, 256, (2, 4, 4, 3)), jnp.uint8) for name in names}
    batch |= {"same": jnp.array([True, False]), "weight": jnp.array([1, 0.5], jnp.float32)}
    batch |= {"identity": jnp.arange(2), "negative_identity": jnp.arange(2) + 1}
    network = Siamese(backbone=Tower(), head=EuclideanHead())
    optimizer = dampened_sgd(0.1, learning_rate_decay=0.1, weight_decay=1e-3)

    @jax.jit
    def two_steps(batch):
        variables = network.init(jax.random.key(0), batch["x1"], batch["x2"])
        state = create_state(dict(variables), optimizer, key=jax.random.key(1))
        step = make_train_step(loss(network), optimizer)
        state, _ = step(state, batch)
        return step(state, batch)

    state, metrics = two_steps(batch)
    assert int(state.step) == 2
    assert np.isfinite(metrics["loss"].compute())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_step_of_an_experiment_is_traced(name):
    """Ranks and types show in its tracing; types are not strict, as Optax's Adam mixes them."""
    with jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        step, create, batch = step_of(name)
        before = jax.eval_shape(create)
        after, _ = jax.eval_shape(step, before, batch)
    assert jax.tree.map(_kind, after) == jax.tree.map(_kind, before)


def _kind(leaf):
    return leaf.shape, leaf.dtype
