import dataclasses
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from siamjax.data.transforms import Framing, sides
from siamjax.errors import UsageError
from siamjax.inference import export
from siamjax.inference.calibration import fingerprint
from siamjax.inference.digests import differing, readable
from siamjax.inference.export import export_run
from siamjax.inference.model_card import model_card
from siamjax.models import FaceEmbedding, IResNet, OSNet, ResNet, VisionTransformer
from siamjax.models.heads import DistanceLogitHead
from siamjax.models.lfw import LfwNet
from siamjax.models.normxcorr_net import NormXCorrNet
from siamjax.models.siamese import Siamese
from siamjax.models.vgg16 import Vgg16Features
from siamjax.pretrained.published import place_of
from siamjax.training import Finished, initialize
from siamjax.training.description import describe_module

ALONE = """
import json, sys
sys.modules["siamjax"] = sys.modules["flax"] = None  # as if they were not installed
import jax.export
import numpy as np
from safetensors.numpy import load_file

weights = load_file("model.safetensors")
first, second = np.load("first.npy"), np.load("second.npy")
score, embed = (
    jax.export.deserialize(bytearray(open(f"{name}.stablehlo", "rb").read()))
    for name in ("score", "embed")
)
assert score.platforms == ("cpu", "cuda", "tpu")
np.save("scores.npy", score.call(weights, first, second))
np.save("embeddings.npy", embed.call(weights, first[:2]))
"""


def run_of(network, size, tmp_path, **facts):
    variables, _ = initialize(network, size=size, seed=0)
    manifest = {"network": describe_module(network), "size": list(size), "step": 1, **facts}
    return Finished(
        folder=tmp_path, manifest=manifest, network=network, variables=variables, size=size
    )


def verifier(tmp_path):
    backbone = LfwNet(width=0.0625, dtype=jnp.bfloat16)
    network = Siamese(backbone=backbone, head=DistanceLogitHead())
    return run_of(network, (16, 24), tmp_path, threshold=-0.5, measure="logit")


def embedder(tmp_path):
    return run_of(Vgg16Features(depth=1, width=0.0625), (8, 12), tmp_path)


def cross_input(tmp_path):
    network = NormXCorrNet(fused=False, column_search=1)
    return run_of(network, (40, 40), tmp_path)


@pytest.mark.parametrize("kind", [verifier, embedder, cross_input])
def test_loaded_with_jax_alone_it_gives_what_the_run_gives(kind, tmp_path, rng):
    run, out = kind(tmp_path), tmp_path / "model"
    assert max(export_run(run, out)) < 1e-4
    first, second = rng.integers(0, 256, (2, 5, *run.size, 3), np.uint8)
    np.save(out / "first.npy", first)
    np.save(out / "second.npy", second)
    subprocess.run([sys.executable, "-c", ALONE], cwd=out, check=True)
    embed = jax.jit(partial(run.network.apply, method="embed"))
    features = [embed(run.variables, x) for x in (first, second)]
    package = str(Path(export.__file__).parents[2]).encode()  # where it lies on this machine
    assert all(package not in path.read_bytes() for path in out.glob("*.stablehlo"))
    if kind is embedder:
        expected = np.linalg.norm(features[0] - features[1], axis=1)
    else:
        expected = run.network.apply(run.variables, *features, method="compare")
    np.testing.assert_allclose(np.load(out / "scores.npy"), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        np.load(out / "embeddings.npy"), features[0][:2], rtol=1e-4, atol=1e-5
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["size"] == list(run.size)
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert set(manifest["sha256"]) == {"embed.stablehlo", "score.stablehlo", "model.safetensors"}
    assert (kind is verifier) == ("at least -0.5000" in (out / "README.md").read_text())


PUBLISHED = {
    "face_embedding": (FaceEmbedding(), Framing(size=(104, 103), pad=True)),
    "iresnet": (IResNet(depths=(1, 1, 1, 1)), (112, 112)),
    "osnet": (OSNet(channels=(16, 64, 64, 64), depths=(1, 1, 1)), (64, 32)),
    "resnet": (ResNet(depths=(1, 1, 1, 1)), Framing(size=(32, 40), shorter=48, filter="bicubic")),
    "vit": (VisionTransformer(width=64, depth=1, patch=8, grid=3), (16, 24)),
}


@pytest.mark.parametrize(
    "name", [n if n == "vit" else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED]
)
def test_a_published_network_goes_round(name, tmp_path, rng):
    """Exported, run by JAX, opened again as a run: one and the same."""
    network, size = PUBLISHED[name]
    variables, _ = initialize(network, size=size, seed=0)
    noisy = jax.tree.map(  # what begins as 0 or 1 must travel too
        lambda leaf: leaf + np.asarray(0.02 * rng.random(leaf.shape) - 0.01, leaf.dtype), variables
    )
    manifest = {"network": describe_module(network), "size": list(sides(size)), "step": 0}
    run = Finished(folder=tmp_path, manifest=manifest, network=network, variables=noisy, size=size)
    export_run(run, tmp_path / "model", platforms=("cpu",))
    opened = Finished.open(tmp_path / "model")
    assert (opened.network, opened.size) == (network, size)
    assert not differing(fingerprint(run), fingerprint(opened))  # so its calibration still holds
    before, after = (
        dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (noisy, opened.variables)
    )
    assert before.keys() == after.keys()
    for path, leaf in before.items():
        assert after[path].dtype == leaf.dtype
        np.testing.assert_array_equal(after[path], leaf)
    x = rng.integers(0, 256, (2, *sides(size), 3), np.uint8)
    embed = jax.export.deserialize(bytearray((tmp_path / "model/embed.stablehlo").read_bytes()))
    got = embed.call(load_file(tmp_path / "model/model.safetensors"), x)
    expected = jax.jit(network.apply)(noisy, x)
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.sqrt(np.square(expected).mean()))


