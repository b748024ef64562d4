"""The README of an exported network: a model card in the form of Hugging Face's hub."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from siamjax.data.images import public_credit
from siamjax.data.transforms import Framing, Size, framed, sides
from siamjax.errors import shown
from siamjax.inference.calibration import Calibration
from siamjax.models import comparing
from siamjax.pretrained.published import published_as
from siamjax.training.finished import Finished
from siamjax.training.trusted import modules_to_trust

_CARD = """\
---
library_name: siamjax
pipeline_tag: image-feature-extraction
tags: [jax, flax, image-similarity{task}]
---

# {name}

{about}

## With siamjax

```
python -m siamjax verify FIRST SECOND --network .
python -m siamjax embed PHOTOS --network . --out index/
```

`.` is this folder; its `model.safetensors` has the weights, by their paths, and `manifest.json` the
network.{trust}

## With JAX alone

`embed.stablehlo`: images -> embeddings. `score.stablehlo`: two batches of images -> {measure} of
each pair{meaning}.
Images are uint8 RGB of shape (n, {height}, {width}, 3) for any n; the caller brings them to that
size as stated above, all other preprocessing is inside. Platforms: {platforms}. Loading needs
flatbuffers, safetensors and jax {version}, or a jax released in the six months after it:

```python
import jax.export
from safetensors.numpy import load_file

weights = load_file("model.safetensors")
score = jax.export.deserialize(bytearray(open("score.stablehlo", "rb").read()))
print(score.call(weights, first_images, second_images))
```

Call it within `jax.jit` to keep the weights on the device.
"""


def model_card(
    run: Finished, weights: Mapping[str, np.ndarray], *, name: str, platforms: tuple[str, ...]
) -> str:
    """What is known of a run, as Markdown: what it does not say is left out, a licence too."""
    measure, calibration = comparing.measure(run.network), Calibration.valid(run)
    threshold = calibration.threshold if calibration else run.about.threshold
    side = "at least" if comparing.rises(run.network) else "at most"
    modules = list(_stated(run.manifest["network"], "class"))
    foreign = modules_to_trust(run.manifest["network"])
    trust = " Its code is in {}: give `--trust {}`.".format(
        ", ".join(f"`{one}`" for one in foreign), " ".join(foreign)
    )
    height, width = sides(run.size)
    return _CARD.format(
        task=f", {run.about.task}" if run.about.task else "",
        name=shown(name),
        about="\n".join(_about(run, weights, modules, calibration)),
        trust=trust if foreign else "",
        measure=measure,
        meaning="" if threshold is None else f" (the same where it is {side} {threshold:.4f})",
        height=height,
        width=width,
        platforms=", ".join(platforms),
        version=jax.__version__,
    )


def _about(
    run: Finished,
    weights: Mapping[str, np.ndarray],
    modules: list[str],
    calibration: Calibration | None,
) -> Iterator[str]:
    own, known = run.manifest, run.about
    count = sum(array.size for path, array in weights.items() if path.startswith("params/"))
    kinds = sorted(set(_stated(own["network"], "preprocessing")))
    yield f"* Network: {' of '.join(f'`{one}`' for one in modules[:2])}; {count:,} parameters."
    part = " (a part: top, left, bottom, right, as shares)" if _is_part(run.size) else ""
    yield f"* Images: RGB, upright, on white, {framed(run.size)}{part}."
    if kinds:
        yield f"* Preprocessing, inside the network: {', '.join(f'`{one}`' for one in kinds)}."
    if began := _published_weights(run):
        yield began
    if known.data:
        said = _credit(str(own.get("data_credit", "")))
        yield f"* Trained on {shown(known.data)}{said}, {known.step:,} steps."
    if own.get("protocol"):
        yield f"* Divided: {shown(own['protocol'])}."
    if known.threshold is not None and not calibration:  # else verify has that of the calibration
        yield f"* Threshold of the {comparing.measure(run.network)}: {known.threshold:.4f}."
    if results := own.get("results"):
        yield from ("", "## Results", "", "On the test, with 95 % intervals:", "")
        yield from _table(results, own.get("intervals", {}))
    if calibration:
        people = calibration.people
        of = f"{people[0]} people set it, {people[1]} others gave the rates" if people else "pairs"
        yield from ("", "## Calibration", "")
        yield f"On {shown(calibration.data)}{_credit(calibration.credit)}; {of}."
        yield from ("", f"* Threshold of the {calibration.measure}: {calibration.threshold:.4f}.")
        yield f"* False match rate {calibration.fmr}, false non-match rate {calibration.fnmr}."
        yield from (f"* {shown(note)}" for note in calibration.notes)


def _published_weights(run: Finished) -> str:
    """The line that names the published weights that a network is, or began as."""
    if run.folder.is_file():
        return f"* Weights: as published, `{_file(run.folder)}`{_licence(run.folder)}."
    name, digest = (str(run.about.config.get(key) or "") for key in ("weights", "weights_sha256"))
    if not digest:
        return ""
    return (
        f"* Began with published weights: `{_file(Path(name))}`{_licence(Path(name))}, sha256 of "
        f"its tensors {shown(digest)}."
    )


def _licence(weights: Path) -> str:
    known = published_as(weights)
    return f" ({known.licence})" if known else ""


def _file(path: Path) -> str:
    """Its name, and that of its folder: many files are named model.safetensors."""
    return shown(Path(path.parent.name, path.name))


def _is_part(size: Size) -> bool:
    return isinstance(size, Framing) and size.box != Framing(size=size.size).box


def _credit(credit: str) -> str:
    credit = public_credit(credit)
    return f" ({shown(credit)})" if credit else ""


def _table(results: Mapping[str, Any], intervals: Mapping[str, Any]) -> Iterator[str]:
    methods = list(results)
    yield f"| | {' | '.join(map(shown, methods))} |"
    yield f"| --- |{' --- |' * len(methods)}"
    for measure in dict.fromkeys(name for method in methods for name in results[method]):
        cells = [
            _cell(results[method].get(measure), intervals.get(method, {}).get(measure))
            for method in methods
        ]
        if any(cells):
            yield f"| {shown(measure)} | {' | '.join(cells)} |"


def _cell(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return ""
    ends = "" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]"
    return f"{value:.4g}{ends}"


def _stated(description: Any, key: str) -> Iterator[str]:
    """The values of a key, outermost first, wherever it stands in a network's description."""
    if isinstance(description, dict):
        if isinstance(description.get(key), str):
            yield description[key]
        description = list(description.values())
    if isinstance(description, list):
        for one in description:
            yield from _stated(one, key)
