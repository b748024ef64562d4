"""Vision transformers against timm, transformers and OpenCLIP: what they save we read and equal."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import GRADIENTS, OUTPUTS, differences, peer, redrawn, worst
from PIL import Image

from benchmarks.peers import CLIP, HALF, IMAGENET
from siamjax.data.transforms import Framing
from siamjax.errors import UsageError
from siamjax.models import VisionTransformer
from siamjax.models.preprocessing import preprocess
from siamjax.pretrained import read_weights

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TINY = {"width": 192, "depth": 2}
DINO = {**TINY, "patch": 14, "grid": 37, "layer_scale": True, "preprocessing": "torchvision"}
OF_224 = Framing(size=(224, 224), shorter=256, filter="bicubic")
OF_224_HF = replace(OF_224, half="down")
SIGLIP = "vit_base_patch16_siglip_224"
TABLES = (
    *("cls_token", "pos_embed", "reg_token", "latent", "probe", "position_embeddings"),
    *("register_tokens", "class_embedding", "position_embedding.weight", "positional_embedding"),
)


def drawn(model):
    return redrawn(model, constants=("gamma", "lambda1"), tables=TABLES)


def of_timm(folder, name, **options):
    timm = peer("timm")
    options = {"depth": 2, "embed_dim": 192, "num_heads": 3, **options}
    model = timm.create_model(name, dynamic_img_size=True, **options)
    said = {"num_heads": options["num_heads"]}
    timm.models.save_for_hf(drawn(model), folder, model_args=said, safe_serialization=True)
    return model, lambda x: model.forward_head(model.forward_features(x), pre_logits=True)


def augreg(folder):
    _, forward = of_timm(folder, "vit_tiny_patch16_224")
    fields = {**TINY}
    return forward, fields, HALF, Framing(size=(224, 224), shorter=248, filter="bicubic")


def dinov2(folder):
    _, forward = of_timm(folder, "vit_small_patch14_dinov2")
    return forward, DINO, IMAGENET, Framing(size=(518, 518), shorter=518, filter="bicubic")


def dinov2_registers(folder):
    _, forward = of_timm(folder, "vit_small_patch14_reg4_dinov2")
    fields = {**DINO, "registers": 4}
    return forward, fields, IMAGENET, Framing(size=(518, 518), shorter=518, filter="bicubic")


def siglip(folder):
    _, forward = of_timm(folder, SIGLIP, act_layer="gelu_tanh")
    fields = {**TINY, "head": "siglip", "activation": "gelu_tanh"}
    return unit(forward), fields, HALF, Framing(size=(224, 224), filter="bicubic")


def narrow_heads(folder):
    """Of 32 features, as MoCo v3 has them in ViT-S."""
    _, forward = of_timm(folder, "vit_tiny_patch16_224", num_heads=6)
    fields = {**TINY, "heads": 6}
    return forward, fields, HALF, Framing(size=(224, 224), shorter=248, filter="bicubic")


def siglip_classifier(folder):
    _, forward = of_timm(folder, SIGLIP, act_layer="gelu_tanh", num_classes=5)
    fields = {**TINY, "head": "siglip", "activation": "gelu_tanh"}
    return unit(forward), fields, HALF, Framing(size=(224, 224), filter="bicubic")


def wide_siglip(folder):
    """Heads of 72 features, and perceptrons that are not 4 times as wide."""
    own = {"depth": 1, "embed_dim": 1152, "num_heads": 16}
    _, forward = of_timm(folder, "vit_so400m_patch14_siglip_224", act_layer="gelu_tanh", **own)
    fields = {"width": 1152, "depth": 1, "heads": 16, "hidden": 4304, "patch": 14, "grid": 16}
    fields |= {"head": "siglip", "activation": "gelu_tanh"}
    return unit(forward), fields, HALF, Framing(size=(224, 224), filter="bicubic")


def huge(folder):
    own = {"depth": 1, "embed_dim": 1280, "num_heads": 16}
    _, forward = of_timm(folder, "vit_huge_patch14_224", **own)
    fields = {"width": 1280, "depth": 1, "heads": 16, "patch": 14, "grid": 16}
    return forward, fields, HALF, Framing(size=(224, 224), shorter=248, filter="bicubic")


def timm_clip(folder, *, name="vit_base_patch32_clip_224", act="gelu"):
    torch = peer("torch")

    model, _ = of_timm(folder, name, num_classes=64)
    torch.nn.init.zeros_(model.head.bias)
    peer("timm").models.save_for_hf(model, folder, safe_serialization=True)
    fields = {
        **TINY,
        **{"patch": 32, "grid": 7, "head": "clip", "projection": 64, "activation": act},
        **{"epsilon": 1e-5, "preprocessing": "clip"},
    }
    return unit(model), fields, CLIP, Framing(size=(224, 224), shorter=248, filter="bicubic")


def timm_stretched_clip(folder):
    forward, fields, moments, _ = timm_clip(folder, name="vit_huge_patch14_clip_336")
    fields |= {"patch": 14, "grid": 24}
    return forward, fields, moments, Framing(size=(336, 336), filter="bicubic")


def timm_quick_clip(folder):
    return timm_clip(folder, name="vit_base_patch32_clip_quickgelu_224", act="quick_gelu")


def unit(forward):
    torch = peer("torch")

    return lambda x: torch.nn.functional.normalize(forward(x), dim=-1)


def meta_state(model):
    """A state dict as Meta's DINOv2 has it: a mask token, and registers by another name."""
    torch = peer("torch")

    state = dict(model.state_dict())
    state["mask_token"] = torch.ones(1, 192)
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        first = torch.randn(1, 1, 192, generator=torch.Generator().manual_seed(0))
        state["cls_token"] = state["cls_token"] - first
        state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    return state


