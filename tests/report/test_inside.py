"""Layers against plain NumPy and hand-worked counts; what the figures and the command say."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from PIL import Image

from siamjax.commands import inspect as command
from siamjax.errors import UsageError
from siamjax.models.heads import ConcatenationHead
from siamjax.models.lfw import LfwNet
from siamjax.models.normxcorr_net import NormXCorrNet
from siamjax.models.siamese import Siamese
from siamjax.models.visual_search import VisualSearchNet
from siamjax.models.vit import VisionTransformer
from siamjax.report import activations, dead_filters, layers
from siamjax.report.inside import Layer, _highest, find_layer
from siamjax.report.inside_figures import activation_figure
from siamjax.training import Finished, initialize


class ConvRelu(nn.Conv):
    """Calls its base class, whose result is no layer of its own."""

    def __call__(self, inputs):
        return nn.relu(super().__call__(inputs))


class Stage(nn.Module):
    """Its layers' names are not in alphabetical order."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (1, 1), name="zeta")(x))
        return ConvRelu(3, (1, 1), name="alpha")(x)


class Tiny(nn.Module):
    def setup(self):
        self.stage = Stage()
        self.last = nn.Dense(2)

    def embed(self, x):
        return self.last(self.stage(x.astype(jnp.float32) / 255).mean(axis=(1, 2)))


NETWORK = Tiny()


def tiny(rng):
    shapes = {"zeta": (3, 4), "alpha": (4, 3)}
    stage = {
        name: {"kernel": rng.normal(size=(1, 1, *shape)), "bias": rng.normal(size=shape[1:])}
        for name, shape in shapes.items()
    }
    last = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    return {"params": jax.tree.map(np.float32, {"stage": stage, "last": last})}


def pixels(rng, count, *size):
    return rng.integers(0, 256, (count, *size, 3), np.uint8)


def plain(variables, images):
    """The network in NumPy, layer by layer."""
    stage, last = variables["params"]["stage"], variables["params"]["last"]
    zeta = images / 255 @ stage["zeta"]["kernel"][0, 0] + stage["zeta"]["bias"]
    alpha = np.maximum(zeta, 0) @ stage["alpha"]["kernel"][0, 0] + stage["alpha"]["bias"]
    alpha = np.maximum(alpha, 0)
    output = alpha.mean(axis=(1, 2)) @ last["kernel"] + last["bias"]
    return {
        "stage/zeta": zeta,
        "stage/alpha": alpha,
        "stage": alpha,
        "last": output,
        "output": output,
    }


def test_activations_are_those_of_plain_numpy(rng):
    variables, images = tiny(rng), pixels(rng, 3, 4, 5)
    expected = plain(variables, images)
    found = activations(NETWORK, variables, images, names=list(expected))
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
        assert found[name].dtype == np.float32
    assert expected["stage/zeta"].min() < 0  # before the ReLU that the network applies to it
    by_end = activations(NETWORK, variables, images, names=["zeta"])
    assert list(by_end) == ["stage/zeta"]
    np.testing.assert_array_equal(by_end["stage/zeta"], found["stage/zeta"])


def test_layers_in_their_order_with_shapes_and_parameters(rng):
    # 3 * 4 + 4 = 16, 4 * 3 + 3 = 15, 3 * 2 + 2 = 8.
    assert layers(NETWORK, tiny(rng), (4, 5)) == [
        Layer("stage/zeta", "Conv", (4, 5, 4), 16, True),
        Layer("stage/alpha", "ConvRelu", (4, 5, 3), 15, True),
        Layer("stage", "Stage", (4, 5, 3), 31, False),
        Layer("last", "Dense", (2,), 8, False),
        Layer("output", "Tiny", (2,), 39, False),
    ]
    assert layers(NETWORK, tiny(rng), 6)[0].shape == (6, 6, 4)


