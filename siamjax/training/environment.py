"""What a run was trained and judged with, for its manifest."""

import os
import platform
from importlib import metadata
from typing import Any

import jax

from siamjax.surroundings import typed_command

PACKAGES = ("siamjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def environment() -> dict[str, Any]:
    """Versions, device and command of this process."""
    device = jax.devices()[0]
    return {
        "command": typed_command(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # such as siamjax itself, used from its folder
        return "not installed"
