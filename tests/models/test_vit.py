"""Vision transformers: counts as published, an oracle in slow float64, sizes, and refusals."""

import math
from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.models import Embeds, VisionTransformer
from siamjax.models.vit_layers import _heads_first, bicubic_weights, fitted
from siamjax.training.description import build_module, describe_module

DINO = {"patch": 14, "grid": 37, "layer_scale": True, "preprocessing": "torchvision"}
CLIP = {"head": "clip", "epsilon": 1e-5, "preprocessing": "clip"}
PUBLISHED = {
    "augreg S/16": ({"width": 384}, 21_665_664),
    "augreg B/16": ({}, 85_798_656),
    "DINOv2 S/14": ({"width": 384, **DINO}, 22_056_192),
    "DINOv2 B/14": (DINO, 86_579_712),
    "DINOv2 S/14 with registers": ({"width": 384, "registers": 4, **DINO}, 22_057_344),
    "DINOv2 B/14 with registers": ({"registers": 4, **DINO}, 86_582_016),
    "CLIP B/32": ({"patch": 32, "grid": 7, **CLIP}, 87_849_216),
    "CLIP B/16": (CLIP, 86_192_640),
    "SigLIP B/16": ({"head": "siglip"}, 92_884_224),
    "SigLIP So400m/14": (
        {"width": 1152, "depth": 27, "heads": 16, "hidden": 4304}
        | {"patch": 14, "grid": 16, "head": "siglip"},
        427_680_704,
    ),
}
SMALL = {"width": 128, "depth": 1, "patch": 4, "grid": 5}
HEADS = {
    "cls": ({"layer_scale": True}, 128),
    "cls_mean": ({"registers": 4}, 256),
    "clip": ({"projection": 7, "activation": "quick_gelu"}, 7),
    "siglip": ({"activation": "gelu_tanh"}, 128),
}


def image(rng, *shape):
    return rng.integers(0, 256, (*shape, 3), np.uint8)


def small(head, **fields):
    return VisionTransformer(head=head, **{**SMALL, **HEADS[head][0], **fields})


