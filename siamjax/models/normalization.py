"""Batch normalisation that counts weights and spans devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Ioffe and Szegedy 2015, with statistics that are exact for padded and sharded batches.

    ``flax.linen.BatchNorm`` averages the devices' means, which is wrong when they hold different
    numbers of counted examples; here sums and counts travel, as everywhere in this project.
    Statistics are float32, the result has the dtype of the input.

    Attributes:
        momentum: share of the old running statistics that an update keeps.
        epsilon: added to the variance.
        axis_name: the pmapped axis to add the sums over; None on one device.
        scale_init: start of the learnt scale.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *space channels"],
        *,
        train: bool,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch *space channels"]:
        """Normalise over batch and space; an example of weight 0 leaves the statistics alone.

        A batch whose weights are all 0 is normalised by the running statistics and leaves them.
        """
        channels = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_variance = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", self.scale_init, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean, variance = running_mean.value, running_variance.value
        if train:
            mean, variance, count = self._batch_statistics(x, weight, mean)
            if weight is not None:
                counted = count > 0
                mean = jnp.where(counted, mean, running_mean.value)
                variance = jnp.where(counted, variance, running_variance.value)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_variance.value = keep * running_variance.value + (1 - keep) * variance
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        return ((x.astype(jnp.float32) - mean) * factor + bias).astype(x.dtype)

    def _batch_statistics(
        self, x: Array, weight: Array | None, shift: Array
    ) -> tuple[Array, Array, Array]:
        # One pass over the data. E[x^2] - E[x]^2 cancels when the mean is large against the
        # deviation; taken about the running mean (any constant is exact) it does not.
        shift = jax.lax.stop_gradient(shift)
        space = tuple(range(1, x.ndim - 1))
        centred = x.astype(jnp.float32) - shift
        positions = jnp.asarray(x[0, ..., 0].size, jnp.float32)
        if weight is None:
            axes = (0, *space)
            sums = (centred.sum(axes), jnp.square(centred).sum(axes), positions * x.shape[0])
        else:
            weight = weight.astype(jnp.float32)
            counted = (weight > 0)[:, None]
            per_example = (centred.sum(space), jnp.square(centred).sum(space))
            total, square = (
                jnp.sum(jnp.where(counted, part * weight[:, None], 0.0), axis=0)
                for part in per_example
            )
            sums = (total, square, positions * weight.sum())
        # An axis name is bound only inside pmap: initialisation runs outside.
        if self.axis_name is not None and not self.is_initializing():
            sums = jax.lax.psum(sums, self.axis_name)
        total, square, count = sums
        divisor = jnp.where(count > 0, count, 1.0)
        mean = total / divisor
        variance = jnp.maximum(square / divisor - jnp.square(mean), 0.0)
        return mean + shift, variance, count
