"""One step on one device = on 2, 4 and 8, with padding anywhere in the batch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siamjax.errors import UsageError
from siamjax.losses import binary_cross_entropy, contrastive
from siamjax.metrics import Mean, pair_monitors
from siamjax.models import ConcatenationHead, EuclideanHead, Siamese
from siamjax.models.normalization import BatchNorm
from siamjax.models.products import Conv
from siamjax.parallel import data_parallel, replicate, shard
from siamjax.training import create_state, forward_pairs, initialize, make_train_step


class Small(nn.Module):
    """All kinds of parameters and statistics, and little to compile; images are about 1 apart."""

    @nn.compact
    def __call__(self, x, *, train=False, weight=None):
        x = nn.relu(Conv(4, (3, 3), strides=2, name="conv")(x))
        x = BatchNorm(name="norm")(x, train=train, weight=weight)
        return nn.Dense(8, name="dense")(x.reshape(len(x), -1)) / 4


NETWORK = Siamese(backbone=Small(), head=EuclideanHead())


def pair_loss(network, loss=contrastive):
    """A loss function of pairs, put together as the experiments do it."""

    def loss_fn(params, model_state, batch, key):
        same, weight = batch["same"], batch.get("weight")
        value, embeddings, model_state = forward_pairs(network, params, model_state, batch, key)
        metrics = pair_monitors(embeddings, same, weight, margin=1.0)
        return Mean.of(loss(value, same), weight), (model_state, metrics)

    return loss_fn


LOSS = pair_loss(NETWORK)


@pytest.fixture(scope="module")
def start():
    """A state, and a step for one batch of any shape: what is traced once serves every test."""
    variables, key = initialize(NETWORK, 16, 0)
    optimizer = optax.sgd(0.1, momentum=0.9)
    step = make_train_step(LOSS, optimizer)
    return create_state(variables, optimizer, key=key), Steps(step)


class Steps:
    """``step`` under plain jit, and on so many devices."""

    def __init__(self, step):
        self.jitted = jax.jit(step)
        self.on = functools.cache(lambda d: data_parallel(step, devices=jax.devices()[:d]))


def make_batch(rng, weight=None):
    x1, x2 = rng.integers(0, 256, (2, 8, 16, 16, 3), dtype=np.uint8)
    batch = {"x1": x1, "x2": x2, "same": np.arange(8) % 3 == 0}
    if weight is not None:
        batch["weight"] = np.asarray(weight, np.float32)
    return batch


def assert_close(got, expected, *, share=1e-3):
    """Equal up to a share of each array's greatest value (rounding is of that order)."""

    def same(path, a, b):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, atol=share * np.abs(b).max() + 1e-7, err_msg=where)

    jax.tree_util.tree_map_with_path(same, got, expected)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "weight", [None, [1, 1, 1, 0, 1, 0, 0, 0], [2, 0, 0.5, 1, 1, 1, 0, 1]], ids=str
)
def test_step_on_many_devices_is_the_step_on_one(rng, start, devices, weight):
    state, steps = start
    updates = assert_one_step(state, steps, make_batch(rng, weight), devices)
    assert np.any(updates["backbone"]["conv"]["kernel"] != 0)


def test_step_with_the_head_on_concatenated_embeddings(rng):
    """The other head of lfw_bce, whose default steps on many devices in tests/distributed."""
    network = Siamese(backbone=Small(), head=ConcatenationHead())
    variables, key = initialize(network, 16, 0)
    optimizer = optax.sgd(0.1)
    step = make_train_step(pair_loss(network, binary_cross_entropy), optimizer)
    state = create_state(variables, optimizer, key=key)
    batch = make_batch(rng, [2, 0, 0.5, 1, 1, 1, 0, 1])
    updates = assert_one_step(state, Steps(step), batch, devices=4)
    assert np.all(updates["head"]["dense"]["kernel"] != 0)


