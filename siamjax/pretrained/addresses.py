"""Where published weights are, whose they are, and what they are good for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from siamjax.options import Preprocessing

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_TORCHVISION = "https://download.pytorch.org/models"
_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2"
_AUGREG = "https://storage.googleapis.com/vit_models/augreg"
_HUGGING_FACE = "https://huggingface.co"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A file of weights on its publisher's server.

    Attributes:
        address: where it is downloaded from.
        digest: ``algorithm:hexadecimal`` as the publisher states it; the first digits are enough.
            Empty: none is stated, and only the length is checked.
        architecture: a key of :data:`siamjax.pretrained.networks.NETWORKS`.
        preprocessing: what the network's images must go through.
        licence: its licence, and whose work it is.
        megabytes: about how large it is.
        use: what its embeddings are good for.
        beside: names of files at the same address that belong to it.
    """

    address: str
    digest: str
    architecture: str
    preprocessing: Preprocessing
    licence: str
    megabytes: int
    use: str
    beside: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.address.rpartition("/")[2]


_vgg16 = partial(
    Published,
    architecture="vgg16",
    licence="CC-BY-4.0, Simonyan and Zisserman, Visual Geometry Group, Oxford",
    use="kinds of things, textures",
)
_inception_v3 = partial(
    Published,
    architecture="inception_v3",
    preprocessing="signed",
    licence="Apache-2.0, Google",
    use="kinds of things",
)
_dinov2 = partial(
    Published,
    digest="",
    architecture="vit",
    preprocessing="torchvision",
    licence="Apache-2.0, Oquab et al., Meta",
    use="catalogues: what a thing is and how it looks, without labels",
)
_augreg = partial(
    Published,
    digest="",
    architecture="vit",
    preprocessing="signed",
    licence="Apache-2.0, Steiner et al., Google",
    use="kinds of things",
)

_VGG16 = f"{_KERAS}/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels"
_INCEPTION_V3 = f"{_KERAS}/inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels"

# Keras states md5 sums; torchvision has the first eight digits of the sha256 in the file's name.
PUBLISHED: Mapping[str, Published] = {
    "vgg16-imagenet": _vgg16(
        address=f"{_VGG16}_notop.h5",
        digest="md5:6d6bbae143d832006294945121d1f1fc",
        preprocessing="bgr_mean",
        megabytes=59,
    ),
    "vgg16-imagenet-top": _vgg16(
        address=f"{_VGG16}.h5",
        digest="md5:64373286793e3c8b2b4e3219cbf3544b",
        preprocessing="bgr_mean",
        megabytes=553,
    ),
    "vgg16-torchvision": _vgg16(
        address=f"{_TORCHVISION}/vgg16-397923af.pth",
        digest="sha256:397923af",
        preprocessing="torchvision",
        megabytes=553,
    ),
    "inception-v3-imagenet": _inception_v3(
        address=f"{_INCEPTION_V3}_notop.h5",
        digest="md5:bcbd6486424b2319ff4ef7d526e38f63",
        megabytes=88,
    ),
    "inception-v3-imagenet-top": _inception_v3(
        address=f"{_INCEPTION_V3}.h5", digest="md5:9a0d58056eeedaa3f26cb7ebd46da564", megabytes=96
    ),
    "inception-v3-torchvision": _inception_v3(
        address=f"{_TORCHVISION}/inception_v3_google-0cc3c7bd.pth",
        digest="sha256:0cc3c7bd",
        megabytes=109,
    ),
    "face-embedding": Published(
        address="https://raw.githubusercontent.com/vladmandic/face-api/master/model/"
        "face_recognition_model-weights_manifest.json",
        beside=("face_recognition_model.bin",),
        digest="",
        architecture="face_embedding",
        preprocessing="face_api",
        licence="MIT, face-api; the network's original: public domain, King, dlib",
        megabytes=6,
        use="faces that are cut out and upright",
    ),
    "dinov2-small": _dinov2(
        address=f"{_DINOV2}/dinov2_vits14/dinov2_vits14_pretrain.pth", megabytes=88
    ),
    "dinov2-small-registers": _dinov2(
        address=f"{_DINOV2}/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth", megabytes=88
    ),
    "dinov2-base": _dinov2(
        address=f"{_DINOV2}/dinov2_vitb14/dinov2_vitb14_pretrain.pth", megabytes=346
    ),
    "dinov2-base-registers": _dinov2(
        address=f"{_DINOV2}/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth", megabytes=346
    ),
    "vit-small-augreg": _augreg(
        address=f"{_AUGREG}/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0--"
        "imagenet2012-steps_20k-lr_0.03-res_224.npz",
        megabytes=88,
    ),
    "vit-base-augreg": _augreg(
        address=f"{_AUGREG}/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--"
        "imagenet2012-steps_20k-lr_0.01-res_224.npz",
        megabytes=346,
    ),
    "clip-base-32": Published(
        address=f"{_HUGGING_FACE}/openai/clip-vit-base-patch32/resolve/main/pytorch_model.bin",
        beside=("config.json",),
        digest="",
        architecture="vit",
        preprocessing="clip",
        licence="MIT, Radford et al., OpenAI",
        megabytes=605,
        use="what an image is about; with its text encoder, which is not used",
    ),
    "siglip-base": Published(
        address=f"{_HUGGING_FACE}/google/siglip-base-patch16-224/resolve/main/model.safetensors",
        beside=("config.json",),
        digest="",
        architecture="vit",
        preprocessing="signed",
        licence="Apache-2.0, Zhai et al., Google",
        megabytes=813,
        use="what an image is about; with its text encoder, which is not used",
    ),
    "resnet50-torchvision": Published(
        address=f"{_TORCHVISION}/resnet50-11ad3fa6.pth",
        digest="sha256:11ad3fa6",
        architecture="resnet",
        preprocessing="torchvision",
        licence="BSD-3-Clause, torchvision",
        megabytes=103,
        use="kinds of things",
    ),
}
