"""Embeddings of pictures by a trained network, and what says that two are comparable."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from siamjax.data.images import ImageSet
from siamjax.data.pipeline import image_batches
from siamjax.data.transforms import Size, sides
from siamjax.search.digests import describe, weights_digest
from siamjax.training.parallel import data_parallel_map, replicate, shard


def features_of(network: nn.Module, variables: Any, pictures: Any) -> Any:
    """``network.embed`` of pictures."""
    return network.apply(variables, pictures, method="embed")


@lru_cache(maxsize=8)
def embed_function(network: nn.Module) -> Callable[..., Array]:
    """Pmapped ``(variables, batch) -> features`` float32, (devices, batch / devices, ...).

    Compiled once a network and shape, however often it is asked for.
    """

    def embed(variables: Any, batch: dict[str, Array]) -> Array:
        return features_of(network, variables, batch["image"]).astype(jnp.float32)

    return data_parallel_map(embed)


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A network that embeds single pictures, with everything that its embeddings depend on.

    Attributes:
        network: has ``embed`` (uint8 pictures (batch, height, width, 3) -> (batch, features));
            its preprocessing is inside it.
        variables: of the network.
        size: of its pictures.
        batch_size: pictures a call, over all devices.
    """

    network: nn.Module
    variables: Any
    size: Size
    batch_size: int = 64

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What embeddings depend on, by name: two of equal fingerprints may be compared."""
        return {
            "network": describe(self.network),
            "weights": weights_digest(self.variables),
            "preprocessing": f"upright RGB on white, bilinear to {sides(self.size)}",
        }

    @cached_property
    def features(self) -> int:
        """Length of an embedding."""
        picture = jax.ShapeDtypeStruct((1, *sides(self.size), 3), np.uint8)
        return jax.eval_shape(partial(features_of, self.network), self.variables, picture).shape[-1]

    @cached_property
    def _replicated(self) -> Any:
        return replicate(self.variables)

    def batches(
        self, images: ImageSet, indices: Int[np.ndarray, " n"]
    ) -> Iterator[Float[np.ndarray, "batch features"]]:
        """Embeddings (float32) of these pictures in their order, up to ``batch_size`` at a time.

        Raises ``UsageError`` with a picture's name if it cannot be read.
        """
        devices, embed = jax.local_device_count(), embed_function(self.network)
        whole = -(-self.batch_size // devices) * devices
        for batch in image_batches(images, indices, batch_size=whole, size=self.size):
            counted = int(batch["weight"].sum())
            rows = np.asarray(embed(self._replicated, shard(batch)))
            yield rows.reshape(whole, -1)[:counted]

    def embeddings(
        self, images: ImageSet, indices: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n features"]:
        """All of them, in memory."""
        rows = np.empty((len(indices), self.features), np.float32)
        done = 0
        for batch in self.batches(images, indices):
            rows[done : done + len(batch)] = batch
            done += len(batch)
        return rows
