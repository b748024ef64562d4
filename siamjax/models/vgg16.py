"""VGG-16: five blocks of 3x3 convolutions, ``block1`` to ``block5``."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from siamjax.checks import require_number
from siamjax.distances import unit
from siamjax.errors import UsageError
from siamjax.models.pooling import Named, max_pool_2x2
from siamjax.models.preprocessing import preprocess
from siamjax.models.products import Conv, Dense
from siamjax.options import Preprocessing

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each block."""


def layers_between(after: str | None, end: str) -> tuple[str, ...]:
    """Paths of the layers after block ``after`` (None: from the image on) up to block ``end``.

    Such as ``block3_conv1/``; in the manner of :func:`siamjax.models.inception_v3.layers_between`.
    """
    return tuple(
        f"block{block}_conv{number}/"
        for block in range(1 + _number(after), 1 + _number(end))
        for number in range(1, 1 + BLOCKS[block - 1][1])
    )


def _number(block: str | None) -> int:
    """1 to 5, and 0 for None."""
    names = [None, *(f"block{number}" for number in range(1, 1 + len(BLOCKS)))]
    if block not in names:
        raise UsageError(f"no block {block!r}; choose from {names[1]} to {names[-1]}")
    return names.index(block)


class ConvRelu(Conv):
    """A convolution with its ReLU: the recorded output of the layer is then what the next gets."""

    def __call__(self, inputs: Array) -> Array:
        """``max(0, conv(inputs))``."""
        return nn.relu(super().__call__(inputs))


class Vgg16(nn.Module):
    """Image -> features by VGG-16: configuration D of Simonyan and Zisserman, ICLR 2015.

    Five blocks of 3x3 convolutions with ReLU (64, 64; 128, 128; 256 x 3; 512 x 3; 512 x 3), each
    followed by a 2x2 max pool; with ``hidden`` the map is flattened (rows, columns, channels) and
    goes through two dense layers with ReLU, ``fc1`` and ``fc2``. Layers have the names that Keras
    gives them: ``block1_conv1`` to ``block5_conv3``. 14,714,688 parameters without dense layers.
    Glorot uniform, zero bias.

    Attributes:
        width: factor on the number of channels.
        depth: number of blocks, 1 to 5; the image's sides must be at least 2^depth, and a pool
            leaves out the last row or column of an odd side.
        hidden: features of ``fc1`` and ``fc2`` (4096 as published); None: end with the last
            pool's map.
        classes: add a dense layer ``predictions`` (1000 as published) after ``fc2`` and return its
            *logits* (without the published softmax); None: no such layer.
        dropout: share of the outputs of ``fc1`` and ``fc2`` that training sets to 0.
        frozen: the last block that is not trained: no gradient flows into it and the blocks before
            it; None: all are trained.
        dtype: of the products; parameters are float32.
    """

    width: float = 1.0
    depth: int = 5
    hidden: int | None = None
    classes: int | None = None
    dropout: float = 0.0
    frozen: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        after: str | None = None,
    ) -> Float[Array, "batch ..."]:
        """The last pool's map (batch, height / 2^depth, width / 2^depth, channels), fc2, or logits.

        Images come preprocessed. With ``after``, x is the map of that block's pool, and only the
        layers after it are applied. Raises ``UsageError`` for sides that are too small for the
        pools, for unknown blocks, and for ``classes`` without ``hidden``.
        """
        if self.classes is not None and self.hidden is None:
            raise UsageError("classes need the dense layers; give hidden (4096 as published)")
        require_number("depth", self.depth, at_least=1, at_most=len(BLOCKS))
        require_number("width", self.width, above=0)
        require_number("dropout", self.dropout, at_least=0, at_most=1)
        if self.hidden is not None:
            require_number("hidden", self.hidden, at_least=1)
        done, frozen = _number(after), _number(self.frozen)
        if max(done, frozen) > self.depth:
            raise UsageError(f"block {max(done, frozen)} is beyond the last one, {self.depth}")
        side = 2 ** (self.depth - done)
        if x.ndim != 4 or 0 in x.shape or min(x.shape[1:3]) < side:
            raise UsageError(
                f"images of shape {x.shape}, expected (batch, height, width, channels) with sides "
                f"of at least {side} ({self.depth} 2x2 pools)"
            )
        init = nn.initializers.glorot_uniform()
        x = x.astype(self.dtype)
        for block, (channels, count) in enumerate(BLOCKS[: self.depth], start=1):
            if block <= done:
                continue
            for number in range(1, count + 1):
                x = ConvRelu(
                    max(1, round(channels * self.width)),
                    (3, 3),
                    kernel_init=init,
                    dtype=self.dtype,
                    name=f"block{block}_conv{number}",
                )(x)
            even = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
            x = Named(name=f"block{block}_pool")(max_pool_2x2(even))
            if block == frozen:
                x = jax.lax.stop_gradient(x)
        if self.hidden is None:
            return x
        x = x.reshape(x.shape[0], -1)
        for name in ("fc1", "fc2"):
            x = nn.relu(Dense(self.hidden, kernel_init=init, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.classes is None:
            return x
        return Dense(self.classes, kernel_init=init, dtype=self.dtype, name="predictions")(x)


class Vgg16Features(nn.Module):
    """Image -> mean of VGG-16's last map over all positions, of norm 1: features to search by.

    Attributes:
        depth: number of blocks; 4 (512 features) separates things better than 5.
        width: factor on the number of channels.
        preprocessing: what the weights were trained with.
        frozen: the last block that is not trained; None: all are.
        given: the block whose map may be passed in place of images, so that a frozen part runs
            once for each image and not in every epoch.
        dtype: of the products; parameters and the features are float32.
    """

    depth: int = 4
    width: float = 1.0
    preprocessing: Preprocessing = "bgr_mean"
    frozen: str | None = None
    given: str | None = None
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Runs of earlier versions give the block by its number, 0 for None."""
        if isinstance(self.given, int):
            object.__setattr__(self, "given", f"block{self.given}" if self.given else None)
        super().__post_init__()

    def setup(self) -> None:
        """Make the network."""
        self.deep = Vgg16(depth=self.depth, width=self.width, frozen=self.frozen, dtype=self.dtype)

    def __call__(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features of images (uint8 0..255, or float in [0, 1]), or of maps of block ``given``."""
        del weight  # nothing here is normalised over the batch
        return unit(self.maps(x, train=train).astype(jnp.float32).mean(axis=(1, 2)))

    def maps(
        self, x: UInt8[Array, "batch height width 3"], *, train: bool = False
    ) -> Float[Array, "batch rows columns channels"]:
        """The map of the last block's pool."""
        if x.shape[-1] == 3:
            return self.deep(preprocess(x, self.preprocessing), train=train)
        return self.deep(x, train=train, after=self.given)

    embed = __call__  # as ``Embeds`` names it
