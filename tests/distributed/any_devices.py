"""Steps on any devices and processes: the losses, and the gradients of the first step.

    python any_devices.py HOST:PORT,COUNT,INDEX FOLDER STEPS NAME...

does so as one of several processes, and writes FOLDER/NAME-INDEX.npz.
"""

import contextlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from random_variables import random_variables
from small_experiments import SIDES, batch_of, built

from siamjax import distances, mining
from siamjax.metrics import Mean
from siamjax.parallel import data_parallel, replicate, shard, sum_over_devices
from siamjax.training import create_state, initialize, make_train_step

# On four devices the last has no example that counts, on eight the last three have none.
WEIGHT = np.array([2, 0.5, 1, 1, 1, 0, 3, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.float32)
FLOAT64 = "float64"
"""A network of two layers in float64, with statistics and negatives of the whole batch."""


def steps_of(name, steps, *, devices=None, part=slice(None), wrap=lambda loss_fn: loss_fn):
    """What a process with the rows ``part`` of each batch finds: a flat dict of arrays."""
    with jax.enable_x64() if name == FLOAT64 else contextlib.nullcontext():
        loss_fn, optimizer, variables, batches = (
            _in_float64() if name == FLOAT64 else _experiment(name, steps)
        )
        optimizer = optax.chain(_keep_gradients(), optimizer)
        state = create_state(variables, optimizer, key=jax.random.key(0))
        step = data_parallel(make_train_step(wrap(loss_fn), optimizer), devices=devices)
        state = replicate(state, devices=devices)
        found = {"losses": []}
        for number in range(steps):
            own = {word: rows[part] for word, rows in batches(number).items()}
            # A queued step's collectives could block those of this one.
            state, metrics = jax.block_until_ready(step(state, shard(own, devices=devices)))
            found["losses"].append(metrics["loss"].compute())
            if number == 0:
                kept = {"gradients": state.opt_state[0], "kept": state.model_state}
                for path, leaf in jax.tree_util.tree_leaves_with_path(kept):
                    where = jax.tree_util.keystr(path, simple=True, separator="/")
                    found[where] = np.asarray(leaf)
        return {**found, "losses": np.array(found["losses"])}


def _keep_gradients():
    """The part of an optimizer whose state is the gradients of the last step."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda g, state, params=None: (g, g)
    )


def _experiment(name, steps):
    network, loss_fn, optimizer = built(name, steps=max(steps, 2))
    # With this seed every wrong spelling that the tests know changes the gradients by a fifth.
    variables = random_variables(network, SIDES[name], seed=3)
    if steps > 1:  # many are trained as the experiment trains them
        variables, _ = initialize(network, SIDES[name], 0)

    def batch(number):
        return {**batch_of(name, len(WEIGHT), seed=number), "weight": WEIGHT}

    return loss_fn, optimizer, variables, batch


def _in_float64():
    rng = np.random.default_rng(0)
    params = {"first": rng.normal(size=(6, 8)) / 2, "second": rng.normal(size=(8, 4)) / 3}

    def loss_fn(params, model_state, batch, key):
        weight = batch["weight"][:, None]

        def embed(x):
            hidden = jnp.tanh(x @ params["first"])
            total, count = sum_over_devices(((weight * hidden).sum(0), weight.sum()))
            return (hidden - total / count) @ params["second"], total / count

        rows, means = zip(
            *(embed(batch[w]) for w in ("anchor", "positive", "negative")), strict=True
        )
        distance = distances.squared_euclidean
        far = mining.negatives_of_batch(mining.soft_negative, distance, rows, batch)
        loss = batch["weight"] * jax.nn.softplus(distance(*rows[:2]) - far)
        # Not Mean.of, which is float32.
        return Mean(loss.sum(), batch["weight"].sum()), ({"means": means}, {})

    def batch(number):
        rng, places = np.random.default_rng(number), np.arange(len(WEIGHT))
        shown = {w: rng.normal(size=(len(WEIGHT), 6)) for w in ("anchor", "positive", "negative")}
        who = {"identity": places % 5, "negative_identity": (places + 1) % 5}
        return {**shown, **who, "weight": WEIGHT.astype(np.float64)}

    variables = {"params": params, "means": (np.zeros(8),) * 3}
    return loss_fn, optax.adam(0.01), variables, batch


def _keep_compilations_of_every_process():
    """JAX keeps those of the first process alone, and the others cannot use them.

    On a CPU their keys differ, so that jax_share_binary_between_hosts waits for ever. No option
    lets others write. Where JAX no longer has these names, the script ends with AttributeError.
    """
    from jax._src import compiler, distributed

    write = compiler._cache_write

    def as_the_first(*arguments):
        own, distributed.global_state.process_id = distributed.global_state.process_id, 0
        try:
            write(*arguments)
        finally:
            distributed.global_state.process_id = own

    compiler._cache_write = as_the_first


if __name__ == "__main__":
    from siamjax import processes, use_fast_cpu_kernels

    words, folder, steps, *names = sys.argv[1:]
    use_fast_cpu_kernels()
    processes.start(words)
    size = len(WEIGHT) // processes.count()
    own = slice(processes.index() * size, (processes.index() + 1) * size)
    _keep_compilations_of_every_process()
    for name in names:
        found = steps_of(name, int(steps), part=own)
        np.savez(Path(folder) / f"{name}-{processes.index()}.npz", **found)
