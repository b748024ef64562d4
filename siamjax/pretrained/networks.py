"""What each published network is, found from the shapes of its tensors."""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from siamjax.data.transforms import Framing, Size, sides
from siamjax.errors import UsageError
from siamjax.models.face_embedding import FaceEmbedding
from siamjax.models.inception_embedding import InceptionEmbedding
from siamjax.models.inception_v3 import layers_between
from siamjax.models.iresnet import IResNet
from siamjax.models.osnet import OSNet
from siamjax.models.resnet import ResNet
from siamjax.models.vgg16 import Vgg16Features
from siamjax.models.vit import HEAD_DIM, VisionTransformer

Shapes = Mapping[str, tuple[int, ...]]
"""By collection and path."""
Facts = Mapping[str, Any]
"""What a file's layout, and a ``config.json`` beside it, say of a network."""


class Network(NamedTuple):
    """How a network is built that embeds as its publisher has it.

    Attributes:
        title: the name in messages.
        build: from shapes and facts to the network, which preprocesses inside, and the size of its
            images.
        under: where its tensors are within it, such as ``deep``.
        unused: prefixes of paths of tensors that it does not use.
    """

    title: str
    build: Callable[[Shapes, Facts], tuple[nn.Module, Size]]
    under: str = ""
    unused: tuple[str, ...] = ()


@functools.lru_cache(maxsize=8)  # a file is checked as it is read, and again as it is used
def variables_of(network: nn.Module, size: Size) -> dict[str, Any]:
    """Shapes and dtypes of a network's variables."""
    image = jax.ShapeDtypeStruct((1, *sides(size), 3), jnp.uint8)
    return jax.eval_shape(network.init, jax.random.key(0), image)


def count_of(shapes: Shapes, prefix: str) -> int:
    """How many of a numbered thing there are: of ``blocks_0`` to ``blocks_11`` 12."""
    found = (re.match(rf"\w+/{prefix}_(\d+)/", path) for path in shapes)
    return len({one[1] for one in found if one})


