"""Image of an aligned face -> embedding, by the residual networks of ArcFace and AdaFace."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from siamjax.distances import unit
from siamjax.models.normalization import BatchNorm
from siamjax.models.preprocessing import preprocess, require_images
from siamjax.models.products import Dense, unbiased_conv
from siamjax.options import Preprocessing, plain

Variant = Literal["arcface", "adaface"]


class IResNet(nn.Module):
    """Image of an aligned face -> 512 features of norm 1, to be compared by their cosine.

    The residual network of Deng et al., *ArcFace*, CVPR 2019, as insightface publishes it in
    PyTorch, with its names: in each block batch normalisation, 3x3 convolution, batch
    normalisation, PReLU, 3x3 convolution with the stride, batch normalisation; nothing after the
    sum. IResNet-50 has 43,590,848 parameters, IResNet-100 65,156,160.

    Faces are aligned to 112x112 by five points: eyes at (38.29, 51.70) and (73.53, 51.50), nose
    (56.03, 71.74), corners of the mouth (41.55, 92.37) and (70.73, 92.20). The dense layer at the
    end sees a map of 7x7, so the sides must be 97 to 112.

    Attributes:
        depths: blocks of each stage; (3, 4, 14, 3) is IResNet-50, (3, 13, 30, 3) IResNet-100.
        variant: ``adaface`` is the network of Kim et al., *AdaFace*, CVPR 2022 (43,585,600
            parameters, and 65,150,912): its first shortcut takes every second pixel in place of a
            projection, and its last normalisation has no scale and bias.
        preprocessing: what the weights were trained with: ``signed`` for ArcFace, ``bgr_signed``
            for AdaFace.
        freeze_statistics: keep the running statistics of batch normalisation, also in training.
        dtype: of the products; parameters, statistics and the embedding are float32.
    """

    depths: tuple[int, ...] = (3, 4, 14, 3)
    variant: Variant = "arcface"
    preprocessing: Preprocessing = "signed"
    freeze_statistics: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch 512"]:
        """Embed images, uint8 0..255 or float in [0, 1]; ``UsageError`` for other sides."""
        plain("variant", self.variant, Variant)
        require_images(x, least=97, most=112)
        arcface = self.variant == "arcface"
        how = {"train": train and not self.freeze_statistics, "weight": weight}
        x = preprocess(x, self.preprocessing).astype(self.dtype)
        x = unbiased_conv(64, 3, dtype=self.dtype, name="conv1")(x)
        x = _PReLU(name="prelu")(BatchNorm(name="bn1")(x, **how))
        for stage, depth in enumerate(self.depths):
            for place in range(depth):
                block = _Block(
                    64 * 2**stage,
                    stride=1 if place else 2,
                    project=place == 0 and (arcface or stage > 0),
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{place}",
                )
                x = block(x, how)
        x = BatchNorm(name="bn2")(x, **how)
        # Flattened as the weights of ``fc`` are published: channels first.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        x = Dense(512, dtype=self.dtype, name="fc")(x).astype(jnp.float32)
        last = BatchNorm(use_scale=arcface, use_bias=arcface, name="features")
        return unit(last(x, **how))

    embed = __call__  # as ``Embeds`` names it


class _Block(nn.Module):
    channels: int
    stride: int
    project: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, how: dict[str, Any]) -> Array:
        y = BatchNorm(name="bn1")(x, **how)
        y = unbiased_conv(self.channels, 3, dtype=self.dtype, name="conv1")(y)
        y = _PReLU(name="prelu")(BatchNorm(name="bn2")(y, **how))
        y = unbiased_conv(self.channels, 3, stride=self.stride, dtype=self.dtype, name="conv2")(y)
        y = BatchNorm(name="bn3")(y, **how)
        if self.project:
            x = unbiased_conv(
                self.channels, 1, stride=self.stride, dtype=self.dtype, name="downsample_0"
            )(x)
            x = BatchNorm(name="downsample_1")(x, **how)
        else:
            x = x[:, :: self.stride, :: self.stride]
        return x + y


class _PReLU(nn.Module):
    """x where it is positive, else x times a slope that is learnt for each channel."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
        slope = slope.reshape(*(1,) * (x.ndim - 1), -1)
        return jnp.where(x > 0, x, (x.astype(jnp.float32) * slope).astype(x.dtype))
