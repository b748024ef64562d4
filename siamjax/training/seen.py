"""Which images a run has seen, by their pixels: ``seen.json`` in its folder.

Whoever measures a run on other images asks here whether they are others: names alone do not tell,
since a person may be called otherwise elsewhere.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from siamjax.files import read_json, saying, write_json

SEEN = "seen.json"

_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]


class Seen(msgspec.Struct, kw_only=True):
    """Images that a run has seen.

    Attributes:
        trained: hashes (``ImageSet.content``) of the images that training could show.
        chose: those of the images that chose the checkpoint.
        people: names of the people who chose it; empty where they are not known.
    """

    trained: list[_Digest]
    chose: list[_Digest]
    people: list[str]

    @classmethod
    def of(cls, splits: Any) -> "Seen | None":
        """What training on these splits sees; None of splits that do not tell their images."""
        training = getattr(splits, "training_images", None)
        validation = getattr(splits, "validation_images", None)
        if training is None or validation is None:
            return None
        both = np.concatenate([training, validation])
        shown, place = np.unique(both, return_inverse=True)
        content = splits.images.content(shown)
        digests = [content[index] for index in place]
        known = bool(splits.trained_on)  # in a list each image counts as a person of its own
        people = splits.images.identities[validation].tolist() if known else []
        return cls(
            trained=sorted({*digests[: len(training)]} - {""}),
            chose=sorted({*digests[len(training) :]} - {""}),
            people=sorted(set(people)),
        )

    def __or__(self, other: "Seen") -> "Seen":
        """What either has seen."""
        return Seen(
            trained=sorted({*self.trained, *other.trained}),
            chose=sorted({*self.chose, *other.chose}),
            people=sorted({*self.people, *other.people}),
        )

    @classmethod
    def read(cls, folder: Path) -> "Seen | None":
        """That of a run; None of a run that has none. ``UsageError`` for a damaged file."""
        path = folder / SEEN
        return read_json(path, cls) if os.path.lexists(path) else None

    def write(self, folder: Path) -> None:
        """Write it into a run's folder; ``UsageError`` if it cannot be written."""
        with saying(f"{folder / SEEN}: cannot be written", remedy="make room, and run it again"):
            write_json(folder / SEEN, msgspec.to_builtins(self))
