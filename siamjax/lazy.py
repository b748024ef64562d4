"""Tables of contents that import a module when one of its names is first asked for."""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def contents(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose file imports for type checkers alone.

    The imports stand under ``if TYPE_CHECKING``, where editors find them too; here they are read
    from the source. A command or an experiment so imports what it uses, and nothing beside it.
    """
    places = {
        name.name: node.module or ""
        for block in ast.parse(Path(file).read_text(encoding="utf-8")).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if places[name] == package:  # a module of the package
            return importlib.import_module(f"{package}.{name}")
        found = getattr(importlib.import_module(places[name]), name)
        setattr(importlib.import_module(package), name, found)
        return found

    return find, lambda: sorted(places)
