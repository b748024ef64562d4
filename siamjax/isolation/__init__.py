"""Readers that can crash or hang run in a child process, with limits of time and memory.

SciPy's reader of MATLAB 5 files and HDF5 are native code that damaged files can make crash, loop
for ever or ask for any memory. :func:`isolated` runs such a reader in a child and gives what
it reads; whatever happens to the child is one ``UsageError``. The child's answers are JSON and
plain arrays that are checked as they come: a child that a file has taken over has no more to say.

The child hands over the data, and the parent never opens the file by the native library: checking
it first in the child and reading it then here would take twice the time, and the file could have
changed in between. Large files stream through: the child holds one array at a time. In seconds of
computing (two cores): a child takes 0.15 to 0.25 to start; VGG-16's file of 553 MB takes 1.5 with
all checks of its values, 0.8 when h5py reads it here; an image of CUHK03 takes 0.0004 for 0.0002,
a few per cent of what its PNG takes.

A reader is a function of a path that yields pairs of a value for JSON and an array or None. The
readers are the other modules of this package, which import no jax, so that a child starts quickly.
"""

import contextlib
import fcntl
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np

from siamjax.array_files import allowance
from siamjax.errors import UsageError, shown
from siamjax.files import Natural, decode_json, open_regular, saying

_START = "import sys; sys.path[:] = {path!r}; from siamjax.isolation import child; child.serve()"
_DTYPE = re.compile(r"\|[biu]1|<[iuf][248]")
_HEADER_LIMIT = 64 * 2**20  # bytes of the JSON of one answer
_CLOCK = 60.0  # seconds that a child may wait for a slow disk, to import its libraries say


class Answer(NamedTuple):
    """What a reader in a child yields.

    Attributes:
        value: anything that JSON holds.
        array: of booleans, integers or floats; or None.
    """

    value: Any
    array: np.ndarray | None = None


class _Header(msgspec.Struct):
    state: str
    value: Any = None
    dtype: str | None = None
    shape: list[Natural] = []
    reversed: bool = False


def isolated(
    reader: str,
    path: Path,
    *arguments: Any,
    memory: int | None = None,
    seconds: float | None = None,
) -> Generator[Answer]:
    """What the function ``reader`` yields for a file, from a child process.

    Args:
        reader: ``module.function``, such as ``siamjax.isolation.matlab5.variables``.
        path: A regular file; its first argument.
        arguments: Its further arguments; anything that JSON holds.
        memory: Bytes that the child may take beside its libraries, and the most that one array
            may have; None: :func:`siamjax.array_files.allowance`. The system enforces it on Linux.
        seconds: Of computing for one answer; None: 3 and one for every 20 MB of the file. By the
            clock a child has twenty times as long and a minute, as a disk may be slow.

    Raises ``UsageError`` naming the file: one that the reader raised, and for a reader that raises
    anything else, crashes, or takes too much time or memory.
    """
    with open_regular(path) as opened:
        size = os.fstat(opened.fileno()).st_size
    memory = allowance(size) if memory is None else memory
    seconds = 3 + size / 20e6 if seconds is None else seconds
    command = _START.format(path=[*map(str, sys.path)])
    environment = {
        # One thread of BLAS: each takes address space, and nothing is multiplied.
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
        "HDF5_PLUGIN_PRELOAD": "::",  # none
        "HDF5_USE_FILE_LOCKING": "FALSE",  # some network disks have no locks, and it only reads
    }
    with saying(f"{shown(path)}: no process can be started to read it", remedy="end others"):
        child = subprocess.Popen(
            [sys.executable, "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | environment,
            start_new_session=True,  # Ctrl-C reaches this process, which ends the child
        )
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(OSError, AttributeError):  # faster, where the system allows it
        fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, 2**20)
    try:
        request = [reader, os.fsencode(path).hex(), arguments, memory, seconds]
        with contextlib.suppress(BrokenPipeError), child.stdin as file:
            file.write(json.dumps(request).encode())
        while True:
            header, array = _next(child.stdout, _CLOCK + 20 * seconds, memory)
            match header.state:
                case "answer":
                    yield Answer(header.value, array)
                case "end":
                    return
                case "refused":
                    raise UsageError(header.value)
                case "memory":
                    raise _Failed(f", or too large: takes more than {memory:,} bytes")
                case _:
                    raise _Failed(f", or not what it seems to be ({shown(header.value)})")
    except (_Failed, _Ended) as error:
        why = _why(child, seconds) if isinstance(error, _Ended) else error
        raise UsageError(f"{shown(path)}: damaged{why}; fetch it again") from None
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


class _Failed(Exception):
    """Why the child gave no answer; it may still run."""


class _Ended(Exception):
    """The child ended in the middle of an answer."""


def _why(child: subprocess.Popen, seconds: float) -> str:
    """Why a child that says no more has ended."""
    try:
        status = child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return ": its reader gives no answer and does not end"
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return f": its reader did not end within {seconds:.0f} s of computing, or was killed"
    if status < 0:
        return f": its reader was ended by {signal.Signals(-status).name}"
    return f": its reader ended with status {status} and no answer"


def _next(pipe: IO[bytes], seconds: float, memory: int) -> tuple[_Header, np.ndarray | None]:
    """One answer, which must be of the closed form."""
    until = time.monotonic() + seconds
    length = int.from_bytes(_read(pipe, 8, until), "little")
    if length > _HEADER_LIMIT:
        raise _Failed(f": its reader answers with {length:,} bytes of text")
    try:
        header = decode_json(bytes(_read(pipe, length, until)), _Header, where="")
    except UsageError:
        raise _Failed(": its reader does not answer as it must") from None
    if header.dtype is None:
        return header, None
    if not _DTYPE.fullmatch(header.dtype) or len(header.shape) > 32:
        raise _Failed(": its reader answers with what is no array of numbers")
    dtype = np.dtype(header.dtype)
    size = math.prod(header.shape) * dtype.itemsize
    if size > memory:
        raise _Failed(
            f", or too large: an array of {size:,} bytes, and at most {memory:,} are read"
        )
    content = _read(pipe, size, until)
    array = content.view(dtype).reshape(header.shape)
    return header, array.T if header.reversed else array


def _read(pipe: IO[bytes], count: int, until: float) -> np.ndarray:
    """So many bytes, before a time of ``time.monotonic``."""
    waited = until - time.monotonic()
    content = np.empty(count, np.uint8)
    left = content.data
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    while left:
        if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
            raise _Failed(f": its reader said nothing for {waited:.0f} s")
        came = os.readv(pipe.fileno(), [left])
        if not came:
            raise _Ended
        left = left[came:]
    return content