def shapes_of(network, pairs, size):
    image = jax.ShapeDtypeStruct((1, *size, 3), np.uint8)
    return jax.eval_shape(network.init, jax.random.key(0), *[image] * (2 if pairs else 1))


def test_layers_of_the_face_network():
    """At 128x128 the published count: 135,907,840, and 2 * 1024 + 1 of the head."""
    network = Siamese(backbone=LfwNet(), head=ConcatenationHead())
    found = layers(network, shapes_of(network, True, (128, 128)), 128)
    names = [one.name for one in found]
    backbone = [f"backbone/{kind}{k}" for k in (1, 2, 3, 4) for kind in ("conv", "norm")]
    assert names == [*backbone, "backbone/dense", "backbone/norm5", "backbone", "output"]
    by_name = {one.name: one for one in found}
    assert by_name["backbone/conv2"].shape == (64, 64, 128)
    assert by_name["backbone/conv2"].parameters == 5 * 5 * 64 * 128 + 128
    assert by_name["backbone/dense"].parameters == 16 * 16 * 512 * 1024 + 1024
    assert by_name["backbone"].parameters == 135_907_840
    assert by_name["output"].parameters == 135_907_840 + 2 * 1024 + 1
    assert [one.name[-5:] for one in found if one.convolution] == [f"conv{k}" for k in (1, 2, 3, 4)]


def test_layers_of_a_vision_transformer(rng):
    """What gives tokens is listed, drawn and counted as well."""
    network, size = VisionTransformer(width=64, depth=2, patch=4, grid=2), (8, 8)
    variables, _ = initialize(network, size, 0)
    found = {one.name: one for one in layers(network, variables, size)}
    assert found["patch_embed"].shape == (4, 64)
    assert found["blocks_0"].shape == (5, 64)  # and the class token
    assert found["blocks_0/mlp/fc1"].parameters == 64 * 256 + 256
    images = pixels(rng, 2, *size)
    tokens = activations(network, variables, images, names=["blocks_0"])["blocks_0"]
    figure = activation_figure(tokens[0], layer="blocks_0", network="x", name="y")
    assert "5 tokens of 64 features" in figure.texts[0].get_text()
    np.testing.assert_array_equal(figure.axes[0].images[1].get_array(), tokens[0])
    (dead,) = dead_filters(network, variables, [images], names=["blocks_0"])
    assert dead.channels == 64
    assert dead.dead.tolist() == np.flatnonzero(tokens.max(axis=(0, 1)) <= 0).tolist()


def test_layers_of_the_cross_input_network():
    network = NormXCorrNet()
    found = layers(network, shapes_of(network, True, (160, 60)), (160, 60))
    assert [one[:4] for one in found[:2]] == [
        ("conv1", "_ConvReluPool", (78, 28, 20), 5 * 5 * 3 * 20 + 20),
        ("conv2", "Conv", (74, 24, 25), 5 * 5 * 20 * 25 + 25),
    ]
    assert (found[2].name, found[2].shape) == ("output", (37, 12, 25))


def test_layers_of_the_search_network_are_those_after_the_relu(rng):
    network = VisualSearchNet(width=1 / 16, depth=1, hidden=8, embedding=6)
    images = pixels(rng, 2, 32, 32)
    like = shapes_of(network, False, (32, 32))
    variables = jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype("f4"), like)
    known = layers(network, variables, 32)
    assert find_layer(known, "block1_conv2").name == "deep/block1_conv2"
    found = activations(network, variables, images, names=["block1_conv1", "embedding", "output"])
    first, before, output = found.values()
    assert first.shape == (2, 32, 32, 4)
    conv = variables["params"]["deep"]["block1_conv1"]
    window = images[1, 9:12, 19:22] / 255  # around row 10, column 20
    value = np.einsum("hwc,hwcf->f", window, conv["kernel"]) + conv["bias"]
    np.testing.assert_allclose(first[1, 10, 20], np.maximum(value, 0), atol=1e-5)
    assert value.min() < 0 < value.max()
    np.testing.assert_allclose(output, 1 / (1 + np.exp(-before)), atol=1e-6)


