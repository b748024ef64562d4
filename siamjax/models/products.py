"""Convolution and dense layer whose biases learn from float32 sums, whatever the products are."""

from typing import Any

import flax.linen as nn
from jax.typing import DTypeLike
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


def unbiased_conv(
    channels: int, side: int, *, stride: int = 1, dtype: DTypeLike, name: str
) -> Conv:
    """A square convolution without bias, as batch normalisation follows, with PyTorch's border.

    That is ``side // 2`` on each side. ``SAME`` pads even maps less before than after where there
    is a ``stride``. ``dtype`` is that of the product, ``name`` the module's.
    """
    border = (side // 2, side // 2)
    return Conv(
        channels,
        (side, side),
        strides=stride,
        padding=(border, border),
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        name=name,
    )


def _biased(layer: Any, x: Array) -> Array:
    if layer.use_bias is not None:
        return x
    return with_bias(x, layer.param("bias", layer.bias_init, (layer.features,), layer.param_dtype))
