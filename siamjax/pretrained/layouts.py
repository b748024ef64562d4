"""One table of how publishers name and lay out the tensors of their networks.

The parameters of siamjax's networks have the names of one publisher, the reference: dots become
slashes, and a number is joined to the word before it (``layer1.0.conv1.weight`` is
``params/layer1_0/conv1/kernel``). So that layout needs no names here, and others only where they
differ.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.options import Preprocessing

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one publisher writes one network.

    Attributes:
        architecture: the network, a key of :data:`siamjax.pretrained.networks.NETWORKS`.
        marks: names of tensors that a file of this layout has. What stands before them in the file
            (``module.``, ``backbone.``) is taken off all names.
        renames: regular expressions and what replaces them, in this order, to come to the names of
            the reference; of a name with slashes they are dots already.
        left_out: regular expression of the names (of the reference) of what the network does not
            use, such as a classifier or a text encoder.
        change: from the tensors by their names in the reference to those that the network has, such
            as three products joined to one.
        torch: kernels are (out, in, height, width) and (out, in), as PyTorch has them, and not
            (height, width, in, out) and (in, out).
        facts: what the layout itself says of the network, for its builder.
        config: the publisher's file beside it that says the activation, which no tensor does.
        timm: how timm's network of this layout pools, in its words, where a ``config.json`` of
            timm's beside it says more.
        moments: the publisher's file that says mean and standard deviation, in which networks with
            these names differ; see :func:`assumed`.
    """

    architecture: str
    marks: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    left_out: str = r"(?!)"
    change: Callable[[Tensors], Tensors] = dict
    torch: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    timm: str | None = None
    moments: str | None = None


def _stages_of_adaface(tensors: Tensors) -> Tensors:
    """AdaFace counts its blocks through: the width of a block says its stage."""
    found = ((re.fullmatch(r"body\.(\d+)\.conv1\.weight", n), t) for n, t in tensors.items())
    widths = {int(block[1]): tensor.shape[:1] for block, tensor in found if block}
    names: dict[str, str] = {}
    for stage, width in enumerate(sorted(set(widths.values())), start=1):
        own = [block for block in sorted(widths) if widths[block] == width]
        names |= {f"body.{block}.": f"layer{stage}.{place}." for place, block in enumerate(own)}
    return {
        re.sub(r"^body\.\d+\.", lambda found: names.get(found[0], found[0]), name): tensor
        for name, tensor in tensors.items()
    }


def _as_in_timm(tensors: Tensors) -> Tensors:
    """Vision transformers: query, key and value in one product, tables with an axis before them.

    What is of no fitting shape stays as it is, to be named.
    """
    own = dict(tensors)
    for name in tensors:
        parts = [re.sub(r"\.attn\.q\.", f".attn.{part}.", name) for part in "qkv"]
        shapes = {own[part].shape if part in own else None for part in parts}
        if ".attn.q." in name and len(shapes) == 1:
            joined = [own.pop(part) for part in parts]
            axis = -1 if name.endswith("kernel") else 0
            own[name.replace(".q.", ".qkv.")] = np.concatenate(joined, axis)
        if name.startswith("attn_pool.qkv.") and own[name].ndim:
            width = len(own[name]) // 3
            for part, rows in (("q", np.s_[:width]), ("kv", np.s_[width:])):
                own[name.replace(".qkv.", f".{part}.")] = own[name][rows]
            del own[name]
    for name in own.keys() & {"cls_token", "pos_embed"}:
        if own[name].ndim in (1, 2):
            own[name] = own[name][(None,) * (3 - own[name].ndim)]
    token, table = (own.get(name, np.empty(0)) for name in ("cls_token", "pos_embed"))
    alike = table.ndim == 3 and token.shape == (1, 1, table.shape[2])
    if "reg_token" in own and alike and math.isqrt(table.shape[1]) ** 2 != table.shape[1]:
        # The first position is the class token's, to which timm has added it.
        first, own["pos_embed"] = np.split(table, [1], axis=1)
        own["cls_token"] = token.astype(np.float32) + first
    if "proj" in own:
        own["head.weight"] = own.pop("proj").T
    return own


