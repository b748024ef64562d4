"""Image of a person -> features, by the omni-scale network."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from siamjax.models.normalization import BatchNorm
from siamjax.models.pooling import average_pool_2x2, max_pool_3x3
from siamjax.models.preprocessing import preprocess, require_images
from siamjax.models.products import Conv, Dense, unbiased_conv
from siamjax.options import Preprocessing
from siamjax.precision import sum_dtype


class OSNet(nn.Module):
    """Image of a person -> 512 features, none of them negative.

    Zhou et al., *Omni-Scale Feature Learning for Person Re-Identification*, ICCV 2019, as torchreid
    publishes it, with its names. A block sees four scales: one to four light 3x3 convolutions
    (1x1, then one for each channel by itself), weighted by one gate that all share. OSNet x1.0 has
    2,169,508 parameters without the classifier. Images of at least 13x13; 256 high and 128 wide as
    published, stretched (bilinear).

    Attributes:
        channels: of the first convolution and of the three stages; (64, 256, 384, 512) is x1.0.
        depths: blocks of each stage.
        preprocessing: what the weights were trained with.
        freeze_statistics: keep the running statistics of batch normalisation, also in training.
        dtype: of the products; parameters, statistics and the features are float32.
    """

    channels: tuple[int, int, int, int] = (64, 256, 384, 512)
    depths: tuple[int, int, int] = (2, 2, 2)
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
    ) -> Float[Array, "batch 512"]:
        """Features of images, uint8 0..255 or float in [0, 1]; ``UsageError`` below 13x13."""
        require_images(x, least=13)
        how = {"train": train and not self.freeze_statistics, "weight": weight}
        first, *stages = self.channels
        x = preprocess(x, self.preprocessing).astype(self.dtype)
        x = nn.relu(_ConvNorm(first, 7, 2, dtype=self.dtype, name="conv1")(x, how))
        x = max_pool_3x3(x, border=1)
        for stage, (channels, depth) in enumerate(zip(stages, self.depths, strict=True), start=2):
            for place in range(depth):
                x = _Block(channels, self.dtype, name=f"conv{stage}_{place}")(x, how)
            if stage < 4:
                conv = _ConvNorm(channels, dtype=self.dtype, name=f"conv{stage}_{depth}_0")
                x = average_pool_2x2(nn.relu(conv(x, how)))
        x = nn.relu(_ConvNorm(stages[-1], dtype=self.dtype, name="conv5")(x, how))
        x = x.astype(jnp.float32).mean(axis=(1, 2))
        x = Dense(512, dtype=self.dtype, name="fc_0")(x).astype(jnp.float32)
        return nn.relu(BatchNorm(name="fc_1")(x, **how))

    embed = __call__  # as ``Embeds`` names it


class _Block(nn.Module):
    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, how: dict[str, Any]) -> Array:
        middle = self.channels // 4
        start = nn.relu(_ConvNorm(middle, dtype=self.dtype, name="conv1")(x, how))
        gate = _Gate(self.dtype, name="gate")
        total = jnp.zeros_like(start)
        for scale, letter in enumerate("abcd", start=1):
            y = start
            for place in range(scale):
                name = f"conv2{letter}_{place}" if scale > 1 else "conv2a"
                y = _LightConv(middle, self.dtype, name=name)(y, how)
            total = total + gate(y)
        y = _ConvNorm(self.channels, dtype=self.dtype, name="conv3")(total, how)
        if x.shape[-1] != self.channels:
            x = _ConvNorm(self.channels, dtype=self.dtype, name="downsample")(x, how)
        return nn.relu(x + y)


class _ConvNorm(nn.Module):
    channels: int
    side: int = 1
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, how: dict[str, Any]) -> Array:
        conv = unbiased_conv(
            self.channels, self.side, stride=self.stride, dtype=self.dtype, name="conv"
        )
        return BatchNorm(name="bn")(conv(x), **how)


class _LightConv(nn.Module):
    """1x1 convolution, then 3x3 of each channel by itself, batch normalisation, ReLU."""

    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, how: dict[str, Any]) -> Array:
        x = unbiased_conv(self.channels, 1, dtype=self.dtype, name="conv1")(x)
        x = _Depthwise(self.dtype, name="conv2")(x)
        return nn.relu(BatchNorm(name="bn")(x, **how))


class _Depthwise(nn.Module):
    """3x3 convolution of each channel by itself: nine products that XLA fuses into one loop.

    Its own convolution of 64 groups took 40 times as long on a CPU (a map of 4x64x32x64).
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", init, (3, 3, 1, x.shape[-1]))
        kernel = kernel.astype(self.dtype).astype(sum_dtype(self.dtype))
        return _depthwise(x.astype(kernel.dtype), kernel).astype(x.dtype)


@jax.custom_vjp
def _depthwise(x: Array, kernel: Array) -> Array:
    """The convolution itself. There is no forward-mode derivative."""
    return sum(
        map(jnp.multiply, _taps(x), kernel.reshape(9, 1, 1, 1, -1)), start=jnp.zeros((), x.dtype)
    )


def _taps(x: Array) -> list[Array]:
    """The map as each of the kernel's nine places sees it."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [
        padded[:, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]


def _depthwise_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise(x, kernel), (x, kernel)


def _depthwise_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    products = [tap * gradient for tap in _taps(x)]
    zeros = [jnp.zeros((), x.dtype)] * 9
    # All nine in one pass. One after the other each product of maps is written out on a CPU.
    sums = lax.reduce(products, zeros, lambda a, b: list(map(jnp.add, a, b)), (1,))
    of_kernel = jnp.stack([each.sum(axis=(0, 1)) for each in sums]).reshape(kernel.shape)
    return _depthwise(gradient, kernel[::-1, ::-1]), of_kernel


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


class _Gate(nn.Module):
    """Weights the channels by what their means say."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        mean = x.astype(sum_dtype(x.dtype)).mean(axis=(1, 2), keepdims=True)
        y = nn.relu(Conv(channels // 16, (1, 1), dtype=self.dtype, name="fc1")(mean))
        y = nn.sigmoid(Conv(channels, (1, 1), dtype=self.dtype, name="fc2")(y))
        return x * y
