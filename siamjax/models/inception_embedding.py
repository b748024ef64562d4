"""Image -> embedding, by a pretrained InceptionV3."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from siamjax.distances import unit
from siamjax.errors import UsageError
from siamjax.models.inception_v3 import InceptionV3
from siamjax.models.preprocessing import preprocess
from siamjax.options import Preprocessing


class InceptionEmbedding(nn.Module):
    """InceptionV3 up to a block, mean over all positions, norm 1; then a dense layer, norm 1.

    The dense layer starts orthogonal and without bias: a projection of the published features. How
    deep to go depends on the weights: the last blocks are specialised in the classes that they
    were trained on, earlier ones separate other things better.

    Attributes:
        end: the last block; the layers after it do not exist.
        embedding: features of the dense layer; None: no dense layer.
        preprocessing: what the weights were trained with.
        frozen: the last block that is not trained; None: all are.
        given: the block whose map may be passed in place of images, so that a frozen part runs
            once for each image and not in every epoch.
        freeze_statistics: keep the running statistics of batch normalisation, everywhere.
        dtype: of the convolutions; parameters, statistics and the embedding are float32.
    """

    end: str = "mixed7"
    embedding: int | None = 256
    preprocessing: Preprocessing = "signed"
    frozen: str | None = None
    given: str | None = None
    freeze_statistics: bool = True
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Make the network and the layer on top."""
        self.trunk = InceptionV3(
            end=self.end,
            frozen=self.frozen,
            freeze_statistics=self.freeze_statistics,
            dtype=self.dtype,
        )
        if self.embedding is not None and self.embedding < 1:
            raise UsageError(f"embedding {self.embedding}: use 1 or more, or None for no layer")
        if self.embedding is not None:
            self.dense = nn.Dense(
                self.embedding, use_bias=False, kernel_init=nn.initializers.orthogonal()
            )

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Embed images (3 channels; uint8, or float in [0, 1]), or maps of the block ``given``."""
        maps = self.maps(x, train=train, weight=weight)
        features = unit(maps.astype(jnp.float32).mean(axis=(1, 2)))
        return features if self.embedding is None else unit(self.dense(features))

    def maps(
        self,
        x: Float[Array, "batch height width channels"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch rows columns channels"]:
        """The map of block ``end``."""
        if x.shape[-1] == 3:
            return self.trunk(preprocess(x, self.preprocessing), train=train, weight=weight)
        return self.trunk(x, train=train, weight=weight, after=self.given)

    embed = __call__  # as ``Embeds`` names it