def _without_zeros(tensors: Tensors) -> Tensors:
    """timm's CLIP: its projection has a bias of zeros; any other is that of a classifier."""
    zeros = "head.bias" in tensors and not tensors["head.bias"].any()
    return {name: one for name, one in tensors.items() if not (zeros and name == "head.bias")}


def _without_classifier(tensors: Tensors) -> Tensors:
    """SigLIP in timm: beside a text encoder its head is a projection, which OpenCLIP can have."""
    texts = {name for name in tensors if re.fullmatch(_TEXT, name)}
    left = {name: tensor for name, tensor in tensors.items() if name not in texts}
    return left if texts else {n: one for n, one in left.items() if not n.startswith("head.")}


def _of_augreg(tensors: Tensors) -> Tensors:
    """Without axes of heads."""
    own = dict(tensors)
    for name, tensor in tensors.items():
        if re.search(r"\.attn\.[qkv]\.", name):
            own[name] = tensor.reshape(*tensor.shape[:-2], -1)
        elif name.endswith(".attn.proj.kernel"):
            own[name] = tensor.reshape(-1, tensor.shape[-1])
    return _as_in_timm(own)


_TEXT = (  # what lies beside the vision tower of CLIP and SigLIP
    r"beside\.(.*\.)?(text|text_model|text_projection|transformer|token_embedding|"
    r"positional_embedding|ln_final|logit_scale|logit_bias)\b.*"
)
_VIT_IN_TRANSFORMERS = (
    (r"^embeddings\.((cls|mask)_token)$", r"\1"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.attention\.attention\.([qkv])\w+\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
_TOWER_IN_TRANSFORMERS = (
    (r"^(beside\.(.*\.)?)?visual_projection\.", "head."),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"^post_layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)
_TOWER_IN_OPEN_CLIP = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^ln_post\.", "norm."),
)
_VIT_IN_AUGREG = (
    (r"^cls$", "cls_token"),
    (r"^embedding\.", "patch_embed.proj."),
    (r"^Transformer\.posembed_input\.pos_embedding$", "pos_embed"),
    (r"^Transformer\.encoder_norm\.", "norm."),
    (r"^Transformer\.encoderblock_", "blocks."),
    (r"\.LayerNorm_0\.", ".norm1."),
    (r"\.MultiHeadDotProductAttention_1\.([qkv])\w+\.", r".attn.\1."),
    (r"\.MultiHeadDotProductAttention_1\.out\.", ".attn.proj."),
    (r"\.LayerNorm_2\.", ".norm2."),
    (r"\.MlpBlock_3\.Dense_0\.", ".mlp.fc1."),
    (r"\.MlpBlock_3\.Dense_1\.", ".mlp.fc2."),
)
_BESIDE_TRANSFORMERS = r"(mask_token|pooler\..*|beside\.(.*\.)?(classifier|decoder)\..*)"
_DINO_224 = {"side": 224, "shorter": 256}
_DOWN = {"half": "down"}  # as transformers cuts the centre out

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        architecture="face_embedding",  # face-api
        marks=("conv32_down.conv.filters", "conv256_down_out.conv2.conv.filters"),
        renames=(
            (r"\.filters$", ".kernel"),
            (r"\.weights$", ".scale"),
            (r"\.biases$", ".bias"),
            (r"^fc$", "fc.kernel"),
        ),
        torch=False,
    ),
    Layout(
        architecture="iresnet",  # insightface
        marks=("layer1.0.prelu.weight", "layer1.0.bn3.running_mean", "features.running_mean"),
    ),
    Layout(
        architecture="iresnet",
        marks=("output_layer.4.running_mean", "body.0.res_layer.4.weight"),
        renames=(
            (r"^input_layer\.0\.", "conv1."),
            (r"^input_layer\.1\.", "bn1."),
            (r"^input_layer\.2\.", "prelu."),
            (r"res_layer\.0\.", "bn1."),
            (r"res_layer\.1\.", "conv1."),
            (r"res_layer\.2\.", "bn2."),
            (r"res_layer\.3\.", "prelu."),
            (r"res_layer\.4\.", "conv2."),
            (r"res_layer\.5\.", "bn3."),
            (r"shortcut_layer\.", "downsample."),
            (r"^output_layer\.0\.", "bn2."),
            (r"^output_layer\.3\.", "fc."),
            (r"^output_layer\.4\.", "features."),
        ),
        left_out=r"beside\.head\.kernel",  # the classifier of its training
        change=_stages_of_adaface,
    ),
    Layout(
        architecture="osnet",  # torchreid
        marks=("conv2.0.conv2d.3.conv2.weight", "conv2.0.gate.fc1.weight"),
        left_out=r"classifier\..*",
    ),
    Layout(
        architecture="resnet",  # torchvision and timm
        marks=("layer1.0.conv3.weight", "layer1.0.downsample.0.weight", "bn1.running_mean"),
        left_out=r"fc\..*",
        timm="avg",
    ),
    Layout(  # timm's SigLIP, with "visual.trunk." before it OpenCLIP's
        architecture="vit",
        marks=("attn_pool.latent", "blocks.0.attn.qkv.weight"),
        change=_without_classifier,
    ),
    Layout(  # Meta's DINOv2 with registers, and without
        architecture="vit",
        marks=("register_tokens", "blocks.0.ls1.gamma"),
        renames=((r"^register_tokens$", "reg_token"),),
        left_out="mask_token",
        change=_as_in_timm,
        facts=_DINO_224,
    ),
    Layout(
        architecture="vit",
        marks=("mask_token", "blocks.0.ls1.gamma"),
        left_out="mask_token",
        facts={"positions": "meta", **_DINO_224},
    ),
    Layout(  # timm: CLIP
        architecture="vit",
        marks=("norm_pre.weight", "blocks.0.attn.qkv.weight"),
        change=_without_zeros,
        timm="token",
    ),
    Layout(  # timm: DINOv2
        architecture="vit",
        marks=("cls_token", "blocks.0.ls1.gamma"),
        left_out=r"head\..*",
        timm="token",
    ),
    Layout(  # timm and Meta: augreg, DeiT, DINO, MAE
        architecture="vit",
        marks=("cls_token", "blocks.0.attn.qkv.weight"),
        left_out=r"(head|pre_logits|decoder_\w+)\..*|mask_token|decoder_pos_embed",
        timm="token",
        moments="timm's config.json, with its pretrained_cfg,",
    ),
    Layout(  # Hugging Face: DINOv2 with registers, without; ViT
        architecture="vit",
        marks=("embeddings.register_tokens", "encoder.layer.0.layer_scale1.lambda1"),
        renames=_VIT_IN_TRANSFORMERS,
        left_out=_BESIDE_TRANSFORMERS,
        change=_as_in_timm,
        facts=_DINO_224 | _DOWN,
    ),
    Layout(
        architecture="vit",
        marks=("embeddings.cls_token", "encoder.layer.0.layer_scale1.lambda1"),
        renames=_VIT_IN_TRANSFORMERS,
        left_out=_BESIDE_TRANSFORMERS,
        change=_as_in_timm,
        facts={"positions": "bicubic", **_DINO_224, **_DOWN},
    ),
    Layout(
        architecture="vit",
        marks=("embeddings.cls_token", "encoder.layer.0.layernorm_before.weight"),
        renames=_VIT_IN_TRANSFORMERS,
        left_out=_BESIDE_TRANSFORMERS,
        change=_as_in_timm,
        facts={"positions": "bicubic", "epsilon": 1e-12, "shorter": None, "filter": "bilinear"},
        moments="the publisher's preprocessor_config.json",
    ),
    Layout(  # Hugging Face: CLIP, SigLIP
        architecture="vit",
        marks=("embeddings.class_embedding", "pre_layrnorm.weight"),
        renames=_TOWER_IN_TRANSFORMERS,
        left_out=_TEXT,
        change=_as_in_timm,
        config="config.json",
        facts={"positions": "bicubic", **_DOWN},
    ),
    Layout(
        architecture="vit",
        marks=("head.probe", "embeddings.patch_embedding.weight"),
        renames=_TOWER_IN_TRANSFORMERS,
        left_out=_TEXT,
        change=_as_in_timm,
        facts={"positions": "bicubic"},
    ),
    Layout(  # OpenCLIP
        architecture="vit",
        marks=("class_embedding", "ln_pre.weight", "transformer.resblocks.0.ln_1.weight"),
        renames=_TOWER_IN_OPEN_CLIP,
        left_out=_TEXT,
        change=_as_in_timm,
        config="open_clip_config.json",
    ),
    Layout(  # augreg's .npz
        architecture="vit",
        marks=("cls", "Transformer.encoderblock_0.MlpBlock_3.Dense_0.kernel"),
        renames=_VIT_IN_AUGREG,
        left_out=r"(head|pre_logits)\..*",
        change=_of_augreg,
        torch=False,
    ),
)
"""The first whose marks are all in a file is its layout."""

