"""A finished run as serialised StableHLO and safetensors, which need nothing of this project."""

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save

from siamjax.data.images import public_credit
from siamjax.data.transforms import Framing, framed, sides
from siamjax.errors import UsageError
from siamjax.files import dump_json, saying, write_json, write_text
from siamjax.inference.calibration import Calibration
from siamjax.inference.embedder import features_of
from siamjax.inference.model_card import model_card
from siamjax.models import comparing
from siamjax.training.finished import WEIGHTS, Finished, by_paths, from_paths

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # largest difference between run and export, relative to the largest value
_CHECKED = 3  # random images on which run and export are compared

_KEPT = (  # of the run's manifest; not the names of the people whom training saw, nor paths
    *("format", "experiment", "network", "parameters", "step", "task"),
    *("threshold", "data", "data_sha256", "protocol", "results", "intervals"),
)


def export_run(run: Finished, out: Path, *, platforms: tuple[str, ...] = PLATFORMS) -> list[float]:
    """Write the folder ``out``: embedder, pair scorer, weights, manifest, calibration, model card.

    ``model.safetensors`` has the weights by collection and path, and the network's description as
    metadata. :meth:`siamjax.training.Finished.open` opens the folder as it opens a run.

    Any batch size can be given; every platform can be lowered for, wherever this runs. What was
    written is read back and compared with the run on random images. Returns the largest relative
    differences of embedder and scorer. The folder appears whole or not at all.

    Raises ``UsageError`` if ``out`` exists, for an unknown platform, and if the check fails.
    """
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise UsageError(
            f"platforms {', '.join(unknown) or '()'}: choose from {', '.join(PLATFORMS)}"
        )
    if out.exists():
        raise UsageError(f"{out} exists already; give --out another folder, or remove it")
    weights = {
        name: np.asarray(value, order="C")  # of others safetensors would write the wrong order
        for name, value in by_paths(run.variables).items()
    }
    image = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), *sides(run.size), 3), np.uint8)
    functions = _functions(run)
    with saying(f"{out}: cannot be written"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            folder = Path(scratch) / out.name
            folder.mkdir()
            described = {"siamjax": dump_json(run.manifest["network"])}
            (folder / WEIGHTS).write_bytes(save(weights, metadata=described))
            for name, (function, count) in functions.items():
                lower = jax.export.export(jax.jit(function), platforms=platforms)
                try:
                    with _without_source_lines():
                        exported = lower(weights, *[image] * count)
                except TypeError as error:
                    if "_DimExpr" not in str(error):
                        raise
                    raise UsageError(
                        f"{type(run.network).__name__} cannot be exported for any batch size: it "
                        f"uses the batch size as a number ({error}); in the network, use "
                        "x.shape[0] and x.reshape(x.shape[0], -1) in place of len(x)"
                    ) from None
                (folder / f"{name}.stablehlo").write_bytes(exported.serialize())
            differences = [
                _difference(folder, name, function, weights, count, sides(run.size))
                for name, (function, count) in functions.items()
            ]
            _describe(run, folder, platforms, differences)
            card = model_card(run, weights, name=out.name, platforms=platforms)
            write_text(folder / "README.md", card)
            if calibration := Calibration.valid(run):
                calibration.to_publish().write_into(folder)
            os.replace(folder, out)
    return differences


@contextlib.contextmanager
def _without_source_lines() -> Iterator[None]:
    """JAX notes with each operation the files that called it, by their paths on this machine."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _functions(run: Finished) -> dict[str, tuple[Callable[..., jax.Array], int]]:
    """What is exported, each with its number of batches of images."""

    def embed(weights: dict[str, Any], images: jax.Array) -> jax.Array:
        variables = from_paths(weights)
        return features_of(run.network, variables, images).astype(np.float32)

    def score(weights: dict[str, Any], first: jax.Array, second: jax.Array) -> jax.Array:
        features = embed(weights, first), embed(weights, second)
        variables = from_paths(weights)
        return comparing.compare(run.network, variables, *features).astype(np.float32)

    return {"embed": (embed, 1), "score": (score, 2)}


def _difference(
    folder: Path,
    name: str,
    function: Callable[..., jax.Array],
    weights: dict[str, Any],
    count: int,
    size: tuple[int, int],
) -> float:
    """Between the files in the folder and the run's function, relative to the largest value."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (_CHECKED, *size, 3), np.uint8) for _ in range(count)]
    stored = load_file(folder / WEIGHTS)
    exported = jax.export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
    written = np.asarray(exported.call(stored, *images))
    expected = np.asarray(jax.jit(function)(weights, *images))
    difference = float(np.abs(written - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not difference <= TOLERANCE:
        raise UsageError(
            f"the exported {name} differs from the run by {difference:.1e} of the largest value, "
            f"more than {TOLERANCE:.0e}; nothing was written"
        )
    return difference


def _describe(
    run: Finished, folder: Path, platforms: tuple[str, ...], differences: list[float]
) -> None:
    own = run.manifest
    height, width = sides(run.size)
    credit = public_credit(str(own.get("data_credit", "")))
    manifest = {
        **{key: own[key] for key in _KEPT if key in own},
        **({"data_credit": credit} if credit else {}),
        "size": [height, width],
        **({"framing": dataclasses.asdict(run.size)} if isinstance(run.size, Framing) else {}),
        "measure": comparing.measure(run.network),
        "pictures": f"uint8 RGB (n, {height}, {width}, 3), upright, on white, {framed(run.size)}",
        "platforms": list(platforms),
        "jax": jax.__version__,
        "checked": dict(zip(("embed", "score"), differences, strict=True)),
        "sha256": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
        },
    }
    write_json(folder / "manifest.json", manifest)
