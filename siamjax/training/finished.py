"""A finished run, opened to be used."""

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
    """A run that can be used; what for is what its network answers to.

    Attributes:
        folder: the run's.
        manifest: what was written when it was judged.
        network: as it was trained.
        variables: parameters and statistics of the best checkpoint.
        size: (height, width) of its images.
    """

    folder: Path
    manifest: dict[str, Any]
    network: nn.Module
    variables: Any
    size: tuple[int, int]

    @classmethod
    def open(cls, folder: Path) -> "Finished":
        """Load a finished run's checkpoint, the one that its manifest was written for.

        Raises ``UsageError`` if the run is not finished, was made by a later version, or has lost
        that checkpoint: no other would fit the manifest's results.
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
                "experiment's command again to judge what is left"
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
    """A network as format 1 described it, without the axis that is found now and not passed."""
    if not isinstance(description, dict):
        return description
    return {
        name: _without_axis(value) for name, value in description.items() if name != "axis_name"
    }