def assert_one_step(state, steps, batch, devices):
    """The step on so many devices is that under plain jit; returns how parameters change."""
    expected, expected_metrics = steps.jitted(state, batch)
    used = jax.devices()[:devices]
    fresh = replicate(jax.tree.map(jnp.copy, state), devices=used)
    got, metrics = jax.block_until_ready(steps.on(devices)(fresh, shard(batch, devices=used)))
    updates = jax.tree.map(jnp.subtract, expected.params, state.params)
    assert_close(
        jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), got.params, state.params),
        updates,
    )
    assert_close(got.model_state, expected.model_state)
    for name, mean in expected_metrics.items():
        assert float(metrics[name].count) == float(mean.count), name
        np.testing.assert_allclose(metrics[name].compute(), mean.compute(), rtol=1e-4, atol=1e-6)
    assert int(got.step) == 1
    return updates


def test_padded_examples_change_nothing(rng, start):
    state, steps = start
    update = steps.jitted
    batch = make_batch(rng)
    first = {name: value[:6] for name, value in batch.items()}
    padded = {**batch, "weight": (np.arange(8) < 6).astype(np.float32)}
    assert_close(update(state, padded)[0].params, update(state, first)[0].params, share=1e-4)


def test_nothing_counted_changes_no_parameter(rng, start):
    state, steps = start
    got, metrics = steps.jitted(state, make_batch(rng, np.zeros(8)))
    assert_close(got.params, state.params, share=0)
    assert float(metrics["loss"].count) == 0


def test_the_update_is_the_gradient_of_the_mean(rng, start):
    """Written out once more: gradient of the mean loss, plain SGD."""
    state, _ = start
    batch = make_batch(rng)

    def mean_loss(params):
        mean, _ = LOSS(params, state.model_state, batch, state.key)
        return mean.total / 8

    gradient = jax.jit(jax.grad(mean_loss))(state.params)
    plain = create_state(
        {"params": state.params, **state.model_state}, optax.sgd(0.5), key=state.key
    )
    got, _ = jax.jit(make_train_step(LOSS, optax.sgd(0.5)))(plain, batch)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.params, gradient)
    assert_close(got.params, expected)


def test_key_depends_on_step_and_device():
    """What a loss function draws is different on every device and at every step."""

    def loss_fn(params, model_state, batch, key):
        noise = jax.random.uniform(key)
        return Mean.of(params * batch["x"]), (model_state, {"noise_squared": Mean.of(noise**2)})

    optimizer = optax.sgd(0.0)
    used = jax.devices()[:2]
    state = create_state({"params": jnp.ones(())}, optimizer, key=jax.random.key(0))
    step = data_parallel(make_train_step(loss_fn, optimizer), devices=used)
    batch = {"x": np.ones(2, np.float32)}
    state, first = step(replicate(state, devices=used), shard(batch, devices=used))
    _, second = step(state, shard(batch, devices=used))
    draws = [
        float(jax.random.uniform(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), s), d)))
        for s in (0, 1)
        for d in (0, 1)
    ]
    assert len(set(draws)) == 4
    np.testing.assert_allclose(first["noise_squared"].total, draws[0] ** 2 + draws[1] ** 2)
    np.testing.assert_allclose(second["noise_squared"].total, draws[2] ** 2 + draws[3] ** 2)


def test_batch_that_does_not_split():
    with pytest.raises(
        UsageError, match="batch of 6 examples cannot be split over 4 devices; use a"
    ):
        shard({"x": np.zeros(6)}, devices=jax.devices()[:4])


