"""Names as people write them and disks keep them: two ways to write é, bytes that are not UTF-8.

A name that is not UTF-8 is a string with surrogates in Python (``os.fsdecode``); it stays so, and
:func:`siamjax.errors.shown` makes it fit to be printed.
"""

import functools
import os
import re
import unicodedata
from pathlib import Path

_WHOLE = re.compile(r"[0-9]{1,18}")  # what int64 holds

_HIDDEN = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


def is_hidden(name: str) -> bool:
    """Whether a file or a folder on its path is hidden by its name, or written by a file manager.

    Hidden names begin with a dot (and are not ..): ``.DS_Store``, ``._x`` (macOS's shadow of x).
    """
    parts = name.split("/")
    return any(part in _HIDDEN or (part.startswith(".") and part.strip(".")) for part in parts)


def as_bytes(text: str) -> bytes:
    """A text as UTF-8, to be hashed; also one with surrogates."""
    return text.encode("utf-8", "surrogatepass")


def is_text(name: str) -> bool:
    """Whether a name is UTF-8, so that it may be written down."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def whole_number(text: str) -> int | None:
    """The number that up to 18 digits from 0 to 9 write; None for any other text."""
    return int(text) if _WHOLE.fullmatch(text) else None


def on_disk(path: Path) -> Path:
    """The path as the disk spells it, where that differs only in Unicode's form; else as given.

    macOS writes é as two code points, Linux as one, and a table written on the one may name files
    that were copied from the other.
    """
    if os.path.lexists(path) or str(path).isascii() or path == path.parent:
        return path
    folder = on_disk(path.parent)
    try:
        names = _listed(folder, os.stat(folder).st_mtime_ns)
    except (OSError, ValueError):
        return path
    found = names.get(unicodedata.normalize("NFC", path.name))
    return path if found is None else folder / found


@functools.lru_cache(maxsize=64)
def _listed(folder: Path, changed: int) -> dict[str, str]:
    """The names in a folder by their composed form; ``changed`` makes a changed folder read anew.

    Of two that differ only in form the composed one is meant.
    """
    return {unicodedata.normalize("NFC", name): name for name in sorted(os.listdir(folder))}
