"""The child's side of :func:`siamjax.isolation.isolated`: limits, one reader, its answers."""

import importlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from siamjax.errors import UsageError


def serve() -> None:
    """Read a request from standard input, and write the reader's answers to standard output."""
    reader, path, arguments, memory, seconds = json.load(sys.stdin)
    write = _writer()
    try:
        module, _, name = reader.rpartition(".")
        function = getattr(importlib.import_module(module), name)
        _limit_memory(memory)
        _answer(function(Path(os.fsdecode(bytes.fromhex(path))), *arguments), write, seconds)
    except UsageError as error:
        write("refused", str(error), None)
    except MemoryError:
        write("memory", None, None)
    except Exception as error:  # native readers raise anything for damaged files
        write("failed", f"{type(error).__name__}: {error}", None)


def _answer(answers: Iterator[tuple[Any, Any]], write: "_Write", seconds: float) -> None:
    _limit_time(seconds)
    for value, array in answers:
        write("answer", value, array)
        _limit_time(seconds)
    write("end", None, None)


_Write = Callable[[str, Any, np.ndarray | None], None]


def _writer() -> _Write:
    """Writes answers where standard output was; what libraries print goes nowhere."""
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def write(state: str, value: Any, array: np.ndarray | None) -> None:
        header: dict[str, Any] = {"state": state, "value": value}
        content = memoryview(b"")
        if array is not None:
            array = np.asarray(array, array.dtype.newbyteorder("<"))
            reversed_ = array.flags.f_contiguous and array.ndim > 1  # MATLAB's: as it is stored
            array = np.ascontiguousarray(array.T if reversed_ else array)
            header |= {"dtype": array.dtype.str, "shape": array.shape, "reversed": reversed_}
            content = array.reshape(-1).view(np.uint8).data
        line = json.dumps(header).encode()
        for part in (len(line).to_bytes(8, "little"), line, content):
            left = memoryview(part)
            while left:
                left = left[pipe.write(left) :]

    return write


def _limit_memory(memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere nothing says what the libraries take
        taken = int(statm.read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, taken + memory)


def _limit_time(seconds: float) -> None:
    """The system ends this process when it has computed for so long; also if the parent is gone."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + seconds))


def _limit(which: int, value: int) -> None:
    """Set a limit, but none above the one that this process was given."""
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
