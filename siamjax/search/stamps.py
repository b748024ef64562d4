"""What an image's file was when it was embedded, to see later whether it has changed."""

import os
import time
import zlib
from pathlib import Path
from typing import NamedTuple

from siamjax.data.images import Files, ImageSource
from siamjax.data.names import on_disk

_SETTLED = 2_000_000_000  # ns: a file changed so lately may change again and keep its time


class Stamp(NamedTuple):
    """What an image was.

    Attributes:
        size: bytes.
        modified: time of the file's last change, in ns; -1: it says nothing (no file, or changed
            within the two seconds before), and the content is compared.
        crc: CRC-32 of the content.
    """

    size: int
    modified: int
    crc: int


def stamp_of(source: ImageSource, place: int) -> Stamp:
    """The stamp of an image as it is now; ``UsageError`` if it cannot be read."""
    modified = -1
    path = _path(source, place)
    if path is not None:
        try:
            changed = os.stat(path).st_mtime_ns
            modified = changed if time.time_ns() - changed > _SETTLED else -1
        except (OSError, ValueError):
            pass  # reading it says what is wrong
    content = source[place]
    return Stamp(len(content), modified, zlib.crc32(content))


def as_stamped(source: ImageSource, place: int, stamp: Stamp) -> bool | None:
    """Whether an image is as it was; None: it cannot be read.

    A file of the same size and time is not opened.
    """
    path = _path(source, place)
    try:
        if path is not None:
            now = os.stat(path)
            if now.st_size != stamp.size:
                return False
            if now.st_mtime_ns == stamp.modified:
                return True
        content = source[place]
    except (OSError, ValueError):  # a UsageError is a ValueError
        return None
    return (len(content), zlib.crc32(content)) == (stamp.size, stamp.crc)


def file_as_stamped(path: str, stamp: Stamp | None) -> bool | None:
    """:func:`as_stamped` of one file; without a stamp it is as it was if it is there."""
    if stamp is None:
        return os.path.exists(on_disk(Path(path))) or None
    return as_stamped(Files((Path(path),)), 0, stamp)


def _path(source: ImageSource, place: int) -> Path | None:
    return on_disk(source.paths[place]) if isinstance(source, Files) else None