class Spectral(nn.Module):
    """linen's SpectralNorm keeps ``Conv_0/kernel/u`` under that one name, with its slashes."""

    @nn.compact
    def embed(self, x, *, train=False):
        x = nn.SpectralNorm(nn.Conv(3, (2, 2)))(x / 255.0, update_stats=train)
        scale = self.param("50% / 1", nn.initializers.constant(0.5), (3,))
        return (scale * x).mean((1, 2))

    __call__ = embed


def test_names_with_slashes_within_them(tmp_path, rng):
    run = run_of(Spectral(), (4, 5), tmp_path)
    assert run.variables["params"].keys() >= {"50% / 1"}
    export_run(run, tmp_path / "model", platforms=("cpu",))
    opened = Finished.open(tmp_path / "model", trust=(__name__,))
    assert jax.tree.structure(opened.variables) == jax.tree.structure(run.variables)
    assert opened.weights == run.weights
    x = rng.integers(0, 256, (3, 4, 5, 3), np.uint8)
    embed = jax.export.deserialize(bytearray((tmp_path / "model/embed.stablehlo").read_bytes()))
    got = embed.call(load_file(tmp_path / "model/model.safetensors"), x)
    np.testing.assert_allclose(got, run.network.apply(run.variables, x), rtol=1e-5)


def test_a_dtype_has_one_name_however_it_is_written():
    for of_code, of_file in (
        ("dtype = float32", f"dtype = {np.dtype('float32')!r}"),
        (f"partial({jnp.bfloat16!r})", f"partial({jnp.dtype('bfloat16')!r})"),
    ):
        assert readable(of_code) == readable(of_file) != readable("dtype = float16")
        assert not differing({"network": of_code}, {"network": of_file})
        assert differing({"network": of_code}, {"network": "dtype = float16"})


