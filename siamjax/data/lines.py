"""Text that others wrote, line by line: lists of pairs and of triplets."""

from pathlib import Path

from siamjax.errors import UsageError, shown
from siamjax.files import read_bytes

_LARGEST = 2**30  # bytes; a million lines of two paths have 100 MB


def read_lines(path: Path, *, remedy: str) -> list[str]:
    """The lines of a text file in UTF-8, with or without a byte-order mark.

    Only line feed, carriage return or both end a line: U+2028 and its like may stand in a name.
    ``remedy`` says what to do if there is no such file. Raises ``UsageError`` with path and line
    for what is not UTF-8 or holds a NUL, which no text does and which ends a name elsewhere.
    """
    content = read_bytes(path, limit=_LARGEST, remedy=remedy)
    text, wrong = "", content.find(b"\0")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        line = content.count(b"\n", 0, wrong) + 1
        raise UsageError(f"{shown(path)}, line {line}: not UTF-8 text; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