def _vgg16(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    return Vgg16Features(preprocessing=facts["preprocessing"]), (224, 224)


def _inception_v3(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    return InceptionEmbedding(embedding=None, preprocessing=facts["preprocessing"]), (299, 299)


def _face_embedding(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    network = FaceEmbedding(preprocessing=facts.get("preprocessing", "face_api"))
    return network, Framing(size=(150, 150), pad=True)


def _iresnet(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    arcface = "params/features/scale" in shapes
    network = IResNet(
        depths=_depths(shapes, "layer1", "layer2", "layer3", "layer4"),
        variant="arcface" if arcface else "adaface",
        preprocessing=facts.get("preprocessing", "signed" if arcface else "bgr_signed"),
    )
    return network, (112, 112)


def _osnet(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    ends = {"conv1": 64, "conv2_0/conv3": 256, "conv3_0/conv3": 384, "conv4_0/conv3": 512}
    first, two, three, four = (
        _shape(shapes, f"{end}/bn/scale", (channels,))[0] for end, channels in ends.items()
    )
    network = OSNet(
        channels=(first, two, three, four),
        depths=_depths(shapes, "conv2", "conv3", "conv4"),  # pyright: ignore[reportArgumentType]
        preprocessing=facts.get("preprocessing", "torchvision"),
    )
    return network, (256, 128)


def _resnet(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    network = ResNet(
        depths=_depths(shapes, "layer1", "layer2", "layer3", "layer4"),
        preprocessing=facts.get("preprocessing", "torchvision"),
    )
    side = facts.get("side", 224)
    framing = Framing(
        size=(side, side),
        shorter=facts.get("shorter", 232),
        filter=facts.get("filter", "bilinear"),
    )
    return network, framing


def _depths(shapes: Shapes, *stages: str) -> tuple[int, ...]:
    """At least 1: of a stage that is missing the tensors are named."""
    return tuple(max(1, count_of(shapes, stage)) for stage in stages)


def _vit(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    # What is missing gets a usual shape, so that it is named as missing.
    patch, _, _, width = _shape(shapes, "patch_embed/proj/kernel", (16, 16, 3, 768))
    _, rows, features = _shape(shapes, "pos_embed", (1, 197, width))
    rows = rows if features == width else 197  # an empty table may have any number of them
    registers = _shape(shapes, "reg_token", (1, 0, width))[1]
    siglip = any(path.startswith("params/attn_pool/") for path in shapes)
    clip = any(path.startswith("params/norm_pre/") for path in shapes)
    layer_scale = any(path.endswith("/ls1/gamma") for path in shapes)
    known = 16 if width in _OF_16_HEADS else width // HEAD_DIM if width <= _OF_64 else None
    heads = facts.get("heads", known)
    if heads is None:
        raise UsageError(
            f"tokens of {width} features; networks of more than {_OF_64} have attention heads of "
            f"different sizes, and tensors do not say which: {_OF_16_HEADS} are known"
        )
    if clip and "activation" not in facts:
        raise UsageError(
            "CLIP as timm saves it does not say which GELU it has; put timm's config.json beside it"
        )
    hidden = _shape(shapes, "blocks_0/mlp/fc1/kernel", (width, 4 * width))[1]
    grid = math.isqrt(max(1, rows if registers or siglip else rows - 1))
    preprocessing = "torchvision" if layer_scale else "clip" if clip else "signed"
    network = VisionTransformer(
        width=width,
        depth=max(1, count_of(shapes, "blocks")),
        heads=None if heads == width // HEAD_DIM else heads,
        hidden=None if hidden == 4 * width else hidden,
        patch=patch,
        grid=grid,
        registers=registers,
        layer_scale=layer_scale,
        head="siglip" if siglip else "clip" if clip else "cls",
        projection=_shape(shapes, "head/kernel", (width, 512))[1],
        activation=facts.get("activation", "gelu_tanh" if siglip else "gelu"),
        epsilon=facts.get("epsilon", 1e-5 if clip else 1e-6),
        positions=facts.get("positions", "antialias"),
        preprocessing=facts.get("preprocessing", preprocessing),
    )
    # As the publisher's convolution does, which leaves out what is no whole patch (SigLIP, 384/14).
    side = facts.get("side", grid * patch)
    side -= side % max(1, patch) if side > patch else 0
    augreg = not (siglip or clip or layer_scale) and side == 224  # 0.9 of the image is used
    usual = None if siglip else 248 if augreg else side
    framing = Framing(
        size=(side, side),
        shorter=facts.get("shorter", usual),
        filter=facts.get("filter", "bicubic"),
        half=facts.get("half", "even"),
    )
    return network, framing


# Of the published networks of this form: ViT-S to L, and So400m, H, g, giant-opt and G.
_OF_64 = 1024  # the widest whose heads all have 64 features
_OF_16_HEADS = (1152, 1280, 1408, 1536, 1664)


def _shape(shapes: Shapes, path: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a tensor, or the usual one where it is missing or has another number of axes."""
    found = shapes.get(f"params/{path}", usual)
    return found if len(found) == len(usual) else usual


NETWORKS: Mapping[str, Network] = {
    "vgg16": Network("VGG-16", _vgg16, "deep", ("block5", "fc", "predictions")),
    "inception_v3": Network(
        "InceptionV3",
        _inception_v3,
        "trunk",
        ("fc", "predictions", "dense_", *layers_between("mixed7", "mixed10")),
    ),
    "face_embedding": Network("face-api's network of 29 layers", _face_embedding),
    "iresnet": Network("IResNet", _iresnet),
    "osnet": Network("OSNet", _osnet),
    "resnet": Network("ResNet-50", _resnet),
    "vit": Network("a vision transformer (ViT, DINOv2, CLIP, SigLIP)", _vit),
}
"""By architecture."""
