"""The axis of devices: found where it is bound, and what is made equal on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.parallel import (
    AXIS,
    bound_axis,
    data_parallel,
    data_parallel_map,
    gather_over_devices,
    replicate,
    same_on_devices,
    shard,
    sum_over_devices,
)


def on(count):
    return {"devices": jax.devices()[:count]}


class TestBoundAxis:
    """Each test notes what was found while JAX traced the function."""

    def test_nowhere_but_in_data_parallel(self):
        found = []

        def note(x):
            found.append(bound_axis())
            return x**2

        note(2.0)
        jax.jit(note)(2.0)
        assert jax.grad(note)(3.0) == 6.0
        jax.vmap(note)(jnp.ones(2))
        jax.jit(jax.vmap(jax.grad(note)))(jnp.ones(2))
        assert found == [None] * 5

    def test_another_axis_is_not_it(self):
        found = []

        def note(x):
            found.append(bound_axis())
            return x

        jax.vmap(note, axis_name="batch")(jnp.ones(2))
        assert found == [None]

    @pytest.mark.parametrize("devices", [1, 2, 8])
    def test_in_data_parallel_and_in_jit_grad_and_vmap_within(self, devices):
        found = []

        def note(x):
            found.append(bound_axis())
            return x**2

        def step(state, batch):
            x = jnp.sum(batch["x"])
            jax.jit(note)(x)
            gradient = jax.grad(note)(x)
            jax.vmap(note)(batch["x"])
            return jax.lax.psum(gradient, AXIS) + state

        batch = shard({"x": np.arange(8.0, dtype=np.float32)}, **on(devices))
        got = data_parallel(step, **on(devices))(replicate(jnp.ones(()), **on(devices)), batch)
        assert found == [AXIS] * 3
        assert float(got) == 1 + 2 * 28


def test_sum_and_gather():
    x = np.arange(8.0, dtype=np.float32).reshape(4, 2)

    def both(state, batch):
        return sum_over_devices(batch["x"].sum(0)), gather_over_devices(batch["x"] * state)

    for devices in (1, 2, 4):
        function = data_parallel(both, donate_state=False, **on(devices))
        total, rows = function(
            replicate(jnp.ones(()), **on(devices)), shard({"x": x}, **on(devices))
        )
        np.testing.assert_array_equal(total, [12, 16])
        np.testing.assert_array_equal(rows, x)
    total, rows = jax.jit(both)(1.0, {"x": x})
    np.testing.assert_array_equal(total, [12, 16])
    np.testing.assert_array_equal(rows, x)


def test_gradients_flow_back_to_the_device_of_a_row():
    """The loss of device d is (d + 1) times the sum of squares of all rows: 3 * 2 x in all."""
    x = np.array([[1.0], [5.0]], np.float32)

    def loss(rows):
        share = 1.0 + jax.lax.axis_index(AXIS)
        return share * jnp.sum(gather_over_devices(rows) ** 2)

    gradient = data_parallel_map(lambda _, batch: jax.grad(loss)(batch["x"]), **on(2))
    got = gradient(replicate(jnp.zeros(()), **on(2)), shard({"x": x}, **on(2)))
    np.testing.assert_array_equal(np.asarray(got).ravel(), 3 * 2 * x.ravel())


class TestSameOnDevices:
    """The mean of floats, the greatest of whole numbers and booleans."""

    def states(self, batch):
        x = batch["x"]
        return {
            "mean": jnp.mean(x),
            "half": jnp.mean(x).astype(jnp.bfloat16),
            "count": jnp.max(x).astype(jnp.int32),
            "bytes": jnp.max(x).astype(jnp.uint8),
            "flag": jnp.any(x > 6),
            "never": jnp.any(x > 100),
        }

    @pytest.mark.parametrize("devices", [1, 2, 4])
    def test_by_kind(self, devices):
        """Each device has its part of 0..7: their means average to 3.5, the greatest is 7."""

        def own_then_same(_, batch):
            return same_on_devices(self.states(batch))

        batch = shard({"x": np.arange(8.0, dtype=np.float32)}, **on(devices))
        got = data_parallel_map(own_then_same, **on(devices))(
            replicate(jnp.zeros(()), **on(devices)), batch
        )
        expected = {"mean": 3.5, "half": 3.5, "count": 7, "bytes": 7, "flag": True, "never": False}
        dtypes = {"half": jnp.bfloat16, "count": np.int32, "bytes": np.uint8, "flag": np.bool_}
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(
                np.asarray(got[name], np.float32), np.full(devices, value, np.float32), name
            )
            assert got[name].dtype == dtypes.get(name, got[name].dtype), name

    def test_as_it_is_outside(self):
        tree = {"x": jnp.ones(2), "key": jax.random.key(0)}
        assert jax.tree.leaves(same_on_devices(tree))[1] is tree["x"]

    def test_a_key_is_refused_and_named(self):
        def step(_, batch):
            return same_on_devices({"noise": {"rng": jax.random.key(0)}, "x": jnp.sum(batch["x"])})

        batch = shard({"x": np.ones(2, np.float32)}, **on(2))
        with pytest.raises(UsageError, match=r"noise/rng of the network's state is of type key<"):
            data_parallel(step, **on(2))(replicate(jnp.zeros(()), **on(2)), batch)
        # On one device there is nothing to differ.
        one = shard({"x": np.ones(2, np.float32)}, **on(1))
        data_parallel(step, **on(1))(replicate(jnp.zeros(()), **on(1)), one)


@pytest.mark.parametrize("donate", [True, False])
def test_the_state_is_taken_over_unless_it_is_kept(donate):
    state = replicate({"w": jnp.arange(3.0)}, **on(2))
    step = data_parallel(
        lambda state, batch: {"w": state["w"] + sum_over_devices(jnp.sum(batch["x"]))},
        donate_state=donate,
        **on(2),
    )
    got = step(state, shard({"x": np.ones(4, np.float32)}, **on(2)))
    np.testing.assert_array_equal(got["w"], [4, 5, 6])
    assert state["w"].is_deleted() == donate


def test_shard_names_the_numbers():
    with pytest.raises(UsageError, match="batch of 6 examples cannot be split over 4 devices"):
        shard({"x": np.zeros((8, 2)), "weight": np.zeros(6)}, **on(4))
    got = shard({"x": np.arange(24).reshape(8, 3)}, **on(4))
    np.testing.assert_array_equal(got["x"], np.arange(24).reshape(4, 2, 3))


@pytest.mark.parametrize("variables", [{}, {"params": {}}, {"a": np.ones(3)}])
@pytest.mark.parametrize("arrays", [1, 2, 3])
def test_a_batch_is_split_whatever_the_variables(variables, arrays):
    """A network may have no variables, and a batch any number of arrays."""
    batch = {str(name): np.arange(8.0) for name in range(arrays)}
    shapes = []

    def note(variables, batch):
        shapes.append(batch["0"].shape)
        return batch["0"] * 2

    got = data_parallel_map(note, **on(4))(variables, shard(batch, **on(4)))
    assert shapes == [(2,)]
    np.testing.assert_array_equal(np.ravel(got), 2 * batch["0"])
