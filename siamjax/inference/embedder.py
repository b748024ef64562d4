"""Images through a network: the one way that everything here takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from siamjax.data.batches import image_batches
from siamjax.data.images import ImageSet
from siamjax.data.transforms import Size, sides
from siamjax.errors import UsageError
from siamjax.inference.digests import describe, weights_digest
from siamjax.models.protocols import Embeds
from siamjax.parallel import data_parallel_map, replicate, shard


def features_of(network: nn.Module, variables: Any, images: Any, *, method: str = "embed") -> Any:
    """``network.embed`` of images, or another method of it."""
    return network.apply(variables, images, method=method)


@lru_cache(maxsize=8)
def _embed_function(network: nn.Module, method: str) -> Callable[..., Array]:
    """Pmapped ``(variables, batch) -> features`` float32, (devices, batch / devices, ...).

    Compiled once a network and shape, however often it is asked for.
    """

    def embed(variables: Any, batch: dict[str, Array]) -> Array:
        return features_of(network, variables, batch["image"], method=method).astype(jnp.float32)

    return data_parallel_map(embed)


def check_finite(rows: np.ndarray, images: ImageSet, indices: Int[np.ndarray, " n"]) -> None:
    """Raise ``UsageError`` with an image's name if its features, a row each, are not finite."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))
    if len(bad):
        raise UsageError(
            f"the features of {images.keys[int(indices[bad[0]])]} of {images.name} are not finite: "
            "the network has diverged (or this image makes it so); take an earlier checkpoint, or "
            "look at the image"
        )


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A network that embeds single images, with everything that its embeddings depend on.

    Attributes:
        network: has ``embed`` (uint8 images (batch, height, width, 3) -> (batch, ...)); its
            preprocessing is inside it.
        variables: of the network.
        size: of its images.
        batch_size: images a call, over all devices.
        method: of the network, if another one than ``embed`` is meant, such as ``maps``.
    """

    network: nn.Module
    variables: Any
    size: Size
    batch_size: int = 64
    method: str = "embed"

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What embeddings depend on, by name: two of equal fingerprints may be compared."""
        return {
            "network": describe(self.network),
            "weights": weights_digest(self.variables),
            "preprocessing": f"upright RGB on white, bilinear to {sides(self.size)}",
        }

    @cached_property
    def feature(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of what the network gives for one image.

        Raises ``UsageError`` for a network that does not embed.
        """
        if self.method == "embed" and not isinstance(self.network, Embeds):
            raise UsageError(f"{type(self.network).__name__} has no method embed(images)")
        image = jax.ShapeDtypeStruct((1, *sides(self.size), 3), np.uint8)

        embed = partial(features_of, self.network, method=self.method)
        found = jax.eval_shape(embed, self.variables, image)
        return jax.ShapeDtypeStruct(found.shape[1:], found.dtype)

    @property
    def features(self) -> int:
        """Length of an embedding; ``UsageError`` for a network that gives maps and no vector."""
        if len(self.feature.shape) != 1:
            raise UsageError(
                f"{type(self.network).__name__} gives maps of {self.feature.shape} for an image "
                "and no embedding: it compares two images at a time; rank or verify with it"
            )
        return self.feature.shape[0]

    @cached_property
    def _replicated(self) -> Any:
        return replicate(self.variables)

    def batches(
        self, images: ImageSet, indices: Int[np.ndarray, " n"]
    ) -> Iterator[Float[np.ndarray, "batch ..."]]:
        """What the network gives for these images, in their order, up to ``batch_size`` at a time.

        float32 (batch, ...). Raises ``UsageError`` with an image's name if it cannot be read.
        """
        devices, embed = jax.local_device_count(), _embed_function(self.network, self.method)
        whole = -(-self.batch_size // devices) * devices
        for batch in image_batches(images, indices, batch_size=whole, size=self.size):
            counted = int(batch["weight"].sum())
            rows = np.asarray(embed(self._replicated, shard(batch)))
            yield rows.reshape(whole, *rows.shape[2:])[:counted]

    def embeddings(
        self, images: ImageSet, indices: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n ..."]:
        """All of them, in memory; ``UsageError`` for features that are not finite, too."""
        rows = np.empty((len(indices), *self.feature.shape), np.float32)
        done = 0
        for batch in self.batches(images, indices):
            check_finite(batch, images, indices[done:])
            rows[done : done + len(batch)] = batch
            done += len(batch)
        return rows