def test_three_steps_compile_once(rng, start):
    """A state that is placed before the first step has the sharding that a step returns."""
    compiled = []

    def note(event, seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(details.get("fun_name"))

    state, _ = start
    used = jax.devices()[:2]
    batches = [shard(make_batch(rng), devices=used) for _ in range(3)]
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = replicate(jax.tree.map(jnp.copy, state), devices=used)
    step = data_parallel(make_train_step(LOSS, optimizer), devices=used)
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        for batch in batches:
            state, _ = jax.block_until_ready(step(state, batch))
    finally:
        jax.monitoring.clear_event_listeners()
    assert len(compiled) == 1


class FlaxTower(nn.Module):
    """Flax's own batch normalisation, which knows no devices; ``momentum`` 0 keeps this batch's."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(4, name="dense")(x)
        return nn.BatchNorm(use_running_average=not train, momentum=0.0, name="norm")(x)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_flax_batch_norm_keeps_the_mean_of_the_devices_statistics(rng, devices):
    """Each device normalises by its own examples; what is kept is equal on all of them.

    Both images of a pair are one batch. The mean of the devices' variances is less than the
    variance of the whole batch, as their means differ.
    """
    x1, x2 = rng.normal(size=(2, 8, 3)).astype(np.float32)
    x1 += np.arange(8, dtype=np.float32)[:, None]  # so that the devices' examples differ
    x2 += np.arange(8, dtype=np.float32)[:, None]
    network = Siamese(backbone=FlaxTower(), head=EuclideanHead())
    variables = network.init(jax.random.key(0), x1, x2)
    dense = variables["params"]["backbone"]["dense"]
    rows = [x.astype(np.float64) @ dense["kernel"] + dense["bias"] for x in (x1, x2)]
    parts = zip(*(np.split(one, devices) for one in rows), strict=True)
    own = [np.concatenate(both) for both in parts]
    mean = np.mean([part.mean(axis=0) for part in own], axis=0)
    variance = np.mean([part.var(axis=0) for part in own], axis=0)
    whole = np.concatenate(rows).var(axis=0)
    assert (whole > 1.01 * variance).any() == (devices > 1)

    used, optimizer = jax.devices()[:devices], optax.sgd(0.1)
    state = create_state(variables, optimizer, key=jax.random.key(1))
    step = data_parallel(make_train_step(pair_loss(network), optimizer), devices=used)
    batch = {"x1": x1, "x2": x2, "same": np.arange(8) % 3 == 0}
    got, _ = step(replicate(state, devices=used), shard(batch, devices=used))
    kept = got.model_state["batch_stats"]["backbone"]["norm"]
    np.testing.assert_allclose(kept["mean"], mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(kept["var"], variance, rtol=1e-4)
    for leaf in jax.tree.leaves(got.model_state):
        copies = [np.asarray(part.data) for part in leaf.addressable_shards]
        assert len(copies) == devices
        for copy in copies:
            np.testing.assert_array_equal(copy, copies[0])


class Scaled(nn.Module):
    """One layer and a state that counts its calls."""

    @nn.compact
    def __call__(self, x):
        calls = self.variable("calls", "count", lambda: jnp.zeros(()))
        calls.value = calls.value + 1
        return nn.Dense(1, name="dense")(x)[:, 0]


def finite_loss():
    """A loss whose value is finite and whose gradient is not, where ``bad`` is true."""

    def loss_fn(params, model_state, batch, key):
        value, changed = Scaled().apply(
            {"params": params, **model_state}, batch["x"], mutable=["calls"]
        )
        # The square root has the slope infinity at 0, which the factor 0 makes NaN.
        value = jnp.where(
            batch["bad"], jnp.sqrt(jnp.where(batch["bad"], 0 * value, 1)), jnp.square(value - 1)
        )
        return Mean.of(value), (dict(changed), {"twice": Mean.of(2 * value)})

    return loss_fn


@functools.cache
def finite_steps(nonfinite):
    optimizer = optax.adam(0.1)
    step = make_train_step(finite_loss(), optimizer, nonfinite=nonfinite)
    return optimizer, Steps(step)


@pytest.mark.parametrize("devices", [1, 2, 4])
class TestNotFinite:
    """A gradient of one example, so of one device, is NaN; the loss itself is finite."""

    def steps(self, rng, devices, nonfinite, bad):
        """States and metrics of plain jit and of pmap, before and after a step."""
        (optimizer, steps), used = finite_steps(nonfinite), jax.devices()[:devices]
        x = rng.normal(size=(4, 3)).astype(np.float32)
        batch = {"x": x, "bad": np.arange(4) == (2 if bad else -1)}
        start = create_state(Scaled().init(jax.random.key(0), x), optimizer, key=jax.random.key(1))
        fresh = replicate(jax.tree.map(jnp.copy, start), devices=used)
        got = jax.block_until_ready(steps.on(devices)(fresh, shard(batch, devices=used)))
        return start, steps.jitted(start, batch), got

    def test_it_is_skipped(self, rng, devices):
        before, *results = self.steps(rng, devices, "skip", bad=True)
        for after, metrics in results:
            for name in ("params", "model_state", "opt_state"):
                assert_close(getattr(after, name), getattr(before, name), share=0)
            assert int(after.step) == 1
            assert {name: float(mean.count) for name, mean in metrics.items()} == {
                "loss": 0,
                "twice": 0,
                "skipped_steps": 1,
            }
            assert {name: float(mean.total) for name, mean in metrics.items()} == {
                "loss": 0,
                "twice": 0,
                "skipped_steps": 1,
            }

    def test_others_are_as_ever(self, rng, devices):
        seed = rng.bit_generator.state
        _, *results = self.steps(rng, devices, "skip", bad=False)
        rng.bit_generator.state = seed
        _, (plain, _), _ = self.steps(rng, devices, "stop", bad=False)
        for after, metrics in results:
            assert_close(after.params, plain.params)
            assert float(metrics["skipped_steps"].compute()) == 0
            assert float(metrics["loss"].count) == 4

    def test_it_is_told(self, rng, devices):
        """The state is then of no use, and ``fit`` stops before it is saved."""
        _, *results = self.steps(rng, devices, "stop", bad=True)
        for after, metrics in results:
            assert np.isfinite(metrics["loss"].total)
            assert float(metrics["nonfinite_steps"].compute()) == 1
            assert np.isnan(after.params["dense"]["kernel"]).any()


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("metrics", [{}, {"mine": 2.0, "another": 5.0}], ids=["none", "own"])
def test_a_loss_function_has_any_metrics_or_none(devices, metrics):
    """The loss |w x - 1| of x = 1..4 at w = 1.25 has the gradient x everywhere."""

    def loss_fn(params, model_state, batch, key):
        value = jnp.abs(params["w"] * batch["x"] - 1)
        found = {name: Mean.of(factor * batch["x"]) for name, factor in metrics.items()}
        return Mean.of(value), (model_state, found)

    used, optimizer = jax.devices()[:devices], optax.sgd(1.0)
    # Not quite 1: there the first example has a kink.
    state = create_state({"params": {"w": jnp.float32(1.25)}}, optimizer, key=jax.random.key(0))
    step = make_train_step(loss_fn, optimizer)
    batch = {"x": np.arange(1, 5, dtype=np.float32)}
    plain = jax.jit(step)(state, batch)
    pmapped = data_parallel(step, devices=used)
    got = pmapped(replicate(state, devices=used), shard(batch, devices=used))
    for after, found in (plain, got):
        values = {name: float(mean.compute()) for name, mean in found.items()}
        expected = {name: 2.5 * factor for name, factor in metrics.items()}
        assert values == {"loss": 1.25 * 2.5 - 1, **expected, "nonfinite_steps": 0}
        assert float(after.params["w"]) == 1.25 - 2.5
        assert int(after.step) == 1


def test_a_state_that_cannot_be_made_equal_is_refused():
    """A key among the network's variables."""

    def loss_fn(params, model_state, batch, key):
        return Mean.of(params["w"] * batch["x"]), ({"noise": {"key": key}}, {})

    optimizer, used = optax.sgd(1.0), jax.devices()[:2]
    variables = {"params": {"w": jnp.float32(1.0)}, "noise": {"key": jax.random.key(0)}}
    state = create_state(variables, optimizer, key=jax.random.key(0))
    step = make_train_step(loss_fn, optimizer)
    batch = {"x": np.ones(2, np.float32)}
    jax.jit(step)(state, batch)  # there is only one
    pmapped = data_parallel(step, devices=used)
    with pytest.raises(UsageError, match="noise/key of the network's state is of type key"):
        pmapped(replicate(state, devices=used), shard(batch, devices=used))
