"""Visual search: a deep network sees what a thing is, two shallow ones see how it looks."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from siamjax.checks import require_number
from siamjax.distances import unit
from siamjax.errors import UsageError
from siamjax.models.preprocessing import preprocess
from siamjax.models.products import Conv
from siamjax.models.vgg16 import Vgg16
from siamjax.options import Preprocessing, plain
from siamjax.precision import sum_dtype

Variant = Literal["strided", "visnet"]
Output = Literal["sigmoid", "ball", "sphere"]


def local_response_normalization(
    x: Float[Array, "*batch channels"],
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    bias: float = 1.0,
) -> Float[Array, "*batch channels"]:
    """``x / (bias + alpha / size * sum of squares over size neighbouring channels)^beta``.

    Krizhevsky, Sutskever, Hinton, *ImageNet Classification with Deep CNNs*, NIPS 2012, section
    3.3, where alpha is divided by the size as in Caffe. ``size`` is odd. Sums are float32 at least,
    the result has the dtype of the input.
    """
    half = size // 2
    wide = x.astype(sum_dtype(x.dtype))
    squares = jnp.pad(jnp.square(wide), [(0, 0)] * (x.ndim - 1) + [(half, half)])
    near = sum(squares[..., k : k + x.shape[-1]] for k in range(size))
    return (wide / (bias + alpha / size * near) ** beta).astype(x.dtype)


class ShallowNet(nn.Module):
    """One convolution on a small copy of the image: pattern and colour. 18,528 parameters.

    ``strided``: every ``stride``-th pixel, conv 8x8x96 stride 4, ReLU, max pool, all zero padded
    ("same"); 1536 features of a 224x224 image. ``visnet``: max pool of ``stride``, conv 8x8x96
    stride 4 without padding, ReLU, LRN, max pool that rounds up; 864 features.

    Attributes:
        stride: how many times smaller the copy is: 4 (the last pool is 7x7 with stride 4) or 8
            (3x3 with stride 2).
        variant: see above.
        width: factor on the 96 channels.
        dtype: of the convolution.
    """

    stride: int
    variant: Variant = "strided"
    width: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch features"]:
        """Features of images in [0, 1]; ``UsageError`` for images that are too small to pool."""
        last = {4: (7, 4), 8: (3, 2)}.get(self.stride)
        if last is None:
            raise UsageError(f"stride {self.stride}; choose 4 or 8")
        window, step = last
        visnet = self.variant == "visnet"
        if visnet:
            x = nn.max_pool(x, (self.stride,) * 2, strides=(self.stride,) * 2)
        else:
            x = x[:, :: self.stride, :: self.stride]
        if min(x.shape[1:3]) < (8 + 4 * (window - step) if visnet else 1):
            raise UsageError(
                f"the images are too small for the shallow network of stride {self.stride} "
                f"({x.shape[1]}x{x.shape[2]} after it); use larger ones (224 as published)"
            )
        x = Conv(
            max(1, round(96 * self.width)),
            (8, 8),
            strides=(4, 4),
            padding="VALID" if visnet else "SAME",
            kernel_init=nn.initializers.glorot_uniform(),
            dtype=self.dtype,
            name="conv",
        )(x.astype(self.dtype))
        x = nn.relu(x)
        padding: Any = "SAME"
        if visnet:
            x = local_response_normalization(x)
            # Rounded up as in Caffe: every window that begins inside the map counts.
            places = [max(0, -(-(side - window) // step)) for side in x.shape[1:3]]
            padding = [
                (0, place * step + window - side)
                for place, side in zip(places, x.shape[1:3], strict=True)
            ]
        x = nn.max_pool(x, (window, window), strides=(step, step), padding=padding)
        return x.reshape(x.shape[0], -1)


class VisualSearchNet(nn.Module):
    """Image -> embedding, by VGG-16 and two shallow networks side by side.

    VGG-16 with ``fc1`` and ``fc2`` (4096), and two :class:`ShallowNet` (1536 each) on the same
    image, concatenated; then one dense layer with a sigmoid: embeddings in (0, 1)^4096.
    163,661,824 parameters for 224x224 images: 134,260,544 in VGG-16, 18,528 in each shallow
    network, 29,364,224 in the last layer. After *Learning Fine-grained Image Similarity with
    Deep Ranking* (Wang et al., CVPR 2014) and *Deep Learning based Large Scale Visual
    Recommendation and Search for E-Commerce* (VisNet; Shankar et al., arXiv 1703.02344, 2017).

    Attributes:
        variant: ``visnet`` has the shallow networks, the dropout and the ``output`` of VisNet as
            released; ``strided`` is described above.
        width: factor on the number of channels of all convolutions.
        depth: number of blocks of VGG-16.
        hidden: features of ``fc1`` and ``fc2``.
        embedding: features of the embedding.
        output: ``sigmoid``; ``ball``: ``x / sqrt(1 + |x|^2)``, inside the unit ball; or
            ``sphere``: ``x / |x|``, where distances depend on the direction alone.
            None: ``ball`` for ``visnet``, else ``sigmoid``, which saturates and collapses easily.
        dropout: after ``fc1`` and ``fc2`` while training; None: 0.4 for ``visnet``, else 0.
        preprocessing: what VGG-16's weights were trained with; the shallow networks always
            see x / 255.
        dtype: of the products; parameters and the embedding are float32.
    """

    variant: Variant = "strided"
    width: float = 1.0
    depth: int = 5
    hidden: int = 4096
    embedding: int = 4096
    output: Output | None = None
    dropout: float | None = None
    preprocessing: Preprocessing = "unit"
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Runs of earlier versions call the variant ``strided`` by another name."""
        if self.variant == "recipe":
            object.__setattr__(self, "variant", "strided")
        super().__post_init__()

    def setup(self) -> None:
        """Make the three networks, and the layer that joins them."""
        plain("variant", self.variant, Variant)
        plain("output", self.output, Output | None)
        require_number("embedding", self.embedding, at_least=1)
        visnet = self.variant == "visnet"
        self.deep = Vgg16(
            width=self.width,
            depth=self.depth,
            hidden=self.hidden,
            dropout=(0.4 if visnet else 0.0) if self.dropout is None else self.dropout,
            dtype=self.dtype,
        )
        self.shallow1, self.shallow2 = (
            ShallowNet(stride, variant=self.variant, width=self.width, dtype=self.dtype)
            for stride in (4, 8)
        )
        self.last = nn.Dense(
            self.embedding, kernel_init=nn.initializers.glorot_uniform(), name="embedding"
        )

    def __call__(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch embedding"]:
        """Embed images, uint8 0..255 or float in [0, 1]."""
        del weight  # nothing here is normalised over the batch
        shown = preprocess(x, "unit")
        deep = self.deep(preprocess(x, self.preprocessing), train=train)
        parts = [deep, self.shallow1(shown), self.shallow2(shown)]
        x = self.last(jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=-1))
        output = self.output or {"strided": "sigmoid"}.get(self.variant)
        if output == "sigmoid":
            return nn.sigmoid(x)
        if output == "sphere":
            return unit(x)
        return x * jax.lax.rsqrt(1.0 + jnp.sum(x * x, axis=-1, keepdims=True))

    embed = __call__  # as ``Embeds`` names it
