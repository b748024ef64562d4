"""What the layers of a network give for images, and which of their filters never answer.

Contract: a network has ``embed`` (uint8 images -> embeddings or features). Its layers are the linen
modules that it calls, named by their path, such as ``backbone/conv1``; the end of a path is enough
if it fits only one layer: ``conv1``. ``output`` is what ``embed`` returns. Only layers that give
maps (height, width, channels), tokens (tokens, features) or features (features,) are listed. If a
layer is called several times, its last result counts.

A layer ends where its module ends: if the network applies a ReLU to its result, the values here are
those before the ReLU.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from siamjax.data.transforms import Size, sides
from siamjax.errors import UsageError
from siamjax.models.applying import states

OUTPUT = "output"


class Layer(NamedTuple):
    """One layer of a network.

    Attributes:
        name: path of the module.
        kind: class of the module.
        shape: shape of its result for one image: (height, width, channels), (tokens, features) or
            (features,).
        parameters: number of parameters, including those of layers within it.
        convolution: whether it is a convolution.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    convolution: bool


class DeadFilters(NamedTuple):
    """The channels of a layer that are never above 0 for a set of images.

    Attributes:
        layer: path of the layer.
        channels: number of its channels.
        dead: the channels never above 0, numbered from 0, in ascending order.
        images: number of images.
    """

    layer: str
    channels: int
    dead: Int[np.ndarray, " dead"]
    images: int


def layers(network: nn.Module, variables: Any, size: Size) -> list[Layer]:
    """The layers of ``embed``, in the order in which they end; nothing is computed.

    ``size`` is the side, or (height, width), of the network's images. Raises ``UsageError`` for a
    network without ``embed``.
    """
    modules: dict[str, nn.Module] = {}  # in the order in which they end, not sorted by name

    def captured(module: nn.Module, method: str) -> bool:
        if method == "__call__" and module.path:
            modules.setdefault("/".join(module.path), module)
        return method == "__call__"

    def run(variables: Any, images: Array) -> dict[str, Array]:
        return _captured(network, variables, images, captured)

    results = jax.eval_shape(run, variables, jax.ShapeDtypeStruct((1, *sides(size), 3), jnp.uint8))
    modules[OUTPUT] = network
    found = []
    for name, module in modules.items():
        result = getattr(results[name], "shape", ())
        if len(result) in (2, 3, 4):
            inside = variables.get("params", {})  # of the layer and of those within it
            for part in name.split("/") if name != OUTPUT else ():
                inside = inside.get(part, {})
            convolution = len(result) == 4 and getattr(inside.get("kernel"), "ndim", 0) == 4
            count = sum(leaf.size for leaf in jax.tree.leaves(inside))
            found.append(Layer(name, type(module).__name__, result[1:], count, convolution))
    return found


def find_layer(known: Sequence[Layer], name: str) -> Layer:
    """The layer of this name, or the one whose path ends in it.

    Raises ``UsageError``, with similar names, if no layer or more than one fits.
    """
    for layer in known:
        if layer.name == name:
            return layer
    names = [layer.name for layer in known]
    fitting = [layer for layer in known if layer.name.endswith(f"/{name}")]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(
            f"layer {name!r} fits {', '.join(layer.name for layer in fitting)}; give a longer path"
        )
    ends = [own.rpartition("/")[2] for own in names]
    close = difflib.get_close_matches(name, {*names, *ends}, n=8)
    near = [own for own, end in zip(names, ends, strict=True) if own in close or end in close]
    said = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"
    raise UsageError(f"no layer {name!r}; {said}")


