"""What a run was trained and judged with, for its manifest."""

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

import jax

from siamjax.surroundings import typed_command

_LONGEST = 5.0  # seconds to wait for git, which a network disk can hold up

PACKAGES = ("siamjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def environment(code: str | None) -> dict[str, Any]:
    """Versions, device and command of this process, and the state of the file ``code`` in git."""
    device = jax.devices()[0]
    return {
        "command": typed_command(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "git": None if code is None else committed(os.path.realpath(code)),
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def version(name: str) -> str:
    """The version of an installed package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # such as siamjax itself, used from its folder
        return "not installed"


def committed(file: str) -> dict[str, Any] | None:
    """The commit of the repository that a file lies in, and whether the code differs from it.

    ``dirty`` is true where something that git tracks has changed, and where it does not track this
    file. None outside a repository, before its first commit, without git, and where it is slow.
    """

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", os.path.dirname(file), *words]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LONGEST, check=True
        )
        return os.fsdecode(done.stdout).strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": commit, "dirty": bool(changed) or not git("ls-files", "--", file)}
    except (OSError, subprocess.SubprocessError):
        return None
