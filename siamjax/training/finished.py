"""A finished run, opened for use."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn

from siamjax.errors import UsageError
from siamjax.training.checkpoints import Checkpoints
from siamjax.training.description import build_module
from siamjax.training.run import FORMAT, read_json


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run whose network is ready to use.

    Attributes:
        folder: the run's folder.
        manifest: what :meth:`siamjax.training.Run.write_manifest` wrote.
        network: the network that was trained.
        variables: parameters and statistics of the best checkpoint.
        size: (height, width) of the network's images.
    """

    folder: Path
    manifest: dict[str, Any]
    network: nn.Module
    variables: Any
    size: tuple[int, int]

    @classmethod
    def open(cls, folder: Path) -> "Finished":
        """Load a finished run with the checkpoint that its manifest names.

        Raises ``UsageError`` if the run is not finished, was made by a later version, or has lost
        that checkpoint: no other would fit the results in the manifest.
        """
        manifest = read_json(folder / "manifest.json")
        number = manifest.get("format", 1)
        if number > FORMAT:
            raise UsageError(
                f"{folder} was made by a later version of siamjax (format {number}, this one reads "
                f"up to {FORMAT}); pip install --upgrade siamjax"
            )
        try:
            description, size, step = (manifest[name] for name in ("network", "size", "step"))
        except KeyError as error:
            raise UsageError(f"{folder / 'manifest.json'} lacks {error}") from None
        if number == 1:
            description = _without_axis(description)
        network = build_module(description)
        height, width = (size, size) if isinstance(size, int) else size
        checkpoints = Checkpoints(folder / "checkpoints", best="")
        try:
            variables = checkpoints.load(step)
        except UsageError as error:
            raise UsageError(
                f"{folder}: the checkpoint of step {step} is gone or damaged ({error}); run the "
                "experiment's command again to evaluate the best one left"
            ) from None
        finally:
            checkpoints.close()
        return cls(
            folder=folder,
            manifest=manifest,
            network=network,
            variables=variables,
            size=(int(height), int(width)),
        )


def _without_axis(description: Any) -> Any:
    """A description of format 1 without the axis of devices, which is no longer a field."""
    if not isinstance(description, dict):
        return description
    return {
        name: _without_axis(value) for name, value in description.items() if name != "axis_name"
    }
