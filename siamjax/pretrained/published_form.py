"""What published weights must hold: every tensor, of the published shape, with finite values."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.models.inception_v3 import InceptionV3
from siamjax.models.vgg16 import Vgg16
from siamjax.options import Preprocessing
from siamjax.pretrained.networks import NETWORKS, variables_of

Shape = tuple[int, ...]


@functools.cache
def published_shapes(architecture: str) -> dict[str, Shape]:
    """Shapes of VGG-16 or InceptionV3 by collection and path, without the classifier."""
    network = Vgg16() if architecture == "vgg16" else InceptionV3()
    image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)  # the smallest that both take
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(variables, sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}


def check_published(source: str, architecture: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise ``UsageError`` unless VGG-16 or InceptionV3 is whole, with its published shapes.

    Other layers, such as a classifier, may be there: each must have a bias of as many values as its
    kernel has columns, and the published dense layers must have one.
    """
    wanted = published_shapes(architecture)
    given = {path: tensors[path].shape for path in wanted if path in tensors}
    for path, tensor in tensors.items():
        layer, _, name = path.rpartition("/")
        if name == "kernel" and path not in wanted and tensor.ndim:
            bias = f"{layer}/bias"
            if bias in tensors or layer.partition("/")[2] in ("fc1", "fc2", "predictions"):
                wanted = {**wanted, bias: tensor.shape[-1:]}
                given |= {bias: tensors[bias].shape} if bias in tensors else {}
    if wrong := mismatches(wanted, given, there="expected"):
        theano = all(
            len(shape) == 4 and given.get(path) == (shape[3], shape[2], *shape[:2])
            for path, shape in wanted.items()
            if path.startswith(("params/block", "params/conv")) and path.endswith("/kernel")
        )
        remedy = "; its kernels are in Theano's order: save them in TensorFlow's" if theano else ""
        title = NETWORKS[architecture].title
        raise UsageError(f"{shown(source)} is not {title} as published: {wrong}{remedy}")


def mismatches(
    wanted: Mapping[str, Shape],
    given: Mapping[str, Shape],
    *,
    there: str,
    names: Mapping[str, str] = {},
) -> str:
    """What is missing, left over or of another shape; the first six of these, or nothing.

    ``there`` says where the wanted shape is, ``names`` how the file calls the tensors.
    """
    wrong = [f"{inside(path)} is missing in the file" for path in sorted(wanted.keys() - given)]
    wrong += [
        f"{_called(path, names)} has no place in the network"
        for path in sorted(given.keys() - wanted)
    ]
    wrong += [
        f"{_called(path, names)} is {given[path]} in the file and {wanted[path]} {there}"
        + (_order(path, given[path]) if path in names else "")
        for path in sorted(wanted.keys() & given)
        if wanted[path] != given[path]
    ]
    more = f"; and {len(wrong) - 6} more" if len(wrong) > 6 else ""
    return "; ".join(wrong[:6]) + more


def check_network(
    source: str,
    architecture: str,
    tensors: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    *,
    whole: bool,
    names: Mapping[str, str] = {},
) -> Preprocessing:
    """The preprocessing of the network that these tensors are.

    Raises ``UsageError`` for a network that cannot be, and if they must be ``whole`` naming tensors
    that it lacks, does not have or has in another shape, by ``names`` as well.
    """
    given = {path: tensor.shape for path, tensor in tensors.items()}
    try:
        network, size = NETWORKS[architecture].build(given, facts)
        variables = variables_of(network, size)
    except UsageError as error:
        raise UsageError(f"{shown(source)}: {error}") from None
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(variables, sep="/")
    wanted = {path: leaf.shape for path, leaf in flat.items()}
    wrong = mismatches(wanted, given, there="expected", names=names)
    if whole and wrong:
        title = NETWORKS[architecture].title
        raise UsageError(f"{shown(source)} is not {title} as published: {wrong}")
    return network.preprocessing  # pyright: ignore[reportAttributeAccessIssue]


def check_values(
    source: str, tensors: Mapping[str, np.ndarray], *, names: Mapping[str, str] = {}
) -> None:
    """Raise ``UsageError`` for NaN and infinity in float32, with tensor, count and the first place.

    And for variances below 0, whose root is NaN: max-pooling makes numbers of it again.
    """
    for path, tensor in tensors.items():
        with np.errstate(over="ignore"):
            good, asked = np.isfinite(np.asarray(tensor, np.float32)), "finite in float32"
        if good.all() and path.startswith("batch_stats/") and path.endswith("/var"):
            good, asked = tensor >= 0, "variances"
        if good.all():
            continue
        count = tensor.size - int(good.sum())
        place = np.unravel_index(int(np.argmin(good)), tensor.shape)
        raise UsageError(
            f"{shown(source)}: {_called(path, names)} has {count:,} of {tensor.size:,} "
            f"values that are not {asked}, the first {tensor[place]} at "
            f"{tuple(map(int, place))}; the file is damaged, or its training went wrong"
        )


def _called(path: str, names: Mapping[str, str]) -> str:
    """The path without its collection, and the file's name of it where that is another."""
    name = names.get(path, "")
    alike = name.replace(".", "/") in ("", inside(path))
    return inside(path) if alike else f"{inside(path)} ({shown(name)})"


def _order(path: str, shape: Shape) -> str:
    """The order of a kernel's axes, as the file may have another."""
    orders = {2: ", as (in, out)", 4: ", as (height, width, in, out)"}
    return orders.get(len(shape), "") if path.endswith("/kernel") else ""


def inside(path: str) -> str:
    """The path without its collection."""
    return path.partition("/")[2]
