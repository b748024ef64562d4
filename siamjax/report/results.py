"""The page of a search: every query and what was found for it, as images."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from siamjax.errors import UsageError
from siamjax.report.page import data_address, write_page

_SIDE = 288  # pixels of a thumbnail's longer side: twice what the page shows, for sharp screens


class Shown(NamedTuple):
    """An image on the page.

    Attributes:
        image: the image.
        caption: its name and attributes.
        value: its distance or score, as text; empty for a query.
        match: whether it counts as found; None: not known.
    """

    image: UInt8[np.ndarray, "height width 3"]
    caption: str
    value: str = ""
    match: bool | None = None


def check_page(path: Path | None) -> None:
    """Raise ``UsageError`` before the search if the page cannot be written; None: no page."""
    if path is None:
        return
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; give a file, such as {path / 'page.html'}")
    if os.path.exists(path) and not os.path.isfile(path):  # it would be replaced by a file
        raise UsageError(f"{path} is a device or a pipe; give a file, such as page.html")
    if not os.path.isdir(path.parent):
        raise UsageError(
            f"{path}: the folder {path.parent} does not exist; make it, or give another page"
        )


def write_results(
    path: Path, *, title: str, remark: str, lists: Sequence[tuple[Shown, Sequence[Shown]]]
) -> None:
    """Write one HTML file: each query and, best first, what was found for it.

    Raises ``UsageError`` if the file cannot be written.
    """

    def shown(one: Shown) -> dict[str, Any]:
        small = Image.fromarray(one.image)
        small.thumbnail((_SIDE, _SIDE))
        content = io.BytesIO()
        small.save(content, format="jpeg", quality=85)
        address = data_address(content.getvalue(), kind="jpeg")
        return {"image": address, "caption": one.caption, "value": one.value, "match": one.match}

    shown_lists = [(shown(query), [shown(one) for one in found]) for query, found in lists]
    write_page(path, "results.html", {"title": title, "remark": remark, "lists": shown_lists})
