"""Forward pass of InceptionV3 and VGG-16, 8 images, against keras.applications on its JAX backend.

    python -m benchmarks.pretrained_forward

Without the top, at 299x299 and 224x224, float32, jitted, with the same random weights; the results
are compared first. Keras runs twice: as it is installed, and with the XLA flags that siamjax sets.
Needs the extra ``benchmarks``.
"""

import importlib
import json
import os
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.in_turn import Prepared, compare, serve

BATCH = 8
SIDES = {"inception_v3": 299, "vgg16": 224}
OURS, KERAS, FLAGGED = "siamjax", "keras.applications", "keras.applications, siamjax's flags"


def _tensors(architecture: str) -> dict[str, np.ndarray]:
    """Weights by siamjax's names: Glorot uniform kernels, statistics of 0 and 1."""
    import flax.traverse_util
    import jax

    network, image = _network(architecture), _images(architecture)[:1]
    like: Any = jax.eval_shape(network.init, jax.random.key(0), image)
    found, flat = {}, flax.traverse_util.flatten_dict(like, sep="/")
    leaves: dict[str, Any] = dict(flat)
    for path, leaf in leaves.items():
        if path.endswith("kernel"):
            fans = int(np.prod(leaf.shape[:-2])) * sum(leaf.shape[-2:])
            draw = np.random.default_rng(zlib.crc32(path.encode())).random(leaf.shape, np.float32)
            found[path] = np.float32(np.sqrt(6 / fans)) * (2 * draw - 1)
        else:
            found[path] = np.full(leaf.shape, float(path.endswith("/var")), np.float32)
    return found


def _network(architecture: str) -> Any:
    from siamjax.models.inception_v3 import InceptionV3
    from siamjax.models.vgg16 import Vgg16

    return {"inception_v3": InceptionV3, "vgg16": Vgg16}[architecture]()


def _images(architecture: str) -> np.ndarray:
    side = SIDES[architecture]
    return np.random.default_rng(0).uniform(-1, 1, (BATCH, side, side, 3)).astype(np.float32)


def siamjax_forward(architecture: str) -> Prepared:
    """The jitted ``apply`` of siamjax's network."""
    from siamjax import use_fast_cpu_kernels

    use_fast_cpu_kernels()
    import flax.traverse_util
    import jax

    network, images = _network(architecture), _images(architecture)
    variables = flax.traverse_util.unflatten_dict(_tensors(architecture), sep="/")
    forward = jax.jit(network.apply)

    def run() -> Any:
        return jax.block_until_ready(forward(variables, images))

    return Prepared({"": run}, {"mean": float(np.asarray(run()).mean())})


def keras_forward(architecture: str, *, flags: bool) -> Prepared:
    """The jitted ``stateless_call`` of Keras's network, without the cost of its own loop."""
    os.environ["KERAS_BACKEND"] = "jax"
    if flags:
        from siamjax import use_fast_cpu_kernels

        use_fast_cpu_kernels()
    import jax

    keras: Any = importlib.import_module("keras")  # an extra, unknown to a type checker
    build = {"inception_v3": keras.applications.InceptionV3, "vgg16": keras.applications.VGG16}
    side = SIDES[architecture]
    model = build[architecture](weights=None, include_top=False, input_shape=(side, side, 3))
    tensors = _tensors(architecture)
    names = {"beta": "params/{}/bias", "moving_mean": "batch_stats/{}/mean"}
    names["moving_variance"] = "batch_stats/{}/var"
    for variable in model.weights:
        layer, kind = variable.path.split("/")[-2:]
        if layer.rstrip("_0123456789") in (
            "conv2d",
            "batch_normalization",
        ):  # Keras counts from 0, siamjax from 1
            base, _, number = layer.rpartition("_") if layer[-1].isdigit() else (layer, "", "0")
            layer = f"{base}_{int(number) + 1}"
        variable.assign(tensors[names.get(kind, f"params/{{}}/{kind}").format(layer)])
    images = _images(architecture)
    trained, others = (
        [variable.value for variable in own]
        for own in (model.trainable_variables, model.non_trainable_variables)
    )
    forward = jax.jit(lambda trained, others, x: model.stateless_call(trained, others, x)[0])

    def run() -> Any:
        return jax.block_until_ready(forward(trained, others, images))

    return Prepared({"": run}, {"mean": float(np.asarray(run()).mean())})


PREPARE: dict[str, Callable[[str], Prepared]] = {
    OURS: siamjax_forward,
    KERAS: partial(keras_forward, flags=False),
    FLAGGED: partial(keras_forward, flags=True),
}


def main(rounds: int = 7, output: Path = Path("benchmarks/results")) -> None:
    """Run both networks; ratios are a candidate's time over siamjax's.

    Args:
        rounds: measured turns.
        output: folder for the JSON files, one an architecture.
    """
    module = [sys.executable, "-m", "benchmarks.pretrained_forward", "--candidate"]
    for architecture in SIDES:
        print(f"{architecture}, {BATCH} images of {SIDES[architecture]}x{SIDES[architecture]}")
        path = output / f"pretrained_forward_{architecture}.json"
        commands = {name: [*module, name, architecture] for name in PREPARE}
        compare(commands, rounds=rounds, reference=OURS, output=path)
        rows = json.loads(path.read_text())["rows"]
        means = {name: rows[name]["start"]["mean"] for name in PREPARE}
        if not np.allclose(list(means.values()), means[OURS], rtol=1e-4):
            raise SystemExit(f"{architecture}: the results differ, their means are {means}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--candidate"]:
        serve(lambda: PREPARE[sys.argv[2]](sys.argv[3]))
    else:
        tyro.cli(main)