COUNTERS = r"(.*\.)?(num_batches_tracked|position_ids)"
"""Regular expression of the names of whole numbers that no network needs."""

_KINDS = {"running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var")}


def layout_of(names: Mapping[str, Any]) -> tuple[Layout, str] | None:
    """The layout of a file with tensors of these names, and what stands before its names.

    ``UsageError`` if there are two such networks in it.
    """
    for layout in LAYOUTS:
        first = layout.marks[0]
        before = [
            before
            for before in (name.removesuffix(first) for name in names if name.endswith(first))
            if before[-1:] in ("", ".") and all(before + mark in names for mark in layout.marks)
        ]
        if len(before) > 1:
            raise UsageError(
                f"holds {len(before)} networks, {' and '.join(map(shown, sorted(before)))}; save "
                "one of them alone"
            )
        if before:
            return layout, before[0]
    return None


_CLASSIFIER = r"(.*\.)?(head|pre_logits|classifier|pooler)\..*"
_CLASSES = 21_843  # of ImageNet-21k, as Google counts them and nobody else


def assumed(tensors: Mapping[str, np.ndarray]) -> tuple[Preprocessing, bool]:
    """What images a vision transformer of augreg's form is likely for, and whether that is certain.

    Of what timm 1.0.31 lists of this form, the networks with a classifier have 0.5 as mean and
    standard deviation, but for DeiT and three more; those without have ImageNet's (DINO, MAE), but
    for five that come with their ``config.json``.
    """
    found = [name for name in tensors if re.fullmatch(_CLASSIFIER, name)]
    certain = any(tensors[name].shape[:1] == (_CLASSES,) for name in found)
    return "signed" if found else "torchvision", certain


