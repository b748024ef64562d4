"""A run's folder: what was asked for, what was used, what came out."""

import dataclasses
import importlib
import json
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from siamjax.errors import UsageError
from siamjax.files import write_json

PACKAGES = ("siamjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def folder_for(experiment: str, data: str) -> Path:
    """Where a run goes that was given no folder: ``runs/EXPERIMENT-DATA``."""
    return Path("runs") / re.sub(r"[^\w.]+", "-", f"{experiment}-{data}")


def open_folder(folder: Path, config: dict[str, Any]) -> bool:
    """Make a run's folder, or take up the one that is there; returns whether it was there.

    Raises ``UsageError`` with the differing options if the folder is of another config, or if it
    holds something else.
    """
    path = folder / "config.json"
    if path.exists():
        before = read_json(path)
        differing = [
            f"{name} is {before.get(name)!r} there and {config.get(name)!r} here"
            for name in sorted({*before, *config})
            if before.get(name) != config.get(name)
        ]
        if differing:
            raise UsageError(
                f"{folder} is a run of another config ({'; '.join(differing)}); give --run "
                "another folder, or the same options to go on with it"
            )
        return True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(
                f"{folder} is not empty and no run (it has no config.json); give --run another"
            )
        write_json(path, config)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made or written ({error.strerror}); give --run another"
        ) from None
    return False


def as_json(config: dict[str, Any]) -> dict[str, Any]:
    """A config as it comes back from a file: paths are strings, tuples are lists."""
    return json.loads(json.dumps(config, default=str))


def read_json(path: Path) -> dict[str, Any]:
    """Read a run's file; ``UsageError`` names it if that fails."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"{path.parent} is no finished run: {path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected is a JSON object")
    return content


def environment() -> dict[str, Any]:
    """Versions, device and command of this process, for the manifest."""
    device = jax.devices()[0]
    return {
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def note_session(folder: Path, *, start: int, end: int, seconds: float) -> None:
    """Append what this process did for a run: a run that was stopped has several sessions."""
    row = {"start": start, "end": end, "seconds": round(seconds, 1), **environment()}
    with (folder / "sessions.jsonl").open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def sessions(folder: Path) -> list[dict[str, Any]]:
    """What :func:`note_session` noted, in order."""
    path = folder / "sessions.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def describe_module(module: nn.Module) -> dict[str, Any]:
    """A linen module as JSON: its class's import path and its fields, modules within included.

    So a run can be used without the experiment's code, as long as the module's class can be
    imported. Fields may be numbers, strings, booleans, None, dtypes and modules.
    """
    cls = type(module)
    home = cls.__module__
    if home == "__main__":  # python -m package.file: its import path, not what it is called now
        spec = sys.modules["__main__"].__spec__
        if spec is None:
            raise UsageError(
                f"{cls.__name__} is defined in a script; put it into a module that can be imported"
            )
        home = spec.name
    fields = {}
    for field in dataclasses.fields(module):
        if field.name in ("parent", "name") or not field.init:
            continue
        value = getattr(module, field.name)
        if isinstance(value, nn.Module):
            fields[field.name] = describe_module(value)
        elif isinstance(value, (bool, int, float, str, type(None))):
            fields[field.name] = value
        else:
            try:
                fields[field.name] = {"dtype": np.dtype(value).name}
            except TypeError:
                raise UsageError(
                    f"{cls.__name__}.{field.name} = {value!r} cannot be written to a run: use "
                    "numbers, strings, dtypes or modules as fields"
                ) from None
    return {"class": f"{home}:{cls.__qualname__}", "fields": fields}


def build_module(description: dict[str, Any]) -> nn.Module:
    """The module that :func:`describe_module` described."""
    home, _, name = description["class"].partition(":")
    try:
        cls = getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError):
        raise UsageError(
            f"the run's network {description['class']} cannot be imported; install or put its "
            "module on PYTHONPATH"
        ) from None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise UsageError(f"{description['class']} is no linen module")
    fields = {}
    for key, value in description["fields"].items():
        if isinstance(value, dict):
            value = build_module(value) if "class" in value else jax.numpy.dtype(value["dtype"])
        fields[key] = value
    return cls(**fields)
