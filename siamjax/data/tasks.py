"""Which tasks a set, a folder or a file can be for, and the splits of one for any of them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from siamjax.data import open_catalogue, reid, retrieval, verification
from siamjax.data.lists import lists_pairs
from siamjax.errors import UsageError, shown
from siamjax.options import Count, Options, Seed, Source

Task = Literal["verification", "reid", "retrieval"]

_MARKET = "bounding_box_test"  # a folder that has this one is in Market-1501's naming


def tasks_of(data: str, *, prefer: Task | None = None) -> tuple[Task, ...]:
    """The tasks that ``data`` can be for; the first is the one that it was made for.

    * A named set is for the task of its name. One of verification or retrieval can be for the other
      too, as both need no more than the identity of each image.
    * A folder in Market-1501's naming: re-identification.
    * A table (.csv, .tsv; not one that begins as a list of pairs) or a folder with one: retrieval,
      or verification.
    * Any other folder: verification, or retrieval; first the one that you ``prefer``.
    * Any other file, a list of pairs: verification.

    Raises ``UsageError`` for what is none of these.
    """
    path = Path(data)
    if data in reid.NAMES or os.path.isdir(path / _MARKET):
        return ("reid",)
    if data in verification.NAMES:
        return "verification", "retrieval"
    table = path.suffix.lower() in open_catalogue.TABLES and not lists_pairs(path)
    if data in open_catalogue.NAMES or table:
        return "retrieval", "verification"
    if os.path.isdir(path):
        listed = open_catalogue.is_unpacked(path) or open_catalogue.table_in(path) is not None
        if listed or prefer == "retrieval":
            return "retrieval", "verification"
        return "verification", "retrieval"
    if os.path.exists(path):
        return ("verification",)
    names = ", ".join((*verification.NAMES, *reid.NAMES, *open_catalogue.NAMES))
    raise UsageError(f"{shown(data)}: no such set, folder or file; give a path or one of {names}")


@dataclass(frozen=True, kw_only=True)
class LabelledOptions(Options):
    """Options of data for any task: images whose identities are known."""

    seed: Seed = 0
    """Seed of the splits; in a run also of examples, augmentation and initial parameters."""
    data: Source = "orl_faces"
    """A set (orl_faces, lfw, emoji, stanford_online_products, pedestrians, market1501, ...), a
    folder with a sub-folder for each identity or in Market-1501's naming, or a table."""
    task: Task | None = None
    """What is validated and tested: verification (are two the same), reid (who is it over
    cameras), retrieval (which item is it); None: what the data was made for."""
    home: Path | None = None
    """Where a set lies that is not embedded; None: as its own experiment finds it."""
    validation_identities: Count | None = None
    """People or items that choose the checkpoint; None: as many as by default for the data."""
    test_identities: Count | None = None
    """People or items to test on; None: as many as by default for the data, or as published."""
    strict: bool = False
    """Refuse data of which something would be left out; else that is told."""


def load_labelled(
    options: LabelledOptions,
) -> verification.VerificationSplits | reid.ReidSplits | retrieval.RetrievalSplits:
    """The splits of any data with identities: those of the task that it is for.

    Raises ``UsageError`` as the loaders of the three tasks do, for data that cannot be for
    ``task``, and for a list of pairs, which does not tell identities.
    """
    tasks = tasks_of(options.data)
    task = options.task or tasks[0]
    if task not in tasks:
        raise UsageError(f"{shown(options.data)} cannot be for {task}, only for {tasks[0]}")
    unit = "items" if task == "retrieval" else "people"
    given = {
        "seed": options.seed,
        "data": options.data,
        "strict": options.strict,
        "home": options.home,
        f"validation_{unit}": options.validation_identities,
        f"test_{unit}": options.test_identities,
    }
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "home" in asked and task == "verification":
        raise UsageError(f"home {options.home} does not apply to {options.data}; leave it out")
    own = "identities"  # what the options here count, in errors too
    if task == "reid":
        return reid.load_reid(reid.ReidOptions(**asked), unit=own)
    if task == "retrieval":
        return retrieval.load_retrieval(retrieval.RetrievalOptions(**asked), unit=own)
    splits = verification.load_verification(verification.VerificationOptions(**asked), unit=own)
    if not splits.trained_on:
        raise UsageError(
            f"{shown(options.data)} is a list of pairs and does not say who is who; give a folder "
            "with a sub-folder for each identity"
        )
    return splits
