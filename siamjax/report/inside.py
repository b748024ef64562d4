"""What the layers of a network give for images, and which of their filters never answer.

Contract: a network has ``embed`` (uint8 images -> embeddings or features); layers are the linen
modules that it calls, named by their path, such as ``backbone/conv1``. A name may leave out the
beginning as long as one layer fits: ``conv1``. ``output`` is what ``embed`` returns. Only layers
with maps (height, width, channels) or features (features) are listed. Of a layer that is called
several times the last result counts.

A layer ends where its module does: if the network applies a ReLU to it, the values here are those
before it.
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

from siamjax.errors import UsageError

OUTPUT = "output"


class Layer(NamedTuple):
    """One layer of a network.

    Attributes:
        name: its path.
        kind: name of its class.
        shape: of its result for one image, (height, width, channels) or (features,).
        parameters: how many numbers it learns, those of layers within it included.
        convolution: whether it is a convolution.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    convolution: bool


class DeadFilters(NamedTuple):
    """The all-zero filters of a layer over a set of images.

    Attributes:
        layer: its name.
        channels: how many it has.
        dead: those never above 0, at no place of no image, in ascending order from 0.
        images: how many were looked at.
    """

    layer: str
    channels: int
    dead: Int[np.ndarray, " dead"]
    pictures: int


def layers(network: nn.Module, variables: Any, size: int | tuple[int, int]) -> list[Layer]:
    """The layers of ``embed``, in the order in which they end; nothing is computed.

    Args:
        network: has ``embed``.
        variables: of the network.
        size: side, or (height, width), of its images.

    Raises ``UsageError`` for a network without ``embed``.
    """
    height, width = (size, size) if isinstance(size, int) else size
    return _layers(network, variables, (height, width, 3))


