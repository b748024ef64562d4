"""PyTorch's libraries as they are installed."""

import importlib
from typing import Any

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
