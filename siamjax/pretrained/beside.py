"""What tensors cannot say, from the JSON file that a publisher puts beside them."""

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.files import read_json
from siamjax.models.preprocessing import MOMENTS

_KINDS = {"unit": ((0.0,) * 3, (1.0,) * 3), "signed": ((0.5,) * 3, (0.5,) * 3), **MOMENTS}
# What one number for a size means to transformers' processors, by how their names begin.
_SQUARE, _SHORTEST = ("ViT", "DeiT", "Beit"), ("CLIP", "ChineseCLIP", "Bit", "Siglip", "ConvNext")
_UNIT = {"preprocessing": "unit"}
_FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_GELUS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}

T = TypeVar("T")
Channels = tuple[float, float, float]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**16)]


class _Images(msgspec.Struct):
    input_size: tuple[int, int, int]
    crop_pct: Annotated[float, msgspec.Meta(gt=0, le=1)]
    interpolation: Literal["bilinear", "bicubic"]
    mean: Channels
    std: Channels
    crop_mode: Literal["center", "squash"] = "center"


class _Args(msgspec.Struct):
    """Of timm's ``model_args`` those that change a network and not its tensors."""

    num_heads: Positive | None = None
    act_layer: Any = None
    norm_layer: Any = None
    aa_layer: Any = None
    output_stride: Any = None
    block_args: Any = None


class _Timm(msgspec.Struct):
    architecture: str = ""
    global_pool: str = ""
    pretrained_cfg: _Images | None = None
    input_size: Any = None
    model_args: _Args | None = None


class _Preprocessed(msgspec.Struct):
    """Of OpenCLIP."""

    mean: Channels | None = None
    std: Channels | None = None
    resize_mode: Literal["shortest", "squash"] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None


class _Side(msgspec.Struct):
    height: Positive | None = None
    width: Positive | None = None
    shortest_edge: Positive | None = None


class _Processor(msgspec.Struct):
    """Of transformers."""

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None  # of older versions
    image_mean: Channels | None = None
    image_std: Channels | None = None
    size: Positive | _Side | None = None
    crop_size: Positive | _Side | None = None
    do_center_crop: bool | None = None  # of these null is the default
    do_resize: bool | None = None
    do_rescale: bool | None = None
    rescale_factor: float | None = None
    do_normalize: bool | None = None
    resample: int | None = None


class _Processors(msgspec.Struct):
    """Of transformers 5: those of images and texts in one file."""

    image_processor: _Processor | None = None


class _Tower(msgspec.Struct):
    hidden_act: str | None = None
    layer_norm_eps: Annotated[float, msgspec.Meta(gt=0)] | None = None
    num_attention_heads: Positive | None = None


class _Vision(msgspec.Struct):
    """Of OpenCLIP, with its defaults."""

    width: Positive | None = None
    head_width: Positive = 64
    pool_type: str = "tok"
    act_kwargs: dict[str, Any] | None = None
    norm_kwargs: dict[str, Any] | None = None


class _Model(msgspec.Struct):
    quick_gelu: bool = False
    vision_cfg: _Vision | None = None


class _Config(_Tower):
    """Of transformers, and of OpenCLIP."""

    vision_config: _Tower | None = None
    model_cfg: _Model | None = None
    preprocess_cfg: _Preprocessed | None = None


def said_by_timm(path: Path, *, pool: str) -> dict[str, Any]:
    """What timm's ``config.json`` says, as facts; nothing if there is none.

    Networks of one form were trained on different images, such as the ViT of augreg, DeiT and DINO.
    ``UsageError`` for a network that pools otherwise than ``pool``, timm's word for it, or that
    differs in what no tensor says.
    """
    beside = path.with_name("config.json")
    config = _read(path, "config.json", _Timm) or _Timm()
    if re.match("resnet(aa|blur)", config.architecture):
        raise UsageError(
            f"{shown(beside)}: {shown(config.architecture)} has a ResNet's tensors, but averages "
            "where that has strides; it cannot be read"
        )
    args = config.model_args or _Args()
    if config.global_pool not in ("", pool):
        raise UsageError(
            f"{shown(beside)}: global_pool {shown(config.global_pool)}; expected {pool}"
        )
    unread = [name for name in args.__struct_fields__[1:] if getattr(args, name) is not None]
    if unread:
        raise UsageError(
            f"{shown(beside)}: model_args with {', '.join(unread)}: such a network cannot be read"
        )
    # Of timm's transformers those with another activation have it in their names.
    gelu = "quick_gelu" if "quickgelu" in config.architecture else "gelu"
    facts: dict[str, Any] = {"activation": gelu} if config.architecture else {}
    facts |= {"heads": args.num_heads} if args.num_heads else {}
    said = config.pretrained_cfg
    if said is None and config.input_size is not None:  # before timm 0.8 nothing stands within
        said = _read(path, "config.json", _Images)
    if said is None:
        return facts
    _, side, width = said.input_size
    if side != width or side < 1:
        raise UsageError(f"{shown(beside)}: images of {side}x{width}; expected square ones")
    stretched = said.crop_mode == "squash"
    if stretched and said.crop_pct != 1:
        raise UsageError(
            f"{shown(beside)}: crop_mode squash with crop_pct {said.crop_pct}; expected 1"
        )
    return {
        **facts,
        "side": side,
        "shorter": None if stretched else math.floor(side / said.crop_pct),
        "filter": said.interpolation,
        "preprocessing": _kind(beside, said.mean, said.std),
    }


