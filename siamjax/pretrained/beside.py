"""What tensors cannot say, from the JSON file that a publisher puts beside them."""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.files import read_json
from siamjax.models.preprocessing import MOMENTS

_KINDS = {"unit": ((0.0,) * 3, (1.0,) * 3), "signed": ((0.5,) * 3, (0.5,) * 3), **MOMENTS}
_GELUS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}

Channels = tuple[float, float, float]


class _Images(msgspec.Struct):
    input_size: tuple[int, int, int]
    crop_pct: Annotated[float, msgspec.Meta(gt=0, le=1)]
    interpolation: Literal["bilinear", "bicubic"]
    mean: Channels
    std: Channels
    crop_mode: Literal["center"] = "center"


class _Timm(msgspec.Struct):
    pretrained_cfg: _Images | None = None


class _Moments(msgspec.Struct):
    mean: Channels | None = None
    std: Channels | None = None


class _Tower(msgspec.Struct):
    hidden_act: str = "quick_gelu"  # which transformers leaves out of a file
    quick_gelu: bool = False


class _Config(msgspec.Struct):
    """Of transformers, in two files, and of OpenCLIP."""

    hidden_act: str | None = None
    vision_config: _Tower | None = None
    image_mean: Channels | None = None
    image_std: Channels | None = None
    model_cfg: _Tower | None = None
    preprocess_cfg: _Moments | None = None


def images_of_timm(path: Path) -> dict[str, Any]:
    """What timm's ``config.json`` says of images, as facts; nothing if there is none.

    Networks of one form were trained on different images, such as the ViT of augreg, DeiT and DINO.
    """
    beside = path.with_name("config.json")
    said = read_json(beside, _Timm).pretrained_cfg if os.path.exists(beside) else None
    if said is None:
        return {}
    _, side, width = said.input_size
    if side != width or side < 1:
        raise UsageError(f"{shown(beside)}: images of {side}x{width}; expected square ones")
    return {
        "side": side,
        "shorter": math.floor(side / said.crop_pct),
        "filter": said.interpolation,
        "preprocessing": _kind(beside, said.mean, said.std),
    }


def preprocessing_beside(path: Path) -> dict[str, Any]:
    """How images are preprocessed, as a fact, by mean and standard deviation; nothing if not said.

    Asked are ``preprocessor_config.json`` (transformers) and ``open_clip_config.json``.
    """
    for name in ("preprocessor_config.json", "open_clip_config.json"):
        beside = path.with_name(name)
        config = read_json(beside, _Config) if os.path.exists(beside) else _Config()
        stated = config.preprocess_cfg or _Moments(config.image_mean, config.image_std)
        if stated.mean is not None and stated.std is not None:
            return {"preprocessing": _kind(beside, stated.mean, stated.std)}
    return {}


def _kind(beside: Path, mean: Channels, deviation: Channels) -> str:
    for kind, known in _KINDS.items():
        if np.allclose(known, (mean, deviation), rtol=0, atol=1e-3):
            return kind
    raise UsageError(
        f"{shown(beside)}: images with mean {mean} and standard deviation {deviation}; expected "
        f"those of {', '.join(_KINDS)}"
    )


def activation_beside(path: Path, name: str) -> str:
    """What ``config.json`` (transformers) or ``open_clip_config.json`` says of a CLIP's GELU."""
    beside = path.with_name(name)
    if not os.path.exists(beside):
        raise UsageError(
            f"{shown(path)} does not say which GELU its network has: OpenAI's have the quick one, "
            f"LAION's the exact one; put the publisher's {name} beside it"
        )
    config = read_json(beside, _Config)
    if config.model_cfg is not None:
        return "quick_gelu" if config.model_cfg.quick_gelu else "gelu"
    said = config.hidden_act or (config.vision_config and config.vision_config.hidden_act)
    if said not in _GELUS:
        known = ", ".join(_GELUS)
        raise UsageError(f"{shown(beside)}: hidden_act {shown(said)}; expected one of {known}")
    return _GELUS[said]
