"""Vision transformers: augreg's, DINOv2, and the vision towers of CLIP and SigLIP."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from siamjax.checks import require_number
from siamjax.distances import unit
from siamjax.errors import UsageError
from siamjax.models.preprocessing import preprocess, require_images
from siamjax.models.products import Dense
from siamjax.options import Preprocessing
from siamjax.precision import with_bias

Head = Literal["cls", "cls_mean", "clip", "siglip"]
"""What becomes of the tokens: see :class:`VisionTransformer`."""
Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
"""``x Phi(x)``, its approximation by tanh, or ``x sigmoid(1.702 x)``."""
Positions = Literal["antialias", "bicubic", "meta"]
"""How a table of positions fits another grid: see :func:`fitted`."""

HEAD = 64
"""Features of an attention head: of all networks here, and a file does not say it."""

_ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": nn.gelu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}


class VisionTransformer(nn.Module):
    """Image -> embedding by a vision transformer: Dosovitskiy et al., ICLR 2021.

    Square patches become tokens by one product; a learnt position is added to each; blocks of
    attention (heads of 64 features) and of a perceptron (4 times as wide), each after a layer norm
    and added to its input; a last norm. Layers have timm's names, a number joined to the word
    before it: ``blocks_0/attn/qkv``. As published:

    =================================  ================================================  ==========
    network                            fields                                            parameters
    =================================  ================================================  ==========
    ViT-S/16 augreg (Steiner et al.,   ``width=384``                                     21,665,664
    *How to train your ViT?*, 2022)
    ViT-B/16 augreg                                                                      85,798,656
    DINOv2 ViT-S/14 (Oquab et al.,     ``width=384, patch=14, grid=37,                   22,056,192
    TMLR 2024)                         layer_scale=True, preprocessing="torchvision"``
    DINOv2 ViT-B/14                    the same, of width 768                            86,579,712
    with registers (Darcet et al.,     the same with ``registers=4``                     22,057,344,
    ICLR 2024)                                                                           86,582,016
    CLIP B/32 (Radford et al.,         ``patch=32, grid=7, head="clip", epsilon=1e-5,    87,849,216
    ICML 2021)                         preprocessing="clip"``; OpenAI's weights:
                                       ``activation="quick_gelu"``, LAION's: ``"gelu"``
    CLIP B/16                          the same with ``patch=16, grid=14``               86,192,640
    SigLIP, SigLIP 2 B/16 (Zhai et     ``head="siglip", activation="gelu_tanh"``         92,884,224
    al., ICCV 2023)
    =================================  ================================================  ==========

    SigLIP was trained with the GELU by tanh. timm, and OpenCLIP through it, runs the same files
    with the exact one: outputs then differ by about 1e-3 of their root mean square.

    Attributes:
        width: features of a token, a multiple of 64.
        depth: number of blocks.
        patch: side of a patch in pixels.
        grid: side of the table of positions, in patches.
        registers: tokens that nothing is read from, between the class token and the patches. With
            them the table has no position for the class token.
        layer_scale: multiply the output of each branch by a learnt factor per feature.
        head: ``cls``: the class token after the last norm. ``cls_mean``: joined to the mean of the
            patches, twice as many features. ``clip``: a norm before the blocks too, no bias of the
            patches, and the class token, projected and of norm 1. ``siglip``: no class token; a
            learnt query attends to all patches, then a perceptron is added; of norm 1.
        projection: features of the head ``clip``.
        activation: of the perceptrons.
        epsilon: of the layer norms.
        positions: how the table fits images of another size.
        preprocessing: what the weights were trained with.
        dtype: of the products; parameters, norms, softmax, sums of branches and the embedding are
            float32.
    """

    width: int = 768
    depth: int = 12
    patch: int = 16
    grid: int = 14
    registers: int = 0
    layer_scale: bool = False
    head: Head = "cls"
    projection: int = 512
    activation: Activation = "gelu"
    epsilon: float = 1e-6
    positions: Positions = "antialias"
    preprocessing: Preprocessing = "signed"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Embeddings of images (uint8 0..255, or float in [0, 1]) of any size in whole patches.

        Raises ``UsageError`` for sides that are no multiples of ``patch``, and for fields that no
        network has.
        """
        del train, weight  # nothing here is random, or normalised over the batch
        self._check(x)
        clip, siglip = self.head == "clip", self.head == "siglip"
        norm = partial(_Norm, epsilon=self.epsilon)
        x = preprocess(x, self.preprocessing)
        embed = PatchEmbedding(
            self.width, self.patch, bias=not clip, dtype=self.dtype, name="patch_embed"
        )
        rows, columns = (side // self.patch for side in x.shape[1:3])
        x = embed(x)
        normal = nn.initializers.normal(0.02)
        prefix = not self.registers and not siglip  # a position of the class token
        table = self.param("pos_embed", normal, (1, prefix + self.grid**2, self.width))
        own, table = table[:, :prefix], table[:, prefix:]
        table = table.reshape(self.grid, self.grid, self.width)
        x = x + fitted(table, rows, columns, rule=self.positions).reshape(1, -1, self.width)
        if not siglip:
            token = self.param("cls_token", normal, (1, 1, self.width))
            first = [token + own if prefix else token]
            if self.registers:
                first.append(self.param("reg_token", normal, (1, self.registers, self.width)))
            first = [jnp.broadcast_to(t, (x.shape[0], *t.shape[1:])) for t in first]
            x = jnp.concatenate([*first, x], axis=1)
        if clip:
            x = norm(name="norm_pre")(x)
        for number in range(self.depth):
            x = Block(
                self.activation,
                self.epsilon,
                layer_scale=self.layer_scale,
                first=self.head in ("cls", "clip") and number == self.depth - 1,
                dtype=self.dtype,
                name=f"blocks_{number}",
            )(x)
        x = norm(name="norm")(x)
        if siglip:
            pool = AttentionPool(self.activation, self.epsilon, dtype=self.dtype, name="attn_pool")
            return unit(pool(x))
        if clip:
            project = Dense(self.projection, use_bias=False, dtype=self.dtype, name="head")
            return unit(project(x[:, 0]).astype(jnp.float32))
        if self.head == "cls_mean":
            mean = x[:, 1 + self.registers :].mean(axis=1)
            return jnp.concatenate([x[:, 0], mean], axis=-1)
        return x[:, 0]

    embed = __call__  # as ``Embeds`` names it

    def _check(self, x: Array) -> None:
        for name, least in (("width", HEAD), ("depth", 1), ("patch", 1), ("grid", 1)):
            require_number(name, getattr(self, name), at_least=least)
        if self.width % HEAD:
            raise UsageError(f"width {self.width}: use a multiple of {HEAD}, a head's features")
        for name, kinds in (("head", Head), ("activation", Activation), ("positions", Positions)):
            if getattr(self, name) not in get_args(kinds):
                choices = ", ".join(get_args(kinds))
                raise UsageError(f"{name} {getattr(self, name)!r}; choose one of {choices}")
        if self.registers and self.head not in ("cls", "cls_mean"):
            raise UsageError(f"registers with head {self.head!r}: no network has both; use 0")
        require_images(x, least=self.patch)
        if any(side % self.patch for side in x.shape[1:3]):
            raise UsageError(
                f"images of shape {x.shape}: sides must be multiples of {self.patch}, the side of "
                "a patch; resize or crop them first"
            )


class PatchEmbedding(nn.Module):
    """A token for each patch: the convolution whose stride is its side, as one product.

    The kernel is that of the convolution, (patch, patch, channels, width).
    """

    width: int
    patch: int
    bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch tokens {self.width}"]:
        """Tokens, row by row, in float32."""
        batch, height, width, channels = x.shape
        side = self.patch
        x = x.astype(self.dtype).reshape(batch, height // side, side, width // side, side, channels)
        x = x.swapaxes(2, 3).reshape(batch, -1, side * side * channels)
        project = _Patches(self.width, side, bias=self.bias, name="proj")
        return project(x).astype(jnp.float32)


class _Patches(nn.Module):
    width: int
    patch: int
    bias: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.patch, self.patch, x.shape[-1] // self.patch**2, self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,)) if self.bias else None
        return with_bias(x @ kernel.reshape(-1, self.width).astype(x.dtype), bias)


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + perceptron(norm(x))``, in float32.

    Attributes:
        activation: of the perceptron.
        epsilon: of the norms.
        layer_scale: multiply what is added by a learnt factor per feature (Touvron et al., *Going
            deeper with image transformers*, ICCV 2021).
        first: return the first token alone: nothing else is read after the last block.
        dtype: of the products.
    """

    activation: Activation
    epsilon: float
    layer_scale: bool = False
    first: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch left width"]:
        """All tokens after the block, or the first."""
        scale = LayerScale if self.layer_scale else lambda name: lambda x: x
        attention = Attention(first=self.first, dtype=self.dtype, name="attn")
        branch = attention(_Norm(self.epsilon, name="norm1")(x))
        x = x[:, : branch.shape[1]] + scale(name="ls1")(branch.astype(x.dtype))
        mlp = Mlp(self.activation, dtype=self.dtype, name="mlp")
        branch = mlp(_Norm(self.epsilon, name="norm2")(x))
        return x + scale(name="ls2")(branch.astype(x.dtype))


class LayerScale(nn.Module):
    """A learnt factor for each feature, 1e-5 at first."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """``gamma * x``."""
        gamma = self.param("gamma", nn.initializers.constant(1e-5), (x.shape[-1],))
        return gamma.reshape(1, 1, -1) * x


class Attention(nn.Module):
    """Attention of the tokens to one another; query, key and value come from one product.

    Attributes:
        first: return the first token's alone.
        dtype: of the products; the softmax is float32.
    """

    first: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch left width"]:
        """What each token (or the first) gathers, projected."""
        width = x.shape[-1]
        qkv = Dense(3 * width, dtype=self.dtype, name="qkv")(x)
        query, key, value = jnp.split(qkv, 3, axis=-1)
        out = _attend(query[:, :1] if self.first else query, key, value)
        return Dense(width, dtype=self.dtype, name="proj")(out)


def _attend(query: Array, key: Array, value: Array) -> Array:
    heads = (x.reshape(*x.shape[:2], -1, HEAD) for x in (query, key, value))
    with jax.numpy_dtype_promotion("standard"):  # it multiplies bfloat16 by a float32 scale itself
        return jax.nn.dot_product_attention(*heads).reshape(query.shape)


class Mlp(nn.Module):
    """Two dense layers with the activation between them, 4 times as wide there."""

    activation: Activation
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """The perceptron of each token."""
        hidden = Dense(4 * x.shape[-1], dtype=self.dtype, name="fc1")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="fc2")(
            _ACTIVATIONS[self.activation](hidden)
        )


class AttentionPool(nn.Module):
    """SigLIP's head: a learnt query attends to all tokens; then ``a + perceptron(norm(a))``."""

    activation: Activation
    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch width"]:
        """The pooled features, in float32."""
        width = x.shape[-1]
        dense = partial(Dense, dtype=self.dtype)
        latent = self.param("latent", nn.initializers.normal(width**-0.5), (1, 1, width))
        query = jnp.broadcast_to(dense(width, name="q")(latent), (x.shape[0], 1, width))
        key, value = jnp.split(dense(2 * width, name="kv")(x), 2, axis=-1)
        x = dense(width, name="proj")(_attend(query, key, value)).astype(jnp.float32)
        mlp = Mlp(self.activation, dtype=self.dtype, name="mlp")
        return (x + mlp(_Norm(self.epsilon, name="norm")(x)).astype(x.dtype))[:, 0]


class _Norm(nn.LayerNorm):
    """Layer norm in float32 whose variance does not cancel where the mean is large."""

    use_fast_variance: bool = False


def fitted(
    table: Float[Array, "height width features"], rows: int, columns: int, *, rule: Positions
) -> Float[Array, "rows columns features"]:
    """A table of positions, interpolated for a grid of other sides by the publisher's own rule.

    ``antialias``: cubic with antialiasing (timm, OpenCLIP, and DINOv2 with registers). ``bicubic``:
    PyTorch's bicubic without it (other networks of Hugging Face). ``meta``: the same, but for a
    scale of (n + 0.1) / side (Meta's DINOv2 without registers). A table of the wanted sides stays
    as it is.
    """
    if table.shape[:2] == (rows, columns):
        return table
    if rule == "antialias":
        return jax.image.resize(table, (rows, columns, table.shape[2]), "cubic")
    down, across = (
        jnp.asarray(bicubic_weights(old, new, extra=0.1 if rule == "meta" else 0.0), table.dtype)
        for old, new in zip(table.shape, (rows, columns), strict=False)
    )
    return jnp.einsum("ri,cj,ijf->rcf", down, across, table, precision="highest")


def bicubic_weights(old: int, new: int, *, extra: float) -> Float[np.ndarray, "{new} {old}"]:
    """PyTorch's bicubic interpolation of ``old`` values to ``new``, as a matrix.

    Keys, *Cubic convolution interpolation*, 1981, equation 4 with a = -0.75, at
    ``(i + 1/2) old / (new + extra) - 1/2``; the values at the border are repeated beyond it.
    """
    places = (np.arange(new) + 0.5) * old / (new + extra) - 0.5
    taps = np.floor(places)[:, None] + np.arange(-1, 3)
    distance, a = np.abs(places[:, None] - taps), -0.75
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    weights = np.zeros((new, old))
    at = np.arange(new)[:, None], taps.clip(0, old - 1).astype(int)
    np.add.at(weights, at, np.where(distance <= 1, near, far))
    return weights