def meta(folder):
    """Its table at other sizes: bicubic, by a scale of (n + 0.1) / 37, as its code has it."""
    torch = peer("torch")

    model, forward = of_timm(folder, "vit_small_patch14_dinov2")
    (folder / "model.safetensors").unlink()
    torch.save({"teacher": meta_state(model)}, folder / "pytorch_model.bin")
    table = model.pos_embed.detach().clone()

    def resized(x):
        rows, columns = (side // 14 for side in x.shape[2:])
        grid = torch.nn.functional.interpolate(
            table[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2),
            scale_factor=((rows + 0.1) / 37, (columns + 0.1) / 37),
            mode="bicubic",
        )
        assert grid.shape[2:] == (rows, columns)
        grid = grid.permute(0, 2, 3, 1).reshape(1, -1, 192)
        model.dynamic_img_size = False
        model.pos_embed = torch.nn.Parameter(torch.cat([table[:, :1], grid], dim=1))
        model.patch_embed.img_size, model.patch_embed.output_fmt = None, "NCHW"
        model.patch_embed.flatten = True
        return forward(x)

    return resized, {**DINO, "positions": "meta"}, IMAGENET, OF_224


def meta_registers(folder):
    torch = peer("torch")

    model, forward = of_timm(folder, "vit_small_patch14_reg4_dinov2")
    (folder / "model.safetensors").unlink()
    torch.save(meta_state(model), folder / "pytorch_model.bin")
    return forward, {**DINO, "registers": 4}, IMAGENET, OF_224


SMALL = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}


def of_transformers(folder, model):
    drawn(model).save_pretrained(folder)
    return model


def hf_dinov2(folder):
    hf = peer("transformers")
    config = hf.Dinov2Config(**SMALL, patch_size=14, image_size=518)
    model = of_transformers(folder, hf.Dinov2Model(config))
    fields = {**DINO, "positions": "bicubic"}
    return lambda x: model(x).last_hidden_state[:, 0], fields, IMAGENET, OF_224_HF


def hf_dinov2_registers(folder):
    hf = peer("transformers")
    config = hf.Dinov2WithRegistersConfig(**SMALL, patch_size=14, image_size=518)
    model = of_transformers(folder, hf.Dinov2WithRegistersModel(config))
    fields = {**DINO, "registers": 4}
    return lambda x: model(x).last_hidden_state[:, 0], fields, IMAGENET, OF_224_HF


