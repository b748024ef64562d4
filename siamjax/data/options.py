"""What the options of every task have in common."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

Options = TypeVar("Options")


def only(kind: type[Options], config: Any) -> Options:
    """The options of one kind, out of a config that may have many more."""
    fields = dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
    return kind(**{field.name: getattr(config, field.name) for field in fields})


def asked_before(kind: type[Options], request: Mapping[str, Any]) -> Options:
    """The options that :func:`request_of` wrote, without those of earlier versions."""
    names = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    return kind(**{name: value for name, value in request.items() if name in names})


def request_of(options: Any) -> dict[str, Any]:
    """The options as JSON can hold them: paths are strings."""
    named = dataclasses.asdict(options)
    return {name: str(value) if isinstance(value, Path) else value for name, value in named.items()}
