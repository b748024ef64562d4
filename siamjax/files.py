"""Read what may be anything, and write files so that a reader never finds a part.

Every JSON file of the project's own is read by :func:`read_json` or :func:`read_rows`, every file
that is read whole by :func:`read_bytes`: sizes are compared with a limit before memory is taken.
"""

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import msgspec

from siamjax import messages
from siamjax.errors import UsageError, shown

Kind = TypeVar("Kind")

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A number of things in a JSON file: what a float64 holds exactly."""

Finite = Annotated[float, msgspec.Meta(ge=-1.7e308, le=1.7e308)]
"""A number in a JSON file that is neither NaN nor infinite."""

_JSON_LIMIT = 64 * 2**20
"""Bytes of a JSON file; a manifest that names a million identities has 20 MB."""

_LONGEST_ROW = 2**20  # bytes

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def read_bytes(path: Path, *, limit: int, remedy: str = "check the path") -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises ``UsageError`` naming the path for a file that is missing, larger or cannot be read, and
    for what is no regular file: a named pipe would be waited for, a device read without end.
    ``remedy`` says what to do about a file that is not there.
    """
    with (
        open_regular(path, limit=limit, remedy=remedy) as file,
        saying(f"{shown(path)}: cannot be read"),
    ):
        return file.read(os.fstat(file.fileno()).st_size)


def open_regular(
    path: Path, *, limit: int | None = None, remedy: str = "check the path"
) -> BinaryIO:
    """A regular file of at most ``limit`` bytes, opened to be read; errors as `read_bytes`."""
    try:
        # Not blocking: otherwise opening a named pipe waits for somebody who writes into it.
        opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        what = "what this link leads to is missing" if os.path.islink(path) else "no such file"
        raise UsageError(f"{shown(path)}: {what}; {remedy}") from None
    except OSError as error:
        raise UsageError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a NUL, say
        raise UsageError(f"{shown(path)}: not a path ({error})") from None
    about = os.fstat(opened)
    try:
        if not stat.S_ISREG(about.st_mode):
            kind = _KINDS.get(stat.S_IFMT(about.st_mode), "something else")
            raise UsageError(f"{shown(path)}: expected a file, and it is {kind}")
        if limit is not None and about.st_size > limit:
            raise UsageError(
                f"{shown(path)}: {about.st_size:,} bytes, and at most {limit:,} are read"
            )
    except UsageError:
        os.close(opened)
        raise
    return open(opened, "rb")


def decode_json(content: bytes | str, kind: type[Kind], *, where: str) -> Kind:
    """A JSON text of one type: a ``msgspec.Struct`` or any type of Python's ``typing``.

    Raises ``UsageError`` that begins with ``where`` (a path, a line) and names the key of what is
    missing or of another type. Keys that a struct does not have are ignored.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested without end
        raise UsageError(f"{where}: not JSON that can be read ({shown(error)})") from None
    return typed(value, kind, where=where)


def typed(value: Any, kind: type[Kind], *, where: str) -> Kind:
    """What JSON held, as one type; ``UsageError`` as of :func:`decode_json`.

    In a type, let a number with bounds stand in no union with a tuple: msgspec 0.22 crashes on it.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {shown(error)}") from None
    except (ValueError, RecursionError) as error:  # a key that no UTF-8 can hold, say
        raise UsageError(f"{where}: cannot be read ({shown(error)})") from None


def read_json(path: Path, kind: type[Kind], *, limit: int = _JSON_LIMIT) -> Kind:
    """A JSON file of one type; as :func:`decode_json`, with its path in the error."""
    return decode_json(read_bytes(path, limit=limit), kind, where=shown(path))


