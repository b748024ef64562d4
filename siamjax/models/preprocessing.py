"""From an image's bytes to the numbers that a network was trained on; each network has its own."""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from siamjax.errors import UsageError
from siamjax.options import Preprocessing, plain

_BGR_MEAN = (103.939, 116.779, 123.68)
_FACE_API_MEAN = (122.782, 117.001, 104.298)
MOMENTS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Means and standard deviations of the channels, in [0, 1]."""


def preprocess(
    x: UInt8[Array, "*batch height width 3"], kind: Preprocessing
) -> Float[Array, "*batch height width 3"]:
    """RGB bytes as float32 in the range that weights were trained on.

    ``unit``: x / 255. ``signed``: x / 127.5 - 1 (Keras' InceptionV3, ArcFace). ``bgr_signed``: the
    same with channels in the order blue, green, red (AdaFace). ``bgr_mean``: in that order too,
    minus ImageNet's means, in 0..255 (VGG, Simonyan and Zisserman 2014). ``torchvision``: x / 255
    minus ImageNet's means, divided by its standard deviations. ``clip``: the same with those of
    CLIP's images. ``face_api``: x minus the means of faces, divided by 255 (dlib, face-api).
    Float images must be in [0, 1]. ``UsageError`` for another ``kind`` or type of numbers.
    """
    plain("preprocessing", kind, Preprocessing)
    if x.dtype != jnp.uint8 and not jnp.issubdtype(x.dtype, jnp.floating):
        raise UsageError(f"images of {x.dtype}; expected uint8, or floats in [0, 1]")
    unit = x.astype(jnp.float32) / 255.0 if x.dtype == jnp.uint8 else x.astype(jnp.float32)
    if kind == "unit":
        return unit
    if kind == "signed":
        return unit * 2.0 - 1.0
    if kind == "bgr_signed":
        return unit[..., ::-1] * 2.0 - 1.0
    bgr_mean, face_api_mean, *moments = (
        jnp.array(of_channels, jnp.float32).reshape(*(1,) * (x.ndim - 1), -1)
        for of_channels in (_BGR_MEAN, _FACE_API_MEAN, *MOMENTS.get(kind, ()))
    )
    if kind == "bgr_mean":
        return unit[..., ::-1] * 255.0 - bgr_mean
    if kind == "face_api":
        return unit - face_api_mean / 255.0
    return (unit - moments[0]) / moments[1]


def require_images(x: Array, *, least: int = 1, most: int | None = None) -> None:
    """``UsageError`` unless x is (batch, height, width, 3), sides ``least`` to ``most``."""
    sides = x.shape[1:3]
    if x.ndim != 4 or x.shape[3] != 3 or min(sides) < least or max(sides) > (most or max(sides)):
        bounds = f"at least {least}" if most is None else f"{least} to {most}"
        raise UsageError(
            f"images of shape {x.shape}, expected (batch, height, width, 3) with sides of {bounds}"
        )
