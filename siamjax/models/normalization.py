"""Batch normalisation over all devices, with weighted examples."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from siamjax.checks import require_number
from siamjax.parallel import gather_over_devices, sum_over_devices

_PART = 16  # the mean of every 16th row is taken first: a sixteenth of a pass


class BatchNorm(nn.Module):
    """Batch normalisation with statistics that are exact for padded and sharded batches.

    Ioffe, Szegedy, *Batch Normalization*, ICML 2015. ``flax.linen.BatchNorm`` averages the devices'
    means, which is wrong when the devices hold different numbers of counted examples. Here sums and
    counts are added up instead, so many devices give the result of one. The axis of devices is
    found, not passed (:func:`siamjax.parallel.bound_axis`). Statistics are float32, the result has
    the dtype of the input.

    Attributes:
        momentum: share of the old running statistics that an update keeps.
        epsilon: added to the variance.
        scale_init: initial value of the learnt scale.
        use_scale: learn a scale; False: it is 1, where the next layer can scale as well.
        use_bias: learn a bias; False: it is 0.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    use_scale: bool = True
    use_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *space channels"],
        *,
        train: bool,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch *space channels"]:
        """Normalise over batch and space; an example of weight 0 does not change the statistics.

        A batch whose weights are all 0 is normalised by the running statistics. The variance's
        relative error is below 1e-4 for every mean. Raises ``UsageError`` for a momentum outside
        [0, 1] and an epsilon that is not positive.
        """
        require_number("momentum", self.momentum, at_least=0, at_most=1)
        require_number("epsilon", self.epsilon, above=0)
        weight = None if weight is None else weight.astype(jnp.float32)
        channels = ((x.shape[-1],), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, *channels)
        running_variance = self.variable("batch_stats", "var", jnp.ones, *channels)
        scale = jnp.ones(*channels)
        if self.use_scale:
            scale = self.param("scale", self.scale_init, *channels)
        bias = jnp.zeros(*channels)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, *channels)
        if not train:
            factor = scale * jax.lax.rsqrt(running_variance.value + self.epsilon)
            return _by_statistics(x, running_mean.value, factor, bias)
        running = (running_mean.value, running_variance.value)
        normalized: Any = _normalize(x, scale, bias, weight, running, self.epsilon)
        y, mean, variance = normalized
        if not self.is_initializing():
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_variance.value = keep * running_variance.value + (1 - keep) * variance
        return y


@jax.checkpoint  # else the centred x would be kept for the gradient, beside x
def _by_statistics(x: Array, mean: Array, factor: Array, bias: Array) -> Array:
    centred = x.astype(jnp.float32) - _row(mean, x)
    return (centred * _row(factor, x) + _row(bias, x)).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _normalize(
    x: Array,
    scale: Array,
    bias: Array,
    weight: Array | None,
    running: tuple[Array, Array],
    epsilon: float,
) -> tuple[Array, Array, Array]:
    """Normalised x, and the batch's mean and variance, through which no gradient flows."""
    return _forward(x, scale, bias, weight, running, epsilon)[0]


def _forward(x, scale, bias, weight, running, epsilon):
    count, mean, variance = _statistics(x, weight)
    counted = count > 0
    divisor = jnp.where(counted, count, 1.0)
    mean = jnp.where(counted, mean, running[0])
    variance = jnp.where(counted, variance, running[1])
    inverse = jax.lax.rsqrt(variance + epsilon)
    centred = x.astype(jnp.float32) - _row(mean, x)
    y = (centred * _row(inverse * scale, x) + _row(bias, x)).astype(x.dtype)
    return (y, mean, variance), (x, mean, inverse, scale, weight, divisor)


def _statistics(x: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """How many values of a channel count, their mean and their variance, over all devices."""
    # One pass over the data. E[x^2] - E[x]^2 cancels when the mean is large against the standard
    # deviation. About the mean of a part of the data it does not: of a share p, the variance of all
    # is at least p (the part's mean - the mean)^2, so E[x^2] is at most 1 + 1/p times the variance.
    part = x[:, ::_PART] if x.ndim > 2 else x
    shift = _count_and_mean(part.astype(jnp.float32), weight)[1]
    shifted = x.astype(jnp.float32) - _row(shift, x)
    count, mean = _count_and_mean(shifted, weight)
    square = _count_and_mean(jnp.square(shifted), weight)[1]
    variance = jnp.maximum(square - jnp.square(mean), 0.0)
    # Each device has its own mean to take squares about: the variance of all is the mean of the
    # variances and the variance of the means, which are taken about a shift as well.
    found = (count[None], shift[None], mean[None], variance[None])
    counts, shifts, means, variances = gather_over_devices(found)
    count = jnp.sum(counts)
    share = (counts / jnp.where(count > 0, count, 1.0))[:, None]
    means = (shifts - shifts[:1]) + means
    mean = jnp.sum(share * means, axis=0, keepdims=True)
    variance = jnp.sum(share * (variances + jnp.square(means - mean)), axis=0)
    return count, shifts[0] + mean[0], variance


def _count_and_mean(x: Array, weight: Array | None) -> tuple[Array, Array]:
    """How many values of a channel count on this device, and their mean; 0 of none."""
    positions = math.prod(x.shape[1:-1])
    count = positions * (jnp.float32(x.shape[0]) if weight is None else jnp.sum(weight))
    return count, _channel_sums(x, weight) / jnp.where(count > 0, count, 1.0)


def _backward(epsilon, residuals, gradients):
    # Ioffe and Szegedy 2015, section 3, with sums over all devices and a weighted mean. Written
    # out, because autodiff of the sums makes the whole LFW step 2 to 4 % slower on a CPU.
    x, mean, inverse, scale, weight, divisor = residuals
    gradient = gradients[0].astype(jnp.float32)
    normal = (x.astype(jnp.float32) - _row(mean, x)) * _row(inverse, x)
    bias_gradient = _channel_sums(gradient, None)
    scale_gradient = _channel_sums(gradient * normal, None)
    sums = sum_over_devices((bias_gradient, scale_gradient))
    share = 1.0 / divisor
    if weight is not None:
        share = (weight / divisor).reshape(-1, *(1,) * (x.ndim - 1))
    through_statistics = share * (_row(sums[0], x) + normal * _row(sums[1], x))
    x_gradient = ((gradient - through_statistics) * _row(inverse * scale, x)).astype(x.dtype)
    no_gradient = (
        None if weight is None else jnp.zeros_like(weight),
        (jnp.zeros_like(mean), jnp.zeros_like(mean)),
    )
    return x_gradient, scale_gradient, bias_gradient, *no_gradient


_normalize.defvjp(_forward, _backward)


def _channel_sums(x: Array, weight: Array | None) -> Array:
    """Weighted sums over batch and space; an example of weight 0 may even be NaN."""
    if weight is None:
        return jnp.sum(x, axis=tuple(range(x.ndim - 1)))
    per_example = jnp.sum(x, axis=tuple(range(1, x.ndim - 1)))
    weight = weight[:, None]
    return jnp.sum(jnp.where(weight > 0, per_example, 0.0) * weight, axis=0)


def _row(of_channels: Array, x: Array) -> Array:
    """Values of channels with as many axes as ``x``: strict rank promotion asks for it."""
    return of_channels.reshape(*(1,) * (x.ndim - 1), -1)
