"""What the options of every task have in common."""

import dataclasses
from typing import Any


def asked(kind: type, options: Any) -> dict[str, Any]:
    """The fields of one kind of options, of a config that may have many more."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}
