"""What files of vision transformers say of themselves, and what is wrong with them."""

import json
import re

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from siamjax.data.transforms import Framing
from siamjax.errors import UsageError
from siamjax.models import VisionTransformer
from siamjax.pretrained import read_weights
from siamjax.pretrained.beside import said_by_timm
from siamjax.pretrained.networks import NETWORKS

TINY = {"width": 64, "depth": 2}
DINO = {**TINY, "patch": 14, "grid": 3, "layer_scale": True, "preprocessing": "torchvision"}


def state(rng, **fields):
    """Random tensors by timm's names, in PyTorch's layouts."""
    network = VisionTransformer(**fields)
    x = jax.ShapeDtypeStruct((1, network.patch, network.patch, 3), np.uint8)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    found = {}
    for path, leaf in flax.traverse_util.flatten_dict(shapes, sep=".").items():
        name = re.sub(r"blocks_(\d+)", r"blocks.\1", path)
        name = re.sub(r"\.(kernel|scale)$", ".weight", name)
        tensor = rng.normal(size=leaf.shape).astype(np.float32)
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(tensor.ndim) if "kernel" in path else None
        found[name] = tensor if axes is None else tensor.transpose(axes)
    return found


def written(folder, tensors):
    path = folder / "model.safetensors"
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        (TINY, Framing(size=(224, 224), shorter=248, filter="bicubic")),
        ({**TINY, "grid": 24}, Framing(size=(384, 384), shorter=384, filter="bicubic")),
        (DINO, Framing(size=(42, 42), shorter=42, filter="bicubic")),
        ({**DINO, "registers": 4}, Framing(size=(42, 42), shorter=42, filter="bicubic")),
        (
            {**TINY, "head": "siglip", "activation": "gelu_tanh"},
            Framing(size=(224, 224), filter="bicubic"),
        ),
    ],
)
def test_the_file_says_what_it_is(fields, size, tmp_path, rng):
    tensors = state(rng, **fields)
    if fields.get("head") is None:
        tensors |= {"head.weight": np.ones((5, 64), np.float32)}
    wrapped = {f"module.backbone.{name}": tensor for name, tensor in tensors.items()}
    weights = read_weights(written(tmp_path, wrapped))
    assert weights.network == VisionTransformer(**fields)
    assert weights.size == size
    kernel = weights.variables["params"]["blocks_1"]["attn"]["qkv"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["blocks.1.attn.qkv.weight"].T)
    assert read_weights(weights.source, preprocessing="clip").network.preprocessing == "clip"


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        *((384, 6), (768, 12), (1024, 16)),  # S, B, L: of 64 features
        *((1152, 16), (1280, 16), (1408, 16), (1536, 16), (1664, 16)),  # So400m, H, g, giant-opt, G
    ],
)
def test_heads_of_published_widths(width, heads):
    shapes = {"params/patch_embed/proj/kernel": (16, 16, 3, width)}
    network, _ = NETWORKS["vit"].build(shapes, {})
    assert (network.width, network.heads or width // 64) == (width, heads)
    assert NETWORKS["vit"].build(shapes, {"heads": 4})[0].heads == 4


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_until_it_is_used(dtype, tmp_path, rng):
    tensors = {n: t.astype(dtype) for n, t in state(rng, **{**DINO, "registers": 4}).items()}
    tensors["register_tokens"] = tensors.pop("reg_token")
    first = np.full((1, 1, 64), 0.25, dtype)
    tensors["pos_embed"] = np.concatenate([first, tensors["pos_embed"]], axis=1)
    tensors["mask_token"] = first[0]
    weights = read_weights(written(tmp_path, tensors))
    assert weights.tensors["params/blocks_0/attn/qkv/kernel"].dtype == dtype
    assert weights.network == VisionTransformer(**DINO, registers=4)
    got = weights.variables["params"]["cls_token"]  # Meta's table has a position for it
    expected = tensors["cls_token"].astype(np.float32) + 0.25
    np.testing.assert_array_equal(got, expected)
    assert weights.variables["params"]["pos_embed"].shape == (1, 9, 64)


CLASSIFIER = {"head.weight": np.ones((5, 64), np.float32), "head.bias": np.ones(5, np.float32)}
IN_21K = {"head.weight": np.ones((21_843, 64), np.float32)}
MAE = {"mask_token": np.ones((1, 1, 8), np.float32)}
MAE |= {f"decoder_blocks.0.attn.{kind}.weight": np.ones((8, 8), np.float32) for kind in "ab"}
MAE["decoder_pos_embed"] = MAE["mask_token"]


@pytest.mark.parametrize(
    ("more", "expected", "other"),
    [
        ({}, "torchvision", "signed"),
        (MAE, "torchvision", "signed"),
        (CLASSIFIER, "signed", "torchvision"),
        (IN_21K, "signed", None),
    ],
)
def test_mean_and_deviation_that_no_tensor_says(more, expected, other, tmp_path, rng, capsys):
    """augreg, DeiT, DINO and MAE are of one form: what is assumed is told, and how to say it."""
    folder = tmp_path / "my weights"
    folder.mkdir()
    path = written(folder, state(rng, **TINY) | more)
    assert read_weights(path).network == VisionTransformer(**TINY, preprocessing=expected)
    told = capsys.readouterr().err
    assert told.count("\n") == (0 if other is None else 1)
    if other is not None:
        assert told.startswith(f"warning: {path} does not say its images' mean and standard dev")
        assert "put timm's config.json" in told
        assert told.endswith(f"weights convert '{path}' --preprocessing {other}\n")
    assert read_weights(path, preprocessing="unit").preprocessing == "unit"
    assert not capsys.readouterr().err


HUGGING_FACE = (
    (r"^cls_token|^mask_token", r"embeddings.\g<0>"),
    (r"^reg_token", "embeddings.register_tokens"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^patch_embed.proj", "embeddings.patch_embeddings.projection"),
    (r"^norm", "layernorm"),
    (r"attn.proj", "attention.output.dense"),
    (r"ls(\d).gamma", r"layer_scale\1.lambda1"),
    (r"^blocks", "encoder.layer"),
)


def of_hugging_face(tensors):
    """The same tensors by transformers' names."""
    given = {}
    for name, tensor in tensors.items():
        for pattern, replacement in HUGGING_FACE:
            name = re.sub(pattern, replacement, name)
        if "attn.qkv" in name:
            for word, part in zip(("query", "key", "value"), np.split(tensor, 3), strict=True):
                given[name.replace("attn.qkv", f"attention.attention.{word}")] = part
        else:
            given[name] = tensor
    return given


@pytest.mark.parametrize("registers", [0, 4])
def test_hugging_face(registers, tmp_path, rng, capsys):
    fields = {**DINO, "registers": registers}
    tensors = state(rng, **fields)
    if registers:
        tensors["pos_embed"] = np.pad(tensors["pos_embed"], ((0, 0), (1, 0), (0, 0)))
    given = of_hugging_face(tensors) | {"embeddings.mask_token": np.ones((1, 64), np.float32)}
    weights = read_weights(written(tmp_path, given))
    fields["positions"] = "antialias" if registers else "bicubic"
    assert weights.network == VisionTransformer(**fields)
    assert weights.size == Framing(size=(224, 224), shorter=256, filter="bicubic", half="down")
    for place in (0, 1):
        attention = weights.variables["params"][f"blocks_{place}"]["attn"]
        for part in ("qkv", "proj"):
            expected = tensors[f"blocks.{place}.attn.{part}.weight"].T
            np.testing.assert_array_equal(attention[part]["kernel"], expected)
    del given["encoder.layer.0.attention.attention.key.bias"]
    message = (
        r"blocks_0/attn/qkv/bias is missing.* blocks_0/attn/q/bias "
        r"\(encoder\.layer\.0\.attention\.attention\.query\.bias\) has no place"
    )
    with pytest.raises(UsageError, match=message):
        read_weights(written(tmp_path, given))
    assert not capsys.readouterr().err


HUGGING_FACES_VIT = {
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".mlp.fc1.": ".intermediate.dense.",
    ".mlp.fc2.": ".output.dense.",
}


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({}, "torchvision"),
        ({"decoder.mask_token": 8}, "torchvision"),
        ({"classifier.weight": 5}, "signed"),
        ({"vit.pooler.dense.weight": 64}, "signed"),
    ],
)
def test_mean_and_deviation_of_hugging_faces_vit(beside, expected, tmp_path, rng, capsys):
    given = {}
    for name, tensor in of_hugging_face(state(rng, **TINY)).items():
        for ours, theirs in HUGGING_FACES_VIT.items():
            name = name.replace(ours, theirs)
        given[f"vit.{name}"] = tensor
    given |= {name: np.ones((rows, 64), np.float32) for name, rows in beside.items()}
    path = written(tmp_path, given)
    assert read_weights(path).network.preprocessing == expected
    assert "put the publisher's preprocessor_config.json beside it" in capsys.readouterr().err
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(HALF))
    assert read_weights(path).network.preprocessing == "signed"
    assert not capsys.readouterr().err


