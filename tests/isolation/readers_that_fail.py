"""Readers as a damaged file makes them: they crash, hang, eat memory, or say what they must not."""

import os
import signal
import time

import numpy as np

from siamjax.errors import UsageError


def right(path, factor):
    yield {"text": path.read_text()}, None
    for dtype in ("<f4", ">f8", "<i2", "?"):
        yield dtype, np.arange(12).reshape(3, 4).T.astype(dtype) * np.dtype(dtype).type(factor)
    yield None, np.zeros((0, 5))


def printing(path):
    print("noise", flush=True)
    os.write(1, b"more noise" * 100)
    yield 1, None


def refusing(path):
    yield 1, None
    raise UsageError(f"{path}: no weights in it")


def raising(path):
    raise RuntimeError("wrong\nfree space index")
    yield


def crashing(path):
    yield 1, None
    os.kill(os.getpid(), signal.SIGSEGV)


def looping(path):
    yield 1, None
    while True:
        pass


def waiting(path):
    yield 1, None
    time.sleep(60)


def eating(path):
    yield 1, None
    eaten = []
    while True:
        eaten.append(np.ones(10_000_000))


def leaving(path):
    os._exit(0)
    yield


def forging(path, line, more, waits):
    """What a child that the file has taken over writes."""
    line = line.encode()
    for number in range(3, 10):  # the pipe is one of these
        try:
            os.write(number, len(line).to_bytes(8, "little") + line + b"\0" * more)
        except OSError:
            continue
    if waits:
        time.sleep(60)
    os._exit(0)
    yield
