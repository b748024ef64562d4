"""InceptionV3 with the layers of the published weights, in their order."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from siamjax.errors import UsageError
from siamjax.models.normalization import BatchNorm
from siamjax.models.pooling import Named, average_pool_3x3, max_pool_3x3
from siamjax.models.products import Conv

ENDS = tuple(f"mixed{number}" for number in range(11))
"""Names of the blocks; they have 256, 288, 288, 768 (5 times), 1280, 2048, 2048 channels."""


class InceptionV3(nn.Module):
    """Image -> features: Szegedy et al., *Rethinking the Inception Architecture*, CVPR 2016.

    As Keras publishes it: 94 convolutions without bias, each followed by batch normalisation
    without a scale (epsilon 1e-3) and a ReLU, named ``conv2d_1`` ... ``conv2d_94``,
    ``batch_normalization_1`` ... and ``activation_1`` ... in the order in which they are built;
    blocks ``mixed0`` to ``mixed10``. 21,802,784 parameters and statistics without the top. Any
    image of at least 75x75; 299x299 as published. Glorot uniform.

    Attributes:
        end: the last block; the layers after it do not exist.
        classes: add the top, ``avg_pool`` and a dense layer ``predictions``, and return its
            *logits* (without the published softmax); None: return the last block's map.
        frozen: the last block that is not trained: no gradient flows into it and the layers before
            it, and these always normalise by their running statistics; None: all are trained.
        freeze_statistics: normalise by the running statistics everywhere, in training too, and
            leave them unchanged.
        dtype: of the convolutions; parameters and statistics are float32.
    """

    end: str = "mixed10"
    classes: int | None = None
    frozen: str | None = None
    freeze_statistics: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
        after: str | None = None,
    ) -> Float[Array, "batch ..."]:
        """The last block's map (batch, height, width, channels), or logits of the classes.

        Images come preprocessed. ``weight`` is that of each image in the batch statistics.
        With ``after``, x is the map of that block, and only the layers after it are applied.
        Raises ``UsageError`` for images that are too small, and for unknown blocks.
        """
        for block in (self.end, self.frozen, after):
            if block is not None and block not in ENDS[: 1 + _place(self.end)]:
                raise UsageError(
                    f"no block {block!r} up to {self.end!r}; choose from {ENDS[0]} to {ENDS[-1]}"
                )
        frozen, done = _place(self.frozen), _place(after)
        batch_statistics = train and not self.freeze_statistics
        conv = _Layers(self, train=batch_statistics and frozen < 0, weight=weight)
        x = x.astype(self.dtype)
        if done < 0:
            x = self._stem(conv, x)
        for place, block in enumerate(_BLOCKS[: 1 + _place(self.end)]):
            if place <= done:
                conv.made += _CONVOLUTIONS[place] + (_STEM if place == 0 else 0)
                continue
            conv.apply["train"] = batch_statistics and place > frozen
            x = Named(name=ENDS[place])(jnp.concatenate(block(conv, x), axis=-1))
            if place == frozen:
                x = jax.lax.stop_gradient(x)
        if self.classes is None:
            return x
        x = Named(name="avg_pool")(x.astype(jnp.float32).mean(axis=(1, 2)))
        init = nn.initializers.glorot_uniform()
        return nn.Dense(self.classes, kernel_init=init, name="predictions")(x)

    def _stem(self, conv: "_Layers", x: Array) -> Array:
        if x.ndim != 4 or min(x.shape[1:3]) < 75:
            raise UsageError(
                f"images of shape {x.shape}, expected (batch, height, width, 3) of at least 75x75"
            )
        x = conv.chain(x, (32, 3, 3, "half"), (32, 3, 3, "valid"), (64, 3, 3))
        x = Named(name="max_pooling2d_1")(max_pool_3x3(x))
        x = conv.chain(x, (80, 1, 1), (192, 3, 3, "valid"))
        return Named(name="max_pooling2d_2")(max_pool_3x3(x))


def layers_of(block: str | None) -> tuple[str, ...]:
    """Paths of a block's layers (None: those before the first block), such as ``conv2d_61/``."""
    place = _place(block)
    first = 1 if place < 0 else 1 + _STEM + sum(_CONVOLUTIONS[:place])
    numbers = range(first, first + (_STEM if place < 0 else _CONVOLUTIONS[place]))
    kinds = ("conv2d", "batch_normalization")
    return tuple(f"{kind}_{number}/" for number in numbers for kind in kinds)