def drawn(network, rng, *, scale=0.3):
    """Variables of which none is 0, 1 or as small as the layer scale is at first."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.uint8))
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype), shapes
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    fields, expected = PUBLISHED[name]

    def count(depth):
        network = VisionTransformer(**{**fields, "depth": depth})
        x = jax.ShapeDtypeStruct((1, network.patch, network.patch, 3), jnp.uint8)
        variables = jax.eval_shape(network.init, jax.random.key(0), x)
        return sum(leaf.size for leaf in jax.tree.leaves(variables))

    assert VisionTransformer().depth == 12
    blocks = fields.get("depth", 12)
    assert count(1) + (blocks - 1) * (count(2) - count(1)) == expected  # all blocks are alike


@pytest.mark.parametrize("head", HEADS)
def test_sizes_and_types(head, rng):
    network = small(head)
    assert isinstance(network, Embeds)
    assert build_module(describe_module(network)) == network
    variables = drawn(network, rng)
    for shape in ((2, 20, 20), (1, 12, 28)):
        x = image(rng, *shape)
        out = jax.eval_shape(network.apply, variables, x)
        assert (out.shape, out.dtype) == ((shape[0], HEADS[head][1]), jnp.float32)
    apply = jax.jit(lambda *given: [network.apply(variables, x) for x in given])
    out, same = apply(x, x / np.float32(255))
    np.testing.assert_allclose(same, out, atol=2e-5)
    if head in ("clip", "siglip"):
        np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("head", ["cls_mean", "siglip"])
def test_bfloat16(head, rng):
    wide, half = small(head), small(head, dtype=jnp.bfloat16)
    variables = drawn(wide, rng, scale=0.1)
    x = image(rng, 2, 12, 20)
    made = jax.eval_shape(half.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    apply = jax.jit(lambda x: [network.apply(variables, x) for network in (half, wide)])
    got, expected = apply(x)
    assert got.dtype == jnp.float32
    difference = jnp.linalg.norm(got - expected) / jnp.linalg.norm(expected)
    assert 1e-5 < difference < 0.03


def test_strict_settings(rng):
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        for head in HEADS:
            network = small(head, dtype=jnp.bfloat16, positions="bicubic")
            out = jax.eval_shape(network.init_with_output, jax.random.key(0), image(rng, 1, 8, 12))
            assert out[0].dtype == jnp.float32


def oracle(network, variables, x):
    """Dosovitskiy et al. 2021, equations 1 to 4, head by head and token by token, in float64."""
    given = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    p = {path: np.asarray(leaf, np.float64) for path, leaf in given.items()}

    def norm(v, path):
        centred = v - v.mean()
        return (
            centred / math.sqrt((centred**2).mean() + network.epsilon) * p[f"{path}/scale"]
            + (p[f"{path}/bias"])
        )

    def dense(v, path):
        return v @ p[f"{path}/kernel"] + p[f"{path}/bias"]

    def gelu(v):
        return np.array([u * (1 + math.erf(u / math.sqrt(2))) / 2 for u in v])

    tokens = [p["cls_token"][0, 0], *p["reg_token"][0]]
    side = network.patch
    for row in range(0, x.shape[0], side):
        for column in range(0, x.shape[1], side):
            patch = x[row : row + side, column : column + side] / 127.5 - 1
            kernel = p["patch_embed/proj/kernel"]
            tokens.append(
                sum(patch[i, j, c] * kernel[i, j, c] for i, j, c in np.ndindex(side, side, 3))
                + p["patch_embed/proj/bias"]
                + p["pos_embed"][0, row // side * network.grid + column // side]
            )
    for number in range(network.depth):
        block = f"blocks_{number}"
        qkv = [dense(norm(t, f"{block}/norm1"), f"{block}/attn/qkv") for t in tokens]
        gathered = []
        for one in qkv:
            heads = []
            each = network.width // network.heads
            for start in range(0, network.width, each):
                of_head = slice(start, start + each)
                q, k, v = ([r.reshape(3, -1)[n, of_head] for r in qkv] for n in range(3))
                q = one.reshape(3, -1)[0, of_head]
                weights = np.exp([q @ key / math.sqrt(each) for key in k])
                heads.append(sum(w * value for w, value in zip(weights, v, strict=True)))
                heads[-1] = heads[-1] / weights.sum()
            gathered.append(dense(np.concatenate(heads), f"{block}/attn/proj"))
        for i, out in enumerate(gathered):
            tokens[i] = tokens[i] + p[f"{block}/ls1/gamma"] * out
            hidden = gelu(dense(norm(tokens[i], f"{block}/norm2"), f"{block}/mlp/fc1"))
            tokens[i] = tokens[i] + p[f"{block}/ls2/gamma"] * dense(hidden, f"{block}/mlp/fc2")
    tokens = [norm(t, "norm") for t in tokens]
    return np.concatenate([tokens[0], np.mean(tokens[1 + network.registers :], axis=0)])


@pytest.mark.parametrize("heads", [2, 8])
def test_oracle(rng, heads):
    network = small("cls_mean", layer_scale=True, depth=2, grid=2, heads=heads, hidden=100)
    variables = drawn(network, rng, scale=0.2)
    x = image(rng, 2, 8, 8)
    expected = np.stack([oracle(network, variables, one) for one in x])
    both, cls = jax.jit(
        lambda x: [one.apply(variables, x) for one in (network, network.clone(head="cls"))]
    )(x)
    tolerance = 2e-5 * np.sqrt(np.mean(expected**2))
    np.testing.assert_allclose(both, expected, atol=tolerance)
    np.testing.assert_allclose(cls, expected[:, :128], atol=tolerance)  # the last block is shorter


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 0.02)])
def test_attention_on_a_cpu_is_that_of_other_platforms(rng, dtype, tolerance):
    """One query, as after the last block and in SigLIP's head, and five."""
    draw = partial(rng.normal, scale=2.0)
    key, value = (jnp.asarray(draw(size=(2, 7, 3, 16)), dtype) for _ in range(2))
    for count in (1, 5):
        query = jnp.asarray(draw(size=(2, count, 3, 16)), dtype)
        got, expected = (
            _heads_first(query, key, value),
            jax.nn.dot_product_attention(query, key, value),
        )
        assert got.dtype == expected.dtype == dtype
        got, expected = np.asarray(got, np.float32), np.asarray(expected, np.float32)
        np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())


