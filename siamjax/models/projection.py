"""Image -> embedding, by any network that embeds and one linear layer."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, UInt8

from siamjax.checks import require_number
from siamjax.distances import unit


class Projection(nn.Module):
    """A network's embedding at norm 1, through one linear layer, at norm 1 again.

    The layer has no bias and starts orthogonal: a projection of what the network says. This is how
    a published network is tuned: the layer alone, or with the last layers of the network.

    Attributes:
        backbone: embeds images; it preprocesses them.
        embedding: features of the layer.
    """

    backbone: nn.Module
    embedding: int = 128

    def setup(self) -> None:
        """Make the layer."""
        require_number("embedding", self.embedding, at_least=1)
        orthogonal = nn.initializers.orthogonal()
        self.dense = nn.Dense(self.embedding, use_bias=False, kernel_init=orthogonal)

    def __call__(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Embed images, or what :meth:`trunk` says of them (batch, features)."""
        features = x if x.ndim == 2 else self.trunk(x, train=train, weight=weight)
        return unit(self.dense(unit(features)))

    embed = __call__  # as ``Embeds`` names it

    def trunk(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """The embedding of the network itself."""
        options: dict[str, Any] = {} if weight is None else {"weight": weight}
        return self.backbone(x, train=train, **options)
