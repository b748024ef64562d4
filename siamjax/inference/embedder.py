"""Images through a network, batch by batch over the local devices."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from siamjax import processes
from siamjax.data.batches import image_batches
from siamjax.data.images import ImageSet
from siamjax.data.transforms import Size, framed, sides
from siamjax.errors import UsageError
from siamjax.inference.digests import describe
from siamjax.models.applying import evaluate
from siamjax.models.protocols import Embeds
from siamjax.parallel import data_parallel_map, device_count, replicate, shard
from siamjax.training.fingerprint import weights_digest


def features_of(network: nn.Module, variables: Any, images: Any, *, method: str = "embed") -> Any:
    """``network.embed(images)``, or another method of the network."""
    return evaluate(network, variables, images, method=method)


@lru_cache(maxsize=8)
def _embed_function(network: nn.Module, method: str) -> Callable[..., Array]:
    """Pmapped ``(variables, batch) -> features`` float32; compiled once for a network and shape."""

    def embed(variables: Any, batch: dict[str, Array]) -> Array:
        return features_of(network, variables, batch["image"], method=method).astype(jnp.float32)

    return data_parallel_map(embed)


def check_finite(rows: np.ndarray, images: ImageSet, indices: Int[np.ndarray, " n"]) -> None:
    """Raise ``UsageError`` naming the first image whose row of features is not finite."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))
    if len(bad):
        raise UsageError(
            f"the features of {images.keys[int(indices[bad[0]])]} of {images.name} are not finite: "
            "the network has diverged, or the image is unusual; use an earlier checkpoint, or look "
            "at the image"
        )


def fingerprint(network: nn.Module, weights: str, size: Size) -> dict[str, str]:
    """``Embedder.fingerprint`` of a network whose weights have this digest."""
    return {
        "network": describe(network),
        "weights": weights,
        "preprocessing": f"upright RGB on white, {framed(size)}",
    }


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A network with everything that its embeddings of images depend on.

    Attributes:
        network: has ``embed`` (uint8 images (batch, height, width, 3) -> (batch, ...)), which
            does the preprocessing too.
        variables: the network's variables.
        size: image size of the network.
        batch_size: images a call, over all devices.
        method: the method to call; by default ``embed``.
    """

    network: nn.Module
    variables: Any = field(repr=False)  # pages in a notebook
    size: Size
    batch_size: int = 64
    method: str = "embed"

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What the embeddings depend on; those of equal fingerprints can be compared."""
        return fingerprint(self.network, weights_digest(self.variables), self.size)

    @cached_property
    def feature(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the network's output for one image.

        Raises ``UsageError`` for a network that does not embed.
        """
        if self.method == "embed" and not isinstance(self.network, Embeds):
            raise UsageError(
                f"{type(self.network).__name__} has no method embed(images) and cannot embed"
            )
        image = jax.ShapeDtypeStruct((1, *sides(self.size), 3), np.uint8)
        embed = partial(features_of, self.network, method=self.method)
        found = jax.eval_shape(embed, self.variables, image)
        return jax.ShapeDtypeStruct(found.shape[1:], found.dtype)

    @property
    def features(self) -> int:
        """Length of an embedding; ``UsageError`` for a network whose output is not a vector."""
        if len(self.feature.shape) != 1:
            raise UsageError(
                f"{type(self.network).__name__} gives maps of shape {self.feature.shape} and no "
                "embedding vector; it can compare two images: use it to rank or to verify"
            )
        return self.feature.shape[0]

    @cached_property
    def _replicated(self) -> Any:
        return replicate(self.variables)

    def batches(
        self, images: ImageSet, indices: Int[np.ndarray, " n"]
    ) -> Iterator[Float[np.ndarray, "batch ..."]]:
        """The network's float32 output for these images, in their order, batch by batch.

        Of several processes each reads its part of every batch, and all have all rows. Raises
        ``UsageError`` naming an image that cannot be read.
        """
        devices, part = device_count(), (processes.index(), processes.count())
        embed = _embed_function(self.network, self.method)
        whole = -(-self.batch_size // devices) * devices
        batches = image_batches(images, indices, batch_size=whole, size=self.size, part=part)
        for start, batch in zip(range(0, len(indices), whole), batches, strict=True):
            rows = np.asarray(embed(self._replicated, shard(batch)))
            yield rows.reshape(whole, *rows.shape[2:])[: len(indices) - start]

    def embeddings(
        self, images: ImageSet, indices: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n ..."]:
        """All :meth:`batches` in one array; ``UsageError`` if features are not finite."""
        rows = np.empty((len(indices), *self.feature.shape), np.float32)
        done = 0
        for batch in self.batches(images, indices):
            check_finite(batch, images, indices[done:])
            rows[done : done + len(batch)] = batch
            done += len(batch)
        return rows