def test_model_card(tmp_path, monkeypatch):
    """What the run says, and nothing that it does not."""
    run, out = embedder(tmp_path), tmp_path / "bare"
    export_run(run, out, platforms=("cpu",))
    bare = (out / "README.md").read_text()
    assert bare.startswith("---\nlibrary_name: siamjax\n")
    for word in ("licen", "Trained on", "Results", "Threshold", "Calibration", "None", "trust"):
        assert word not in bare
    assert "`siamjax.models.vgg16:Vgg16Features`; " in bare
    assert "inside the network: `bgr_mean`" in bare
    facts = {
        "task": "verification",
        "data": "orl_faces",
        "data_credit": "AT&T Laboratories\nCambridge",
        "protocol": "by people",
        "config": {"weights": "/home/me/dinov2-small/model.safetensors", "weights_sha256": "ab12"},
        "threshold": 0.25,
        "trained_on": ["secret name"],
        "results": {
            "network": {"auc": 0.9, "eer": None, "pairs_same": 450},
            "raw pixels": {"auc": 0.8, "eer": None, "pairs_same": 450},
        },
        "intervals": {"network": {"auc": [0.85, 0.95]}},
    }
    run = run_of(run.network, (8, 12), tmp_path, **facts)
    export_run(run, tmp_path / "full", platforms=("cpu",))
    card = (tmp_path / "full" / "README.md").read_text()
    assert "tags: [jax, flax, image-similarity, verification]" in card
    assert "Trained on orl_faces (AT&T Laboratories" in card
    assert "Laboratories\nCambridge" not in card  # a text is no Markdown of its own
    assert "Divided: by people." in card
    assert "* Threshold of the distance: 0.2500." in card
    began = "Began with published weights: `dinov2-small/model.safetensors`, sha256 of its tensors"
    assert f"{began} ab12." in card
    assert "| auc | 0.9 [0.85, 0.95] | 0.8 |" in card
    assert "| pairs_same | 450 | 450 |" in card
    assert "eer" not in card
    assert "secret name" not in card + (tmp_path / "full" / "manifest.json").read_text()
    facts["config"]["weights"] = "dinov2-small"
    facts["data_credit"] = str(tmp_path)  # of a folder: the reader has another machine
    run = run_of(run.network, (8, 12), tmp_path, **facts)
    said = model_card(run, {}, name="x", platforms=("cpu",))
    assert "`dinov2-small` (Apache-2.0, Oquab et al., Meta), sha" in said
    assert "Trained on orl_faces, " in said
    export_run(run, tmp_path / "of a folder", platforms=("cpu",))
    assert "data_credit" not in (tmp_path / "of a folder" / "manifest.json").read_text()
    file = tmp_path / "weights.pth"
    file.touch()
    said = model_card(dataclasses.replace(run, folder=file), {}, name="x", platforms=("cpu",))
    assert f"* Weights: as published, `{tmp_path.name}/weights.pth`." in said
    monkeypatch.setenv("SIAMJAX_WEIGHTS", str(tmp_path / "weights"))
    kept = place_of("dinov2-small")
    kept.parent.mkdir(parents=True)
    kept.touch()
    said = model_card(dataclasses.replace(run, folder=kept), {}, name="x", platforms=("cpu",))
    assert f"`{kept.parent.name}/{kept.name}` (Apache-2.0, Oquab et al., Meta)." in said
    for name in ("SIAMJAX_WEIGHTS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with monkeypatch.context() as homeless:
        homeless.setattr(os.path, "expanduser", lambda path: path)
        said = model_card(dataclasses.replace(run, folder=file), {}, name="x", platforms=("cpu",))
        assert f"* Weights: as published, `{tmp_path.name}/weights.pth`." in said
    part = Framing(size=(8, 12), box=(0.25, 0.0, 1.0715, 1.0))
    said = model_card(dataclasses.replace(run, size=part), {}, name="x", platforms=("cpu",))
    assert "the part (0.25, 0.0, 1.0715, 1.0), bilinear to (8, 12) (a part: top, left, bo" in said
    make = {"class": "a:B", "fields": {"make": {"import": "mine.networks:Net"}}}
    run.manifest["network"] = make
    said = model_card(run, {}, name="x", platforms=("cpu",))
    assert "Its code is in `a`, `mine.networks`: give `--trust a mine.networks`." in said
    opened = Finished.open(tmp_path / "full")
    assert opened.about.threshold == 0.25
    with pytest.raises(UsageError, match="give the whole folder of an exported run, with its man"):
        Finished.open(tmp_path / "full" / "model.safetensors")
    weights = tmp_path / "full" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(
        UsageError, match=r"damaged \(.* its sha256 is not .*; export the run again"
    ):
        Finished.open(tmp_path / "full")


def test_refused(tmp_path, monkeypatch):
    run, out = embedder(tmp_path), tmp_path / "model"
    with pytest.raises(UsageError, match="platforms rocm: choose from cpu, cuda, tpu"):
        export_run(run, out, platforms=("cpu", "rocm"))
    monkeypatch.setattr(export, "TOLERANCE", -1.0)  # what was written never agrees
    with pytest.raises(UsageError, match=r"differs from the run by .* nothing was written"):
        export_run(run, out, platforms=("cpu",))
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with pytest.raises(UsageError, match="exists already"):
        export_run(run, out)
