"""Re-identification by inexact matching: patches of one image are searched in the other."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from siamjax.correlation import Reduction, cross_input_neighbourhood_conv, normxcorr_conv
from siamjax.correlation.maps import as_maps
from siamjax.correlation.options import options_of
from siamjax.errors import UsageError
from siamjax.models.first_layer import conv_relu_pool
from siamjax.models.pooling import max_pool_2x2
from siamjax.models.products import Conv
from siamjax.options import Count, Whole, plain
from siamjax.precision import with_bias

Variant = Literal["released", "guide"]


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Uniform in +-1/sqrt(fan_in), as Torch7 initialises weights *and* biases of a layer."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -bound, bound, out_sharding=out_sharding)

    return init


class NormXCorrConv(nn.Module):
    """Normalised cross-correlation and a 1x1 convolution as one layer; the map is never stored.

    :func:`siamjax.correlation.normxcorr_conv` with learnt ``kernel`` and ``bias``, initialised as
    Torch7 does. The kernel's size follows from the inputs: without ``column_search`` from their
    width too, so that the parameters then fit maps of this width alone.

    Attributes:
        features: output channels, 25 as published (Subramaniam et al., NIPS 2016).
        activation: elementwise function of the correlation, such as ``nn.relu``, or None.
        patch_size: and all that follow are the options of the operator.
    """

    features: int = 25
    activation: Callable[[Array], Array] | None = None
    patch_size: int = 5
    row_search: int = 2
    column_search: int | None = None
    epsilon: float = 1e-2
    ddof: int = 1
    reduction: Reduction = "mean"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch height width channels"],
        y: Float[Array, "*batch height width channels"],
    ) -> Float[Array, "*batch height width features"]:
        """``activation(normxcorr(x, y)) @ kernel + bias``: x's patches are searched in y."""
        x, y = as_maps(x, y)
        options: dict[str, Any] = {
            "patch_size": self.patch_size,
            "row_search": self.row_search,
            "column_search": self.column_search,
            "epsilon": self.epsilon,
            "ddof": self.ddof,
            "reduction": self.reduction,
        }
        outputs = plain("features", self.features, Count)
        inputs = options_of(**options).features(x.shape)
        init = torch_uniform(inputs)
        return normxcorr_conv(
            x,
            y,
            self.param("kernel", init, (inputs, outputs)),
            self.param("bias", init, (outputs,)),
            activation=self.activation,
            **options,
        )


