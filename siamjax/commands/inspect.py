"""The command that looks inside the network of a run: layers, activations, dead filters."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamjax.commands.arguments import Strict, Trust, UsedRun
from siamjax.commands.output import Answer, answers, used
from siamjax.errors import UsageError

if TYPE_CHECKING:
    from siamjax.report.inside import DeadFilters, Layer
    from siamjax.training.finished import Finished

_LONGEST = 250  # bytes of a file's name; file systems take 255
_BATCH = 16  # images; VGG-16 at 224x224 needs about 25 MB for one


@answers
def inspect(
    *,
    run: UsedRun,
    image: Path | None = None,
    layer: str | None = None,
    data: Path | None = None,
    strict: Strict = False,
    out: Path | None = None,
    trust: Trust = (),
) -> Answer:
    """Look inside a run's network: a table of its layers, their activations, dead filters.

    Args:
        image: Image to draw activations for, one PNG for each layer.
        layer: Name of a layer, or its end, such as block5_conv1; None: every convolution.
        data: Folder of images over which to find the filters that are never above 0.
        out: Folder for the PNGs; None: RUN/activations.
    """
    from siamjax.report.inside import find_layer, layers
    from siamjax.training.finished import Finished

    finished = Finished.open(run, trust=trust)
    known = layers(finished.network, finished.variables, finished.size)
    if layer is not None:
        chosen = [find_layer(known, layer)]
    else:
        chosen = [one for one in known if one.convolution]
    values: dict[str, Any] = {"run": run, "layers": [], "drawn": [], "images": None, "dead": []}
    if image is None and data is None:
        table = known if layer is None else chosen
        values["layers"] = [one._asdict() for one in table]
        then = ("inspect", *used(finished), "--image", "query.jpg") if chosen else ()
        return Answer(values=values, text=_table(finished, table), then=then)
    if not chosen:
        names = ", ".join(one.name for one in known)
        raise UsageError(f"{run}: its network has no convolution; choose --layer from: {names}")
    text: list[str] = []
    if image is not None:
        values["drawn"] = _draw(
            finished, chosen, image, finished.kept / "activations" if out is None else out
        )
        text += map(str, values["drawn"])
    if data is not None:
        values["images"], found = _dead(finished, chosen, data, strict)
        values["dead"] = [{**one._asdict(), "dead": one.dead.tolist()} for one in found]
        text.append(f"filters never above 0 for any of the {values['images']:,} images of {data}")
        for one in found:
            count = len(one.dead)
            said = f"{one.layer}: {count} of {one.channels} ({count / one.channels:.1%})"
            text.append(f"{said}: {ranges(one.dead.tolist())}" if count else said)
    then = ("export", *used(finished), "--out", "model/")
    return Answer(values=values, text=text, then=then)


def ranges(numbers: Sequence[int]) -> str:
    """Ascending whole numbers, abbreviated: ``0-2, 5``."""
    values = np.asarray(numbers, int)
    if not values.size:
        return ""
    parts = np.split(values, np.flatnonzero(np.diff(values) != 1) + 1)
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _table(run: "Finished", shown: "Sequence[Layer]") -> list[str]:
    from siamjax.aligned import text_table
    from siamjax.data.transforms import sides

    rows = [
        (one.name, (one.kind, "x".join(map(str, one.shape)), f"{one.parameters:,}"))
        for one in shown
    ]
    height, width = sides(run.size)
    columns = ["kind", "shape", "parameters, with those of inner layers"]
    title = f"layers of {run.folder} for an image of {height}x{width}"
    return [title, text_table(columns, rows)]


def _draw(run: "Finished", chosen: "Sequence[Layer]", image: Path, out: Path) -> list[Path]:
    from siamjax.data.images import decode, read_file
    from siamjax.data.transforms import resize
    from siamjax.files import saying
    from siamjax.report.inside import activations
    from siamjax.report.inside_figures import activation_figure

    pixels = resize(decode(read_file(image), name=str(image)), run.size)
    with saying(f"{out}: cannot be made", remedy="change --out"):
        out.mkdir(parents=True, exist_ok=True)
    names = [one.name for one in chosen]
    drawn, found = [], activations(run.network, run.variables, pixels[None], names=names)
    for name, values in found.items():
        figure = activation_figure(
            values[0], layer=name, network=str(run.folder), name=image.name, image=pixels
        )
        ending = f"-{name.replace('/', '-')}"[-100:] + ".png"
        stem = image.stem
        while len(os.fsencode(stem + ending)) > _LONGEST:
            stem = stem[:-1]
        path = out / f"{stem}{ending}"
        with saying(f"{path}: cannot be written"):
            figure.savefig(path, dpi=110)
        drawn.append(path)
    return drawn


def _dead(
    run: "Finished", chosen: "Sequence[Layer]", data: Path, strict: bool
) -> "tuple[int, list[DeadFilters]]":
    from siamjax.data.batches import image_batches
    from siamjax.data.folders import image_files
    from siamjax.data.images import of_files
    from siamjax.report.inside import dead_filters

    images = of_files(image_files(data, strict=strict), name=str(data))

    def batches() -> Iterator[np.ndarray]:
        whole = min(_BATCH, len(images))
        for batch in image_batches(images, np.arange(len(images)), batch_size=whole, size=run.size):
            yield batch["image"][: int(batch["weight"].sum())]

    names = [one.name for one in chosen]
    return len(images), dead_filters(run.network, run.variables, batches(), names=names)
