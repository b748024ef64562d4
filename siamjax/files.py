"""Files that are written at once or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old text or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """An object as JSON, by :func:`write_text`."""
    write_text(path, json.dumps(content, indent=2) + "\n")
