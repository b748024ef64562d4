"""Which tasks a set, a folder or a file can be for."""

import os
from pathlib import Path
from typing import Literal

from siamjax.data import open_catalogue, reid, verification
from siamjax.data.lists import lists_pairs
from siamjax.errors import UsageError, shown

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