class NormXCorrNet(nn.Module):
    """Two images -> logit of P(same), through the correlation of all their patches.

    Subramaniam, Chatterjee, Mittal, *Deep Neural Networks with Inexact Matching for Person
    Re-Identification*, NIPS 2016, as released, for 160x60 images in [0, 1]::

        conv 5x5x20, ReLU, pool - conv 5x5x25, ReLU, pool       (both images; 37 x 12 x 25)
        normxcorr (1500), ReLU - conv 1x1x25, ReLU - conv 3x3x25 - pool   (17 x 5 x 25)
        dense 500, ReLU - dense 2

    The released code ends with a softmax over two classes. It equals the sigmoid of the difference
    of the two, which is the logit returned here. A cross-input network has no embedding of a single
    image: ``embed`` gives the maps to be compared, ``compare`` does the rest. It is not symmetric.

    Attributes:
        fused: the paper's "cooperative" network: a cross-input neighbourhood layer (Ahmed et al.,
            CVPR 2015) works on the same maps, and both outputs of 500 go into the last layer.
        variant: ``guide`` leaves out the ReLU after normxcorr and the one after dense 500, and
            correlates with ``ddof=0, epsilon=0`` and a plain sum, as a Keras guide of 2018 does.
        column_search: None searches the whole width, as published; k the 2k + 1 nearest columns.
        dtype: of convolutions and dense products; statistics and parameters stay float32.
    """

    rises_with_similarity: ClassVar[bool] = True
    measure: ClassVar[str] = "logit"

    fused: bool = False
    variant: Variant = "released"
    column_search: int | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Make the layers of the trunk, of both branches, and the last one."""
        plain("variant", self.variant, Variant)
        plain("column_search", self.column_search, Whole | None)
        self.conv1 = _ConvReluPool(dtype=self.dtype)
        self.conv2 = self._conv(25, 5, 20)
        options: dict[str, Any] = {"activation": nn.relu}
        if self.variant == "guide":
            options = {"ddof": 0, "epsilon": 0.0, "reduction": "sum"}
        self.correlation = NormXCorrConv(column_search=self.column_search, **options)
        self.conv4 = self._conv(25, 3, 25)
        self.dense = _Dense(500, dtype=self.dtype)
        if self.fused:
            self.neighbourhood1 = _NeighbourhoodConv()
            self.neighbourhood2 = self._conv(25, 3, 25)
            self.neighbourhood_dense = _Dense(500, dtype=self.dtype)
        self.last = _Dense(2)

    def _conv(self, channels: int, side: int, inputs: int) -> Conv:
        init = torch_uniform(side * side * inputs)
        return Conv(
            channels,
            (side, side),
            padding="VALID",
            kernel_init=init,
            bias_init=init,
            dtype=self.dtype,
        )

    def __call__(
        self,
        x1: UInt8[Array, "batch height width 3"],
        x2: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> tuple[Float[Array, " batch"], Float[Array, "2*batch features"]]:
        """Logits of pairs, and the flattened features of all images (all of ``x1`` first)."""
        features = self.embed(jnp.concatenate([x1, x2]), train=train, weight=weight)
        first, second = jnp.split(features, 2)
        return self.compare(first, second), features.reshape(features.shape[0], -1)

    def embed(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch rows columns 25"]:
        """Features of images, uint8 0..255 or float in [0, 1]."""
        del train, weight  # nothing here is normalised over the batch
        if x.ndim != 4 or x.shape[1] < 40 or x.shape[2] < 40 or x.shape[1] % 4 or x.shape[2] % 4:
            raise UsageError(
                f"images of shape {x.shape}, expected (batch, height, width, 3) with sides that "
                "are multiples of 4 and at least 40 (160x60 as published)"
            )
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32) / 255.0
        return max_pool_2x2(nn.relu(self.conv2(self.conv1(x.astype(self.dtype)))))

    def compare(
        self,
        first: Float[Array, "batch rows columns 25"],
        second: Float[Array, "batch rows columns 25"],
    ) -> Float[Array, " batch"]:
        """The logit of P(same) for pairs of features; the first's are searched in the second's."""
        first, second = first.astype(self.dtype), second.astype(self.dtype)
        matched = self._summary(self.correlation(first, second), self.conv4)
        parts = [self.dense(matched)]
        if self.fused:
            around = self._summary(self.neighbourhood1(first, second), self.neighbourhood2)
            parts.append(self.neighbourhood_dense(around))
        both = jnp.concatenate(parts, axis=-1)
        if self.variant == "released":
            both = nn.relu(both)
        different, same = jnp.moveaxis(self.last(both.astype(jnp.float32)), -1, 0)
        return same - different

    def _summary(self, matched: Array, conv: Conv) -> Array:
        x = conv(nn.relu(matched))
        even = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]  # Torch pools 35 rows to 17
        return max_pool_2x2(even).reshape(x.shape[0], -1)


class _ConvReluPool(nn.Module):
    """conv 5x5x20, ReLU and pool, by the fast :func:`conv_relu_pool`."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = torch_uniform(5 * 5 * 3)
        kernel = self.param("kernel", init, (5, 5, 3, 20))
        bias = self.param("bias", init, (20,))
        return conv_relu_pool(x, kernel.astype(self.dtype), bias)


class _NeighbourhoodConv(nn.Module):
    """A 1x1 convolution to 25 channels on the cross-input neighbourhoods, which are not stored."""

    @nn.compact
    def __call__(self, first: Array, second: Array) -> Array:
        features = 2 * first.shape[-1] * 5 * 5
        init = torch_uniform(features)
        kernel = self.param("kernel", init, (features, 25))
        bias = self.param("bias", init, (25,))
        return cross_input_neighbourhood_conv(first, second, kernel, bias, activation=nn.relu)


class _Dense(nn.Module):
    """A dense layer initialised as Torch7's, which depends on the number of inputs."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = torch_uniform(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", init, (self.features,))
        return with_bias(x.astype(self.dtype) @ kernel.astype(self.dtype), bias)