def test_a_norm_far_from_zero(rng):
    """The variance of tokens whose mean is 2000 times their standard deviation."""
    network = small("cls", grid=2)
    variables = drawn(network, rng)
    x = image(rng, 1, 8, 8)
    apply = jax.jit(network.apply)
    expected = apply(variables, x)
    for name in ("cls_token", "pos_embed"):
        variables["params"][name] += 600.0
    np.testing.assert_allclose(apply(variables, x), expected, atol=2e-3)


def slow_bicubic(values, new, extra):
    """Keys 1981, equation 4 with a = -0.75: the four values around each place, one by one."""

    def kernel(s, a=-0.75):
        s = abs(s)
        if s <= 1:
            return (a + 2) * s**3 - (a + 3) * s**2 + 1
        return a * s**3 - 5 * a * s**2 + 8 * a * s - 4 * a if s < 2 else 0.0

    out = []
    for i in range(new):
        place = (i + 0.5) * len(values) / (new + extra) - 0.5
        total = 0.0
        for j in range(math.floor(place) - 1, math.floor(place) + 3):
            total += kernel(place - j) * values[min(max(j, 0), len(values) - 1)]
        out.append(total)
    return np.array(out)


@pytest.mark.parametrize(("old", "new"), [(37, 16), (7, 14), (14, 10), (3, 3), (1, 4), (5, 1)])
@pytest.mark.parametrize("extra", [0.0, 0.1])
def test_bicubic_weights(old, new, extra, rng):
    values = rng.normal(size=old)
    weights = bicubic_weights(old, new, extra=extra)
    np.testing.assert_allclose(weights @ values, slow_bicubic(values, new, extra), atol=1e-12)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)


def test_fitted(rng):
    table = jnp.asarray(rng.normal(size=(5, 5, 3)), jnp.float32)
    got = {rule: fitted(table, 3, 8, rule=rule) for rule in ("antialias", "bicubic", "meta")}
    for rule, extra in (("bicubic", 0.0), ("meta", 0.1)):
        down = np.apply_along_axis(slow_bicubic, 0, np.asarray(table, np.float64), 3, extra)
        expected = np.apply_along_axis(slow_bicubic, 1, down, 8, extra)
        np.testing.assert_allclose(got[rule], expected, atol=1e-5)
    assert got["antialias"].shape == (3, 8, 3)
    for one, other in (("antialias", "bicubic"), ("bicubic", "meta")):
        assert np.abs(got[one] - got[other]).max() > 1e-2
    for rule in got:
        assert fitted(table, 5, 5, rule=rule) is table


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({}, (1, 16, 18, 3), "sides must be multiples of 4, the side of a patch"),
        ({}, (1, 16, 16, 1), "expected .batch, height, width, 3. with sides of at least 4"),
        ({}, (16, 16, 3), "expected .batch, height, width, 3"),
        ({"width": 100}, (1, 16, 16, 3), "width 100: use a multiple of 64, a head's features"),
        ({"heads": 3}, (1, 16, 16, 3), "width 128: use a multiple of 3, the number of heads"),
        ({"hidden": 0}, (1, 16, 16, 3), "hidden 0"),
        ({"depth": 0}, (1, 16, 16, 3), "depth 0"),
        ({"epsilon": 0.0}, (1, 16, 16, 3), "epsilon 0"),
        ({"head": "mean"}, (1, 16, 16, 3), "head mean: choose one of cls, cls_mean, clip, siglip"),
        ({"activation": "relu"}, (1, 16, 16, 3), "activation relu: choose one of gelu, gelu_t"),
        ({"positions": "x"}, (1, 16, 16, 3), "positions x: choose one of antialias, bicubic"),
        ({"registers": 4, "head": "clip"}, (1, 16, 16, 3), "registers with head 'clip'"),
    ],
)
def test_refusals(fields, shape, message):
    network = VisionTransformer(**{**SMALL, **fields})
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(network.init, jax.random.key(0), np.zeros(shape, np.uint8))