def layers_between(after: str | None, end: str) -> tuple[str, ...]:
    """Paths of the layers after block ``after`` (None: from the image on) up to block ``end``."""
    for block in (after, end):
        if block not in (None, *ENDS):
            raise UsageError(f"no block {block!r}; choose from {ENDS[0]} to {ENDS[-1]}")
    blocks = (None, *ENDS)
    start = 0 if after is None else 1 + blocks.index(after)
    return tuple(
        layer for block in blocks[start : 1 + blocks.index(end)] for layer in layers_of(block)
    )


def _place(block: str | None) -> int:
    """Number of a block; -1 for None, the layers before the first block."""
    return ENDS.index(block) if block in ENDS else -1


class _Layers:
    """Makes layers of convolution, batch normalisation and ReLU, and numbers them in turn."""

    def __init__(self, network: InceptionV3, *, train: bool, weight: Any) -> None:
        self.made = 0
        self.conv = partial(
            Conv,
            use_bias=False,
            kernel_init=nn.initializers.glorot_uniform(),
            dtype=network.dtype,
        )
        self.norm = partial(BatchNorm, momentum=0.99, epsilon=1e-3, use_scale=False)
        self.apply = {"train": train, "weight": weight}

    def __call__(self, x: Array, channels: int, rows: int, columns: int, how: str = "same"):
        """``same`` pads to keep the size, ``valid`` does not pad, ``half`` neither, stride 2."""
        self.made += 1
        x = self.conv(
            channels,
            (rows, columns),
            strides=2 if how == "half" else 1,
            padding="SAME" if how == "same" else "VALID",
            name=f"conv2d_{self.made}",
        )(x)
        x = self.norm(name=f"batch_normalization_{self.made}")(x, **self.apply)
        return Named(name=f"activation_{self.made}")(nn.relu(x))

    def chain(self, x: Array, *layers: tuple) -> Array:
        for layer in layers:
            x = self(x, *layer)
        return x


Block = Callable[[_Layers, Array], list[Array]]


def _grid35(pooled: int) -> Block:
    """Figure 5 of the paper, but with a whole 5x5 in one branch: mixed0, 1 and 2."""

    def block(conv: _Layers, x: Array) -> list[Array]:
        return [
            conv(x, 64, 1, 1),
            conv.chain(x, (48, 1, 1), (64, 5, 5)),
            conv.chain(x, (64, 1, 1), (96, 3, 3), (96, 3, 3)),
            conv(average_pool_3x3(x), pooled, 1, 1),
        ]

    return block


def _to_grid17(conv: _Layers, x: Array) -> list[Array]:
    """Half the size: mixed3."""
    return [
        conv(x, 384, 3, 3, "half"),
        conv.chain(x, (64, 1, 1), (96, 3, 3), (96, 3, 3, "half")),
        max_pool_3x3(x),
    ]


def _grid17(inner: int) -> Block:
    """Figure 6, n = 7: mixed4 to mixed7."""

    def block(conv: _Layers, x: Array) -> list[Array]:
        twice = ((inner, 7, 1), (inner, 1, 7))
        return [
            conv(x, 192, 1, 1),
            conv.chain(x, (inner, 1, 1), (inner, 1, 7), (192, 7, 1)),
            conv.chain(x, (inner, 1, 1), *twice, (inner, 7, 1), (192, 1, 7)),
            conv(average_pool_3x3(x), 192, 1, 1),
        ]

    return block


def _to_grid8(conv: _Layers, x: Array) -> list[Array]:
    """Half the size: mixed8."""
    return [
        conv.chain(x, (192, 1, 1), (320, 3, 3, "half")),
        conv.chain(x, (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3, "half")),
        max_pool_3x3(x),
    ]


def _grid8(conv: _Layers, x: Array) -> list[Array]:
    """Figure 7, whose branches fork at their ends: mixed9 and mixed10."""

    def fork(x: Array) -> Array:
        return jnp.concatenate([conv(x, 384, 1, 3), conv(x, 384, 3, 1)], axis=-1)

    return [
        conv(x, 320, 1, 1),
        fork(conv(x, 384, 1, 1)),
        fork(conv.chain(x, (448, 1, 1), (384, 3, 3))),
        conv(average_pool_3x3(x), 192, 1, 1),
    ]


_STEM, _CONVOLUTIONS = 5, (7, 7, 7, 4, 10, 10, 10, 10, 6, 9, 9)
_BLOCKS: tuple[Block, ...] = (
    _grid35(32),
    _grid35(64),
    _grid35(64),
    _to_grid17,
    _grid17(128),
    _grid17(160),
    _grid17(160),
    _grid17(192),
    _to_grid8,
    _grid8,
    _grid8,
)