def test_places_of_positions_are_no_quantised_weights(tmp_path, rng):
    """Files of CLIP from before transformers 4.31 have them, as int64 (1, positions)."""
    places = {f"{where}.embeddings.position_ids": np.arange(5)[None] for where in ("text", "model")}
    weights = read_weights(written(tmp_path, state(rng, **TINY) | places))
    assert weights.tensors.keys() == {
        f"params/{path}"
        for path in flax.traverse_util.flatten_dict(weights.variables["params"], sep="/")
    }
    other = {"model.norm.weight": np.ones((2, 5), np.int64)}
    with pytest.raises(UsageError, match=r"model.norm.weight has values of type int64: quantised"):
        read_weights(written(tmp_path, state(rng, **TINY) | other))


def changed(**tensors):
    return lambda found: {**found, **tensors}


def without(*names):
    return lambda found: {name: tensor for name, tensor in found.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("norm.bias"), "is not a vision transformer .* as published: norm/bias is missing"),
        (without("pos_embed"), "pos_embed is missing in the file"),
        (without("patch_embed.proj.weight"), "patch_embed/proj/kernel is missing in the file"),
        (without("blocks.0.mlp.fc1.bias"), "blocks_0/mlp/fc1/bias is missing in the file"),
        (changed(dist_token=np.ones((1, 1, 64))), "dist_token has no place in the network"),
        (
            changed(pos_embed=np.ones((1, 196, 64))),
            r"pos_embed is \(1, 196, 64\) in the file and \(1, 170, 64\) expected",
        ),
        (changed(pos_embed=np.ones((1, 10**12, 0))), r"pos_embed is \(1, 1000000000000, 0\)"),
        (changed(**{"norm.weight": np.ones(32)}), r"norm/scale \(norm.weight\) is \(32,\) in"),
        (
            changed(**{"patch_embed.proj.weight": np.ones((64, 3, 16, 14))}),
            r"kernel \(patch_embed.proj.weight\) is \(16, 14, 3, 64\) in the file",
        ),
        (
            changed(**{"patch_embed.proj.weight": np.ones((1216, 3, 1, 1))}),
            "model.safetensors: tokens of 1216 features; networks of more than 1024",
        ),
        (
            changed(**{"norm_pre.weight": np.ones(64)}),
            "CLIP as timm saves it does not say which GELU it has; put timm's config.json beside",
        ),
        (
            changed(**{"base_model.model.blocks.0.attn.qkv.lora_A.weight": np.ones((4, 64))}),
            r"holds a LoRA adapter \(.*lora_A.weight\) and no network; merge it",
        ),
        (
            changed(**{"ema.cls_token": np.ones(1), "ema.blocks.0.attn.qkv.weight": np.ones(1)}),
            "holds 2 networks,  and ema",
        ),
    ],
)
def test_what_is_wrong_with_a_file(change, message, tmp_path, rng):
    tensors = change(state(rng, **TINY))
    path = written(tmp_path, {name: t.astype(np.float32) for name, t in tensors.items()})
    with pytest.raises(UsageError, match=message) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


