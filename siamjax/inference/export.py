"""A finished run as serialised StableHLO: to be used where JAX is, and nothing of this project."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from siamjax.distances import euclidean
from siamjax.errors import UsageError
from siamjax.files import write_json, write_text
from siamjax.inference.embedder import features_of
from siamjax.models.protocols import Compares
from siamjax.training.finished import Finished

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-4  # of the largest value, between the run and what was written
_CHECKED = 3  # images of the check

_README = """\
# {name}

`embed.stablehlo`: images -> embeddings. `score.stablehlo`: two lists of images -> {measure} of
each pair{meaning}.
Images are uint8 RGB of shape (n, {height}, {width}, 3), n is free, resized by whoever calls; all
other preprocessing is inside. Platforms: {platforms}. To load it, jax {version} or a later one of
the six months after it, and flatbuffers, which jax.export uses:

```python
import jax.export, numpy as np

weights = dict(np.load("weights.npz"))
score = jax.export.deserialize(bytearray(open("score.stablehlo", "rb").read()))
print(score.call(weights, first_pictures, second_pictures))
```

Call it within `jax.jit` to keep the weights on the device. `manifest.json` has the rest.
"""


def export_run(run: Finished, out: Path, *, platforms: tuple[str, ...] = PLATFORMS) -> list[float]:
    """Write the folder ``out``: embedder, pair scorer, weights, manifest and a README.

    The batch size is free, the platforms are lowered for wherever this runs. What was written is
    read back and compared with the run on random images; the largest relative differences of
    embedder and scorer are returned. The folder appears whole or not at all.

    Raises ``UsageError`` if ``out`` exists, for an unknown platform, and if the check fails.
    """
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise UsageError(f"platforms {', '.join(unknown) or '()'}: known are {PLATFORMS}")
    if out.exists():
        raise UsageError(f"{out} exists already; give --out another folder, or remove it")
    weights = {
        name: np.asarray(value)
        for name, value in flax.traverse_util.flatten_dict(run.variables, sep="/").items()
    }
    picture = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), *run.size, 3), np.uint8)
    functions = {"embed": (_embed(run), 1), "score": (_score(run), 2)}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UsageError(f"{out}: cannot be made ({error.strerror})") from None
    try:
        np.savez(folder / "weights.npz", **weights)  # pyright: ignore[reportArgumentType]
        for name, (function, count) in functions.items():
            try:
                exported = jax.export.export(jax.jit(function), platforms=platforms)(
                    weights, *[picture] * count
                )
            except TypeError as error:
                if "_DimExpr" not in str(error):
                    raise
                raise UsageError(
                    f"{type(run.network).__name__} cannot be exported for any number of images: it "
                    f"asks for that number ({error}); use x.shape[0] and x.reshape(x.shape[0], -1) "
                    "in place of len(x) and of a number computed from it"
                ) from None
            (folder / f"{name}.stablehlo").write_bytes(exported.serialize())
        differences = [_difference(run, folder, name, functions) for name in functions]
        _describe(run, folder, out.name, platforms, differences)
        folder.chmod(0o777 & ~_umask())
        os.replace(folder, out)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return differences


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _embed(run: Finished) -> Callable[..., jax.Array]:
    def embed(weights: dict[str, Any], pictures: jax.Array) -> jax.Array:
        variables = flax.traverse_util.unflatten_dict(weights, sep="/")
        return features_of(run.network, variables, pictures).astype(np.float32)

    return embed


def _score(run: Finished) -> Callable[..., jax.Array]:
    embed = _embed(run)

    def score(weights: dict[str, Any], first: jax.Array, second: jax.Array) -> jax.Array:
        features = embed(weights, first), embed(weights, second)
        if not isinstance(run.network, Compares):
            return euclidean(*features)
        variables = flax.traverse_util.unflatten_dict(weights, sep="/")
        return run.network.apply(variables, *features, method="compare").astype(np.float32)  # pyright: ignore

    return score


def _difference(run: Finished, folder: Path, name: str, functions: dict[str, Any]) -> float:
    """Between what lies in the folder and the run, relative to the largest value."""
    _, count = functions[name]
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (_CHECKED, *run.size, 3), np.uint8) for _ in range(count)]
    with np.load(folder / "weights.npz") as archive:
        weights = {key: archive[key] for key in archive.files}
    exported = jax.export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes()))
    written = np.asarray(exported.call(weights, *pictures))
    embeddings = [features_of(run.network, run.variables, one) for one in pictures]
    if count == 1:
        expected = np.asarray(embeddings[0], np.float32)
    elif not isinstance(run.network, Compares):
        expected = np.asarray(euclidean(*embeddings))
    else:
        expected = np.asarray(run.network.apply(run.variables, *embeddings, method="compare"))
    difference = float(np.abs(written - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not difference <= TOLERANCE:
        raise UsageError(
            f"the exported {name} differs from the run by {difference:.1e} of the largest value "
            f"(at most {TOLERANCE:.0e}); nothing was written"
        )
    return difference


def _describe(
    run: Finished,
    folder: Path,
    name: str,
    platforms: tuple[str, ...],
    differences: list[float],
) -> None:
    own = run.manifest
    measure = run.network.measure if isinstance(run.network, Compares) else "distance"
    height, width = run.size
    manifest = {
        "measure": measure,
        **({"threshold": own["threshold"]} if "threshold" in own else {}),
        "size": [height, width],
        "pictures": f"uint8 RGB (n, {height}, {width}, 3), upright, on white, resized bilinearly",
        "platforms": list(platforms),
        "jax": jax.__version__,
        "checked": dict(zip(("embed", "score"), differences, strict=True)),
        "sha256": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
        },
        "network": own["network"],
        "run": {key: own[key] for key in ("step", "data", "protocol", "results") if key in own},
    }
    write_json(folder / "manifest.json", manifest)
    rises = measure != "distance"
    meaning = ""
    if "threshold" in own:
        side = "at least" if rises else "at most"
        meaning = f" (the same where it is {side} {own['threshold']:.4f})"
    write_text(
        folder / "README.md",
        _README.format(
            name=name,
            measure=measure,
            meaning=meaning,
            height=height,
            width=width,
            platforms=", ".join(platforms),
            version=jax.__version__,
        ),
    )
