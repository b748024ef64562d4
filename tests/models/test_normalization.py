import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from siamjax.errors import UsageError
from siamjax.models.normalization import BatchNorm
from siamjax.parallel import data_parallel_map, replicate, shard


def apply(x, weight=None, **options):
    norm = BatchNorm(**options)
    variables = norm.init(jax.random.key(0), x, train=True)
    return norm.apply(variables, x, train=True, weight=weight, mutable=["batch_stats"])


@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 5, 3)])
def test_against_oracle_with_weights(rng, shape):
    x = jnp.asarray(rng.normal(2, 3, shape), jnp.float32)
    weight = jnp.array([1, 0, 2, 1, 0, 0.5])
    y, _ = apply(x, weight)
    expected = oracles.batch_norm(x, weight, np.ones(3), np.zeros(3), 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_many_devices_are_one(rng, devices):
    """Result, statistics and gradient, with devices that hold different numbers of examples."""
    x = rng.normal(2, 3, (8, 3)).astype(np.float32)
    weight = np.array([0, 0, 0, 1, 2, 1, 1, 0.5], np.float32)
    towards = rng.normal(size=x.shape).astype(np.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)

    def all_of(variables, batch):
        def total(x):
            y, state = norm.apply(
                variables, x, train=True, weight=batch["weight"], mutable=["batch_stats"]
            )
            return jnp.sum(y * batch["towards"]), (y, state)

        gradient, (y, state) = jax.grad(total, has_aux=True)(batch["x"])
        return gradient, y, state

    batch = {"x": x, "weight": weight, "towards": towards}
    gradient, y, state = jax.jit(all_of)(variables, batch)
    used = jax.devices()[:devices]
    got = data_parallel_map(all_of, devices=used)(
        replicate(variables, devices=used), shard(batch, devices=used)
    )
    for one, other in ((got[0], gradient), (got[1], y)):
        np.testing.assert_allclose(np.reshape(one, x.shape), other, rtol=1e-4, atol=1e-5)
    for one, other in zip(jax.tree.leaves(got[2]), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(one, np.broadcast_to(other, one.shape), rtol=1e-5)


def test_padding_changes_nothing_that_counts(rng):
    x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    padded = jnp.concatenate([x, jnp.full((2, 3), 1e6)])
    plain, state = apply(x)
    weighted, weighted_state = apply(padded, jnp.array([1, 1, 1, 1, 0, 0.0]))
    np.testing.assert_allclose(weighted[:4], plain, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state, weighted_state)


def test_running_statistics_equal_flax(rng):
    """Flax as the oracle where it is right: one device, no padding."""
    ours, theirs = BatchNorm(), nn.BatchNorm(momentum=0.9)
    state = ours.init(jax.random.key(0), jnp.zeros((2, 3)), train=True)["batch_stats"]
    params = {"scale": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.array([0.0, 1.0, -1.0])}
    reference = state
    for _ in range(3):
        x = jnp.asarray(rng.normal(1, 2, (8, 4, 4, 3)), jnp.float32)
        a, new = ours.apply({"params": params, "batch_stats": state}, x, train=True, mutable=True)
        b, old = theirs.apply(
            {"params": params, "batch_stats": reference},
            x,
            use_running_average=False,
            mutable=True,
        )
        state, reference = new["batch_stats"], old["batch_stats"]
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), state, reference)
    evaluated = ours.apply({"params": params, "batch_stats": state}, x, train=False)
    expected = theirs.apply(
        {"params": params, "batch_stats": reference}, x, use_running_average=True
    )
    np.testing.assert_allclose(evaluated, expected, rtol=1e-4, atol=1e-5)


def test_gradient_equals_flax(rng):
    x = jnp.asarray(rng.normal(size=(4, 2, 2, 3)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

    def total(module, flags):
        variables = module.init(jax.random.key(0), x, **flags)
        return lambda x: (
            module.apply(variables, x, **flags, mutable=["batch_stats"])[0] * cotangent
        ).sum()

    ours = jax.grad(total(BatchNorm(), {"train": True}))(x)
    theirs = jax.grad(total(nn.BatchNorm(), {"use_running_average": False}))(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


OFFSETS = {
    "one mean": lambda rng, shape: np.full(shape, 3000.0),
    "a mean for each channel": lambda rng, shape: rng.normal(0, 1e4, shape[-1:]),
    "zeros around": lambda rng, shape: np.pad(
        np.full((shape[0], shape[1] - 2, *shape[2:]), 50.0), ((0, 0), (1, 1), (0, 0), (0, 0))
    ),
    "a mean for each example": lambda rng, shape: rng.normal(0, 1e4, (shape[0], 1, 1, 1)),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("offsets", OFFSETS)
def test_the_variance_does_not_cancel(rng, offsets, devices, weighted):
    """Far from the running statistics, which say mean 0 here; E[x^2] - E[x]^2 has no digit left."""
    shape = (4, 35, 2, 3)
    x = (rng.normal(0, 0.3, shape) + OFFSETS[offsets](rng, shape)).astype(np.float32)
    weight = np.array([1, 0, 0.5, 2], np.float32) if weighted else np.ones(4, np.float32)
    norm, on = BatchNorm(momentum=0.0), jax.devices()[:devices]
    variables = norm.init(jax.random.key(0), x, train=True)

    def statistics(variables, batch):
        options = {"weight": batch["weight"]} if weighted else {}
        return norm.apply(variables, batch["x"], train=True, mutable=["batch_stats"], **options)[1]

    got = data_parallel_map(statistics, devices=on)(
        replicate(variables, devices=on), shard({"x": x, "weight": weight}, devices=on)
    )["batch_stats"]
    exact, share = x.astype(np.float64), (weight / weight.sum())[:, None, None, None] / (35 * 2)
    mean = (exact * share).sum((0, 1, 2))
    variance = (np.square(exact - mean) * share).sum((0, 1, 2))
    for device in range(devices):
        np.testing.assert_allclose(got["mean"][device], mean, rtol=1e-6)
        np.testing.assert_allclose(got["var"][device], variance, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "bad"),
    [("momentum", 2.0), ("momentum", -0.1), ("epsilon", 0.0), ("epsilon", float("nan"))],
)
def test_options_that_cannot_be(name, bad):
    with pytest.raises(UsageError, match=f"^{name} {bad}: must be"):
        apply(jnp.ones((2, 3)), **{name: bad})


def test_nothing_counted_leaves_the_statistics(rng):
    x = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)
    y, state = apply(x, jnp.zeros(3))
    np.testing.assert_allclose(y, x, rtol=1e-4)
    np.testing.assert_array_equal(state["batch_stats"]["mean"], 0.0)
    gradient = jax.grad(lambda x: apply(x, jnp.zeros(3))[0].sum())(x)
    assert np.isfinite(gradient).all()


def test_bfloat16_in_bfloat16_out(rng):
    y, state = apply(jnp.asarray(rng.normal(size=(8, 3)), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert state["batch_stats"]["mean"].dtype == jnp.float32
