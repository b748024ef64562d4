"""Read NumPy's .npy and .npz files, which may be damaged or made to do harm.

What a file says of itself is compared with its size and with a closed list of dtypes before memory
is taken: booleans, integers and floats of at most 8 bytes, no objects, structures or complex
numbers. Nothing in a file is unpickled.
"""

import ast
import math
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.files import open_regular, saying

NUMBERS = "biuf"
"""Kinds of dtypes: booleans, integers, unsigned integers, floats."""

_MAGIC = b"\x93NUMPY"
_HEADER_LIMIT = 10_000  # bytes; the header of 32 axes has 400
_DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|U\d{1,9})")


def _named(kinds: str) -> str:
    return {"U": "text", "iu": "integers", "f": "floats"}.get(kinds, "numbers")


class Header(NamedTuple):
    """What the header of an .npy file says, checked.

    Attributes:
        shape: of the array.
        dtype: of its values as they are stored, in either byte order.
        fortran: whether the first axis varies fastest.
        offset: the place of the first value, in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def allowance(size: int) -> int:
    """Bytes that the arrays of a file of ``size`` bytes may take: eight times as many, and 256 MiB.

    Trained weights and embeddings compress to no less than a third.
    """
    return 8 * size + 2**28


def read_header(file: IO[bytes], size: int, *, where: str, kinds: str = NUMBERS) -> Header:
    """The header at the place where a file of ``size`` bytes from there stands.

    ``kinds`` are those that the dtype may have. Raises ``UsageError`` that begins with ``where``
    for what is no header, and unless exactly the values that it describes follow.
    """
    magic = file.read(8)
    width = {b"\x01\x00": 2, b"\x02\x00": 4}.get(magic[6:])
    if magic[:6] != _MAGIC or width is None:
        raise UsageError(f"{where}: not an array in NumPy's format; write it anew")
    length = int.from_bytes(file.read(width), "little")
    text = file.read(min(length, _HEADER_LIMIT)).decode("latin-1")
    try:
        stated = ast.literal_eval(text.strip())
        shape, fortran, descr = (stated.pop(key) for key in ("shape", "fortran_order", "descr"))
        valid = not stated and type(fortran) is bool and type(shape) is tuple and len(shape) <= 32
    except (ValueError, SyntaxError, TypeError, KeyError, AttributeError, RecursionError):
        valid = False
    except MemoryError:  # of Python's parser, for brackets within brackets
        valid = False
    if not valid or not all(type(one) is int and 0 <= one < 2**62 for one in shape):
        raise UsageError(f"{where}: damaged: its header is {shown(text, longest=100)!r}")
    known = isinstance(descr, str) and _DTYPE.fullmatch(descr)
    if not known or np.dtype(descr).kind not in kinds:
        raise UsageError(f"{where}: values of type {shown(descr)}; expected {_named(kinds)}")
    header = Header(shape, np.dtype(descr), fortran, 8 + width + length)
    if header.offset + header.nbytes != size:
        raise UsageError(
            f"{where}: damaged: {size:,} bytes, and {header.offset + header.nbytes:,} are needed "
            f"for an array of shape {shape} and type {header.dtype}"
        )
    return header


def read_npy(path: Path, *, kinds: str = NUMBERS) -> np.ndarray:
    """The array of an .npy file, in this machine's byte order.

    Raises ``UsageError`` naming the file for what is no regular file or damaged, and for another
    kind of dtype than ``kinds``.
    """
    with open_regular(path) as file:
        return _read(file, os.fstat(file.fileno()).st_size, where=shown(path), kinds=kinds)


def map_npy(path: Path, *, write: bool = False, kinds: str = NUMBERS) -> np.ndarray:
    """The array of an .npy file, mapped into memory; errors as :func:`read_npy`."""
    with open_regular(path) as file:
        header = read_header(file, os.fstat(file.fileno()).st_size, where=shown(path), kinds=kinds)
    if not header.nbytes:  # the system maps no empty file
        return np.empty(header.shape, header.dtype)
    with saying(f"{shown(path)}: cannot be opened"):
        return np.memmap(
            path,
            header.dtype,
            mode="r+" if write else "r",
            offset=header.offset,
            shape=header.shape,
            order="F" if header.fortran else "C",
        )


def read_npz(path: Path, *, texts: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name; all of numbers, but for those called as in ``texts``.

    Raises ``UsageError`` naming file and array for a member that is no such array, and if all
    together take more than :func:`allowance`.
    """
    return dict(iterate_npz(path, texts=texts))


def iterate_npz(path: Path, *, texts: tuple[str, ...] = ()) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of an .npz file one by one; as :func:`read_npz`."""
    with open_regular(path) as file:
        most = allowance(os.fstat(file.fileno()).st_size)
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                names = [member.filename for member in members]
                if len(set(names)) != len(names):
                    raise UsageError(f"{shown(path)}: damaged: two arrays of one name in it")
                if sum(member.file_size for member in members) > most:
                    raise UsageError(
                        f"{shown(path)}: its arrays take more than the {most:,} bytes that its "
                        "size allows; write it anew"
                    )
                for member in members:
                    name, where = member.filename, f"{shown(path)}: {shown(member.filename)}"
                    if not name.endswith(".npy"):
                        raise UsageError(f"{where} is no array; write the file by numpy.savez")
                    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise UsageError(f"{where} is packed as NumPy does not pack arrays")
                    name = name.removesuffix(".npy")
                    kinds = "U" if name in texts else NUMBERS
                    with archive.open(member) as inside:
                        yield name, _read(inside, member.file_size, where=where, kinds=kinds)
        except UsageError:
            raise
        except MemoryError:
            raise UsageError(f"{shown(path)}: too large for this machine's memory") from None
        # zipfile and zlib have no common type for damage; RuntimeError is a password.
        except Exception as error:
            raise UsageError(
                f"{shown(path)}: damaged ({type(error).__name__}: {error}); write it anew"
            ) from None


def _read(file: IO[bytes], size: int, *, where: str, kinds: str) -> np.ndarray:
    header = read_header(file, size, where=where, kinds=kinds)
    content = np.empty(header.nbytes, np.uint8)
    left = memoryview(content.data)
    while left:
        count = file.readinto(left)  # pyright: ignore[reportAttributeAccessIssue]
        if not count:
            raise UsageError(f"{where}: damaged: cut short")
        left = left[count:]
    array = content.view(header.dtype) if header.nbytes else np.empty(0, header.dtype)
    array = array.reshape(header.shape, order="F" if header.fortran else "C")
    return array.astype(header.dtype.newbyteorder("="), copy=False)
