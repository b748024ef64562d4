import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.inference import export
from siamjax.inference.export import export_run
from siamjax.models.heads import DistanceLogitHead
from siamjax.models.lfw import LfwNet
from siamjax.models.normxcorr_net import NormXCorrNet
from siamjax.models.siamese import Siamese
from siamjax.models.vgg16 import Vgg16Features
from siamjax.training import Finished, initialize
from siamjax.training.description import describe_module

ALONE = """
import json, sys
sys.modules["siamjax"] = sys.modules["flax"] = None  # as if they were not installed
import jax.export
import numpy as np

weights = dict(np.load("weights.npz"))
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
    assert set(manifest["sha256"]) == {"embed.stablehlo", "score.stablehlo", "weights.npz"}
    assert (kind is verifier) == ("at least -0.5000" in (out / "README.md").read_text())


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
