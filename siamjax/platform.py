"""Settings of XLA, which must be made before JAX starts its backend."""

import functools
import importlib.util
import mmap
import os
import sys
from importlib import metadata
from pathlib import Path

from siamjax.errors import shown

_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_TYPES = ("LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT", "LIBRARY_FUSION_TYPE_REDUCE")


def use_fast_cpu_kernels() -> None:
    """Choose the faster convolutions and reductions of XLA's CPU backend; call this first.

    By default XLA (jaxlib 0.10) uses its YNN library for dot products only where it can fuse them,
    and computes most convolutions and their kernel gradients by slower code: the kernel gradient
    of a 5x5 convolution from 64 to 128 channels took 2.5 times as long. It also turns sums over
    more than 32 rows into ``reduce-window`` loops that do not vectorise, which slows down batch
    normalisation most. ``INDIVIDUAL_DOT`` fixes the first, ``REDUCE`` the second;
    ``benchmarks/lfw_step.py`` measures both. Accelerators ignore the flag.

    Does nothing if ``XLA_FLAGS`` already names the flag, which keeps the user's choice. If the
    installed jaxlib does not know it, standard error says so, once. Has no effect after JAX's
    first computation.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _FLAG not in flags and _is_known():
        os.environ["XLA_FLAGS"] = f"{flags} --{_FLAG}={','.join(_TYPES)}".strip()


def no_device() -> str | None:
    """Why JAX has no device; None where it has one, or was not imported."""
    if (jax := sys.modules.get("jax")) is None:
        return None
    try:
        jax.devices()
    except Exception as error:  # RuntimeError, AssertionError, or what a plugin raises
        wanted = os.environ.get("JAX_PLATFORMS") or jax.config.jax_platforms
        why = f" ({shown(error)})" if str(error) else ""
        return f"JAX has no device of JAX_PLATFORMS={wanted}{why}; unset it, or set it to cpu"
    return None


@functools.cache
def _is_known() -> bool:
    """Whether jaxlib knows the flag and its values; if not, it says so.

    XLA ends the process at a flag that it does not know, so it cannot be asked. The names of its
    flags stand in its library, the largest file of the package.
    """
    spec = importlib.util.find_spec("jaxlib")
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [path for folder in folders for path in Path(folder).iterdir() if path.is_file()]
    known = bool(files) and _holds(max(files, key=lambda path: path.stat().st_size))
    if not known:
        print(
            f"note: jaxlib {metadata.version('jaxlib')} does not know XLA's flag {_FLAG}; on a CPU "
            "training takes longer without it",
            file=sys.stderr,
        )
    return known


def _holds(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(content.find(name.encode()) >= 0 for name in (_FLAG, *_TYPES))