def hf_vit(folder):
    hf = peer("transformers")
    model = of_transformers(folder, hf.ViTModel(hf.ViTConfig(**SMALL, intermediate_size=768)))
    fields = {**TINY, "positions": "bicubic", "epsilon": 1e-12}
    size = Framing(size=(224, 224))
    return (
        lambda x: model(x, interpolate_pos_encoding=True).last_hidden_state[:, 0],
        fields,
        HALF,
        size,
    )


VISION = {**SMALL, "intermediate_size": 768, "patch_size": 32}
TEXT = {**SMALL, "intermediate_size": 8, "vocab_size": 9, "eos_token_id": 1, "bos_token_id": 0}


def hf_clip(folder, *, act="quick_gelu"):
    hf = peer("transformers")
    config = hf.CLIPConfig(
        vision_config={**VISION, "hidden_act": act}, text_config=TEXT, projection_dim=64
    )
    model = of_transformers(folder, hf.CLIPModel(config))
    fields = {
        **TINY,
        **{"patch": 32, "grid": 7, "head": "clip", "projection": 64, "activation": act},
        **{"epsilon": 1e-5, "positions": "bicubic", "preprocessing": "clip"},
    }
    size = Framing(size=(224, 224), shorter=224, filter="bicubic", half="down")

    def forward(x):
        pooled = model.vision_model(x, interpolate_pos_encoding=True).pooler_output
        return model.visual_projection(pooled)

    return unit(forward), fields, CLIP, size


def hf_clip_exact(folder):
    return hf_clip(folder, act="gelu")


def hf_siglip(folder):
    hf = peer("transformers")
    vision = {**VISION, "patch_size": 16}
    model = of_transformers(
        folder, hf.SiglipModel(hf.SiglipConfig(vision_config=vision, text_config=TEXT))
    )
    fields = {**TINY, "head": "siglip", "activation": "gelu_tanh", "positions": "bicubic"}
    size = Framing(size=(224, 224), filter="bicubic")

    def forward(x):
        return model.vision_model(x, interpolate_pos_encoding=True).pooler_output

    return unit(forward), fields, HALF, size


def hf_siglip_alone(folder):
    """A tower that was saved by itself, without "vision_model." before its names."""
    hf = peer("transformers")
    config = hf.SiglipVisionConfig(**{**VISION, "patch_size": 16})
    model = of_transformers(folder, hf.SiglipVisionModel(config))
    fields = {**TINY, "head": "siglip", "activation": "gelu_tanh", "positions": "bicubic"}
    size = Framing(size=(224, 224), filter="bicubic")
    forward = unit(lambda x: model(x, interpolate_pos_encoding=True).pooler_output)
    return forward, fields, HALF, size


OPEN = {"layers": 2, "width": 192, "patch_size": 16}
OPEN_TEXT = {"context_length": 8, "vocab_size": 9, "width": 64, "heads": 1, "layers": 1}


def save_open_clip(folder, model, config, moments=CLIP):
    from open_clip.push_to_hf_hub import save_for_hf

    model.visual.image_mean, model.visual.image_std = moments
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    save_for_hf(model, tokenizer, config, folder, safe_serialization=True)


def open_clip(folder, *, quick=True, head_width=64):
    """Its table is resized when weights are loaded into a network for another size."""
    peer("open_clip")
    from open_clip.model import CLIP as Whole
    from open_clip.model import resize_pos_embed

    def network(side):
        config = {**OPEN, "head_width": head_width, "image_size": side}
        return Whole(64, config, OPEN_TEXT, quick_gelu=quick).eval()

    model = drawn(network(224))
    vision = OPEN if head_width == 64 else {**OPEN, "head_width": head_width}
    config = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": OPEN_TEXT}
    save_open_clip(folder, model, {**config, "quick_gelu": True} if quick else config)

    def forward(x):
        other, state = network(tuple(x.shape[2:])), dict(model.state_dict())
        resize_pos_embed(state, other)
        other.load_state_dict(state)
        return other.encode_image(x, normalize=True)

    fields = {
        **TINY,
        **{"head": "clip", "projection": 64, "activation": "quick_gelu" if quick else "gelu"},
        **{"epsilon": 1e-5, "preprocessing": "clip"},
    }
    return forward, fields, CLIP, Framing(size=(224, 224), shorter=224, filter="bicubic")