OPEN_CLIP = {
    r"cls_token": "class_embedding",
    r"pos_embed": "positional_embedding",
    r"patch_embed.proj.": "conv1.",
    r"norm_pre.": "ln_pre.",
    r"blocks.": "transformer.resblocks.",
    r".norm1.": ".ln_1.",
    r".norm2.": ".ln_2.",
    r".attn.qkv.": ".attn.in_proj_",
    r".attn.proj.": ".attn.out_proj.",
    r".mlp.fc1.": ".mlp.c_fc.",
    r".mlp.fc2.": ".mlp.c_proj.",
}


@pytest.fixture
def clip(tmp_path, rng):
    """A file of OpenCLIP with a text tower, and its folder."""
    tensors = {}
    for name, tensor in state(rng, **TINY, head="clip", projection=7).items():
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        if name.startswith("norm."):
            name = name.replace("norm.", "ln_post.")
        squeezed = tensor[0, 0] if name == "class_embedding" else tensor
        squeezed = squeezed[0] if name == "positional_embedding" else squeezed
        if name == "head.weight":
            name, squeezed = "proj", tensor.T
        tensors[f"visual.{name}"] = squeezed
    texts = ("positional_embedding", "transformer.resblocks.0.ln_1.weight", "logit_scale")
    tensors |= {name: np.ones(3, np.float32) for name in texts}
    return written(tmp_path, tensors), tmp_path


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({"model_cfg": {"embed_dim": 512}, "preprocess_cfg": {}}, "gelu"),
        ({"model_cfg": {"quick_gelu": True}}, "quick_gelu"),
        ({"model_cfg": {"quick_gelu": False}}, "gelu"),
    ],
)
def test_open_clip_by_its_config(clip, config, activation):
    path, folder = clip
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = read_weights(path)
    options = {"projection": 7, "epsilon": 1e-5, "preprocessing": "clip"}
    assert weights.network == VisionTransformer(
        **TINY, **options, head="clip", activation=activation
    )
    assert set(weights.variables["params"]) == {
        *("patch_embed", "cls_token", "pos_embed", "norm_pre", "norm", "head"),
        *("blocks_0", "blocks_1"),
    }