def activations(
    network: nn.Module,
    variables: Any,
    images: UInt8[np.ndarray, "n height width 3"],
    *,
    names: Sequence[str],
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """What layers give for images, from one pass, by the whole path of each layer.

    Args:
        network: has ``embed``; its fields must be hashable.
        variables: the network's variables.
        images: uint8, of the network's size; all go through at once.
        names: the layers.

    Returns: for each layer float32, (n, height, width, channels), (n, tokens, features) or
    (n, features).

    Raises ``UsageError`` for an unknown layer, a network without ``embed``, and other images.
    """
    images = _checked(images)
    paths = _paths(network, variables, images, names)
    values = _of_layers(network, paths, variables, images)
    return dict(zip(paths, map(np.asarray, values), strict=True))


def dead_filters(
    network: nn.Module,
    variables: Any,
    batches: Iterable[UInt8[np.ndarray, "n height width 3"]],
    *,
    names: Sequence[str],
) -> list[DeadFilters]:
    """The channels of layers that are never above 0, at any place of any image, from one pass.

    A ReLU, within the layer or after it, makes such a channel all zero. In a layer whose negative
    values are used (before batch normalisation or a sigmoid), such a channel need not be dead.

    Args:
        network: has ``embed``; its fields must be hashable.
        variables: the network's variables.
        batches: uint8 images, all of one size, the first batch the largest: memory is that of the
            first, and smaller ones cost no new compilation.
        names: the layers.

    Raises ``UsageError`` as :func:`activations` does, for no images, and for NaN.
    """
    remaining = iter(batches)
    first = next((batch for batch in remaining if len(batch)), None)
    if first is None:
        raise UsageError("no images: give at least one, to find dead filters")
    paths = _paths(network, variables, _checked(first), names)
    highest, seen = None, 0
    for batch in chain([first], remaining):
        if not len(batch):
            continue
        seen += len(batch)
        # Repeated images fill a smaller batch; they change no maximum.
        short = max(0, len(first) - len(batch))
        filled = np.pad(_checked(batch), [(0, short), *[(0, 0)] * 3], mode="edge")
        found = jax.device_get(_highest(network, paths, variables, filled))
        highest = found if highest is None else tuple(map(np.maximum, highest, found))
    assert highest is not None
    for path, values in zip(paths, highest, strict=True):
        if np.isnan(values).any():
            raise UsageError(
                f"layer {path} gives NaN in channel {np.flatnonzero(np.isnan(values))[0]}: the "
                "network has diverged; use an earlier checkpoint"
            )
    return [
        DeadFilters(path, values.size, np.flatnonzero(values <= 0), seen)
        for path, values in zip(paths, highest, strict=True)
    ]


def _checked(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise UsageError(
            f"images: {images.dtype} of shape {images.shape}; give uint8 (n, height, width, 3)"
        )
    return images


def _paths(
    network: nn.Module, variables: Any, images: np.ndarray, names: Sequence[str]
) -> tuple[str, ...]:
    known = layers(network, variables, images.shape[1:3])
    return tuple(find_layer(known, name).name for name in names)


def _captured(
    network: nn.Module,
    variables: Any,
    images: Any,
    captured: Callable[[nn.Module, str], bool] | bool,
) -> dict[str, Any]:
    """Results of the layers by path, and that of ``embed`` as ``output``."""
    if not callable(getattr(type(network), "embed", None)):
        raise UsageError(
            f"{type(network).__name__} has no method embed (images -> embeddings); give a "
            "network that has one, such as Siamese around it"
        )
    output, state = network.apply(
        variables,
        images,
        method="embed",
        capture_intermediates=captured,
        mutable=["intermediates", *states(variables)],
    )
    found: dict[str, Any] = {}

    def walk(tree: Any, path: tuple[str, ...]) -> None:
        for name, value in tree.items():
            if name == "__call__":
                # The last is the outermost: a subclass may call its base's.
                found["/".join(path)] = value[-1]
            elif hasattr(value, "items"):
                walk(value, (*path, name))

    walk(state.get("intermediates", {}), ())
    return found | {OUTPUT: output}


@partial(jax.jit, static_argnums=(0, 1))
def _of_layers(
    network: nn.Module, paths: tuple[str, ...], variables: Any, images: Array
) -> tuple[Array, ...]:
    """Float32 results of the layers; the compiler drops what none of them needs."""
    values = _captured(network, variables, images, True)
    return tuple(values[path].astype(jnp.float32) for path in paths)


@partial(jax.jit, static_argnums=(0, 1))
def _highest(
    network: nn.Module, paths: tuple[str, ...], variables: Any, images: Array
) -> tuple[Array, ...]:
    """For each layer, the highest value of each channel."""
    values = _of_layers(network, paths, variables, images)
    return tuple(value.max(axis=tuple(range(value.ndim - 1))) for value in values)
