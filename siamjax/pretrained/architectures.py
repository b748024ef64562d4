"""VGG-16 and InceptionV3: from Keras' and torchvision's names and layouts to those of siamjax."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.models.vgg16 import BLOCKS
from siamjax.options import Preprocessing
from siamjax.pretrained.networks import NETWORKS

Layers = Mapping[str, Mapping[str, np.ndarray]]
"""Tensors by layer and name, such as ``{"block1_conv1": {"kernel": ..., "bias": ...}}``."""

PREPROCESSING: Mapping[str, Preprocessing] = {"vgg16": "bgr_mean", "inception_v3": "signed"}
"""The preprocessing of the weights that Keras publishes."""

HEADS = ("fc", "predictions")
"""Prefixes of the layers of the published classifiers."""

_VGG16 = tuple(
    f"block{block}_conv{number}"
    for block, (_, count) in enumerate(BLOCKS, start=1)
    for number in range(1, count + 1)
)
_TORCH_VGG16 = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # places in ``features``
_VGG16_DENSE = ("fc1", "fc2", "predictions")
_WRAPPED = re.compile(r"(^|\.)(?:(?:module|_orig_mod)\.)+")  # by DataParallel, by torch.compile
_INCEPTION = 94
_KINDS = {"kernel", "bias", "beta", "gamma", "moving_mean", "moving_variance"}
# Keras 3 stores layers without their names, in the order of their depth in the graph. For
# InceptionV3 these are the numbers of the convolutions (and of their normalisations) in that order.
# Without them, branches of equal shape would be exchanged unnoticed.
# fmt: off
_BY_DEPTH = (
    1, 2, 3, 4, 5, 9, 7, 10, 6, 8, 11, 12, 16, 14, 17, 13, 15, 18, 19, 23, 21, 24, 20, 22, 25, 26,
    28, 29, 27, 30, 35, 36, 32, 37, 33, 38, 31, 34, 39, 40, 45, 46, 42, 47, 43, 48, 41, 44, 49, 50,
    55, 56, 52, 57, 53, 58, 51, 54, 59, 60, 65, 66, 62, 67, 63, 68, 61, 64, 69, 70, 73, 74, 71, 75,
    72, 76, 81, 78, 82, 79, 80, 83, 84, 77, 85, 90, 87, 91, 88, 89, 92, 93, 86, 94,
)
# fmt: on


def of_keras(source: str, layers: Layers, *, by_depth: bool) -> tuple[str, dict[str, np.ndarray]]:
    """Architecture, and tensors by collection and path, of layers named by Keras.

    Keras numbers layers throughout a process (the second network begins at ``conv2d_95``), so only
    the order of the numbers is used. With ``by_depth`` the numbers are in the order of the layers'
    depth. Layers that the architecture lacks keep their names. Raises ``UsageError`` for another
    network.
    """
    maps = [n for n, own in layers.items() if "kernel" in own and own["kernel"].ndim == 4]
    norms = [n for n, own in layers.items() if "moving_mean" in own]
    of_vgg16 = not by_depth and maps and set(maps) <= set(_VGG16)  # if some are missing, say which
    if (of_vgg16 or len(maps) == len(_VGG16)) and not norms:
        names = {name: name for name in layers}
        if not of_vgg16:
            names |= dict(zip(sorted(maps, key=_number), _VGG16, strict=True))
        if by_depth:
            dense = sorted((name for name in layers if name not in maps), key=_number)
            names |= dict(zip(dense, _VGG16_DENSE, strict=False))
        return "vgg16", _tensors(source, {names[layer]: own for layer, own in layers.items()})
    if len(maps) == len(norms) == _INCEPTION:
        names = {name: name for name in layers}
        for own, kind in ((maps, "conv2d"), (norms, "batch_normalization")):
            order = _BY_DEPTH if by_depth else range(1, _INCEPTION + 1)
            in_order = zip(sorted(own, key=_number), order, strict=True)
            names |= {name: f"{kind}_{number}" for name, number in in_order}
        if by_depth:
            names |= dict.fromkeys((name for name in layers if name == "dense"), "predictions")
        own_names = {names[layer]: own for layer, own in layers.items()}
        return "inception_v3", _tensors(source, own_names)
    raise _another(source, f"{len(maps)} convolutions and {len(norms)} batch normalisations")


def of_torch(
    source: str, tensors: Mapping[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray], Preprocessing]:
    """Architecture, tensors by collection and path, and preprocessing of a torchvision state dict.

    Kernels become HWIO; the inputs of VGG-16's first dense layer are reordered from channels first
    to channels last. InceptionV3's auxiliary classifier, which only training uses, is left out, and
    the scales of its batch normalisations are multiplied into the kernels, which leaves the result
    as it is. torchvision's network averages over the zeros at the border too (``branch_pool``);
    the original of these weights, and siamjax, only over places inside the map.
    Raises ``UsageError`` for another network.
    """
    unwrapped = {_WRAPPED.sub(r"\1", name): tensor for name, tensor in tensors.items()}
    if len(unwrapped) != len(tensors):
        raise UsageError(
            f"{shown(source)}: the same tensors with and without 'module.' before them"
        )
    tensors = unwrapped
    if "features.0.weight" in tensors:
        convs = {name.split(".")[1] for name in tensors if name.startswith("features.")}
        if not convs <= {str(place) for place in _TORCH_VGG16}:
            raise _another(source, f"{len(convs)} layers of features")
        layers = {f"features.{n}": own for n, own in zip(_TORCH_VGG16, _VGG16, strict=True)}
        layers |= {f"classifier.{n}": own for n, own in zip((0, 3, 6), _VGG16_DENSE, strict=True)}
        found = _rename(source, tensors, layers)
        if "kernel" in found.get("fc1", {}):
            rows = found["fc1"]["kernel"]
            if rows.ndim != 2 or len(rows) != 512 * 7 * 7:
                raise UsageError(
                    f"{shown(source)}: classifier.0.weight is {rows.shape[::-1]} in the file, "
                    "expected (4096, 25088)"
                )
            by_channel = rows.reshape(512, 7, 7, rows.shape[-1])
            found["fc1"]["kernel"] = by_channel.transpose(1, 2, 0, 3).reshape(rows.shape)
        return "vgg16", _tensors(source, found), "torchvision"
    if "Conv2d_1a_3x3.conv.weight" in tensors:
        layers = {"fc": "predictions"}
        for number, name in enumerate(_torch_inception(), start=1):
            layers[f"{name}.conv"] = f"conv2d_{number}"
            layers[f"{name}.bn"] = f"batch_normalization_{number}"
        kept = {n: t for n, t in tensors.items() if not n.startswith("AuxLogits")}
        # Trained on x / 127.5 - 1; torchvision's transform_input undoes its usual preprocessing.
        return "inception_v3", _tensors(source, _rename(source, kept, layers)), "signed"
    telling = [name for name in tensors if not name.endswith("num_batches_tracked")]
    named = shown(", ".join(telling[:2]) or "none")
    raise _another(source, f"tensors such as {named}")


def _another(source: str, what: str) -> UsageError:
    return UsageError(
        f"{shown(source)} is a file of another network: {what}; expected one of "
        f"{', '.join(one.title for one in NETWORKS.values())}, with its publisher's names"
    )


def _number(name: str) -> int:
    end = re.search(r"_(\d+)$", name)
    return int(end[1]) if end else 0


def _tensors(source: str, layers: Layers) -> dict[str, np.ndarray]:
    """By collection and path; scales of batch normalisations go into the kernels before them."""
    found: dict[str, np.ndarray] = {}
    for layer, own in layers.items():
        for name in ("kernel", "bias", "beta"):
            if name in own:
                found[f"params/{layer}/{'bias' if name == 'beta' else name}"] = own[name]
        for name, short in (("moving_mean", "mean"), ("moving_variance", "var")):
            if name in own:
                found[f"batch_stats/{layer}/{short}"] = own[name]
        for name in own.keys() - _KINDS:  # of an unknown layer: ``put`` reports it if it is left
            found[f"params/{layer}/{name}"] = own[name]
    for layer, own in layers.items():
        gamma = own.get("gamma")
        if gamma is not None and np.any(gamma != 1):
            number = layer.rpartition("_")[2]
            kernel = found.get(f"params/conv2d_{number}/kernel", np.empty(0))
            if gamma.shape != kernel.shape[-1:]:
                raise UsageError(
                    f"{shown(source)}: {shown(layer)}/gamma is {gamma.shape} in the file, expected "
                    f"{kernel.shape[-1:]} as conv2d_{number}/kernel is {kernel.shape}"
                )
            gamma = gamma.astype(np.promote_types(gamma.dtype, np.float32))
            # gamma (x - mean) / s = (gamma x - gamma mean) / s, whatever its sign.
            for path in (f"params/conv2d_{number}/kernel", f"batch_stats/{layer}/mean"):
                if path in found:
                    found[path] = found[path] * gamma
    return found


def _rename(
    source: str, tensors: Mapping[str, np.ndarray], layers: Mapping[str, str]
) -> dict[str, dict[str, np.ndarray]]:
    """PyTorch's tensors by siamjax's layers and Keras' names, in Keras' layout."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, tensor in tensors.items():
        layer, _, kind = path.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        if layer not in layers:
            raise UsageError(f"{shown(source)}: {shown(path)} has no place in the network")
        norm = layer.endswith(".bn")
        name = {
            "weight": "gamma" if norm else "kernel",
            "bias": "beta" if norm else "bias",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }.get(kind)
        if name is None:
            raise UsageError(f"{shown(source)}: {shown(path)} is an unknown tensor")
        if name == "kernel":
            if tensor.ndim not in (2, 4):
                raise UsageError(
                    f"{shown(source)}: {path} is {tensor.shape}, expected a kernel of 2 or 4 axes"
                )
            tensor = tensor.transpose((2, 3, 1, 0) if tensor.ndim == 4 else (1, 0))
        found.setdefault(layers[layer], {})[name] = tensor
    return found


def _torch_inception() -> Iterator[str]:
    """torchvision's names of the 94 convolutions, in the order of their numbers."""
    yield from (f"Conv2d_{n}" for n in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"))
    triple = [f"branch3x3dbl_{n}" for n in (1, 2, 3)]
    seven = [f"branch7x7_{n}" for n in (1, 2, 3)] + [f"branch7x7dbl_{n}" for n in range(1, 6)]
    forks = ["branch3x3_1", "branch3x3_2a", "branch3x3_2b"]
    forks += [f"branch3x3dbl_{n}" for n in ("1", "2", "3a", "3b")]
    inner = {
        "5bcd": ["branch1x1", "branch5x5_1", "branch5x5_2", *triple, "branch_pool"],
        "6a": ["branch3x3", *triple],
        "6bcde": ["branch1x1", *seven, "branch_pool"],
        "7a": ["branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{n}" for n in range(1, 5))],
        "7bc": ["branch1x1", *forks, "branch_pool"],
    }
    for blocks, names in inner.items():
        for letter in blocks[1:]:
            yield from (f"Mixed_{blocks[0]}{letter}.{name}" for name in names)