def open_clip_exact(folder):
    return open_clip(folder, quick=False)


def open_clip_narrow_heads(folder):
    forward, fields, *images = open_clip(folder, head_width=48)
    return forward, {**fields, "heads": 4}, *images


def open_clip_siglip(folder):
    """timm's network within OpenCLIP's; "visual.trunk." stands before its names."""
    peer("open_clip")
    from open_clip.model import CustomTextCLIP

    timm = {"timm_model_name": "vit_tiny_patch16_224", "timm_proj": "none", "timm_pool": "token"}
    model = CustomTextCLIP(192, {**timm, "image_size": 224}, OPEN_TEXT)
    model.visual.trunk = of_timm(folder, SIGLIP, num_classes=0, act_layer="gelu_tanh")[0]
    (folder / "model.safetensors").unlink()
    save_open_clip(folder, drawn(model), {}, HALF)
    fields = {**TINY, "head": "siglip", "activation": "gelu_tanh"}
    size = Framing(size=(224, 224), filter="bicubic")
    return lambda x: model.encode_image(x, normalize=True), fields, HALF, size


def augreg_npz(folder):
    """timm reads the file that we wrote, by its own reader of it."""
    torch = peer("torch")

    model, forward = of_timm(folder, "vit_tiny_patch16_224", num_classes=5)
    (folder / "model.safetensors").unlink()
    given = {name: value.numpy() for name, value in model.state_dict().items()}
    arrays = {
        "cls": given["cls_token"],
        "embedding/kernel": given["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": given["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": given["pos_embed"],
        "Transformer/encoder_norm/scale": given["norm.weight"],
        "Transformer/encoder_norm/bias": given["norm.bias"],
        "head/kernel": given["head.weight"].T,
        "head/bias": given["head.bias"],
    }
    for number in range(2):
        theirs, ours = f"Transformer/encoderblock_{number}", f"blocks.{number}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for norm, name in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            arrays[f"{theirs}/{norm}/scale"] = given[f"{ours}.{name}.weight"]
            arrays[f"{theirs}/{norm}/bias"] = given[f"{ours}.{name}.bias"]
        for layer in (0, 1):
            dense = f"{theirs}/MlpBlock_3/Dense_{layer}"
            arrays[f"{dense}/kernel"] = given[f"{ours}.mlp.fc{layer + 1}.weight"].T
            arrays[f"{dense}/bias"] = given[f"{ours}.mlp.fc{layer + 1}.bias"]
        for place, part in enumerate(("query", "key", "value")):
            rows = np.s_[192 * place : 192 * (place + 1)]
            kernel = given[f"{ours}.attn.qkv.weight"][rows].T
            arrays[f"{attention}/{part}/kernel"] = kernel.reshape(192, 3, 64)
            arrays[f"{attention}/{part}/bias"] = given[f"{ours}.attn.qkv.bias"][rows].reshape(3, 64)
        kernel = given[f"{ours}.attn.proj.weight"].T
        arrays[f"{attention}/out/kernel"] = kernel.reshape(3, 64, 192)
        arrays[f"{attention}/out/bias"] = given[f"{ours}.attn.proj.bias"]
    np.savez(folder / "weights.npz", **arrays)
    for value in model.parameters():
        torch.nn.init.zeros_(value)
    model.load_pretrained(folder / "weights.npz")
    fields = {**TINY}
    return forward, fields, HALF, Framing(size=(224, 224), shorter=248, filter="bicubic")


LAYOUTS = {  # networks, and who saved them
    "ViT, timm": augreg,
    "ViT-H, timm": huge,
    "ViT with heads of 32, timm": narrow_heads,
    "ViT, augreg's .npz": augreg_npz,
    "ViT, Hugging Face": hf_vit,
    "DINOv2, timm": dinov2,
    "DINOv2, Meta": meta,
    "DINOv2, Hugging Face": hf_dinov2,
    "DINOv2 with registers, timm": dinov2_registers,
    "DINOv2 with registers, Meta": meta_registers,
    "DINOv2 with registers, Hugging Face": hf_dinov2_registers,
    "CLIP, timm": timm_quick_clip,
    "CLIP with exact GELU, timm": timm_clip,
    "CLIP of stretched images, timm": timm_stretched_clip,
    "CLIP, Hugging Face": hf_clip,
    "CLIP with exact GELU, Hugging Face": hf_clip_exact,
    "CLIP, OpenCLIP": open_clip,
    "CLIP with exact GELU, OpenCLIP": open_clip_exact,
    "CLIP with heads of 48, OpenCLIP": open_clip_narrow_heads,
    "SigLIP, timm": siglip,
    "SigLIP with a classifier, timm": siglip_classifier,
    "SigLIP So400m, timm": wide_siglip,
    "SigLIP, Hugging Face": hf_siglip,
    "SigLIP's tower alone, Hugging Face": hf_siglip_alone,
    "SigLIP, OpenCLIP": open_clip_siglip,
}


def found(folder):
    """Weights of the file in a folder; the one ``weights.npz`` by its name."""
    npz = folder / "weights.npz"
    return read_weights(npz if npz.exists() else folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout(layout, tmp_path, row):
    forward, fields, moments, size = LAYOUTS[layout](tmp_path)
    weights = found(tmp_path)
    assert weights.architecture == "vit"
    assert weights.network == VisionTransformer(**fields)
    assert weights.size == size
    patch = weights.network.patch
    shapes = ((224, 224), (4 * patch, 7 * patch))
    outputs, gradients = worst(
        differences(weights.network, weights.variables, forward, shape, moments) for shape in shapes
    )
    row("same", layout, shapes, outputs, gradients)
    assert outputs < OUTPUTS
    assert gradients < GRADIENTS
    weights.save(tmp_path / "saved.npz")
    again = read_weights(tmp_path / "saved.npz")
    assert again.network == weights.network
    assert again.size == weights.size
    jax.tree.map(np.testing.assert_array_equal, again.variables, weights.variables)


WRONG = {
    "DINOv2, timm": (
        {"epsilon": 1e-5},
        {"activation": "gelu_tanh"},
        {"positions": "bicubic"},
        {"preprocessing": "signed"},
        {"layer_scale": False},
    ),
    "DINOv2, Hugging Face": ({"positions": "antialias"}, {"positions": "meta"}),
    "ViT-H, timm": ({"heads": 20},),
    "CLIP, Hugging Face": ({"epsilon": 1e-6}, {"activation": "gelu"}),
    "SigLIP, timm": ({"activation": "gelu"}, {"epsilon": 1e-5}),
}


@pytest.mark.parametrize("layout", WRONG)
def test_what_is_wrong_shows(layout, tmp_path, row):
    forward, _, moments, _ = LAYOUTS[layout](tmp_path)
    weights = found(tmp_path)
    for wrong in WRONG[layout]:
        network = weights.network.clone(**wrong)
        shape = (4 * network.patch, 7 * network.patch)
        outputs, _ = differences(network, weights.variables, forward, shape, moments)
        row("wrong", layout, ", ".join(f"{key} {value}" for key, value in wrong.items()), outputs)
        assert outputs > OUTPUTS, wrong


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_files_that_open_clip_writes(name, tmp_path):
    peer("open_clip")
    from open_clip.model import CLIP as Whole
    from open_clip.push_to_hf_hub import save_for_hf

    model = drawn(Whole(64, {**OPEN, "image_size": 32}, OPEN_TEXT))
    model.visual.image_mean, model.visual.image_std = CLIP
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    save_for_hf(model, tokenizer, {"vision_cfg": OPEN}, tmp_path, safe_serialization="both")
    for other in {*tmp_path.glob("open_clip_*")} - {tmp_path / name}:
        if other.suffix != ".json":
            other.unlink()
    weights = read_weights(tmp_path)
    assert weights.source == str(tmp_path / name)
    assert weights.network.head == "clip"


def test_class_token_joined_to_the_mean(tmp_path):
    """2 C features, as Meta's own linear classifiers on DINOv2 take them."""
    torch = peer("torch")

    model, _ = of_timm(tmp_path, "vit_small_patch14_reg4_dinov2")

    def forward(x):
        tokens = model.forward_features(x)
        return torch.cat([tokens[:, 0], tokens[:, 5:].mean(dim=1)], dim=1)

    weights = found(tmp_path)
    network = weights.network.clone(head="cls_mean")
    outputs, gradients = differences(network, weights.variables, forward, (56, 84), IMAGENET)
    assert outputs < OUTPUTS
    assert gradients < GRADIENTS


@pytest.mark.parametrize(
    ("layout", "name"), [(open_clip, "open_clip_config.json"), (hf_clip, "config.json")]
)
def test_a_clip_without_its_config(layout, name, tmp_path):
    layout(tmp_path)
    (tmp_path / name).write_text('{"vision_config": {"hidden_act": "relu"}}')
    with pytest.raises(UsageError, match="hidden_act relu; expected one of gelu"):
        found(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UsageError, match=f"which GELU its network has.* publisher's {name} beside"):
        found(tmp_path)


def timms(name):
    timm = peer("timm")
    config = timm.data.resolve_model_data_config(timm.create_model(name, depth=1))
    return timm.data.create_transform(**config, is_training=False)


def huggings(name, **options):
    processor = getattr(peer("transformers"), f"{name}ImageProcessorPil")(**options)
    return lambda image: processor(images=image, return_tensors="pt")["pixel_values"][0]


def of_dinov2():
    options = {"size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": True}
    moments = {"image_mean": IMAGENET[0], "image_std": IMAGENET[1]}
    return huggings("Bit", **options, **moments)


def of_open_clip(moments, mode):
    transform = peer("open_clip").image_transform
    mean, deviation = moments
    return transform(224, is_train=False, mean=mean, std=deviation, resize_mode=mode)


TRANSFORMS = {
    "ViT, timm": lambda: timms("vit_tiny_patch16_224"),
    "DINOv2, timm": lambda: timms("vit_small_patch14_dinov2"),
    "DINOv2, Hugging Face": of_dinov2,
    "ViT, Hugging Face": lambda: huggings("ViT"),
    "CLIP, Hugging Face": lambda: huggings("CLIP"),
    "SigLIP, Hugging Face": lambda: huggings("Siglip"),
    "CLIP of stretched images, timm": lambda: timms("vit_huge_patch14_clip_336"),
    "CLIP, OpenCLIP": lambda: of_open_clip(CLIP, "shortest"),
    "SigLIP, OpenCLIP": lambda: of_open_clip(HALF, "squash"),
}


@pytest.mark.parametrize("layout", TRANSFORMS)
def test_pictures_become_those_of_the_peer(layout, tmp_path, row):
    """To one grey level, from photographs that are larger and smaller.

    Of the last two transformers rounds half a pixel down, and torchvision to an even one. timm
    alone cuts SigLIP's images to 0.9, where its publisher stretches them.
    """
    LAYOUTS[layout](tmp_path)
    weights = found(tmp_path)
    _, deviation = {"signed": HALF, "clip": CLIP, "torchvision": IMAGENET}[
        weights.network.preprocessing
    ]
    transform, grey = TRANSFORMS[layout](), 0.0
    shapes = ((667, 560), (130, 200), (360, 331), (280, 393))
    for shape in shapes:
        noise = np.random.default_rng(0).integers(0, 256, (*(s // 8 for s in shape), 3), np.uint8)
        image = Image.fromarray(noise).resize(shape[::-1], Image.Resampling.BICUBIC)
        ours = preprocess(
            jnp.asarray(weights.size(np.asarray(image))), weights.network.preprocessing
        )
        difference = np.abs(np.asarray(transform(image)).transpose(1, 2, 0) - ours)
        grey = max(grey, float((difference * 255 * np.asarray(deviation)).max()))
    row("framing", layout, shapes, grey)
    assert grey < 1.01
