"""The Siamese network: one backbone for both images, and a head that compares."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


class Siamese(nn.Module):
    """The same backbone on both images of a pair, then a head that compares the embeddings.

    Bromley et al., *Signature Verification using a "Siamese" Time Delay Neural Network*, NIPS 1993.

    Attributes:
        backbone: ``(images, train=, weight=) -> embeddings``; ``weight`` is only passed on if it
            is given, so a backbone that does not use it need not take it.
        head: ``(embeddings, embeddings) -> one value a pair``, a distance or a logit, as its
            ``measure`` and ``rises_with_similarity`` say (:mod:`siamjax.models.heads`).
    """

    backbone: nn.Module
    head: nn.Module

    @property
    def measure(self) -> str:
        """What the head's value is: ``distance`` or ``logit``."""
        return self.head.measure  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def rises_with_similarity(self) -> bool:
        """Whether the head's value is greater for images that are more similar."""
        return self.head.rises_with_similarity  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(
        self,
        x1: UInt8[Array, "batch height width channels"],
        x2: UInt8[Array, "batch height width channels"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, " batch"], Float[Array, "2*batch features"]]:
        """Compare pairs; returns the head's value and the embeddings (all of ``x1`` first).

        Both images go through in one apply: batch normalisation then sees one batch, in which the
        order within a pair cannot matter, and the kernels' gradients are computed once.
        """
        both = jnp.concatenate([x1, x2])
        weights = None if weight is None else jnp.concatenate([weight, weight])
        embeddings = self.embed(both, train=train, weight=weights)
        first, second = jnp.split(embeddings, 2)
        return self.compare(first, second), embeddings

    def embed(
        self,
        x: UInt8[Array, "batch height width channels"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Embeddings of images, uint8 0..255 or float in [0, 1]."""
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32) / 255.0
        options: dict[str, Any] = {} if weight is None else {"weight": weight}
        return self.backbone(x, train=train, **options)

    def maps(
        self, x: UInt8[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch rows columns channels"]:
        """``backbone.maps`` of images, for a backbone that has it: the output of a frozen part."""
        return self.backbone.maps(x, train=train)  # pyright: ignore[reportAttributeAccessIssue]

    def compare(
        self, first: Float[Array, "*batch features"], second: Float[Array, "*batch features"]
    ) -> Float[Array, "*batch"]:
        """The head's value for pairs of embeddings."""
        return self.head(first, second)
