"""Convolution and dense layer whose biases learn from float32 sums, whatever the products are."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import ConvGeneralDilatedT, DotGeneralT, PrecisionLike
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array

from siamjax.precision import with_bias


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, precision: PrecisionLike) -> Array:
    """``x @ kernel`` whose gradients are products of x and kernel as they lie in memory.

    The kernel's gradient as JAX derives it makes XLA copy the other gradient, transposed: on a CPU
    a quarter of ResNet-50's train step. There is no forward-mode derivative.
    """
    return jnp.matmul(x, kernel, precision=precision)


def _forward(x: Array, kernel: Array, precision: PrecisionLike) -> tuple[Array, Any]:
    return _product(x, kernel, precision), (x, kernel)


def _backward(precision: PrecisionLike, residuals: Any, gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    rows, gradients = (part.reshape(-1, part.shape[-1]) for part in (x, gradient))
    of_kernel = lax.dot_general(rows, gradients, (((0,), (0,)), ((), ())), precision=precision)
    return jnp.matmul(gradient, kernel.T, precision=precision), of_kernel


_product.defvjp(_forward, _backward)


def _dense(x: Array, kernel: Array, dimensions: Any, precision: PrecisionLike) -> Array:
    """The product as ``flax.linen.Dense`` asks for it: of the last axis and the kernel's first."""
    del dimensions
    return _product(x, kernel, precision)


def _convolution(x: Array, kernel: Array, strides: Any, padding: Any, **others: Any) -> Array:
    """The convolution as ``flax.linen.Conv`` asks for it: that of single pixels is a product."""
    single = kernel.shape[:-2] == (1, 1) and x.shape[-1] == kernel.shape[-2]
    if not single or set(others["lhs_dilation"]) != {1} or padding not in _NO_BORDER:
        return lax.conv_general_dilated(x, kernel, strides, padding, **others)
    rows, columns = strides
    return _product(x[:, ::rows, ::columns], kernel[0, 0], others["precision"])


_NO_BORDER = ("SAME", "VALID", [(0, 0), (0, 0)])  # for a side of 1


class Conv(nn.Conv):
    """``flax.linen.Conv`` with :func:`siamjax.precision.with_bias` in place of its own bias.

    ``use_bias=False`` leaves the bias out, and True is Flax's own.
    """

    use_bias: bool | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    conv_general_dilated: ConvGeneralDilatedT | None = _convolution

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """The convolution of ``inputs``, in ``dtype``."""
        return _biased(self, super().__call__(inputs))


class Dense(nn.Dense):
    """``flax.linen.Dense``, changed as :class:`Conv` is."""

    use_bias: bool | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    dot_general: DotGeneralT | None = _dense

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
