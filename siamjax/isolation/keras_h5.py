"""Reads the HDF5 files that Keras saves, in a child process: tensors by layer and name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.isolation.hdf5 import File

# Keras 1 called the tensors of layer L "L_W", "L_b", ..., here with a number or without.
_KERAS1 = re.compile(r"(?P<layer>.+)_(?P<kind>W|b|gamma|beta|running_mean|running_std)(_\d+)?")
_KERAS1_NAMES = {
    "W": "kernel",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",  # which it held in spite of its name
}
_BY_COUNT = {
    ("conv2d", 1): ("kernel",),
    ("conv2d", 2): ("kernel", "bias"),
    ("dense", 1): ("kernel",),
    ("dense", 2): ("kernel", "bias"),
    ("batch_normalization", 3): ("beta", "moving_mean", "moving_variance"),
    ("batch_normalization", 4): ("gamma", "beta", "moving_mean", "moving_variance"),
}


def tensors(path: Path) -> Iterator[tuple[Any, np.ndarray | None]]:
    """Each tensor, with its layer and its Keras name; at last whether the layers have their names.

    All three layouts are read: groups named by layer with ``weight_names`` (Keras 2, and Keras 1
    with its own names), and ``layers/CLASS_N/vars/K`` (Keras 3), whose layers have no names before
    Keras 3.3. Raises ``UsageError`` for an HDF5 file of anything else.
    """
    file = File(path, keeps=True)
    inside = list(file.root)
    if "layers" in inside and "layer_names" not in file.root.attrs:
        named = yield from _keras3(file, path)
    else:
        group = file.root
        if "layer_names" not in group.attrs and "model_weights" in inside:
            group = file.within(group, "model_weights")
        if "layer_names" not in group.attrs:
            raise UsageError(f"{shown(path)} is an HDF5 file, but not of Keras weights")
        yield from _keras2(file, group)
        named = True
    yield named, None


def _keras2(file: File, group: Any) -> Iterator[tuple[Any, np.ndarray]]:
    for layer in file.texts(group, "layer_names"):
        inside = file.within(group, layer)
        for name in file.texts(inside, "weight_names"):
            *above, last = name.split(":")[0].split("/")
            owner, kind = above[-1] if above else layer, last
            if (older := _KERAS1.fullmatch(last)) and older["layer"] == owner:
                kind = _KERAS1_NAMES[older["kind"]]
            yield (owner, kind), file.numbers(file.within(inside, name))


def _keras3(file: File, path: Path) -> Any:
    layers = file.within(file.root, "layers")
    named = True
    for stored in list(layers):
        layer = file.within(layers, stored)
        inside = list(layer) if isinstance(layer, h5py.Group) else []
        variables: Any = file.within(layer, "vars") if "vars" in inside else ()
        if not len(variables):
            if inside not in ([], ["vars"]):
                raise UsageError(
                    f"{shown(path)}: layer {shown(stored)} is itself a network: save the weights "
                    "of that one"
                )
            continue
        kind = stored.rstrip("0123456789").rstrip("_")
        kinds = _BY_COUNT.get((kind, len(variables)))
        if kinds is None:
            raise UsageError(
                f"{shown(path)}: layer {shown(stored)} with {len(variables)} variables is unknown; "
                "expected convolutions, dense layers and batch normalisations"
            )
        name = stored
        if "name" in variables.attrs:
            name = "".join(file.texts(variables, "name"))
        else:
            named = False
        for place, one in enumerate(kinds):
            yield (name, one), file.numbers(file.within(variables, str(place)))
    return named
