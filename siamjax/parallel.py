"""Data parallelism: the only file that knows of pmap."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from siamjax import processes
from siamjax.checks import share_of_batch
from siamjax.errors import UsageError
from siamjax.host_memory import give_memory_back

AXIS = "devices"
"""The name of the axis of devices in :func:`data_parallel`."""


def bound_axis() -> str | None:
    """``AXIS`` inside :func:`data_parallel`, and None outside it, as under a plain ``jax.jit``.

    Code that spans devices (statistics or negatives of a whole batch) calls this and needs no
    argument, so the same network or loss works on one device and on many.
    """
    try:
        jax.lax.axis_size(AXIS)
    except NameError:  # what JAX raises for an axis that is not bound
        return None
    return AXIS


def sum_over_devices(tree: Any) -> Any:
    """The sum of every leaf over all devices; unchanged on one device and outside of pmap."""
    axis = bound_axis()
    # A sum over a single device makes XLA copy: for gradients that is a tenth of a step of the
    # whole LFW network on a CPU.
    if axis is None or jax.lax.axis_size(axis) == 1:
        return tree
    return jax.lax.psum(tree, axis)


def gather_over_devices(tree: Any) -> Any:
    """Every leaf's rows of all devices, concatenated; unchanged on one device and outside of pmap.

    Gradients flow back to the device that a row came from.
    """
    axis = bound_axis()
    if axis is None or jax.lax.axis_size(axis) == 1:
        return tree
    return jax.lax.all_gather(tree, axis, tiled=True)


def first_gathered_row(rows: int) -> Int[Array, ""]:
    """Where the ``rows`` of this device begin in :func:`gather_over_devices`; 0 outside of pmap."""
    axis = bound_axis()
    return jnp.int32(0) if axis is None else rows * jax.lax.axis_index(axis)


def same_on_devices(tree: Any) -> Any:
    """A network's state made equal on all devices: the mean of the devices' states.

    Of whole numbers and booleans (counters, flags) it is the maximum. Raises ``UsageError`` for
    leaves of another kind, such as a key, which cannot be combined.
    """
    axis = bound_axis()
    if axis is None or jax.lax.axis_size(axis) == 1:
        return tree

    def same(path: Any, leaf: Any) -> Any:
        dtype = leaf.dtype
        if jnp.issubdtype(dtype, jnp.inexact):
            return jax.lax.pmean(leaf, axis)
        if jnp.issubdtype(dtype, jnp.integer):
            return jax.lax.pmax(leaf, axis)
        if dtype == jnp.bool_:
            return jax.lax.pmax(leaf.astype(jnp.int32), axis) > 0
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        raise UsageError(
            f"{where} of the network's state is of type {dtype} and can differ between devices; "
            "keep it out of the network's variables, or train on one device"
        )

    return jax.tree_util.tree_map_with_path(same, tree)


def data_parallel(
    function: Callable[..., Any],
    *,
    devices: Sequence[Any] | None = None,
    donate_state: bool = True,
) -> Callable[..., Any]:
    """Pmapped ``(state, batch) -> result``: every device has the whole state, the batch is split.

    The state stays an ordinary tree (no stacked copies); place it with :func:`replicate`, and
    split the batch with :func:`shard`. The result must be reduced over ``AXIS``, as that of
    :func:`siamjax.training.make_train_step` is: of a value that differs between devices, device
    0's is returned without warning. The result reuses the state's memory, so the state that was
    passed in is gone; ``donate_state=False`` keeps it, at the cost of a second copy.
    """
    return jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=(0,) if donate_state else (),
    )


def data_parallel_map(
    function: Callable[..., Any], *, devices: Sequence[Any] | None = None
) -> Callable[..., Any]:
    """Pmapped ``(variables, batch) -> values`` of every device, stacked: to embed and to score.

    Of several processes each gives its own part of the batch (:func:`own_rows`), and all have the
    values of all devices, unless ``devices`` are given: then a process works by itself.
    """

    @functools.cache
    def mapped(together: bool) -> Callable[..., Any]:
        def of_device(held: tuple[Any], batch: Any) -> Any:
            values = function(*held, batch)
            return jax.lax.all_gather(values, AXIS) if together else values

        # Nested axes, because of (None, 0) pmap takes the first for the batch's first array where
        # the variables are empty and the batch has two arrays.
        return jax.pmap(
            of_device,
            axis_name=AXIS,
            in_axes=((None,), 0),
            out_axes=None if together else 0,
            devices=None if together else devices or jax.local_devices(),
        )

    def call(variables: Any, batch: Any) -> Any:
        return mapped(devices is None and processes.count() > 1)((variables,), batch)

    return call


def device_count() -> int:
    """How many devices work together: those of all processes."""
    return jax.device_count() if processes.count() > 1 else jax.local_device_count()


def own_rows(rows: Any) -> Any:
    """This process's part of the rows of a batch, whose number the processes divide evenly."""
    share = len(rows) // processes.count()
    return rows[processes.index() * share :][:share]


def replicate(tree: Any, *, devices: Sequence[Any] | None = None) -> Any:
    """Copy a state to every device. Without it before the first step, the step compiles twice."""
    return jax.device_put(tree, replicated_sharding(devices=devices))


def replicated_sharding(*, devices: Sequence[Any] | None = None) -> NamedSharding:
    """The sharding of a value that every local device holds whole."""
    mesh = Mesh(np.asarray(devices or jax.local_devices()), (AXIS,))
    return NamedSharding(mesh, PartitionSpec())


def shard(batch: dict[str, Any], *, devices: Sequence[Any] | None = None) -> dict[str, Any]:
    """Split the leading axis over the devices: (batch, ...) -> (devices, batch / devices, ...).

    Raises ``UsageError`` if it cannot be split evenly.
    """
    count = len(devices or jax.local_devices())
    for value in batch.values():
        share_of_batch(len(value), "examples", count, "devices")
    give_memory_back()  # of the last batch, before the next takes more
    return {
        name: value.reshape(count, len(value) // count, *value.shape[1:])
        for name, value in batch.items()
    }