@pytest.mark.parametrize("quick", ["", "_quickgelu"])
def test_clip_by_timms_config(quick, tmp_path, rng):
    """It gives the projection a bias of zeros; any other bias is that of a classifier."""
    tensors = {**state(rng, **TINY, head="clip", projection=7), "head.bias": np.zeros(7)}
    said = {"architecture": f"vit_base_patch16_clip{quick}_224"}
    (tmp_path / "config.json").write_text(json.dumps(said))
    network = read_weights(written(tmp_path, tensors)).network
    options = {"projection": 7, "epsilon": 1e-5, "preprocessing": "clip"}
    assert network == VisionTransformer(
        **TINY, **options, head="clip", activation="quick_gelu" if quick else "gelu"
    )
    with pytest.raises(UsageError, match="head/bias has no place in the network"):
        read_weights(written(tmp_path, {**tensors, "head.bias": np.ones(7)}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "which GELU its network has: OpenAI's have the quick one.* open_clip_config.json b"),
        ("{", "open_clip_config.json"),
        ("[]", "open_clip_config.json"),
        ('{"hidden_act": "relu"}', "hidden_act relu; expected one of gelu, gelu_pytorch_tanh"),
        ("{}", "hidden_act None; expected one of gelu"),
        ('{"vision_config": {"hidden_act": 3}}', "open_clip_config.json"),
    ],
)
def test_a_config_that_does_not_say_it(clip, config, message):
    path, folder = clip
    if config is not None:
        (folder / "open_clip_config.json").write_text(config)
    with pytest.raises(UsageError, match=message):
        read_weights(path)


def test_a_clip_whose_blocks_have_other_names(tmp_path):
    names = ("embeddings.class_embedding", "pre_layrnorm.weight", "encoder.layer.0.mlp.fc1.bias")
    (tmp_path / "config.json").write_text('{"hidden_act": "gelu"}')
    with pytest.raises(UsageError, match="blocks_0/attn/proj/bias is missing in the file"):
        read_weights(written(tmp_path, {name: np.ones(64, np.float32) for name in names}))