def read_rows(path: Path, kind: type[Kind], *, limit: int = 2**30) -> list[Kind]:
    """The rows of a file with a JSON value in each line; none for a file that is missing.

    A killed process or a full disk leaves a last line that is cut short: it is dropped, which
    standard error says. Raises ``UsageError`` with path and line for any other line that is not
    JSON of this type.
    """
    if not os.path.lexists(path):
        return []
    lines = read_bytes(path, limit=limit).split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        where = f"{shown(path)}, line {number}"
        if not line.strip():
            continue
        try:
            rows.append(decode_json(line, kind, where=where))
        except UsageError:
            if number < len(lines):  # a line that was written whole ends with a line break
                raise
            messages.warn(f"{where}: cut short, as a killed process leaves it; left out")
    return rows


@contextlib.contextmanager
def saying(what: str, *, remedy: str = "") -> Iterator[None]:
    """Turn an ``OSError`` of the block into ``UsageError``: what failed, why, and what to do."""
    try:
        yield
    except OSError as error:
        told = f"{what} ({error.strerror or error})"
        raise UsageError(f"{told}; {remedy}" if remedy else told) from None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an ``OSError`` of the block the path; those of writing and flushing have none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a file that :func:`read_rows` reads, and wait until it is on the disk.

    A last line that was cut short is removed first, as the new row would be lost with it.
    """
    with naming(path), path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - _LONGEST_ROW))
        last = file.read().rpartition(b"\n")[2]
        if last and _is_json(last):
            file.write(b"\n")
        elif last:
            file.truncate(end - len(last))  # what is written next stands there: the file appends
        file.write((dump_json(row) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _is_json(content: bytes) -> bool:
    try:
        decode_json(content, object, where="")
    except UsageError:
        return False
    return True


class Growing:
    """A file that grows by whole pieces, also on a disk that is full for a while.

    Nothing is waited for: a power cut may take the last pieces, a killed process does not.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("ab", buffering=0)
        self._waiting = b""

    def write(self, piece: bytes = b"") -> None:
        """Append a piece, after those that wait.

        Where the disk refuses them, ``OSError`` with the path is raised, the file ends as before,
        and they wait for the next call.
        """
        self._waiting += piece
        end, left = os.fstat(self._file.fileno()).st_size, memoryview(self._waiting)
        with naming(self._path):
            try:
                while left:
                    left = left[self._file.write(left) :]
            except OSError:
                self._file.truncate(end)
                raise
        self._waiting = b""

    def close(self) -> None:
        """Write what waits, and close the file; errors as of :meth:`write`."""
        with self._file:
            self.write()


def dump_json(content: Any, *, indent: int | None = None) -> str:
    """JSON as it is written; NaN and infinity become null, as JSON knows neither.

    NumPy's numbers are as good as Python's; paths and all that JSON has no form for are texts.
    """
    try:
        return json.dumps(content, indent=indent, allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(_finite(content), indent=indent, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _finite(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and value - value != 0 else value


def write_text(path: Path, text: str) -> None:
    """Write a text atomically, as :func:`write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically: a reader finds the old content or the new one, never a part.

    This holds also if the process is killed or the power fails. When the function returns, the
    new content is on the disk.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # so that the new name is on the disk too
    finally:
        os.close(folder)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as JSON, atomically."""
    write_text(path, dump_json(content, indent=2) + "\n")


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Let one process at a time into the block; the file ``path`` is the lock, made if missing.

    Another process waits and says so once on standard error, or with ``wait=False`` is refused by
    ``UsageError``. The lock ends with its process, however that ends. The file stays: if it were
    removed, one process could lock the old file and another a new one. Where the file system has
    no locks, a line says so and the block runs. Raises ``OSError`` if the file cannot be made.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            where = shown(path.parent)
            if not wait:
                raise UsageError(
                    f"{where} is being written by another process; wait until that has ended"
                ) from None
            messages.note(f"waiting for another process, which writes {where}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # some network disks
                raise
            messages.warn(
                f"{shown(path)}: no locks on this disk ({error.strerror}); let only one process at "
                "a time write there"
            )
        yield
    finally:
        os.close(handle)
