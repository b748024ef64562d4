"""Pick the options of a task out of a config."""

import dataclasses
from typing import Any


def asked(kind: type, options: Any) -> dict[str, Any]:
    """The values of the fields of ``kind``, from a config that may have many more fields."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}
