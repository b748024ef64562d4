"""An average that travels as a sum and a count until it is printed."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Num


@flax.struct.dataclass
class Mean:
    """``total / count``: means of batches of different sizes, and of devices, add up exactly."""

    total: Float[Array, ""]
    count: Float[Array, ""]

    @classmethod
    def of(cls, values: Num[Array, "*shape"], weight: Num[Array, "*shape"] | None = None) -> "Mean":
        """Mean of ``values``; an example of ``weight`` 0 does not count, whatever its value."""
        values = values.astype(jnp.float32)
        if weight is None:
            return cls(jnp.sum(values), jnp.asarray(values.size, jnp.float32))
        weight = weight.astype(jnp.float32)
        # Not a product alone: the value of a padded example may be infinite or NaN.
        return cls(jnp.sum(jnp.where(weight > 0, values, 0.0) * weight), jnp.sum(weight))

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    def compute(self) -> Float[Array, ""]:
        """The average; NaN when nothing was counted."""
        counted = self.count > 0
        return jnp.where(counted, self.total / jnp.where(counted, self.count, 1.0), jnp.nan)
