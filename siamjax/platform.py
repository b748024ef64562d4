"""Settings of JAX and XLA, which must be made before JAX starts its backend."""

import contextlib
import functools
import gc
import hashlib
import importlib.util
import mmap
import os
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path

from siamjax import messages
from siamjax.errors import UsageError, shown
from siamjax.surroundings import cache_folder

_FLAG = "xla_cpu_experimental_ynn_fusion_type"
_USUAL = gc.get_threshold()
_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
_SECONDS = 0.05
_LONGEST = 30 * 24 * 3600.0  # seconds
_MOST_BYTES = 2**30
_LOUD = ("0.10.0", "0.10.1")  # write an error of 2,000 characters when they read what they kept
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


def import_quickly() -> None:
    """Look for garbage rarely until :func:`import_as_usual`; call this before JAX is imported.

    JAX and Flax make half a million objects that stay. Looking for garbage among them every few
    hundred, as Python does, takes a sixth of their import.
    """
    gc.set_threshold(100_000, 100, 100)


def import_as_usual() -> None:
    """Look for garbage as often as before :func:`import_quickly`."""
    gc.set_threshold(*_USUAL)


def keep_compilations() -> None:
    """Let JAX keep on disk what it compiles, so that the next call of a command need not.

    The folder is that of ``JAX_COMPILATION_CACHE_DIR`` or of JAX's own option, which keeps the
    user's choice (empty: nothing is kept); by default ``siamjax/compiled`` in the user's cache
    folder, where entries older than a month, and the oldest beyond 1 GB, are removed. Code is kept
    for each kind of CPU, as a home folder may be shared by machines that differ. Does nothing
    where the folder cannot be made. What cannot be read or written there is compiled anew.
    """
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax = sys.modules.get("jax")
    if _FOLDER in os.environ or (jax is not None and jax.config.jax_compilation_cache_dir):
        return
    if metadata.version("jaxlib") in _LOUD:
        return
    try:
        folder = cache_folder() / "compiled" / _cpu()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # whoever writes there can run code
        _remove_oldest(folder)
    except (OSError, UsageError):  # a home that is read only, or not known
        return
    for name, value in ((_FOLDER, str(folder)), (_SHORTEST, _SECONDS)):
        if jax is None:
            os.environ.setdefault(name, str(value))
        elif name == _FOLDER or name not in os.environ:
            jax.config.update(name.lower(), value)


def _remove_oldest(folder: Path) -> None:
    with os.scandir(folder) as entries:
        known = [(one.stat(), one.path) for one in entries if one.name.endswith("-cache")]
    total = 0
    for about, path in sorted(known, key=lambda one: -one[0].st_mtime):
        total += about.st_size
        if total > _MOST_BYTES or about.st_mtime < time.time() - _LONGEST:
            with contextlib.suppress(OSError):  # another process removed it
                os.remove(path)


def _cpu() -> str:
    """A name of this kind of CPU: its instructions, where the system tells them."""
    told = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        told = next((one for one in lines if one.startswith(("flags", "Features"))), "")
    return f"{os.uname().machine}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


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
        messages.note(
            f"note: jaxlib {metadata.version('jaxlib')} does not know XLA's flag {_FLAG}; on a CPU "
            "training takes longer without it"
        )
    return known


def _holds(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return all(content.find(name.encode()) >= 0 for name in (_FLAG, *_TYPES))