def test_find_layer():
    known = [Layer(name, "Conv", (1,), 0, True) for name in ("a/conv1", "a/conv2", "b/conv2", "b")]
    assert find_layer(known, "conv1").name == "a/conv1"
    assert find_layer(known, "b").name == "b"
    assert find_layer(known, "b/conv2").name == "b/conv2"
    with pytest.raises(UsageError, match="'conv2' fits a/conv2, b/conv2"):
        find_layer(known, "conv2")
    with pytest.raises(
        UsageError, match=r"no layer 'conv11'; did you mean a/conv1 or a/conv2 or b/conv2\?"
    ):
        find_layer(known, "conv11")
    with pytest.raises(
        UsageError, match=r"no layer 'xyz'; choose from a/conv1, a/conv2, b/conv2, b"
    ):
        find_layer(known, "xyz")


def by_hand():
    """zeta: 0 - 1, red - 0.9, exactly 0, 0.5 - green; alpha: its negatives, so all zero, and 1."""
    kernel = np.zeros((1, 1, 3, 4), np.float32)
    kernel[..., 0, 1], kernel[..., 1, 3] = 1, -1
    zeta = {"kernel": kernel, "bias": np.array([-1, -0.9, 0, 0.5], np.float32)}
    alpha = {"kernel": -np.ones((1, 1, 4, 3), np.float32), "bias": np.array([0, 0, 2], np.float32)}
    last = {"kernel": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float32)}
    return {"params": {"stage": {"zeta": zeta, "alpha": alpha}, "last": last}}


def test_dead_filters_by_hand():
    variables = by_hand()
    images = np.full((5, 4, 5, 3), 200, np.uint8)  # red and green 0.78: all four are below 0
    (found,) = dead_filters(
        NETWORK, variables, [images[:2], images[2:4], images[4:]], names=["zeta"]
    )
    # Filling the last batch with black images would make channel 3 answer: 0.5 - 0.
    assert (found.layer, found.channels, found.images) == ("stage/zeta", 4, 5)
    assert found.dead.tolist() == [0, 1, 2, 3]
    images[4, 3, 2] = 255, 10, 0  # one pixel of the last image: 1 - 0.9 and 0.5 - 0.04
    batches = iter([images[:2], images[2:4], images[4:]])
    zeta, alpha = dead_filters(NETWORK, variables, batches, names=["zeta", "alpha"])
    assert zeta.dead.tolist() == [0, 2]
    assert alpha.dead.tolist() == [0, 1]
    assert alpha.channels == 3


def test_dead_filters_are_those_of_all_images_at_once(rng):
    variables, images = tiny(rng), pixels(rng, 7, 4, 5)
    variables["params"]["stage"]["zeta"]["bias"][:] = 1, -9, 0.5, -9
    for layer, values in plain(variables, images).items():
        expected = np.flatnonzero(values.reshape(-1, values.shape[-1]).max(axis=0) <= 0)
        for batch in (2, 3, 7):
            batches = [images[k : k + batch] for k in range(0, 7, batch)]
            (found,) = dead_filters(NETWORK, variables, batches, names=[layer])
            np.testing.assert_array_equal(found.dead, expected)
    (found,) = dead_filters(NETWORK, variables, [images], names=["zeta"])
    assert found.dead.tolist() == [1, 3]


def test_a_smaller_last_batch_is_not_compiled_again(rng):
    variables, images = tiny(rng), pixels(rng, 5, 6, 3)
    before = _highest._cache_size()
    dead_filters(NETWORK, variables, [images[:2], images[2:4], images[4:]], names=["zeta"])
    assert _highest._cache_size() == before + 1


