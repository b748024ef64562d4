import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from siamjax import losses
from siamjax.distances import euclidean
from siamjax.errors import UsageError


def test_contrastive_by_hand():
    # same at 0.5: 0.25; different at 0.5 of margin 2: (2 - 0.5)^2 = 2.25; different at 3: 0
    got = losses.contrastive(
        jnp.array([0.5, 0.5, 3.0]), jnp.array([True, False, False]), margin=2.0
    )
    np.testing.assert_allclose(got, [0.25, 2.25, 0.0])


def test_contrastive_against_oracle(rng):
    distance, same = rng.uniform(0, 3, 50), rng.random(50) < 0.5
    got = losses.contrastive(jnp.asarray(distance), jnp.asarray(same), margin=1.3)
    np.testing.assert_allclose(got, oracles.contrastive(distance, same, 1.3), rtol=1e-5, atol=1e-7)


def test_same_means_similar():
    """True pulls together: the loss grows with the distance; False pushes apart."""
    grow = jax.grad(lambda d, s: losses.contrastive(d, s))
    assert grow(0.5, jnp.array(True)) > 0
    assert grow(0.5, jnp.array(False)) < 0
    logit = jax.grad(lambda z, s: losses.binary_cross_entropy(z, s))
    assert logit(0.0, jnp.array(True)) < 0
    assert logit(0.0, jnp.array(False)) > 0


def test_gradient_is_finite_for_equal_embeddings():
    x = jnp.ones((2, 3))
    same = jnp.array([True, False])
    gradient = jax.grad(lambda a: losses.contrastive(euclidean(a, x), same).sum())(x)
    np.testing.assert_array_equal(gradient, 0.0)


def test_binary_cross_entropy_by_hand_and_far_out():
    # P = 3/4 at logit log 3
    got = losses.binary_cross_entropy(jnp.log(jnp.array([3.0, 3.0])), jnp.array([True, False]))
    np.testing.assert_allclose(got, [np.log(4 / 3), np.log(4.0)], rtol=1e-6)
    far = losses.binary_cross_entropy(jnp.array([-1e4, 1e4]), jnp.array([True, False]))
    np.testing.assert_allclose(far, 1e4)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_transforms(transform):
    distance, same = jnp.array([0.2, 0.4]), jnp.array([True, False])
    np.testing.assert_allclose(
        transform(losses.contrastive)(distance, same), losses.contrastive(distance, same), rtol=1e-6
    )


def test_triplet_by_hand():
    # 1 + 0.5 - 2 < 0; 1 + 2 - 0.5 = 2.5; 1 + 5 - 0 = 6, capped at 4
    positive, negative = jnp.array([0.5, 2.0, 5.0]), jnp.array([2.0, 0.5, 0.0])
    np.testing.assert_allclose(losses.triplet(positive, negative, margin=1.0), [0, 2.5, 6])
    got = losses.triplet(positive, negative, margin=1.0, cap=4.0)
    np.testing.assert_allclose(got, [0, 2.5, 4])
    grow = jax.grad(lambda p, n: losses.triplet(p, n, margin=1.0, cap=4.0), argnums=(0, 1))
    assert grow(2.0, 0.5) == (1.0, -1.0)
    assert grow(5.0, 0.0) == (0.0, 0.0)  # beyond the cap


def test_l2_penalty_by_hand():
    """0.5 (1 + 4) + 2 (9 + 16) of the kernels named; biases and the third layer are left alone."""
    params = {
        "deep": {"fc1": {"kernel": jnp.array([1.0, 2.0]), "bias": jnp.array([100.0])}},
        "last": {"kernel": jnp.array([[3.0], [4.0]], jnp.bfloat16)},
        "other": {"kernel": jnp.array([1000.0])},
    }
    got = losses.l2_penalty(params, {"deep/fc1": 0.5, "last": 2.0})
    assert (float(got), got.dtype) == (52.5, jnp.float32)
    assert float(losses.l2_penalty(params, {})) == 0.0
    with pytest.raises(UsageError, match=r"no layer fc1 .* \['deep/fc1', 'last', 'other'\]"):
        losses.l2_penalty(params, {"fc1": 0.5})


@pytest.mark.parametrize(
    "options", [{"margin": 0.0}, {"margin": -1.0}, {"margin": 1.0, "cap": 0.0}]
)
def test_triplet_refuses_a_margin_or_cap_that_teaches_nothing(options):
    with pytest.raises(UsageError, match=r"must be a number, finite .* above 0"):
        losses.triplet(jnp.ones(2), jnp.ones(2), **options)
