"""Convolution and dense layer whose biases learn from float32 sums, whatever the products are."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array

from siamjax.precision import with_bias


class Conv(nn.Conv):
    """``flax.linen.Conv`` with :func:`siamjax.precision.with_bias` in place of its own bias.

    ``use_bias=False`` leaves the bias out, and True is Flax's own.
    """

    use_bias: bool | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """The convolution of ``inputs``, in ``dtype``."""
        return _biased(self, super().__call__(inputs))


class Dense(nn.Dense):
    """``flax.linen.Dense``, changed as :class:`Conv` is."""

    use_bias: bool | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """The products of ``inputs`` and the kernel, in ``dtype``."""
        return _biased(self, super().__call__(inputs))


def _biased(layer: Any, x: Array) -> Array:
    if layer.use_bias is not None:
        return x
    return with_bias(x, layer.param("bias", layer.bias_init, (layer.features,), layer.param_dtype))
