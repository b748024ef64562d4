"""``manifest.json``: all that is needed to use a finished run."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import msgspec

from siamjax.data.transforms import Framing
from siamjax.errors import UsageError, shown
from siamjax.files import Finite, Natural, read_json, typed
from siamjax.runs import FORMAT, format_of

_Side = Annotated[int, msgspec.Meta(ge=1, le=2**16)]


class Manifest(msgspec.Struct, kw_only=True):
    """What the project itself uses of ``manifest.json``; format 1 lacks some.

    Attributes:
        network: the network's description.
        size: side, or height and width, of the network's images.
        framing: how an image comes to that size; None: it is stretched to it.
        step: of the checkpoint that the results are those of.
        task: verification, reid or retrieval; empty for any other, and in earlier runs.
        threshold: between same and different, as a distance or a logit.
        trials: galleries that a single-shot re-identification was tested on.
        data: name of the data set.
        trained_on: identities that training saw.
        config: the experiment's options.
        splits: the options that make the splits again.
        sha256: of the files beside it, in an exported run.
    """

    network: dict[str, Any]
    size: _Side | Annotated[list[_Side], msgspec.Meta(min_length=2, max_length=2)]
    step: Natural
    framing: Framing | None = None
    task: str = ""
    threshold: Finite | None = None
    trials: Annotated[int, msgspec.Meta(ge=1, le=10**6)] = 10
    data: str = ""
    trained_on: list[str] = []
    config: dict[str, Any] = {}
    splits: dict[str, Any] = {}
    sha256: dict[str, str] = {}

    @property
    def images(self) -> Framing | tuple[int, int]:
        """Size of the network's images, and how they come to it."""
        if self.framing is not None:
            return self.framing
        height, width = [self.size] * 2 if isinstance(self.size, int) else self.size
        return height, width

    def known_in(self, data: str, names: Collection[str]) -> set[str]:
        """Those of the run's people by these names who can be meant in another set, too.

        Names that are numbers mean nobody there.
        """
        numbers = all(map(str.isdecimal, names))
        return set() if numbers and data != self.data else set(names)


def read_manifest(
    folder: Path, *, missing: str = "; python -m siamjax runs lists runs and their states"
) -> tuple[Manifest, dict[str, Any]]:
    """What the project uses of a run's manifest, and all that stands in it.

    Raises ``UsageError`` if there is none (which ends with ``missing``), for a later format, for
    the manifest of an index, and for a value of another type.
    """
    path = folder / "manifest.json"
    if not os.path.exists(path):  # also one that cannot be looked at
        raise UsageError(
            f"{shown(folder)} is not a finished run: manifest.json is missing{missing}"
        )
    whole, where = read_json(path, dict[str, Any]), shown(path)
    if str(kind := whole.get("format")).startswith("siamjax "):  # as an index has it
        raise UsageError(f"{where} is that of a {shown(kind)} and of no run; check the option")
    number = format_of(whole, where=where)
    if number > FORMAT:
        raise UsageError(
            f"{shown(folder)} was made by a later version of siamjax (format {number}, this one "
            f"reads up to {FORMAT}); pip install --upgrade siamjax"
        )
    manifest = typed(whole, Manifest, where=where)
    if number == 1:
        try:
            manifest.network = _without_axis(manifest.network)
        except RecursionError:
            raise UsageError(f"{where}: network: too many things within things") from None
    return manifest, whole


def _without_axis(description: Any) -> Any:
    """A description of format 1 without the axis of devices, which is no longer a field."""
    if not isinstance(description, dict):
        return description
    return {
        name: _without_axis(value) for name, value in description.items() if name != "axis_name"
    }
