"""The figure that all figures are made of: its texts are shown as they are, whatever they hold.

Names of files, people and labels may hold ``$``, which Matplotlib takes for mathematics, and
characters that its font lacks, of which it warns.
"""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from siamjax.errors import shown

LINE = 150
"""Characters of a line of text; of a longer one the middle is left out."""

_FAMILY = "sans-serif"  # Matplotlib's own
_BOX = "□"  # stands for a character that no font has


class Figure(matplotlib.figure.Figure):
    """A figure without mathematics in its texts, and with a glyph or a box for each character."""

    def draw(self, renderer: Any) -> None:
        """Draw all, after every text has been made one that can be drawn."""
        texts = list(_texts(self))
        for text in texts:
            text.set_parse_math(False)
            lines = unicodedata.normalize("NFC", text.get_text()).split("\n")
            text.set_text("\n".join(shown(line, longest=LINE) for line in lines))
        _choose_fonts(texts)
        super().draw(renderer)


def _texts(artist: Artist) -> Iterator[Text]:
    """All texts but the numbers at axes: Matplotlib writes them, on log axes as formulas."""
    for child in artist.get_children():
        if isinstance(child, Axis):
            yield child.label
        elif isinstance(child, Text):
            yield child
        else:
            yield from _texts(child)


def _choose_fonts(texts: list[Text]) -> None:
    """Add fonts that have what the first one lacks; what all lack becomes a box."""
    left = set("".join(text.get_text() for text in texts)) - {"\n"}
    first = font_manager.FontProperties(family=[_FAMILY])
    left -= _had(font_manager.findfont(first), left)
    if not left:
        return
    more = []
    for font in font_manager.fontManager.ttflist:
        found = set() if "lastresort" in font.fname.lower() else _had(font.fname, left)
        if found:
            more.append(font.name)
            left -= found
        if not left:
            break
    # A mark that changes the character before it leaves nothing; any other leaves a box.
    marks = {one for one in left if unicodedata.category(one) in ("Mn", "Me", "Cf")}
    boxes = str.maketrans({one: "" if one in marks else _BOX for one in left})
    for text in texts:
        text.set_text(text.get_text().translate(boxes))
        text.set_fontfamily([_FAMILY, *more])


def _had(path: str | Path, characters: set[str]) -> set[str]:
    """Those of the characters that a font has; none of a font that cannot be scaled or read."""
    try:
        font = FT2Font(str(path))
    except (OSError, RuntimeError):
        return set()
    if not getattr(font, "scalable", True):
        return set()
    return {one for one in characters if font.get_char_index(ord(one))}
