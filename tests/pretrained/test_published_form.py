"""What is not as published is refused with tensor, found and expected; nothing is written."""

import flax.traverse_util
import numpy as np
import pytest
from random_variables import random_variables
from small_experiments import TRUNK

from siamjax.commands.weights import convert
from siamjax.errors import UsageError
from siamjax.pretrained import Weights, read_weights
from siamjax.pretrained.published_form import check_published, check_values, published_shapes


def zeros(architecture, **changes):
    """As published, of zeros that take no memory; ``changes`` are shapes, or None to leave out."""
    shapes = {**published_shapes(architecture), **changes}
    return {p: np.broadcast_to(np.float32(0), s) for p, s in shapes.items() if s is not None}


@pytest.mark.parametrize(("architecture", "count"), [("vgg16", 26), ("inception_v3", 376)])
def test_as_published(architecture, count):
    shapes = published_shapes(architecture)
    assert len(shapes) == count
    assert sum(int(np.prod(s)) for s in shapes.values()) == {26: 14_714_688, 376: 21_802_784}[count]
    check_published("w", architecture, zeros(architecture))
    top = {"params/predictions/kernel": (2048, 7), "params/predictions/bias": (7,)}
    check_published("w", architecture, zeros(architecture, **top))
    check_published("w", architecture, zeros(architecture, **{"params/dense_1/kernel": (2048, 7)}))