def test_mistakes_are_told(rng):
    variables, images = tiny(rng), pixels(rng, 2, 4, 5)
    with pytest.raises(UsageError, match=r"no layer 'beta'; did you mean stage/zeta\?"):
        activations(NETWORK, variables, images, names=["beta"])
    with pytest.raises(UsageError, match="float64 of shape"):
        activations(NETWORK, variables, images / 255, names=["zeta"])
    with pytest.raises(UsageError, match="no images"):
        dead_filters(NETWORK, variables, [], names=["zeta"])
    with pytest.raises(UsageError, match="LfwNet has no method embed"):
        layers(LfwNet(), {"params": {}}, 32)
    variables["params"]["stage"]["zeta"]["bias"][2] = np.nan
    with pytest.raises(UsageError, match="stage/zeta gives NaN in channel 2"):
        dead_filters(NETWORK, variables, [images], names=["zeta"])


def drawn(values, **options):
    figure = activation_figure(values, layer="conv", network="net", name="a.jpg", **options)
    figure.draw_without_rendering()
    inside = figure.bbox
    for text in figure.texts:
        box = text.get_window_extent()
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1, text.get_text()
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1, text.get_text()
    return figure


@pytest.mark.parametrize("shape", [(40, 24, 6), (1, 1, 80), (14, 14, 70)])
def test_every_map_is_drawn_in_its_own_scale(shape, rng):
    values = rng.uniform(-0.5, 1, shape).astype(np.float32) * np.arange(1, shape[2] + 1)
    values[..., 1] = 0
    values[..., 3] = -np.abs(values[..., 3])
    figure = drawn(values, image=pixels(rng, 1, 30, 20)[0])
    axes, image = figure.axes[0], figure.axes[-1]
    (mosaic,) = axes.images
    frames, grey, crosses, bars = axes.collections
    boxes = [path.get_extents() for path in frames.get_paths()]
    assert len(boxes) == shape[2]
    for k, box in enumerate(boxes):
        place = mosaic.get_array()[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
        times = place.shape[0] // shape[0]
        largest = np.abs(values[..., k]).max() or 1
        np.testing.assert_allclose(place[::times, ::times], values[..., k] / largest, atol=1e-6)
    assert not boxes[0].overlaps(boxes[1])
    assert len(grey.get_paths()) == 1
    assert isinstance(crosses, LineCollection)
    dead = np.flatnonzero(values.max(axis=(0, 1)) <= 0)
    assert len(crosses.get_segments()) == 2 * dead.size
    lengths = [np.ptp(segment[:, 0]) for segment in bars.get_segments()]
    peaks = values.max(axis=(0, 1)).clip(0)
    np.testing.assert_allclose(lengths, boxes[0].width * peaks / peaks.max(), rtol=1e-5)
    assert image.get_title() == "image"
    title, legend = (text.get_text() for text in figure.texts)
    assert title.startswith(f"conv of net: {shape[2]} channels of {shape[0]}x{shape[1]}, ")
    assert "Image: a.jpg" in title
    assert f"{dead.size} of {shape[2]} channels; 1 of them" in " ".join(legend.split())
    if shape[2] == 6:
        assert [text.get_text() for text in axes.texts] == list("012345")
    else:
        rows = [int(text.get_text()) for text in axes.get_yticklabels()]
        columns = [text.get_text() for text in axes.get_xticklabels()]
        assert columns == [f"+{k}" for k in range(rows[1])]
        assert np.diff(rows).tolist() == [rows[1]] * (len(rows) - 1)


@pytest.mark.parametrize("total", [12, 130, 4096])
def test_features_are_bars_or_cells(total, rng):
    values = rng.normal(size=total).astype(np.float32)
    values[5] = 0
    figure = drawn(values)
    axes = figure.axes[0]
    assert f"{total} features" in figure.texts[0].get_text()
    assert f"1 of {total}" in figure.texts[1].get_text()
    if total == 12:
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], values)
        return
    grey, cells = (image.get_array() for image in axes.images)
    assert np.flatnonzero(~np.ma.getmaskarray(grey).ravel()).tolist() == [5]
    np.testing.assert_allclose(cells.compressed(), np.delete(values, 5))
    limits = axes.images[1].get_clim()
    np.testing.assert_allclose(limits, np.array([-1, 1]) * np.abs(values).max())