MOMENTS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SIGLIP = {**TINY, "head": "siglip", "activation": "gelu_tanh"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config.json": {"hidden_act": "gelu"}}, "signed"),
        ({"open_clip_config.json": {"model_cfg": {}, "preprocess_cfg": MOMENTS}}, "torchvision"),
        (
            {
                "preprocessor_config.json": HALF,
                "open_clip_config.json": {"preprocess_cfg": MOMENTS},
            },
            "signed",
        ),
    ],
)
def test_mean_and_standard_deviation_beside_it(files, expected, tmp_path, rng):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    weights = read_weights(written(tmp_path, state(rng, **SIGLIP)))
    assert weights.preprocessing == weights.network.preprocessing == expected
    other = read_weights(weights.source, preprocessing="bgr_signed")
    assert other.network.preprocessing == "bgr_signed"
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [1, 1, 1]}')
    if "open_clip_config.json" not in files:
        assert read_weights(weights.source).preprocessing == expected
    wrong = {"image_mean": [0.4, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(wrong))
    with pytest.raises(UsageError, match=r"with mean \(0.4, 0.5, 0.5\) .* those of unit, signed"):
        read_weights(weights.source)


@pytest.mark.parametrize("within", [True, False])
def test_images_of_timms_config(within, tmp_path, rng):
    """As timm has DINO's ViT: of augreg's form, on other images; before 0.8 at the top."""
    images = {**MOMENTS, "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.875}
    said = {"pretrained_cfg": images} if within else {"architecture": "vit", **images}
    (tmp_path / "config.json").write_text(json.dumps(said))
    weights = read_weights(written(tmp_path, state(rng, **TINY)))
    assert weights.network == VisionTransformer(**TINY, preprocessing="torchvision")
    assert weights.size == Framing(size=(224, 224), shorter=256, filter="bicubic")


def test_images_that_timm_stretches(tmp_path, rng):
    """As its CLIP of 378 pixels has them."""
    images = {**MOMENTS, "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 1.0}
    images["crop_mode"] = "squash"
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": images}))
    path = written(tmp_path, state(rng, **TINY))
    assert read_weights(path).size == Framing(size=(224, 224), filter="bicubic")
    images["crop_pct"] = 0.9
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": images}))
    with pytest.raises(UsageError, match=r"config.json: crop_mode squash with crop_pct 0.9; expe"):
        read_weights(path)


TIMMS = {"architecture": "vit_base_patch16_224", "global_pool": "token"}


def test_heads_of_timms_config(tmp_path, rng):
    said = {**TIMMS, "model_args": {"num_heads": 2, "img_size": 224, "act_layer": None}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert read_weights(written(tmp_path, state(rng, **TINY))).network.heads == 2


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"global_pool": "avg"}, "global_pool avg; expected token"),
        ({"model_args": {"act_layer": "relu"}}, "model_args with act_layer: such a network"),
        ({"model_args": {"output_stride": 8, "aa_layer": "avg"}}, "with aa_layer, output_stride"),
        ({"model_args": {"num_heads": "3"}}, "num_heads"),
    ],
)
def test_other_networks_of_timms_config(said, message, tmp_path, rng):
    (tmp_path / "config.json").write_text(json.dumps({**TIMMS, **said}))
    with pytest.raises(UsageError, match=f"config.json: .*{message}"):
        read_weights(written(tmp_path, state(rng, **TINY)))


def test_a_siglip_with_a_classifier(tmp_path, rng):
    tensors = state(rng, **SIGLIP)
    weights = read_weights(written(tmp_path, tensors | CLASSIFIER))
    assert weights.network == VisionTransformer(**SIGLIP)
    assert len(weights.tensors) == len(tensors)
    whole = {f"visual.trunk.{name}": tensor for name, tensor in tensors.items()}
    whole["text.ln_final.weight"] = np.ones(3, np.float32)
    assert len(read_weights(written(tmp_path, whole)).tensors) == len(tensors)
    whole |= {f"visual.trunk.{name}": tensor for name, tensor in CLASSIFIER.items()}
    # As OpenCLIP's projection, which this network cannot have.
    with pytest.raises(UsageError, match=r"head/kernel \(visual\.trunk\.head\.weight\) has no"):
        read_weights(written(tmp_path, whole))


PROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_center_crop": False}
MOMENTS_HF = {"image_mean": MOMENTS["mean"], "image_std": MOMENTS["std"]}
CUT = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"size": {"height": 48, "width": 48}, "resample": 2},
            {"size": (48, 48), "filter": "bilinear"},
        ),
        ({"size": 48, "resample": 3, "rescale_factor": 0.00392156862745098}, {"size": (48, 48)}),
        ({"size": {"shortest_edge": 40}, **CUT}, {"size": (32, 32), "shorter": 40}),
        (  # as transformers 4.5x writes what is not set
            {
                **{"size": {"height": 48, "width": 48}, "crop_size": None, "do_center_crop": None},
                **{"do_rescale": None, "rescale_factor": None, "do_normalize": None},
                **{
                    "do_resize": None,
                    "resample": 2,
                    "image_processor_type": "ViTImageProcessorFast",
                },
            },
            {"size": (48, 48), "filter": "bilinear"},
        ),
        ({"size": 40, **CUT, "crop_size": 32}, {"size": (32, 32), "shorter": 40}),
        (
            {"size": 40, **CUT, "image_processor_type": "CLIPImageProcessor"},
            {"size": (32, 32), "shorter": 40},
        ),
        ({"size": 48, "feature_extractor_type": "ViTFeatureExtractor"}, {"size": (48, 48)}),
        ({"size": {"height": 38, "width": 38}}, {"size": (32, 32)}),  # no whole patch: left out
    ],
)
def test_images_as_transformers_prepares_them(said, expected, tmp_path, rng):
    path = written(tmp_path, state(rng, **SIGLIP))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | said))
    weights = read_weights(path)
    assert weights.size == Framing(**{"shorter": None, "filter": "bicubic"} | expected, half="down")
    # transformers 5 takes the images' part of the file for images and texts before the other
    both = {"image_processor": PROCESSOR | said, "processor_class": "SiglipProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(both))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 16, **MOMENTS_HF}))
    weights = read_weights(path)
    assert weights.preprocessing == "signed"
    assert weights.size == Framing(**{"shorter": None, "filter": "bicubic"} | expected, half="down")
    both["image_processor"]["resample"] = 0
    (tmp_path / "processor_config.json").write_text(json.dumps(both))
    with pytest.raises(UsageError, match=r"/processor_config.json: resample 0"):
        read_weights(path)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "SiglipProcessor"}')
    assert read_weights(path).preprocessing == "torchvision"  # before transformers 5


