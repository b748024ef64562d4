"""Layers of vision transformers, and their positions on grids of other sizes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from siamjax.models.products import Dense
from siamjax.precision import with_bias

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
"""``x Phi(x)``, its approximation by tanh, or ``x sigmoid(1.702 x)``.

Hendrycks and Gimpel, *Gaussian Error Linear Units*, arXiv 1606.08415, 2016, section 2.
"""
Positions = Literal["antialias", "bicubic", "meta"]
"""How a table of positions fits another grid: see :func:`fitted`."""

_ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {
    # Computed again for the gradient, or three times what is here would be kept until then.
    "gelu": jax.checkpoint(partial(nn.gelu, approximate=False)),
    "gelu_tanh": jax.checkpoint(nn.gelu),
    "quick_gelu": jax.checkpoint(lambda x: x * nn.sigmoid(1.702 * x)),
}


class _LayerNorm(nn.LayerNorm):
    """Layer norm in float32 whose variance does not cancel where the mean is large."""

    use_fast_variance: bool = False


Norm = nn.remat(_LayerNorm)
"""Layer norm that is computed again for the gradient, as the activations are."""


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
        heads: of attention.
        hidden: features inside the perceptron.
        activation: of the perceptron.
        epsilon: of the norms.
        layer_scale: multiply what is added by a learnt factor per feature (Touvron et al., *Going
            deeper with image transformers*, ICCV 2021).
        first: return the first token alone: nothing else is read after the last block.
        dtype: of the products.
    """

    heads: int
    hidden: int
    activation: Activation
    epsilon: float
    layer_scale: bool = False
    first: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch left width"]:
        """All tokens after the block, or the first."""
        scale = LayerScale if self.layer_scale else lambda name: lambda x: x
        attention = Attention(self.heads, first=self.first, dtype=self.dtype, name="attn")
        branch = attention(Norm(self.epsilon, name="norm1")(x))
        x = x[:, : branch.shape[1]] + scale(name="ls1")(branch.astype(x.dtype))
        mlp = Mlp(self.hidden, self.activation, dtype=self.dtype, name="mlp")
        branch = mlp(Norm(self.epsilon, name="norm2")(x))
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

    Vaswani et al., *Attention Is All You Need*, NeurIPS 2017, equation 1 and section 3.2.2.

    Attributes:
        heads: each has an equal share of the features.
        first: return the first token's alone.
        dtype: of the products; the softmax is float32.
    """

    heads: int
    first: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch left width"]:
        """What each token (or the first) gathers, projected."""
        width = x.shape[-1]
        qkv = Dense(3 * width, dtype=self.dtype, name="qkv")(x)
        query, key, value = jnp.split(qkv, 3, axis=-1)
        out = _attend(query[:, :1] if self.first else query, key, value, self.heads)
        return Dense(width, dtype=self.dtype, name="proj")(out)


def _attend(query: Array, key: Array, value: Array, heads: int) -> Array:
    apart = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    with jax.numpy_dtype_promotion("standard"):  # it multiplies bfloat16 by a float32 scale itself
        out = lax.platform_dependent(*apart, cpu=_heads_first, default=jax.nn.dot_product_attention)
    return out.reshape(query.shape)


def _heads_first(query: Array, key: Array, value: Array) -> Array:
    """``jax.nn.dot_product_attention``, in half its time on a CPU.

    There XLA computes products and softmax as one where the heads come before the tokens; of that
    function's own order it copies the attention of all pairs of tokens, transposed.
    """
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    logits = jnp.matmul(query, key.swapaxes(2, 3), preferred_element_type=jnp.float32)
    attention = jax.nn.softmax(logits * query.shape[-1] ** -0.5)
    return (attention.astype(value.dtype) @ value).swapaxes(1, 2)


class Mlp(nn.Module):
    """Two dense layers with the activation between them, on ``hidden`` features."""

    hidden: int
    activation: Activation
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """The perceptron of each token."""
        hidden = Dense(self.hidden, dtype=self.dtype, name="fc1")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="fc2")(
            _ACTIVATIONS[self.activation](hidden)
        )


class AttentionPool(nn.Module):
    """SigLIP's head: a learnt query attends to all tokens; then ``a + perceptron(norm(a))``.

    Zhai et al., *Scaling Vision Transformers*, CVPR 2022. The attributes are those of
    :class:`Block`.
    """

    heads: int
    hidden: int
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
        x = dense(width, name="proj")(_attend(query, key, value, self.heads)).astype(jnp.float32)
        mlp = Mlp(self.hidden, self.activation, dtype=self.dtype, name="mlp")
        return (x + mlp(Norm(self.epsilon, name="norm")(x)).astype(x.dtype))[:, 0]


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
        for old, new in zip(table.shape[:2], (rows, columns), strict=True)
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
