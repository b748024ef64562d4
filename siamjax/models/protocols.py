"""What a network must have to be trained, evaluated and searched with; no network is named here."""

from typing import Any, Protocol, runtime_checkable

import jax


@runtime_checkable
class Embeds(Protocol):
    """A network with features of single images: a vector each, or maps that are compared."""

    def embed(self, x: Any, *, train: bool = False) -> jax.Array:
        """Features (batch, ...) of images, uint8 0..255 or float in [0, 1].

        A network with batch statistics takes ``weight`` too, where 0 marks padding.
        """
        ...


@runtime_checkable
class Compares(Protocol):
    """A network that compares the features of two images: by a distance or the logit of P(same)."""

    @property
    def measure(self) -> str:
        """``distance`` or ``logit``."""
        ...

    @property
    def rises_with_similarity(self) -> bool:
        """True for a logit, False for a distance."""
        ...

    def compare(self, first: Any, second: Any) -> jax.Array:
        """One value (batch,) for each pair of features from ``embed``."""
        ...