def test_images_that_transformers_does_not_normalise(tmp_path, rng):
    said = {**PROCESSOR, "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    assert read_weights(written(tmp_path, state(rng, **SIGLIP))).preprocessing == "unit"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"resample": 0}, "resample 0; expected 2"),
        ({"size": {"height": 40, "width": 40}, **CUT}, "not those of a square"),
        ({"size": {"shortest_edge": 40}}, "not those of a square"),
        ({"size": {"height": 48, "width": 40}}, "not those of a square"),
        ({"size": 0}, "size"),
        ({"do_resize": False}, "do_resize False, .*; expected true, true and 1/255"),
        ({"do_rescale": False}, "do_rescale False, .*; expected true, true and 1/255"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor 0.00784.*; expected true, true and 1/255"),
        ({"size": 40, "image_processor_type": "CLIPImageProcessor"}, "not those of a square"),
        ({"size": 40, "feature_extractor_type": "BitFeatureExtractor"}, "not those of a square"),
        (
            {"size": 40, **CUT, "image_processor_type": "DeiTImageProcessor"},
            "not those of a square",
        ),
        ({"size": 40, **CUT, "feature_extractor_type": "ViTFeatureExtractor"}, "not those of a sq"),
    ],
)
def test_images_that_cannot_be_prepared(said, message, tmp_path, rng):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | said))
    with pytest.raises(UsageError, match=f"preprocessor_config.json.*{message}"):
        read_weights(written(tmp_path, state(rng, **SIGLIP)))


def test_stretched_images_of_open_clip(clip):
    cut = {**MOMENTS, "resize_mode": "squash", "interpolation": "bilinear"}
    config = {"model_cfg": {}, "preprocess_cfg": cut}
    path, folder = clip
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = read_weights(path)
    assert weights.size == Framing(size=weights.size.size, filter="bilinear")


def test_layers_of_open_clips_config(clip):
    path, folder = clip
    beside = folder / "open_clip_config.json"
    for vision, heads in (({}, None), ({"head_width": 32}, 2)):
        beside.write_text(json.dumps({"model_cfg": {"vision_cfg": {"width": 64, **vision}}}))
        assert read_weights(path).network.heads == heads
    for other in ({"pool_type": "avg"}, {"norm_kwargs": {"eps": 1}}, {"act_kwargs": {"a": 1}}):
        beside.write_text(json.dumps({"model_cfg": {"vision_cfg": other}}))
        with pytest.raises(UsageError, match=f"config.json: .*{next(iter(other))}.* cannot be rea"):
            read_weights(path)


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ({"num_attention_heads": 2}, {"heads": 2}),
        ({"layer_norm_eps": 1e-5}, {"epsilon": 1e-5}),
        ({"hidden_act": "gelu"}, {"activation": "gelu"}),
    ],
)
def test_layers_of_transformers_config(said, fields, within, tmp_path, rng):
    beside = tmp_path / "config.json"
    beside.write_text(json.dumps({"vision_config": said} if within else said))
    path = written(tmp_path, state(rng, **SIGLIP))
    assert read_weights(path).network == VisionTransformer(**SIGLIP | fields)
    beside.write_text(json.dumps({"vision_config": {"hidden_act": "relu"}}))
    with pytest.raises(UsageError, match=r"config.json: hidden_act relu; expected one of gelu, "):
        read_weights(path)


@pytest.mark.parametrize("name", ["resnetaa50", "resnetblur50"])
def test_other_networks_of_a_resnets_tensors(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
    with pytest.raises(UsageError, match=f"config.json: {name} has a ResNet's tensors"):
        said_by_timm(tmp_path / "model.safetensors", pool="avg")
