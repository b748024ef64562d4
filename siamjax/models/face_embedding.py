"""Image of a face -> embedding, by the residual network of 29 layers that dlib publishes."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from siamjax.models.pooling import average_pool_2x2, max_pool_3x3
from siamjax.models.preprocessing import preprocess, require_images
from siamjax.models.products import Conv, Dense
from siamjax.options import Preprocessing

BLOCKS = (
    *("conv32_1", "conv32_2", "conv32_3"),
    *("conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2"),
    *("conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
)
"""Names of the residual blocks, with their channels: as face-api has them."""


class FaceEmbedding(nn.Module):
    """Image of a face -> 128 features, to be compared by their Euclidean distance.

    dlib's ``dlib_face_recognition_resnet_model_v1`` (King, *High Quality Face Recognition with Deep
    Metric Learning*, blog.dlib.net, 2017) as ``@vladmandic/face-api`` carries it: He et al.'s
    ResNet-34 (CVPR 2016) with fewer layers and half the channels, 29 convolutions and a linear
    layer. Each convolution has a bias, and a scale and a bias by channel in place of batch
    normalisation, so that training needs no statistics. 5,614,592 parameters, with face-api's
    names. The embeddings are not of norm 1, but of about 1.4.

    dlib trained for a threshold of 0.6 on images that it aligned by landmarks. That does not hold
    elsewhere: of 48 portraits of the ORL set, not aligned, 78 % of the pairs of strangers are
    nearer than 0.6 (0.4 separates them best). Calibrate on images of your own.

    Any image of at least 103x103, below which the last block has no place for its convolution;
    150x150 as published, where face-api pads with black at the sides what is not square.

    Attributes:
        preprocessing: what the weights were trained with.
        dtype: of the products; parameters and the embedding are float32.
    """

    preprocessing: Preprocessing = "face_api"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch 128"]:
        """Embed images (uint8 0..255, or float in [0, 1]); ``UsageError`` for too small ones."""
        del train, weight  # nothing here depends on the batch
        require_images(x, least=103)
        x = preprocess(x, self.preprocessing).astype(self.dtype)
        x = nn.relu(_ScaledConv(32, 7, 2, self.dtype, name="conv32_down")(x))
        x = max_pool_3x3(x)
        for block in BLOCKS:
            channels = int(block.removeprefix("conv").partition("_")[0])
            x = _Residual(channels, "down" in block, self.dtype, name=block)(x)
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        return Dense(128, use_bias=False, dtype=self.dtype, name="fc")(x).astype(jnp.float32)

    embed = __call__  # as ``Embeds`` names it


class _Residual(nn.Module):
    """Two convolutions beside a shortcut without parameters; ``down`` halves the sides."""

    channels: int
    down: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = _ScaledConv(self.channels, 3, 1 + self.down, self.dtype, name="conv1")(x)
        y = _ScaledConv(self.channels, 3, 1, self.dtype, name="conv2")(nn.relu(y))
        if self.down:
            # Of an even side the pool keeps one place more than the convolution, which has no
            # border: the last row and column, and the new channels, are those of one branch alone.
            x = average_pool_2x2(x)
            rows, columns, channels = (a - b for a, b in zip(x.shape[1:], y.shape[1:], strict=True))
            y = jnp.pad(y, ((0, 0), (0, rows), (0, columns), (0, 0)))
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, -channels)))
        return nn.relu(x + y)


class _ScaledConv(nn.Module):
    """Convolution, then a scale and a bias by channel; with stride 2 it has no border."""

    channels: int
    side: int
    stride: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(
            self.channels,
            (self.side, self.side),
            strides=self.stride,
            padding="SAME" if self.stride == 1 else "VALID",
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name="conv",
        )(x)
        return _Scale(name="scale")(x)


class _Scale(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        row = (1, 1, 1, -1)
        return (x.astype(jnp.float32) * scale.reshape(row) + bias.reshape(row)).astype(x.dtype)