def translated(
    tensors: Mapping[str, np.ndarray], layout: Layout, before: str
) -> tuple[Tensors, dict[str, str]]:
    """The tensors by collection and path, in siamjax's layouts, and their names in the file.

    What is made of several tensors has no such name. ``UsageError`` for a tensor that is there
    twice.
    """
    own: Tensors = {}
    for name, tensor in tensors.items():
        inside = name.removeprefix(before)
        if inside == name and before:  # beside the network, such as another head
            inside = f"beside.{name}"
        for pattern, replacement in layout.renames:
            inside = re.sub(pattern, replacement, inside)
        if not re.fullmatch(f"{COUNTERS}|{layout.left_out}", inside):
            if inside in own:
                raise UsageError(f"{shown(name)} is twice in the file, by two names")
            own[inside] = tensor
    in_file = {id(tensor): name for name, tensor in tensors.items()}
    found: Tensors = {}
    names: dict[str, str] = {}
    for name, tensor in layout.change(own).items():
        path, found[path] = _converted(name, tensor, layout)
        if id(tensor) in in_file:
            names[path] = in_file[id(tensor)]
    return found, names


def _converted(name: str, tensor: np.ndarray, layout: Layout) -> tuple[str, np.ndarray]:
    layer, _, kind = name.rpartition(".")
    collection, kind = _KINDS.get(kind, ("params", kind))
    if kind == "weight":
        kind = {1: "scale", 2: "kernel", 4: "kernel"}.get(tensor.ndim, kind)
        if kind == "scale" and "prelu" in layer:
            kind = "slope"
    if layout.torch and kind == "kernel" and tensor.ndim in (2, 4):
        tensor = tensor.transpose((2, 3, 1, 0) if tensor.ndim == 4 else (1, 0))
    path = re.sub(r"\.(\d+)(?=\.|$)", r"_\1", layer).replace(".", "/")
    return "/".join(filter(None, (collection, path, kind))), tensor
