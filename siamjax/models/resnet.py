"""Image -> features, by ResNet-50."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from siamjax.models.normalization import BatchNorm
from siamjax.models.pooling import max_pool_3x3
from siamjax.models.preprocessing import preprocess, require_images
from siamjax.models.products import unbiased_conv
from siamjax.options import Preprocessing


class ResNet(nn.Module):
    """Image -> 2048 features: the mean of the last map over all positions.

    He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, with the stride in the 3x3
    convolution ("version 1.5"), as torchvision and timm publish it: the names are theirs.
    ResNet-50 has 23,508,032 parameters without the classifier. Images of any size; torchvision's
    second weights take 224x224 out of 232 at the shorter side (bilinear), timm's ``a1`` 224 of 235
    (bicubic).

    Attributes:
        depths: blocks of each stage; (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) ResNet-101.
        preprocessing: what the weights were trained with.
        freeze_statistics: keep the running statistics of batch normalisation, also in training.
        dtype: of the products; parameters, statistics and the features are float32.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    preprocessing: Preprocessing = "torchvision"
    freeze_statistics: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features of images, uint8 0..255 or float in [0, 1]; ``UsageError`` for other shapes."""
        require_images(x)
        how = {"train": train and not self.freeze_statistics, "weight": weight}
        x = preprocess(x, self.preprocessing).astype(self.dtype)
        x = unbiased_conv(64, 7, stride=2, dtype=self.dtype, name="conv1")(x)
        x = max_pool_3x3(nn.relu(BatchNorm(name="bn1")(x, **how)), border=1)
        for stage, depth in enumerate(self.depths):
            for place in range(depth):
                stride = 2 if stage and not place else 1
                name = f"layer{stage + 1}_{place}"
                x = _Block(64 * 2**stage, stride, place == 0, self.dtype, name=name)(x, how)
        return x.astype(jnp.float32).mean(axis=(1, 2))

    embed = __call__  # as ``Embeds`` names it


class _Block(nn.Module):
    channels: int
    stride: int
    project: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, how: dict[str, Any]) -> Array:
        y = unbiased_conv(self.channels, 1, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y, **how))
        y = unbiased_conv(self.channels, 3, stride=self.stride, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(BatchNorm(name="bn2")(y, **how))
        y = unbiased_conv(4 * self.channels, 1, dtype=self.dtype, name="conv3")(y)
        y = BatchNorm(name="bn3")(y, **how)
        if self.project:
            conv = unbiased_conv(
                4 * self.channels, 1, stride=self.stride, dtype=self.dtype, name="downsample_0"
            )
            x = BatchNorm(name="downsample_1")(conv(x), **how)
        return nn.relu(x + y)
