"""The page of a search: every query with what was found for it, as images."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from siamjax.errors import UsageError
from siamjax.files import write_text

_SIDE = 288  # pixels of a thumbnail's longer side: twice what the page shows, for sharp screens


class Shown(NamedTuple):
    """An image of the page.

    Attributes:
        image: the image.
        caption: what it is called, and its attributes.
        value: its distance or score, as text; empty for a query.
    """

    image: UInt8[np.ndarray, "height width 3"]
    caption: str
    value: str = ""


def check_page(path: Path | None) -> None:
    """``UsageError`` for a page that cannot be written: better now than after the search.

    None: no page is wanted.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the page, such as {path / 'page.html'}")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it, or name another page")


def write_results(
    path: Path, *, title: str, remark: str, lists: Sequence[tuple[Shown, Sequence[Shown]]]
) -> None:
    """Write one HTML file: each query and, best first, what was found for it.

    ``UsageError`` if it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("siamjax.report", "."), autoescape=True, trim_blocks=False
    )

    def shown(one: Shown) -> dict[str, str]:
        return {"picture": _address(one.image), "caption": one.caption, "value": one.value}

    page = environment.get_template("results.html").render(
        title=title,
        remark=remark,
        lists=[(shown(query), [shown(one) for one in found]) for query, found in lists],
    )
    try:
        write_text(path, page)
    except OSError as error:
        raise UsageError(
            f"{path}: the page cannot be written ({error.strerror or error}); mend that, or name "
            "another page"
        ) from None


def _address(image: np.ndarray) -> str:
    """A thumbnail as a ``data:`` address, so that the page needs no other file."""
    small = Image.fromarray(image)
    small.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    small.save(content, format="jpeg", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
