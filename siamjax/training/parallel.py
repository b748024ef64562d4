"""Data parallelism: the only place that knows of pmap."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from siamjax.errors import UsageError

AXIS = "devices"
"""Name of the pmapped axis: what batch normalisation and psum add over."""


def data_parallel(
    function: Callable[..., Any],
    *,
    devices: Sequence[Any] | None = None,
    donate_state: bool = False,
) -> Callable[..., Any]:
    """Pmapped ``(state, batch) -> result``: the state whole on every device, the batch split.

    The state stays an ordinary tree (no stacked copies). The result must be the same on every
    device, that is reduced over ``AXIS``: what is not reduced silently becomes device 0's.
    ``donate_state`` lets the result reuse the state's memory: the caller's state is gone then.
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
    """Pmapped ``(variables, batch) -> values``, one row a device: for embedding and scoring."""
    return jax.pmap(function, axis_name=AXIS, in_axes=(None, 0), devices=devices)


def replicate(tree: Any, *, devices: Sequence[Any] | None = None) -> Any:
    """Copy a state to every device; done before the first step, or that step compiles twice."""
    return jax.device_put(tree, replicated_sharding(devices=devices))


def replicated_sharding(*, devices: Sequence[Any] | None = None) -> NamedSharding:
    """Sharding of a value that every (local) device holds whole."""
    mesh = Mesh(np.asarray(devices or jax.local_devices()), (AXIS,))
    return NamedSharding(mesh, PartitionSpec())


def shard(batch: dict[str, Any], *, devices: Sequence[Any] | None = None) -> dict[str, Any]:
    """Split the leading axis over the devices: (batch, ...) -> (devices, batch / devices, ...).

    Raises ``UsageError`` if the batch cannot be split evenly.
    """
    count = len(devices or jax.local_devices())
    sizes = {len(value) for value in batch.values()}
    for size in sizes:
        if size % count:
            raise UsageError(
                f"batch of {size} cannot be split over {count} devices; use a multiple of {count}"
            )
    return {
        name: value.reshape(count, len(value) // count, *value.shape[1:])
        for name, value in batch.items()
    }
