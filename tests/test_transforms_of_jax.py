"""Every public loss, distance, miner, operator and monitor under jit, grad and vmap."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax import correlation, distances, losses, mining
from siamjax.errors import UsageError
from siamjax.metrics import monitors

ROWS, FEATURES = 3, 4
MAP = (4, 5, 2)


def draw(*shape):
    return jax.random.normal(jax.random.key(sum(shape)), shape)


def kernel(name):
    """As many inputs as the maps give."""
    if name == "normxcorr_conv":
        return draw(MAP[-1] * 5 * MAP[1], 3), draw(3)
    return draw(2 * MAP[-1] * 25, 3), draw(3)


SAME = jnp.arange(ROWS) % 2 == 0
IDENTITY = jnp.arange(ROWS) // 2
TRIPLET = (draw(ROWS, FEATURES), 2 * draw(ROWS, FEATURES + 0), draw(ROWS, FEATURES) - 1)
OTHER = (jnp.arange(ROWS)[:, None] != jnp.arange(5)) & True
BATCH = {"identity": jnp.arange(ROWS), "negative_identity": jnp.arange(ROWS) + ROWS}

# Each with arguments; the first is what is differentiated and vmapped.
CALLS = {
    losses.contrastive: (lambda f, x: f(x, SAME, margin=2.0), jnp.abs(draw(ROWS))),
    losses.binary_cross_entropy: (lambda f, x: f(x, SAME), draw(ROWS)),
    losses.triplet: (lambda f, x: f(x, x[::-1] + 0.1, margin=0.2, cap=3.0), jnp.abs(draw(ROWS))),
    losses.info_nce: (lambda f, x: f(x, IDENTITY)[0], draw(ROWS, FEATURES)),
    losses.l2_penalty: (lambda f, x: f({"fc": {"kernel": x}}, {"fc": 0.5}), draw(ROWS, 2)),
    mining.semi_hard_negative: (lambda f, x: f(x, x[:, 0], OTHER), jnp.abs(draw(ROWS, 5))),
    mining.soft_negative: (lambda f, x: f(x, x[:, 0], OTHER), jnp.abs(draw(ROWS, 5))),
    mining.negatives_of_batch: (
        lambda f, x: f(mining.soft_negative, distances.squared_euclidean, (x, *TRIPLET[1:]), BATCH),
        TRIPLET[0],
    ),
    mining.others_of_batch: (lambda f, x: f(x, IDENTITY)[0], draw(ROWS, FEATURES)),
    monitors.labelled_monitors: (
        lambda f, x: sum(m.total for m in f(x, IDENTITY).values()),
        draw(ROWS, FEATURES),
    ),
    monitors.pair_monitors: (
        lambda f, x: sum(m.total for m in f(x, SAME, margin=1.0).values()),
        draw(2 * ROWS, FEATURES),
    ),
    monitors.triplet_monitors: (
        lambda f, x: sum(
            m.total for m in f((x, *TRIPLET[1:]), x[:, 0], x[:, 1], margin=1.0).values()
        ),
        TRIPLET[0],
    ),
    distances.norm: (lambda f, x: f(x), draw(ROWS, FEATURES)),
    distances.unit: (lambda f, x: f(x), draw(ROWS, FEATURES)),
    distances.safe_sqrt: (lambda f, x: f(x), jnp.abs(draw(ROWS))),
}
for name in ("squared_euclidean", "euclidean", "cosine"):
    CALLS[getattr(distances, name)] = (lambda f, x: f(x, x[::-1] + 1), draw(ROWS, FEATURES))
    CALLS[getattr(distances, f"pairwise_{name}")] = CALLS[getattr(distances, name)]
for name in ("normxcorr", "normxcorr_by_definition", "cross_input_neighbourhood"):
    CALLS[getattr(correlation, name)] = (lambda f, x: f(x, x[:, ::-1] + 1), draw(*MAP))
for name in ("normxcorr_conv", "cross_input_neighbourhood_conv"):
    CALLS[getattr(correlation, name)] = (
        lambda f, x: f(x, x[:, ::-1] + 1, *kernel(f.__name__)),
        draw(*MAP),
    )


def public(module):
    names = getattr(module, "__all__", None) or [
        name
        for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == module.__name__ and name[0] != "_"
    ]
    return [getattr(module, name) for name in names]


def test_none_is_left_out():
    """A public function that is new here needs an entry above."""
    wanted = {f for module in (losses, distances, mining, correlation) for f in public(module)}
    assert wanted - CALLS.keys() == set()


@pytest.mark.parametrize("function", CALLS, ids=lambda function: function.__name__)
def test_jit_grad_and_vmap(function):
    call, x = CALLS[function]
    plain = call(function, x)
    jitted = jax.jit(lambda x: call(function, x))
    np.testing.assert_allclose(jitted(x), plain, rtol=1e-4, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(call(function, x))))(x)
    assert gradient.shape == x.shape
    assert np.isfinite(gradient).all()
    many = jax.jit(jax.vmap(lambda x: call(function, x)))(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(many[0], plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many[1], call(function, 2 * x), rtol=1e-4, atol=1e-4)


# Each with labels of these shapes.
LABELLED = {
    "contrastive": (lambda same: losses.contrastive(jnp.ones(4), same), (4,)),
    "binary_cross_entropy": (lambda same: losses.binary_cross_entropy(jnp.ones(4), same), (4,)),
    "pair_monitors": (lambda same: monitors.pair_monitors(jnp.ones((8, 2)), same), (4,)),
    "semi_hard_negative": (
        lambda other: mining.semi_hard_negative(jnp.ones((2, 3)), jnp.ones(2), other),
        (2, 3),
    ),
    "soft_negative": (
        lambda other: mining.soft_negative(jnp.ones((2, 3)), jnp.ones(2), other),
        (2, 3),
    ),
}


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", LABELLED)
def test_labels_of_another_type_are_refused(name, dtype):
    """Even where the values happen to be right, so that the error does not hang on the data."""
    call, shape = LABELLED[name]
    for function in (call, jax.jit(call)):
        with pytest.raises(UsageError, match=r"must be bool .* > 0"):
            function(jnp.ones(shape, dtype))
    jax.jit(call)(jnp.ones(shape, bool))


BAD = (float("nan"), float("inf"), 0.0, -1.0)
NUMBERS = {
    "contrastive margin": lambda bad: losses.contrastive(jnp.ones(3), SAME, margin=bad),
    "triplet margin": lambda bad: losses.triplet(jnp.ones(3), jnp.ones(3), margin=bad),
    "triplet cap": lambda bad: losses.triplet(jnp.ones(3), jnp.ones(3), margin=1.0, cap=bad),
    "info_nce temperature": lambda bad: losses.info_nce(
        jnp.ones((ROWS, 2)), IDENTITY, temperature=bad
    ),
    "soft_negative temperature": lambda bad: mining.soft_negative(
        jnp.ones((ROWS, 5)), jnp.ones(ROWS), OTHER, temperature=bad
    ),
    "pair_monitors margin": lambda bad: monitors.pair_monitors(
        jnp.ones((2 * ROWS, 2)), SAME, margin=bad
    ),
    "triplet_monitors margin": lambda bad: monitors.triplet_monitors(
        TRIPLET, jnp.ones(ROWS), jnp.ones(ROWS), margin=bad
    ),
    "triplet_monitors cap": lambda bad: monitors.triplet_monitors(
        TRIPLET, jnp.ones(ROWS), jnp.ones(ROWS), margin=1.0, cap=bad
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_cannot_be_are_refused(name):
    for bad in BAD:
        with pytest.raises(UsageError, match=f"^{name.partition(' ')[2]} {bad}: must be"):
            NUMBERS[name](bad)
