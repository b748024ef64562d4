"""What each published network is, found from the shapes of its tensors."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from siamjax.data.transforms import Framing, Size, sides
from siamjax.models.face_embedding import FaceEmbedding
from siamjax.models.inception_embedding import InceptionEmbedding
from siamjax.models.inception_v3 import layers_between
from siamjax.models.iresnet import IResNet
from siamjax.models.osnet import OSNet
from siamjax.models.resnet import ResNet
from siamjax.models.vgg16 import Vgg16Features

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


def variables_of(network: nn.Module, size: Size) -> dict[str, Any]:
    """Shapes and dtypes of a network's variables."""
    image = jax.ShapeDtypeStruct((1, *sides(size), 3), jnp.uint8)
    return jax.eval_shape(network.init, jax.random.key(0), image)


def count_of(shapes: Shapes, prefix: str) -> int:
    """How many of a numbered thing there are: of ``blocks_0`` to ``blocks_11`` 12."""
    found = (re.match(rf"\w+/{prefix}_(\d+)/", path) for path in shapes)
    return max((int(one[1]) + 1 for one in found if one), default=0)


def _vgg16(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    return Vgg16Features(preprocessing=facts["preprocessing"]), (224, 224)


def _inception_v3(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    return InceptionEmbedding(embedding=None, preprocessing=facts["preprocessing"]), (299, 299)


def _face_embedding(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    return FaceEmbedding(preprocessing=facts.get("preprocessing", "face_api")), (150, 150)


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
    network = OSNet(
        channels=tuple(shapes.get(f"params/{e}/bn/scale", (c,))[0] for e, c in ends.items()),
        depths=_depths(shapes, "conv2", "conv3", "conv4"),
        preprocessing=facts.get("preprocessing", "torchvision"),
    )
    return network, (256, 128)


def _resnet(shapes: Shapes, facts: Facts) -> tuple[nn.Module, Size]:
    network = ResNet(
        depths=_depths(shapes, "layer1", "layer2", "layer3", "layer4"),
        preprocessing=facts.get("preprocessing", "torchvision"),
    )
    return network, Framing(size=(224, 224), shorter=232)


def _depths(shapes: Shapes, *stages: str) -> tuple[int, ...]:
    """At least 1: of a stage that is missing the tensors are named."""
    return tuple(max(1, count_of(shapes, stage)) for stage in stages)


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
    "resnet": Network("ResNet", _resnet),
}
"""By architecture."""
