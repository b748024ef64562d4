"""What a network must answer to be used by the rest: nothing here asks for a network by name."""

from typing import Any, Protocol, runtime_checkable

import jax


@runtime_checkable
class Embeds(Protocol):
    """Images -> features: a vector for each image, or maps that a comparison looks into."""

    def embed(self, x: Any, *, train: bool = False) -> jax.Array:
        """Features of images, uint8 0..255 or float in [0, 1]: (batch, ...).

        A network whose batch statistics count padding takes ``weight`` too.
        """
        ...


@runtime_checkable
class Compares(Protocol):
    """Features of two images -> one value a pair, a distance or the logit of P(same)."""

    @property
    def measure(self) -> str:
        """``distance`` or ``logit``."""
        ...

    @property
    def rises_with_similarity(self) -> bool:
        """True of a logit."""
        ...

    def compare(self, first: Any, second: Any) -> jax.Array:
        """One value for each pair of what ``embed`` gave: (batch,)."""
        ...
