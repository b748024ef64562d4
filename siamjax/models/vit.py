"""Vision transformers: augreg's, DINOv2, and the vision towers of CLIP and SigLIP."""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from siamjax.checks import require_number
from siamjax.distances import unit
from siamjax.errors import UsageError
from siamjax.models.preprocessing import preprocess, require_images
from siamjax.models.products import Dense
from siamjax.models.vit_layers import (
    Activation,
    AttentionPool,
    Block,
    Norm,
    PatchEmbedding,
    Positions,
    fitted,
)
from siamjax.options import Preprocessing, plain

Head = Literal["cls", "cls_mean", "clip", "siglip"]
"""What becomes of the tokens: see :class:`VisionTransformer`."""

HEAD_DIM = 64
"""Features of an attention head, where the number of heads is not stated."""


class VisionTransformer(nn.Module):
    """Image -> embedding by a vision transformer: Dosovitskiy et al., ICLR 2021.

    Square patches become tokens by one product; a learnt position is added to each; blocks of
    attention and of a perceptron, each after a layer norm and added to its input; a last norm.
    Layers have timm's names, a number joined to the word before it: ``blocks_0/attn/qkv``. As
    published:

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
    SigLIP So400m/14                   the same with ``width=1152, depth=27, heads=16,   427,680,704
                                       hidden=4304, patch=14, grid=16``
    =================================  ================================================  ==========

    SigLIP was trained with the GELU by tanh. timm, and OpenCLIP through it, runs the same files
    with the exact one: outputs then differ by about 1e-3 of their root mean square.

    Attributes:
        width: features of a token.
        depth: number of blocks.
        heads: of attention, which share the features; None: 64 features each.
        hidden: features inside the perceptrons; None: 4 times ``width``.
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
    heads: int | None = None
    hidden: int | None = None
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
        norm = partial(Norm, epsilon=self.epsilon)
        of_block: Any = {
            "heads": self.heads or self.width // HEAD_DIM,
            "hidden": self.hidden or 4 * self.width,
            "activation": self.activation,
            "epsilon": self.epsilon,
            "dtype": self.dtype,
        }
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
                **of_block,
                layer_scale=self.layer_scale,
                first=self.head in ("cls", "clip") and number == self.depth - 1,
                name=f"blocks_{number}",
            )(x)
        x = norm(name="norm")(x)
        if siglip:
            return unit(AttentionPool(**of_block, name="attn_pool")(x))
        if clip:
            project = Dense(self.projection, use_bias=False, dtype=self.dtype, name="head")
            return unit(project(x[:, 0]).astype(jnp.float32))
        if self.head == "cls_mean":
            mean = x[:, 1 + self.registers :].mean(axis=1)
            return jnp.concatenate([x[:, 0], mean], axis=-1)
        return x[:, 0]

    embed = __call__  # as ``Embeds`` names it

    def _check(self, x: Array) -> None:
        stated = [name for name in ("heads", "hidden") if getattr(self, name) is not None]
        for name in ("width", "depth", "patch", "grid", *stated):
            require_number(name, getattr(self, name), at_least=1)
        parts = self.heads or HEAD_DIM
        if self.width % parts:
            how = "the number of heads" if self.heads else "a head's features"
            raise UsageError(f"width {self.width}: use a multiple of {parts}, {how}")
        require_number("epsilon", self.epsilon, above=0)
        for name, kind in (("head", Head), ("activation", Activation), ("positions", Positions)):
            plain(name, getattr(self, name), kind)
        if self.registers and self.head not in ("cls", "cls_mean"):
            raise UsageError(f"registers with head {self.head!r}: no network has both; use 0")
        require_images(x, least=self.patch)
        if wrong := [side for side in x.shape[1:3] if side % self.patch]:
            below = wrong[0] - wrong[0] % self.patch
            raise UsageError(
                f"images of shape {x.shape}: sides must be multiples of {self.patch}, the side of "
                f"a patch, such as {below} or {below + self.patch}"
            )
