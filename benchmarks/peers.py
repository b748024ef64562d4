"""PyTorch's libraries as they are installed, and networks that no library has."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_kept: list[Any] = []


def import_torchvision() -> Any:
    """torchvision, also beside a PyTorch for CPUs alone, where two of its operators are missing.

    They are declared, and never called. Raises ``ImportError`` without torchvision.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        from torch.library import Library

        operators = Library("torchvision", "DEF")
        operators.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        operators.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        _kept.append(operators)  # they last as long as this does
        return importlib.import_module("torchvision")


def torchreid_osnet() -> Any:
    """torchreid's OSNet x1.0: that file alone, as the package asks for many others."""
    if (package := importlib.util.find_spec("torchreid")) is None:
        raise ModuleNotFoundError("torchreid", name="--no-deps torchreid==0.2.5")
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "reid/models/osnet.py"
    spec = importlib.util.spec_from_file_location("torchreid_osnet", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # for torch.compile
    spec.loader.exec_module(module)
    return module.osnet_x1_0(num_classes=1, pretrained=False)


def residual_branch(before: int, after: int, stride: int) -> tuple[Any, ...]:
    """The layers of a block of insightface's and of AdaFace's networks."""
    from torch.nn import BatchNorm2d, Conv2d, PReLU

    return (
        BatchNorm2d(before),
        Conv2d(before, after, 3, 1, 1, bias=False),
        BatchNorm2d(after),
        PReLU(after),
        Conv2d(after, after, 3, stride, 1, bias=False),
        BatchNorm2d(after),
    )


def projection(before: int, after: int, stride: int) -> Any:
    """What their blocks with a stride add to."""
    from torch.nn import BatchNorm2d, Conv2d, Sequential

    return Sequential(Conv2d(before, after, 1, stride, bias=False), BatchNorm2d(after))


def widths_and_strides(depths: Sequence[int]) -> Iterator[list[tuple[int, int, int]]]:
    """Of the blocks of each stage: channels before and after, stride."""
    before = 64
    for stage, depth in enumerate(depths):
        after = 64 * 2**stage
        yield [(after if place else before, after, 1 if place else 2) for place in range(depth)]
        before = after


def insightface(depths: Sequence[int]) -> Any:
    """insightface's IResNet of 112x112 images, with its names; 512 features, not of norm 1."""
    from torch.nn import BatchNorm1d, BatchNorm2d, Conv2d, Linear, Module, PReLU, Sequential

    class Block(Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            layers = residual_branch(before, after, stride)
            self.bn1, self.conv1, self.bn2, self.prelu, self.conv2, self.bn3 = layers
            self.downsample = projection(before, after, stride) if stride > 1 else None

        def forward(self, x: Any) -> Any:
            y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
            y = self.bn3(self.conv2(y))
            return y + (x if self.downsample is None else self.downsample(x))

    class Network(Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = Conv2d(3, 64, 3, 1, 1, bias=False)
            self.bn1, self.prelu = BatchNorm2d(64), PReLU(64)
            stages = [Sequential(*(Block(*one) for one in of)) for of in widths_and_strides(depths)]
            self.layer1, self.layer2, self.layer3, self.layer4 = stages
            self.bn2, self.fc = BatchNorm2d(512), Linear(512 * 7 * 7, 512)
            self.features = BatchNorm1d(512)

        def forward(self, x: Any) -> Any:
            x = self.prelu(self.bn1(self.conv1(x)))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.features(self.fc(self.bn2(x).flatten(1)))

    return Network()
