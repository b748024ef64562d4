"""A run of a network of two layers, with everything that an experiment has."""

import os
import signal
from dataclasses import dataclass
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from siamjax.data import of_arrays
from siamjax.metrics import Mean
from siamjax.models.normalization import BatchNorm
from siamjax.parallel import data_parallel
from siamjax.training import Run, RunConfig, create_state, fit, forward, make_train_step
from siamjax.training.writers import read_metrics

SHARES = ("data_wait_percent", "device_percent", "host_percent")


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    batch_size: int = 8
    steps: int = 6
    evaluate_every: int = 2
    log_every: int = 1


class Net(nn.Module):
    """Two layers, with a state that changes and with noise."""

    @nn.compact
    def __call__(self, x, *, train=False, weight=None):
        x = nn.Dense(3, name="first")(x)
        x = BatchNorm(name="norm")(x, train=train, weight=weight)
        x = nn.Dropout(0.25, deterministic=not train)(x)
        return nn.Dense(1, name="second")(x)[:, 0]


NETWORK, OPTIMIZER = Net(), optax.adam(0.05)

SPLITS = SimpleNamespace(
    images=of_arrays(np.zeros((2, 4, 4), np.uint8), name="made"),
    protocol="drawn by hand",
    request={},
    trained_on=(),
    fingerprint=lambda: "abc",
)


def train_step(*, frozen=False, optimizer=OPTIMIZER, network=NETWORK):
    """Squared error; ``frozen`` keeps the first layer as it is."""

    def loss_fn(params, model_state, batch, key):
        if frozen:
            params = {**params, "first": jax.lax.stop_gradient(params["first"])}
        value, model_state = forward(network, params, model_state, key, batch["x"])
        return Mean.of(jnp.square(value - batch["y"])), (model_state, {"value": Mean.of(value)})

    return data_parallel(make_train_step(loss_fn, optimizer))


def batches(start):
    """The batch of a step depends on its number alone."""
    for step in range(start, 100):
        x = np.random.default_rng(step).normal(size=(8, 4)).astype(np.float32)
        yield {"x": x, "y": x[:, 0] - x[:, 1]}


def evaluate(variables):
    return {"score": -float(jnp.square(variables["params"]["second"]["kernel"]).sum())}


def variables_of(network=NETWORK):
    return network.init(jax.random.key(3), jnp.zeros((1, 4)))


def start_of(optimizer=OPTIMIZER):
    return create_state(variables_of(), optimizer, key=jax.random.key(4))


def open_run(folder, network=NETWORK, *, extendable=False, splits=SPLITS, **options):
    config = Config(run=folder, **options)
    return Run.open(config, network, splits, best="score", extendable=extendable)


def trained(folder, stages, data=batches, **options):
    """What an experiment does: a call of ``fit`` for each ``(step, until)``; the last state."""
    run, state = open_run(folder, **options), start_of()
    try:
        for step, until in stages:
            state = fit(run, state, step, data, evaluate=evaluate, until=until)
    finally:
        run.close()
    return state


def assert_equal(got, expected):
    """Two states, bit for bit."""

    def compare(path, a, b):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(compare, got, expected)


def rows(folder):
    """The rows of metrics without what depends on the clock."""
    timed = ("_per_second", "_percent")
    return [
        {name: value for name, value in row.items() if not name.endswith(timed)}
        for row in read_metrics(folder)
    ]


def killed_at(step):
    """Batches in the midst of which SIGTERM arrives, while that step is made (the first is 1)."""

    def stopping(start):
        for number, batch in enumerate(batches(start), start=start + 1):
            if number == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    return stopping
