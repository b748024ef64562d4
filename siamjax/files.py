"""Files that are written at once or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file so that whenever it is read, the old text or the new one is in it.

    That holds after a kill and after a power cut at any moment, too; when this returns, the new
    text is on the disk.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """The same for bytes."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # of the new name
    finally:
        os.close(folder)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """An object as JSON, by :func:`write_text`."""
    write_text(path, json.dumps(content, indent=2) + "\n")
