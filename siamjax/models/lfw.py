"""The 19-layer network for faces."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from siamjax.checks import require_number
from siamjax.errors import UsageError
from siamjax.models.normalization import BatchNorm
from siamjax.models.pooling import max_pool_2x2
from siamjax.models.products import Conv, Dense


class LfwNet(nn.Module):
    """Image -> embedding of 1024 features: four blocks of convolutions and a dense one.

    conv 5x5x64, conv 5x5x128, conv 3x3x256, conv 3x3x512 (stride 1, zero padded), each followed
    by ReLU and then batch norm, the first three also by a 2x2 max pool; dense 1024, ReLU, batch
    norm. 135,907,840 parameters at ``width`` 1 and 128x128x3, 134 million in the dense layer.

    Attributes:
        width: factor on every number of channels, including the embedding's.
        standardize: first subtract each image's mean and divide by sqrt(variance + 0.05^2),
            so that light and contrast of the whole image cannot tell people apart.
        dtype: of the convolutions and the dense product; parameters and statistics are float32.
        embedding_scale: initial scale of the last batch norm. With 1, two random embeddings are
            ``sqrt(2 * 1024) = 45`` apart: no negative pair is within a margin of 1, so the
            contrastive loss pushes none apart. ``None`` starts them 1 apart.
    """

    width: float = 1.0
    standardize: bool = False
    dtype: DTypeLike = jnp.float32
    embedding_scale: float | None = 1.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Embed images in [0, 1] whose sides are multiples of 8 (``UsageError`` otherwise)."""
        require_number("width", self.width, above=0)
        if x.ndim != 4 or not x.shape[1] or not x.shape[2] or x.shape[1] % 8 or x.shape[2] % 8:
            raise UsageError(
                f"images of shape {x.shape}, expected (batch, height, width, channels) with sides "
                "that are multiples of 8 (three 2x2 pools)"
            )

        def normalized(x: Array, name: str, scale: float = 1.0) -> Array:
            norm = BatchNorm(scale_init=nn.initializers.constant(scale), name=name)
            return norm(nn.relu(x), train=train, weight=weight)

        if self.standardize:
            mean = x.mean(axis=(1, 2, 3), keepdims=True)
            variance = x.var(axis=(1, 2, 3), keepdims=True)
            x = (x - mean) * jax.lax.rsqrt(variance + 0.05**2)
        x = x.astype(self.dtype)
        kernel_init = nn.initializers.he_normal()  # a ReLU follows every product
        for block, (side, channels) in enumerate([(5, 64), (5, 128), (3, 256), (3, 512)], start=1):
            x = Conv(
                _scaled(channels, self.width),
                (side, side),
                dtype=self.dtype,
                kernel_init=kernel_init,
                name=f"conv{block}",
            )(x)
            x = normalized(x, f"norm{block}")
            if block < 4:
                x = max_pool_2x2(x)
        x = x.reshape(x.shape[0], -1)
        features = _scaled(1024, self.width)
        x = Dense(features, dtype=self.dtype, kernel_init=kernel_init, name="dense")(x)
        scale = self.embedding_scale
        scale = (2 * features) ** -0.5 if scale is None else scale
        return normalized(x.astype(jnp.float32), "norm5", scale)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
