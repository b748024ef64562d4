"""VGG-16: blocks of 3x3 convolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from siamjax.errors import UsageError
from siamjax.models.pooling import Named, max_pool_2x2
from siamjax.models.preprocessing import Preprocessing, preprocess

BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each block."""


class ConvRelu(nn.Conv):
    """A convolution and its ReLU as one layer, so that what it is asked for is what goes on."""

    def __call__(self, inputs: Array) -> Array:
        """``max(0, conv(inputs))``."""
        return nn.relu(super().__call__(inputs))


def _even(x: Array) -> Array:
    return x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]


class Vgg16(nn.Module):
    """Image -> features by VGG-16, configuration D of Simonyan and Zisserman 2014.

    Five blocks of 3x3 convolutions with ReLU (64, 64; 128, 128; 256 x 3; 512 x 3; 512 x 3), each
    followed by a 2x2 max pool; with ``hidden`` the map is flattened (rows, columns, channels) and
    goes through two dense layers with ReLU, ``fc1`` and ``fc2``. Layers are named as Keras names
    them: ``block1_conv1`` to ``block5_conv3``. 14,714,688 parameters without dense layers.
    Glorot uniform, zero bias.

    Attributes:
        width: factor on the number of channels.
        depth: blocks, 1 to 5; the image's sides are 2^depth at least, and a pool leaves out the
            last row or column of an odd side.
        hidden: features of ``fc1`` and ``fc2`` (4096 as published), or None to end with the last
            pool's map.
        classes: after ``fc2`` a dense layer ``predictions`` (1000 as published), whose *logits* are
            returned: its softmax is left to the caller; None: no such layer.
        dropout: share of ``fc1``'s and ``fc2``'s results set to 0 while training.
        dtype: of the products; parameters are float32.
    """

    width: float = 1.0
    depth: int = 5
    hidden: int | None = None
    classes: int | None = None
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        after: int = 0,
    ) -> Float[Array, "batch ..."]:
        """The last pool's map (batch, height / 2^depth, width / 2^depth, channels), fc2, or logits.

        Images are preprocessed already. With ``after`` x is the map of that block's pool, and
        only the layers after it are applied. Raises ``UsageError`` for sides that cannot be pooled,
        and for ``classes`` without ``hidden``.
        """
        if self.classes is not None and self.hidden is None:
            raise UsageError("classes need the dense layers: give hidden (4096 as published)")
        if not 1 <= self.depth <= len(BLOCKS) or self.width <= 0:
            raise UsageError(f"depth {self.depth}, width {self.width}: 1 to 5, and positive")
        side = 2 ** (self.depth - after)
        if x.ndim != 4 or 0 in x.shape or min(x.shape[1:3]) < side:
            raise UsageError(
                f"images of shape {x.shape}: (batch, height, width, channels) with sides of at "
                f"least {side} are needed ({self.depth} 2x2 pools)"
            )
        init = nn.initializers.glorot_uniform()
        x = x.astype(self.dtype)
        for block, (channels, count) in enumerate(BLOCKS[: self.depth], start=1):
            if block <= after:
                continue
            for number in range(1, count + 1):
                x = ConvRelu(
                    max(1, round(channels * self.width)),
                    (3, 3),
                    kernel_init=init,
                    dtype=self.dtype,
                    name=f"block{block}_conv{number}",
                )(x)
            x = Named(name=f"block{block}_pool")(max_pool_2x2(_even(x)))
        if self.hidden is None:
            return x
        x = x.reshape(x.shape[0], -1)
        for name in ("fc1", "fc2"):
            x = nn.relu(nn.Dense(self.hidden, kernel_init=init, dtype=self.dtype, name=name)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.classes is None:
            return x
        return nn.Dense(self.classes, kernel_init=init, dtype=self.dtype, name="predictions")(x)


class Vgg16Features(nn.Module):
    """Image -> mean of VGG-16's last map over all positions, of norm 1: features to search by.

    Attributes:
        depth: blocks; the last pool of 4 (512 features) tells things apart better than that of 5.
        width: factor on the number of channels.
        preprocessing: as the weights need it.
        given: the block whose map may be given in place of images, so that frozen blocks run once
            an image and not once an epoch; 0: none.
        dtype: of the products; parameters and the features are float32.
    """

    depth: int = 4
    width: float = 1.0
    preprocessing: Preprocessing = "bgr_mean"
    given: int = 0
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """The network."""
        self.deep = Vgg16(depth=self.depth, width=self.width, dtype=self.dtype)

    def __call__(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Features of images (uint8 0..255, or float in [0, 1]), or of the given block's maps."""
        del weight  # nothing here is normalised over the batch
        mean = self.maps(x, train=train).astype(jnp.float32).mean(axis=(1, 2))
        # Safe where all features are 0: an image of nothing is at the origin.
        squares = jnp.sum(mean * mean, axis=-1, keepdims=True)
        return mean * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))

    def maps(
        self, x: UInt8[Array, "batch height width 3"], *, train: bool = False
    ) -> Float[Array, "batch rows columns channels"]:
        """The last pool's map."""
        if x.shape[-1] == 3:
            return self.deep(preprocess(x, self.preprocessing), train=train)
        return self.deep(x, train=train, after=self.given)

    def embed(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """The same, by the name that embedding and search call."""
        return self(x, train=train, weight=weight)
