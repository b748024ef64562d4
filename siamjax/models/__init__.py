"""Networks, heads and layers as Flax linen modules, one network a file.

``protocols`` (:class:`Embeds`, :class:`Compares`) says which methods the rest of siamjax calls.
"""

from typing import TYPE_CHECKING

from siamjax.lazy import contents

if TYPE_CHECKING:
    from siamjax.models.bridge import FunctionNetwork, NnxNetwork
    from siamjax.models.face_embedding import FaceEmbedding
    from siamjax.models.heads import (
        ConcatenationHead,
        DifferenceHead,
        DistanceLogitHead,
        EuclideanHead,
    )
    from siamjax.models.inception_embedding import InceptionEmbedding
    from siamjax.models.inception_v3 import InceptionV3
    from siamjax.models.iresnet import IResNet
    from siamjax.models.lfw import LfwNet
    from siamjax.models.normalization import BatchNorm
    from siamjax.models.normxcorr_net import NormXCorrConv, NormXCorrNet
    from siamjax.models.osnet import OSNet
    from siamjax.models.projection import Projection
    from siamjax.models.protocols import Compares, Embeds
    from siamjax.models.resnet import ResNet
    from siamjax.models.siamese import Siamese
    from siamjax.models.vgg16 import Vgg16, Vgg16Features
    from siamjax.models.visual_search import VisualSearchNet
    from siamjax.models.vit import VisionTransformer

__getattr__, __dir__ = contents(__name__, __file__)

__all__ = [
    "BatchNorm",
    "Compares",
    "ConcatenationHead",
    "DifferenceHead",
    "DistanceLogitHead",
    "Embeds",
    "EuclideanHead",
    "FaceEmbedding",
    "FunctionNetwork",
    "IResNet",
    "InceptionEmbedding",
    "InceptionV3",
    "LfwNet",
    "NnxNetwork",
    "NormXCorrConv",
    "NormXCorrNet",
    "OSNet",
    "Projection",
    "ResNet",
    "Siamese",
    "Vgg16",
    "Vgg16Features",
    "VisionTransformer",
    "VisualSearchNet",
]
