"""Memory that a computation on a CPU frees is kept for the next one."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_KEPT_SHARE = 0.25  # of the memory that the process may have
_GROWN = 1.25
_SETTINGS = ((-8, 1), (-4, 0), (-1, -1))
"""mallopt's M_ARENA_MAX, as only the first arena grows without limit; M_MMAP_MAX, as what has its
own mapping is unmapped when it is freed; and M_TRIM_THRESHOLD, that never trims."""
_CHOICES = ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

_most_kept: int | None = None  # bytes; None: nothing is kept
_usual: int | None = None  # bytes that the process had after a computation; None: not known yet


def keep_memory() -> None:
    """Let freed memory be used again; call this before JAX's first computation.

    XLA asks for the memory of a whole step on a CPU each time, gives it back afterwards, and the
    kernel clears every page of it before it is used: a third of the time of a step of OSNet. Kept
    pages are there already. As glibc does not always fit a step into the gap that the last one
    left, the process may take up to twice the memory, for one step:
    :func:`siamjax.parallel.shard` calls :func:`give_memory_back`. Does nothing without glibc, and
    where the environment sets its options, which keeps the user's choice.
    """
    global _most_kept
    if sys.platform != "linux" or any(name in os.environ for name in _CHOICES):
        return
    with contextlib.suppress(AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        if all(mallopt(*setting) for setting in _SETTINGS):
            _most_kept = int(_KEPT_SHARE * _available())


def give_memory_back() -> None:
    """Give the kernel what is free, where the process has grown or has a quarter of the memory.

    Call this between computations. It has grown where it has a quarter more than at an earlier
    call: then gaps were left that nothing fitted into. Does nothing before :func:`keep_memory`.
    """
    global _usual
    if _most_kept is None:
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    taken = pages * os.sysconf("SC_PAGE_SIZE")
    if taken > _most_kept or (_usual is not None and taken > _GROWN * _usual):
        ctypes.CDLL(None).malloc_trim(0)
        _usual = None  # what the next computation takes
    elif _usual is None:
        _usual = taken


def _available() -> int:
    """Bytes of the machine, or of the container where that has less."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            found = min(found, int(Path(limit).read_text(encoding="ascii")))
    return found