def find_layer(known: Sequence[Layer], name: str) -> Layer:
    """The layer of this name, or the one whose path ends in it.

    Raises ``UsageError`` if there is none or more than one; it names those that are near.
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
            f"layer {name!r} is one of {', '.join(layer.name for layer in fitting)}: give more of "
            "its path"
        )
    ends = [own.rpartition("/")[2] for own in names]
    close = difflib.get_close_matches(name, {*names, *ends}, n=8)
    near = [own for own, end in zip(names, ends, strict=True) if own in close or end in close]
    said = f"near it: {', '.join(near)}" if near else f"there are {', '.join(names)}"
    raise UsageError(f"no layer {name!r}; {said}")


def activations(
    network: nn.Module,
    variables: Any,
    pictures: UInt8[np.ndarray, "n height width 3"],
    *,
    layer: str,
) -> Float[np.ndarray, "n ..."]:
    """What a layer gives for each image, float32: (n, height, width, channels) or (n, features).

    Args:
        network: has ``embed``; its fields must be hashable.
        variables: of the network.
        images: uint8 0..255, of a size that the network takes; all go through at once.
        layer: name of the layer.

    Raises ``UsageError`` for an unknown layer, a network without ``embed``, other images.
    """
    ((_, values),) = activations_by_layer(network, variables, pictures, names=[layer]).items()
    return values


def activations_by_layer(
    network: nn.Module,
    variables: Any,
    pictures: UInt8[np.ndarray, "n height width 3"],
    *,
    names: Sequence[str],
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """:func:`activations` of several layers from one pass, by their whole paths."""
    pictures = _checked(pictures)
    paths = _paths(network, variables, pictures, names)
    values = _of_layers(network, paths, variables, pictures)
    return dict(zip(paths, map(np.asarray, values), strict=True))


def dead_filters(
    network: nn.Module,
    variables: Any,
    batches: Iterable[UInt8[np.ndarray, "n height width 3"]],
    *,
    layer: str,
) -> DeadFilters:
    """The channels of a layer that are never above 0, at no place of any image.

    A ReLU makes such a channel all zero, whether it is part of the layer or comes after it. For a
    layer whose negative values are used (batch normalisation, the last one before a sigmoid) it
    says only that.

    Args:
        network: has ``embed``; its fields must be hashable.
        variables: of the network.
        batches: images, uint8, all of one size. Memory is that of the first batch, the largest;
            a smaller one costs no new compilation.
        layer: name of the layer.

    Raises ``UsageError`` as :func:`activations` does, for no images, and for values that are not
    numbers.
    """
    return dead_filters_by_layer(network, variables, batches, names=[layer])[0]


def dead_filters_by_layer(
    network: nn.Module,
    variables: Any,
    batches: Iterable[UInt8[np.ndarray, "n height width 3"]],
    *,
    names: Sequence[str],
) -> list[DeadFilters]:
    """:func:`dead_filters` of several layers from one pass over the images."""
    remaining = iter(batches)
    first = next((batch for batch in remaining if len(batch)), None)
    if first is None:
        raise UsageError("no images: dead filters need at least one")
    paths = _paths(network, variables, _checked(first), names)
    highest, seen = None, 0
    for batch in chain([first], remaining):
        if not len(batch):
            continue
        seen += len(batch)
        # Images that are there already fill it up: they change no maximum.
        short = max(0, len(first) - len(batch))
        filled = np.pad(_checked(batch), [(0, short), *[(0, 0)] * 3], mode="edge")
        found = jax.device_get(_highest(network, paths, variables, filled))
        highest = found if highest is None else tuple(map(np.maximum, highest, found))
    assert highest is not None
    for path, values in zip(paths, highest, strict=True):
        if np.isnan(values).any():
            raise UsageError(
                f"layer {path} gives values that are no numbers, in channel "
                f"{np.flatnonzero(np.isnan(values))[0]}: the network has diverged"
            )
    return [
        DeadFilters(path, values.size, np.flatnonzero(values <= 0), seen)
        for path, values in zip(paths, highest, strict=True)
    ]


def _checked(pictures: np.ndarray) -> np.ndarray:
    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != np.uint8:
        raise UsageError(
            f"images are {pictures.dtype} of shape {pictures.shape}: uint8 "
            "(n, height, width, 3) is needed"
        )
    return pictures


def _paths(
    network: nn.Module, variables: Any, pictures: np.ndarray, names: Sequence[str]
) -> tuple[str, ...]:
    known = _layers(network, variables, pictures.shape[1:])
    return tuple(find_layer(known, name).name for name in names)


def _layers(network: nn.Module, variables: Any, picture: tuple[int, ...]) -> list[Layer]:
    modules: dict[str, nn.Module] = {}  # in the order in which they end; trees are sorted by name

    def captured(module: nn.Module, method: str) -> bool:
        if method == "__call__" and module.path:
            modules.setdefault("/".join(module.path), module)
        return method == "__call__"

    def run(variables: Any, pictures: Array) -> dict[str, Array]:
        return _captured(network, variables, pictures, captured)

    results = jax.eval_shape(run, variables, jax.ShapeDtypeStruct((1, *picture), jnp.uint8))
    modules[OUTPUT] = network
    found = []
    for name, module in modules.items():
        shape = getattr(results[name], "shape", ())
        if len(shape) in (2, 4):
            kernel = _inside(variables, name).get("kernel")
            convolution = len(shape) == 4 and getattr(kernel, "ndim", 0) == 4
            kind, count = type(module).__name__, _count(variables, name)
            found.append(Layer(name, kind, shape[1:], count, convolution))
    return found


def _count(variables: Any, path: str) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(_inside(variables, path)))


def _inside(variables: Any, path: str) -> Any:
    """The parameters of a layer and of those within it."""
    inside = variables.get("params", {})
    for part in path.split("/") if path != OUTPUT else ():
        inside = inside.get(part, {})
    return inside


def _captured(
    network: nn.Module,
    variables: Any,
    pictures: Any,
    captured: Callable[[nn.Module, str], bool] | bool,
) -> dict[str, Any]:
    """Results of layers by path, and ``embed``'s own."""
    if not callable(getattr(type(network), "embed", None)):
        raise UsageError(
            f"{type(network).__name__} has no method embed (images -> embeddings): give a "
            "network that has, such as Siamese around it"
        )
    output, state = network.apply(
        variables,
        pictures,
        method="embed",
        capture_intermediates=captured,
        mutable=["intermediates"],
    )
    found: dict[str, Any] = {}

    def walk(tree: Any, path: tuple[str, ...]) -> None:
        for name, value in tree.items():
            if name == "__call__":
                found["/".join(path)] = value[-1]  # the outermost: a subclass may call its base's
            elif hasattr(value, "items"):
                walk(value, (*path, name))

    walk(state.get("intermediates", {}), ())
    return found | {OUTPUT: output}


@partial(jax.jit, static_argnums=(0, 1))
def _of_layers(
    network: nn.Module, paths: tuple[str, ...], variables: Any, pictures: Array
) -> tuple[Array, ...]:
    """What no asked layer needs is not computed: the compiler leaves it out."""
    values = _captured(network, variables, pictures, True)
    return tuple(values[path].astype(jnp.float32) for path in paths)


@partial(jax.jit, static_argnums=(0, 1))
def _highest(
    network: nn.Module, paths: tuple[str, ...], variables: Any, pictures: Array
) -> tuple[Array, ...]:
    """Of each layer the highest value of each channel."""
    values = _of_layers(network, paths, variables, pictures)
    return tuple(value.max(axis=tuple(range(value.ndim - 1))) for value in values)
