"""Networks with state of any kind, and with nothing at all, in training and in evaluation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siamjax.errors import UsageError
from siamjax.losses import contrastive
from siamjax.metrics import Mean
from siamjax.models import EuclideanHead, Siamese
from siamjax.models.applying import evaluate, states
from siamjax.parallel import data_parallel, data_parallel_map, replicate, shard
from siamjax.training import create_state, forward_pairs, initialize, make_train_step
from siamjax.training.checkpoints import Checkpoints


class Counting(nn.Module):
    """Counts its calls, in training and in evaluation, and sows what it sees."""

    @nn.compact
    def __call__(self, x, *, train=False):
        calls = self.variable("counters", "calls", jnp.zeros, (), jnp.int32)
        calls.value = calls.value + 1
        self.sow("seen", "mean", x.mean())
        return nn.Dense(3)(x.reshape(len(x), -1)) + calls.value.astype(jnp.float32)


class Flat(nn.Module):
    """Pixels: no parameters, no state."""

    def __call__(self, x, *, train=False):
        return x.reshape(len(x), -1)


def pairs_of(count, rng):
    images = rng.integers(0, 256, (2, count, 4, 4, 3), np.uint8)
    return {"x1": images[0], "x2": images[1], "same": np.arange(count) % 2 == 0}


def network_of(backbone):
    return Siamese(backbone=backbone, head=EuclideanHead())


@pytest.mark.parametrize("backbone", [Counting(), Flat()])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_train_step_and_its_checkpoint(tmp_path, rng, backbone, devices):
    network, optimizer, on = network_of(backbone), optax.adam(0.1), jax.devices()[:devices]
    variables, key = initialize(network, (4, 4), 0)

    def loss_fn(params, model_state, batch, key):
        value, _, model_state = forward_pairs(network, params, model_state, batch, key)
        return Mean.of(contrastive(value, batch["same"])), (model_state, {})

    state = create_state(variables, optimizer, key=key)
    step = data_parallel(make_train_step(loss_fn, optimizer), devices=on)
    state = replicate(state, devices=on)
    for _ in range(2):
        state, metrics = step(state, shard(pairs_of(4, rng), devices=on))
    assert float(metrics["loss"].count) == 4.0
    checkpoints = Checkpoints(tmp_path / "checkpoints", best="loss")
    checkpoints.save(state, {"loss": 1.0})
    fresh = create_state(initialize(network, (4, 4), 0)[0], optimizer, key=key)
    restored, messages = checkpoints.restore(fresh)
    assert not messages
    assert int(restored.step) == 2
    checkpoints.close()
    # One call for the initial variables and one for each step.
    assert [int(one) for one in jax.tree.leaves(restored.model_state)] == (
        [] if isinstance(backbone, Flat) else [3]
    )


@pytest.mark.parametrize("backbone", [Counting(), Flat()])
@pytest.mark.parametrize("devices", [1, 2])
def test_evaluated_on_many_devices(rng, backbone, devices):
    network, batch, on = network_of(backbone), pairs_of(4, rng), jax.devices()[:devices]
    variables, _ = initialize(network, (4, 4), 0)
    embed = lambda variables, x: evaluate(network, variables, x, method="embed")  # noqa: E731
    expected = embed(variables, batch["x1"])
    got = data_parallel_map(lambda v, b: embed(v, b["x1"]), devices=on)(
        replicate(variables, devices=on), shard(batch, devices=on)
    )
    assert got.shape[:2] == (devices, 4 // devices)
    np.testing.assert_allclose(np.reshape(got, expected.shape), expected, rtol=1e-5)
    assert embed(variables, batch["x1"]).tolist() == expected.tolist()  # nothing was kept


def test_what_is_kept_and_what_is_sown():
    variables, _ = initialize(network_of(Counting()), (4, 4), 0)
    assert "seen" in variables
    assert states(variables) == ["counters"]


def test_state_that_is_not_there_is_no_new_one():
    network = network_of(Counting())
    variables, _ = initialize(network, (4, 4), 0)
    with pytest.raises(UsageError, match="Siamese uses counters/backbone/calls, which"):
        evaluate(
            network,
            {"params": variables["params"], "counters": {}},
            jnp.ones((1, 4, 4, 3)),
            method="embed",
        )