WRONG = {
    "missing bias": (
        {"params/block3_conv2/bias": None},
        "block3_conv2/bias is missing in the file$",
    ),
    "theano": (
        lambda p, s: s[:1:-1] + s[:2] if len(s) == 4 else s,
        r"block1_conv1/kernel is \(64, 3, 3, 3\) in the file and \(3, 3, 3, 64\) expected; .*"
        r"and 7 more; its kernels are in Theano's order",
    ),
    "width": (
        {"params/block1_conv1/kernel": (3, 3, 3, 32)},
        r"block1_conv1/kernel is \(3, 3, 3, 32\) in the file and \(3, 3, 3, 64\) expected$",
    ),
    "half": (
        lambda p, s: None if p.startswith(("params/block4", "params/block5")) else s,
        "block4_conv1/bias is missing in the file; block4_conv1/kernel is",
    ),
    "top without its bias": (
        {"params/fc1/kernel": (25088, 4096)},
        "fc1/bias is missing",
    ),
    "another bias": (
        {"params/dense_1/kernel": (8, 4), "params/dense_1/bias": (5,)},
        r"dense_1/bias is \(5,\) in the file and \(4,\) expected",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_not_as_published(name):
    changes, message = WRONG[name]
    if callable(changes):
        changes = {path: changes(path, shape) for path, shape in published_shapes("vgg16").items()}
    with pytest.raises(UsageError, match=f"^w is not VGG-16 as published: .*{message}"):
        check_published("w", "vgg16", zeros("vgg16", **changes))


def test_inception_with_a_statistic_missing():
    changes = {
        "batch_stats/batch_normalization_7/mean": None,
        "params/conv2d_94/kernel": (1, 1, 2, 3),
    }
    with pytest.raises(
        UsageError, match=r"InceptionV3 .* batch_normalization_7/mean is missing .*conv2d_94/kernel"
    ):
        check_published("w", "inception_v3", zeros("inception_v3", **changes))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value):
    tensor = np.zeros((2, 3), np.float16)
    tensor[1, 1:] = value
    check_values("w", {"params/a/kernel": np.arange(3), "params/b/bias": np.zeros(0, bool)})
    with pytest.raises(
        UsageError, match=rf"w: b/bias has 2 of 6 values .* first {value} at \(1, 1\)"
    ):
        check_values("w", {"params/a/kernel": np.zeros(3), "params/b/bias": tensor})
    with pytest.raises(UsageError, match=r"the first nan at \(\)"):
        check_values("w", {"params/b/bias": np.array(np.nan)})


def test_values_beyond_float32():
    """Which the network computes in: they were infinite there."""
    good = np.array([3.4e38, -3.4e38, 1e-300])
    check_values("w", {"params/b/bias": good})
    with pytest.raises(UsageError, match=r"b/bias has 1 of 4 values .* first 1e\+39 at \(3,\)"):
        check_values("w", {"params/b/bias": np.append(good, 1e39)})


def test_variances_below_0():
    """Their root is NaN; behind max-pooling all images had the same embedding."""
    values = np.array([0, 1, -1e-3], np.float16)
    check_values("w", {"params/a/var": values, "batch_stats/a/mean": values})
    with pytest.raises(UsageError, match=r"a/var has 1 of 3 values that are not variances, the fi"):
        check_values("w", {"batch_stats/a/var": values})


def test_nothing_is_written(tmp_path, capsys):
    arrays = {
        p.removeprefix("params/"): np.zeros(s, "f2") for p, s in published_shapes("vgg16").items()
    }
    path, out = tmp_path / "w.npz", tmp_path / "out.npz"
    np.savez_compressed(path, **arrays)
    convert(path, out=out)
    said = capsys.readouterr()
    assert f"{out}: vgg16, 26 tensors, 14,714,688 values, images preprocessed by bgr_m" in said.out
    assert f"next: python -m siamjax embed photos/ --network {out} --out index/" in said.err
    out.unlink()
    arrays["block5_conv3/bias"][3] = np.nan
    np.savez_compressed(path, **arrays)
    with pytest.raises(UsageError, match=r"block5_conv3/bias has 1 of 512 values .* at \(3,\)"):
        convert(path, out=out)
    assert not out.exists()


def test_layers_left_out_of_a_file_of_our_own(tmp_path):
    """The part is read; it is whole where it is used."""
    whole, part = tmp_path / "whole.npz", tmp_path / "part.npz"
    flat = flax.traverse_util.flatten_dict(random_variables(TRUNK, (16, 16)), sep="/")
    Weights(source="w", architecture="vit", tensors=flat, preprocessing="signed").save(whole)
    with pytest.raises(UsageError, match=r"--leave-out nrom: no layer of .*whole.npz begins with"):
        convert(whole, out=part, leave_out=("patch_embed", "nrom"))
    assert not part.exists()
    convert(whole, out=part, leave_out=("norm",))
    weights = read_weights(part)
    assert flat.keys() - weights.tensors.keys() == {"params/norm/scale", "params/norm/bias"}
    with pytest.raises(UsageError, match=r"part.npz does not fit .*: norm/bias is missing in the"):
        _ = weights.variables


def test_a_file_of_our_own_may_hold_a_part(tmp_path):
    """But nothing that is no tensor or not finite."""
    tensors = {"params/block1_conv1/kernel": np.ones((3, 3, 3, 16), "f4")}
    part = Weights(source="w", architecture="vgg16", tensors=tensors, preprocessing="unit")
    part.save(tmp_path / "w.npz")
    assert read_weights(tmp_path / "w.npz").tensors.keys() == tensors.keys()
    manifest = np.load(tmp_path / "w.npz")["manifest"]
    for more, message in (
        ({"params/a/bias": np.array([np.inf])}, "a/bias has 1 of 1 values"),
        ({"notes": np.zeros(3)}, "notes is no tensor of a layer"),
        ({"params/a/bias": np.array("text")}, "values of type <U4; expected numbers"),
        (
            {"manifest": np.array('{"architecture": "vgg19", "preprocessing": "unit"}')},
            "manifest: ",
        ),
        ({"manifest": np.array('{"architecture": "vgg16"}')}, "manifest: .*preprocessing"),
        ({"manifest": np.array("[" * 9999)}, "manifest: not JSON"),
        ({"manifest": np.zeros(3)}, "manifest.npy: values of type <f8; expected text"),
    ):
        np.savez(tmp_path / "w.npz", **{"manifest": manifest, **tensors, **more})
        with pytest.raises(UsageError, match=message):
            read_weights(tmp_path / "w.npz")
