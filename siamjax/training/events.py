"""Scalars in the event files that TensorBoard reads.

An event file is a TFRecord file (tensorflow/core/lib/io/record_writer.h) of ``Event`` messages
(tensorflow/core/util/event.proto) as protocol buffers. These few fields are written here, because
a library for it imports torch where that is installed, and writes in a thread, which a full disk
ends while the training waits for it.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from siamjax.files import Growing


class EventFile:
    """A new event file in a folder, complete after each :meth:`write`."""

    def __init__(self, folder: Path, *, start: int) -> None:
        """TensorBoard forgets what earlier files say of steps after ``start``."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = Growing(folder / name)
        self._append(_text(3, b"brain.Event:2"))
        # session_log (7) with status (1) START = 1
        self._append(_number(2, start + 1) + _text(7, _number(1, 1)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one value for each name; errors as of :meth:`siamjax.files.Growing.write`."""
        summary = b"".join(_text(1, _text(1, _name(n)) + _float(2, v)) for n, v in values.items())
        self._append(_number(2, step) + _text(5, summary))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, fields: bytes) -> None:
        """One event, with the time now; the record is its length and its bytes with their sums."""
        event = b"\x09" + struct.pack("<d", time.time()) + fields  # wall_time (1), double
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_sum(length) + event + _masked_sum(event))


def _name(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    with np.errstate(over="ignore"):  # infinite, where float32 does not hold it
        return _varint(field << 3 | 5) + np.asarray(value, "<f4").tobytes()


def _table_of_sums() -> list[int]:
    """CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) of each byte."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_SUMS = _table_of_sums()


def _masked_sum(content: bytes) -> bytes:
    """The CRC-32C of a TFRecord: turned by 15 bits, and a constant added."""
    value = 0xFFFFFFFF
    for byte in content:
        value = _SUMS[(value ^ byte) & 0xFF] ^ value >> 8
    value ^= 0xFFFFFFFF
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)
