"""The table of the images that could not be embedded, in the index's folder."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from siamjax import messages
from siamjax.errors import UsageError, shown
from siamjax.files import read_bytes, write_bytes

FAILED = "failed.csv"
_COLUMNS = ["id", "picture", "why", "catalogue"]
_LIMIT = 2**30  # bytes


class Failure(NamedTuple):
    """A line of the table: an image's id and file, what is wrong with it, and its catalogue."""

    id: str
    image: str
    why: str
    catalogue: str


def read_failed(folder: Path) -> list[Failure]:
    """The images that could not be embedded; none, with a warning, from a damaged table."""
    path = folder / FAILED
    if not path.exists():
        return []
    try:
        text = read_bytes(path, limit=_LIMIT).decode(errors="surrogateescape")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))[1:]
        if wrong := [line for line in lines if len(line) != len(_COLUMNS)]:
            raise UsageError(f"{shown(path)}: a line of {len(wrong[0])} columns")
    except (UsageError, csv.Error) as error:
        messages.warn(f"{shown(path)} is damaged and not read ({error})")
        return []
    return [Failure(*line) for line in lines]


def write_failed(folder: Path, failed: Mapping[str, tuple[str, str]], *, source: str) -> None:
    """Replace the lines of one catalogue; ``failed`` gives image and reason by id.

    Those of other catalogues stay, and without any line there is no file.
    """
    lines = [line for line in read_failed(folder) if line.catalogue != source]
    lines += [Failure(key, image, why, source) for key, (image, why) in failed.items()]
    if not lines:
        (folder / FAILED).unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_COLUMNS, *lines])
    write_bytes(folder / FAILED, text.getvalue().encode(errors="surrogateescape"))