def test_figures_tell_mistakes():
    with pytest.raises(UsageError, match="layer conv, values of shape"):
        drawn(np.zeros((2, 3, 4, 5)))
    with pytest.raises(UsageError, match="finite"):
        drawn(np.array([1.0, np.inf]))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A finished run of the network that is made by hand."""
    finished = Finished(
        folder=tmp_path, manifest={}, network=NETWORK, variables=by_hand(), size=(4, 5)
    )
    monkeypatch.setattr(Finished, "open", lambda folder, trust: finished)
    return tmp_path


def test_command_prints_the_layers(run, capsys):
    command.inspect(run=run)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:4]] == [
        ["stage/zeta", "Conv", "4x5x4", "16"],
        ["stage/alpha", "ConvRelu", "4x5x3", "15"],
    ]
    assert len(lines) == 2 + 5


def test_command_draws_and_counts(run, capsys):
    folder = run / "images"
    folder.mkdir()
    for k in range(3):
        Image.new("RGB", (5, 4), (200, 200, 200) if k else (200, 20, 20)).save(folder / f"{k}.png")
    command.inspect(run=run, image=folder / "1.png", data=folder)
    lines = capsys.readouterr().out.splitlines()
    written = [run / "activations" / f"1-stage-{name}.png" for name in ("zeta", "alpha")]
    assert lines[:2] == [str(path) for path in written]
    for path in written:
        with Image.open(path) as image:
            assert min(image.size) > 200
    assert "3 images" in lines[2]
    assert lines[-2:] == [
        "stage/zeta: 3 of 4 (75.0%): 0-2",
        "stage/alpha: 2 of 3 (66.7%): 0-1",
    ]
    command.inspect(run=run, image=folder / "1.png", layer="last", out=run / "there")
    assert capsys.readouterr().out.splitlines() == [str(run / "there" / "1-last.png")]


@pytest.mark.parametrize("name", ["a$\\x$_%", "孫" * 80, "w" * 250])
def test_command_draws_for_a_file_of_any_name(run, name, capsys):
    Image.new("RGB", (5, 4), (200, 20, 20)).save(run / "x.png")
    (run / "x.png").rename(run / f"{name}.png")
    command.inspect(run=run, image=run / f"{name}.png", layer="last")
    assert len(list((run / "activations").glob("*.png"))) == 1


def test_command_tells_mistakes(run):
    (run / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"broken\.jpg: not an image"):
        command.inspect(run=run, image=run / "broken.jpg")
    with pytest.raises(UsageError, match="no layer 'conv9'"):
        command.inspect(run=run, layer="conv9")
    Image.new("RGB", (5, 4)).save(run / "black.png")
    with pytest.raises(UsageError, match=r"broken\.jpg: cannot be made"):
        command.inspect(run=run, image=run / "black.png", out=run / "broken.jpg")


def test_command_takes_no_other_folder(tmp_path):
    with pytest.raises(UsageError, match="is not a finished run"):
        command.inspect(run=tmp_path)
    manifest = {"format": 99, "network": {}, "size": 4}
    for change, message in (
        ({}, r"made by a later version of siamjax \(format 99, .* pip install"),
        ({"format": 2}, r"manifest.json: .*missing required field"),
        (
            {"format": 2, "step": 1, "network": {"class": "x:Y", "fields": {}}},
            "x:Y .* give --trust x",
        ),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(UsageError, match=message):
            command.inspect(run=tmp_path)


def test_ranges():
    assert command.ranges([]) == ""
    assert command.ranges([3]) == "3"
    assert command.ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