def said_beside(path: Path) -> dict[str, Any]:
    """What transformers' and OpenCLIP's files say, as facts: of layers and of images.

    ``UsageError`` for layers and images that siamjax does not have.
    """
    config = _read(path, "config.json", _Config) or _Config()
    tower = config.vision_config or config
    facts: dict[str, Any] = {}
    if tower.num_attention_heads is not None:
        facts["heads"] = tower.num_attention_heads
    if tower.layer_norm_eps is not None:
        facts["epsilon"] = tower.layer_norm_eps
    if tower.hidden_act is not None:
        facts["activation"] = _gelu(path.with_name("config.json"), tower.hidden_act)
    opened = _read(path, "open_clip_config.json", _Config) or _Config()
    if opened.model_cfg and (vision := opened.model_cfg.vision_cfg):
        facts |= _layers(path.with_name("open_clip_config.json"), vision)
    for name, kind in (
        ("processor_config.json", _Processors),  # the first, as transformers has them
        ("preprocessor_config.json", _Processor),
    ):
        own = _read(path, name, kind)
        own = own.image_processor if isinstance(own, _Processors) else own
        if own is not None:
            beside = path.with_name(name)
            mean, deviation = own.image_mean, own.image_std
            moments = _moments(beside, mean, deviation) if own.do_normalize is not False else _UNIT
            return {**facts, **moments, **_sizes(beside, own)}
    if cut := opened.preprocess_cfg:
        facts |= _moments(path.with_name("open_clip_config.json"), cut.mean, cut.std)
        facts |= {"shorter": None} if cut.resize_mode == "squash" else {}
        facts |= {"filter": cut.interpolation} if cut.interpolation else {}
    return facts


def _layers(beside: Path, vision: _Vision) -> dict[str, Any]:
    if vision.pool_type != "tok" or vision.act_kwargs or vision.norm_kwargs:
        raise UsageError(
            f"{shown(beside)}: pool_type {shown(vision.pool_type)}, act_kwargs "
            f"{shown(vision.act_kwargs)}, norm_kwargs {shown(vision.norm_kwargs)}; expected tok "
            "and none of them: such a network cannot be read"
        )
    return {"heads": vision.width // vision.head_width} if vision.width else {}


def _read(path: Path, name: str, kind: type[T]) -> T | None:
    beside = path.with_name(name)
    return read_json(beside, kind) if os.path.exists(beside) else None


def _sizes(beside: Path, said: _Processor) -> dict[str, Any]:
    """The shorter side is resized and the centre cut out, or all is stretched to a square."""
    if said.resample not in (None, *_FILTERS):
        raise UsageError(
            f"{shown(beside)}: resample {said.resample}; expected 2 (bilinear) or 3 (bicubic)"
        )
    factor = 1 / 255 if said.rescale_factor is None else said.rescale_factor
    if False in (said.do_resize, said.do_rescale) or not math.isclose(255 * factor, 1):
        raise UsageError(
            f"{shown(beside)}: do_resize {said.do_resize}, do_rescale {said.do_rescale}, "
            f"rescale_factor {factor}; expected true, true and 1/255"
        )
    facts = {"half": "down"} | ({"filter": _FILTERS[said.resample]} if said.resample else {})
    size, cut = said.size, said.crop_size if said.do_center_crop else None
    if isinstance(size, int):  # of older versions
        kind = said.image_processor_type or said.feature_extractor_type or ""
        square = kind.startswith(_SQUARE) or (cut is None and not kind.startswith(_SHORTEST))
        size = _Side(height=size, width=size) if square else _Side(shortest_edge=size)
    if size is None:
        return facts
    cut = _Side(height=cut, width=cut) if isinstance(cut, int) else cut
    kept = cut or size
    stretched = size.shortest_edge is None and (cut is None or cut == size)
    shortest = size.shortest_edge is not None and cut is not None
    if kept.height is None or kept.height != kept.width or not (stretched or shortest):
        raise UsageError(
            f"{shown(beside)}: size and crop_size are not those of a square that an image is "
            "stretched to, or that is cut out of its centre; no other can be read"
        )
    return {**facts, "side": kept.height, "shorter": size.shortest_edge}


def _moments(beside: Path, mean: Channels | None, deviation: Channels | None) -> dict[str, Any]:
    if mean is None or deviation is None:
        return {}
    return {"preprocessing": _kind(beside, mean, deviation)}


def _kind(beside: Path, mean: Channels, deviation: Channels) -> str:
    for kind, known in _KINDS.items():
        if np.allclose(known, (mean, deviation), rtol=0, atol=1e-3):
            return kind
    raise UsageError(
        f"{shown(beside)}: images with mean {mean} and standard deviation {deviation}; expected "
        f"those of {', '.join(_KINDS)}"
    )


def activation_beside(path: Path, name: str) -> str:
    """What ``config.json`` (transformers) or ``open_clip_config.json`` says of a CLIP's GELU.

    ``UsageError`` if there is no such file beside ``path``, and for another activation.
    """
    beside = path.with_name(name)
    if not os.path.exists(beside):
        raise UsageError(
            f"{shown(path)} does not say which GELU its network has: OpenAI's have the quick one, "
            f"LAION's the exact one; put the publisher's {name} beside it"
        )
    config = read_json(beside, _Config)
    if config.model_cfg is not None:
        return "quick_gelu" if config.model_cfg.quick_gelu else "gelu"
    said = config.hidden_act
    if config.vision_config is not None:  # transformers leaves its default out of a file
        said = config.vision_config.hidden_act or "quick_gelu"
    return _gelu(beside, said)


def _gelu(beside: Path, hidden_act: str | None) -> str:
    if hidden_act not in _GELUS:
        known = ", ".join(_GELUS)
        raise UsageError(
            f"{shown(beside)}: hidden_act {shown(hidden_act)}; expected one of {known}"
        )
    return _GELUS[hidden_act]
