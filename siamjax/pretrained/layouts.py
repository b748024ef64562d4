"""One table of how publishers name and lay out the tensors of their networks.

The parameters of siamjax's networks have the names of one publisher, the reference: dots become
slashes, and a number is joined to the word before it (``layer1.0.conv1.weight`` is
``params/layer1_0/conv1/kernel``). So that layout needs no names here, and others only where they
differ.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from siamjax.errors import UsageError, shown

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one publisher writes one network.

    Attributes:
        architecture: the network, a key of :data:`siamjax.pretrained.networks.NETWORKS`.
        marks: names of tensors that a file of this layout has. What stands before them in the file
            (``module.``, ``backbone.``) is taken off all names.
        renames: regular expressions and what replaces them, in this order, to come to the names of
            the reference; of a name with slashes they are dots already.
        left_out: regular expression of the names (of the reference) of what the network does not
            use, such as a classifier or a text encoder.
        change: from the tensors by their names in the reference to those that the network has, such
            as three products joined to one.
        torch: kernels are (out, in, height, width) and (out, in), as PyTorch has them, and not
            (height, width, in, out) and (in, out).
        facts: what the layout itself says of the network, for its builder.
    """

    architecture: str
    marks: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    left_out: str = r"(?!)"
    change: Callable[[Tensors], Tensors] = dict
    torch: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)


def _stages_of_adaface(tensors: Tensors) -> Tensors:
    """AdaFace counts its blocks through: the width of a block says its stage."""
    widths = {n: t.shape[0] for n, t in tensors.items() if n.endswith(".conv1.weight")}
    blocks = sorted(int(name.split(".")[1]) for name in widths)
    stages = sorted(set(widths.values()))
    names: dict[str, str] = {}
    for stage, width in enumerate(stages, start=1):
        own = [block for block in blocks if widths[f"body.{block}.conv1.weight"] == width]
        names |= {f"body.{block}.": f"layer{stage}.{place}." for place, block in enumerate(own)}
    return {
        re.sub(r"^body\.\d+\.", lambda found: names.get(found[0], found[0]), name): tensor
        for name, tensor in tensors.items()
    }


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        architecture="face_embedding",  # face-api
        marks=("conv32_down.conv.filters", "conv256_down_out.conv2.conv.filters"),
        renames=(
            (r"\.filters$", ".kernel"),
            (r"\.weights$", ".scale"),
            (r"\.biases$", ".bias"),
            (r"^fc$", "fc.kernel"),
        ),
        torch=False,
    ),
    Layout(
        architecture="iresnet",  # insightface
        marks=("layer1.0.prelu.weight", "layer1.0.bn3.running_mean", "features.running_mean"),
    ),
    Layout(
        architecture="iresnet",
        marks=("output_layer.4.running_mean", "body.0.res_layer.4.weight"),
        renames=(
            (r"^input_layer\.0\.", "conv1."),
            (r"^input_layer\.1\.", "bn1."),
            (r"^input_layer\.2\.", "prelu."),
            (r"res_layer\.0\.", "bn1."),
            (r"res_layer\.1\.", "conv1."),
            (r"res_layer\.2\.", "bn2."),
            (r"res_layer\.3\.", "prelu."),
            (r"res_layer\.4\.", "conv2."),
            (r"res_layer\.5\.", "bn3."),
            (r"shortcut_layer\.", "downsample."),
            (r"^output_layer\.0\.", "bn2."),
            (r"^output_layer\.3\.", "fc."),
            (r"^output_layer\.4\.", "features."),
        ),
        left_out=r"beside\.head\.kernel",  # the classifier of its training
        change=_stages_of_adaface,
    ),
    Layout(
        architecture="osnet",  # torchreid
        marks=("conv2.0.conv2d.3.conv2.weight", "conv2.0.gate.fc1.weight"),
        left_out=r"classifier\..*",
    ),
    Layout(
        architecture="resnet",  # torchvision and timm
        marks=("layer1.0.conv3.weight", "layer1.0.downsample.0.weight", "bn1.running_mean"),
        left_out=r"fc\..*",
    ),
)
"""The first whose marks are all in a file is its layout."""

_NOT_USED = r"(.*\.)?(num_batches_tracked|position_ids)"
_KINDS = {"running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var")}


def layout_of(names: Mapping[str, Any]) -> tuple[Layout, str] | None:
    """The layout of a file with tensors of these names, and what stands before its names.

    ``UsageError`` if there are two such networks in it.
    """
    for layout in LAYOUTS:
        first = layout.marks[0]
        before = [
            before
            for before in (name.removesuffix(first) for name in names if name.endswith(first))
            if before[-1:] in ("", ".") and all(before + mark in names for mark in layout.marks)
        ]
        if len(before) > 1:
            raise UsageError(
                f"holds {len(before)} networks, {' and '.join(map(shown, sorted(before)))}; save "
                "one of them alone"
            )
        if before:
            return layout, before[0]
    return None


def translated(tensors: Mapping[str, np.ndarray], layout: Layout, before: str) -> Tensors:
    """The tensors by collection and path, in siamjax's layouts; ``UsageError`` for unknown ones."""
    own: Tensors = {}
    for name, tensor in tensors.items():
        inside = name.removeprefix(before)
        if inside == name and before:  # beside the network, such as another head
            inside = f"beside.{name}"
        for pattern, replacement in layout.renames:
            inside = re.sub(pattern, replacement, inside)
        if not re.fullmatch(f"{_NOT_USED}|{layout.left_out}", inside):
            if inside in own:
                raise UsageError(f"{shown(name)} is twice in the file, by two names")
            own[inside] = tensor
    return dict(_converted(layout.change(own), layout))


def _converted(tensors: Tensors, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        collection, kind = _KINDS.get(kind, ("params", kind))
        if kind == "weight":
            kind = {1: "scale", 2: "kernel", 4: "kernel"}.get(tensor.ndim, kind)
            if kind == "scale" and "prelu" in layer:
                kind = "slope"
        if layout.torch and kind == "kernel" and tensor.ndim in (2, 4):
            tensor = tensor.transpose((2, 3, 1, 0) if tensor.ndim == 4 else (1, 0))
        path = re.sub(r"\.(\d+)(?=\.|$)", r"_\1", layer).replace(".", "/")
        yield "/".join(filter(None, (collection, path, kind))), tensor
