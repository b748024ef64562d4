"""The one reader of published sets, be they folders or archives, and where it looks for them.

Nothing else in ``siamjax.data`` opens an archive, except the builders of the embedded sets, which
read the zip files that come with the package.
"""

import contextlib
import gzip
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from siamjax.data.folders import EMPTY, UNREADABLE, is_image, walk
from siamjax.data.images import read_file
from siamjax.data.names import is_hidden, is_text
from siamjax.errors import UsageError, shown
from siamjax.files import open_regular, saying
from siamjax.surroundings import folder_of

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
_ROOM, _GROWTH = 2**28, 4  # bytes, and times the size of the archive

_DEPTH, _MOST = 5, 200_000  # levels of folders, files and folders: more than any set has


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a set is called on disk, and where to get it.

    Attributes:
        title: such as ``CUHK03``.
        names: of the folders, archives or files to look for, in this order.
        tree: the files that are expected in a folder DIR.
        source: where to ask for the set.
    """

    title: str
    names: tuple[str, ...]
    tree: str
    source: str

    def missing(self, what: str) -> UsageError:
        """An error that says what is missing, what is expected and where to get it."""
        return UsageError(
            f"{what}; expected {self.tree}. {self.title} has no free mirror: {self.source}"
        )


def tfds_folder() -> Path:
    """TFDS's folder: ``$TFDS_DATA_DIR``, or ``tensorflow_datasets`` in the home folder."""
    return folder_of("TFDS_DATA_DIR", default="~/tensorflow_datasets")


def manual_folder() -> Path:
    """TFDS's folder for files that users fetch by hand; downloads go there too."""
    return tfds_folder() / "downloads" / "manual"


def search_path() -> list[Path]:
    """Folders to look for the sets in: $SIAMJAX_REID alone if set, else TFDS's manual folder."""
    if os.environ.get("SIAMJAX_REID"):
        return [folder_of("SIAMJAX_REID", default="")]
    return [manual_folder()]


def locate(published: Published, home: Path | None) -> Path:
    """The folder, archive or file that holds the set.

    ``home`` is the set itself, or a folder DIR that has it under one of its published names; None
    looks in :func:`search_path`. Raises ``UsageError`` with the expected tree if it is not there.
    """
    if home is not None and not os.path.exists(home):
        raise published.missing(f"{home}: no such folder or file")
    for folder in search_path() if home is None else [home]:
        for name in published.names:
            if os.path.exists(folder / name):
                return folder / name
    if home is None:
        looked = ", ".join(map(str, search_path()))
        raise published.missing(
            f"{published.title} is not in {looked}; set SIAMJAX_REID to the folder DIR that has "
            "it, or give its home"
        )
    if os.path.isfile(home) and not _is_archive(home) and home.suffix != ".mat":
        raise published.missing(f"{home}: not a folder, {', '.join(_ARCHIVES)} or .mat")
    return home


def collect(source: Path, key: Callable[[PurePosixPath], str | None]) -> dict[str, bytes | Path]:
    """The files of a folder (as paths) or of an archive (as bytes), sorted by key.

    ``key`` returns what to call a file, None for one that is not needed. Two files of one key
    raise ``UsageError``, as nothing tells which one is meant; so do a name that is not UTF-8, a
    link in an archive, and members that are larger than an archive of images can hold.
    """
    found: dict[str, bytes | Path] = {}
    origins: dict[str, str] = {}
    for name, read in _files(source):
        path = PurePosixPath(name)
        called = None if is_hidden(name) or not path.name else key(path)
        if called is None:
            continue
        if not called.isascii() and not is_text(called):
            raise UsageError(f"{source}: {called}: a name that is not UTF-8; rename the file")
        if called in found:
            raise UsageError(
                f"{source}: {called} is there twice, as {origins[called]} and {name}; remove one"
            )
        origins[called] = name
        found[called] = read()
    return dict(sorted(found.items()))


def content_of(found: bytes | Path) -> bytes:
    """The bytes of a file that :func:`collect` found."""
    return read_file(found) if isinstance(found, Path) else found


@contextlib.contextmanager
def opened_file(source: Path, name: str, published: Published) -> Iterator[Path]:
    """The path of the file ``name`` of a set; valid while the context is open.

    ``source`` is the file itself, a folder that holds it, or an archive, out of which the file is
    unpacked for that time. If it is in none, it may be beside ``source``. Raises ``UsageError`` if
    it is not there either.
    """
    if source.name == name and os.path.isfile(source):
        yield source
        return
    if os.path.isdir(source):
        paths = walk(source, depth=_DEPTH, most=_MOST).paths()
        inside = [path for path in paths if path.split("/")[-1] == name]
        if inside:
            yield source / min(inside, key=lambda path: path.count("/"))
            return
    if _is_archive(source):
        with tempfile.TemporaryDirectory() as folder:
            unpacked = Path(folder) / name
            if _unpack(source, name, unpacked):
                yield unpacked
                return
    beside = source.parent / name
    if not os.path.isfile(beside):
        raise published.missing(f"{name} is neither in {source} nor beside it")
    yield beside


def _is_archive(path: Path) -> bool:
    return os.path.isfile(path) and path.name.endswith(_ARCHIVES)


def _files(source: Path) -> Iterator[tuple[str, Callable[[], bytes | Path]]]:
    """Of every file: (path relative to ``source``, a function that returns its path or bytes)."""
    if os.path.isdir(source):
        found = walk(source, depth=_DEPTH, most=_MOST)
        for one in found.left_out:
            # A published set is complete: what is missing is said before its files are counted.
            if one.why in UNREADABLE or (one.why == EMPTY and is_image(one.name)):
                raise UsageError(f"{source / one.name}: {one.why}; mend or remove it")
        yield from ((name, partial(source.joinpath, name)) for name in found.paths())
        return
    with _opened(source) as (raw, limit):
        left = limit
        for name, size, stream in _members(source, raw, limit):

            def read(name: str = name, size: int = size, stream: Any = stream) -> bytes:
                nonlocal left
                if stream is None:
                    raise UsageError(f"{source}: {name} is a link; unpack the archive")
                left -= size
                if left < 0:
                    raise _too_large(source, name, limit)
                return _read(stream, size, source)

            yield name, read


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tuple[BinaryIO, int]]:
    """An archive, and the bytes that it may unpack to: images are compressed before they go in."""
    with open_regular(source) as raw:
        yield raw, _ROOM + _GROWTH * os.fstat(raw.fileno()).st_size


def _too_large(source: Path, name: str, limit: int) -> UsageError:
    return UsageError(
        f"{source}: up to {name} it unpacks to more than {limit:,} bytes, which is no archive of "
        "images; fetch it again"
    )


def _members(
    source: Path, raw: BinaryIO, limit: int
) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """(name, size, open stream) of every file of an archive, in its order; links have no stream."""
    with _said_if_broken(source):
        if source.suffix == ".zip":
            with zipfile.ZipFile(raw) as archive:
                for member in archive.infolist():
                    if member.is_dir():
                        continue
                    if stat.S_ISLNK(member.external_attr >> 16):
                        yield member.filename, 0, None
                        continue
                    with archive.open(member) as stream:
                        yield member.filename, member.file_size, stream
            return
        # By content: some browsers unpack a .tgz and keep its name.
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        unpacked = gzip.GzipFile(fileobj=raw) if packed else raw
        # A stream, which is never read back: so all that is unpacked is counted.
        counted: Any = _Counted(unpacked, source, limit)
        with tarfile.open(fileobj=counted, mode="r|") as archive:
            for member in archive:
                if member.isreg():
                    yield member.name, member.size, archive.extractfile(member)
                elif member.issym() or member.islnk():
                    yield member.name, 0, None


def _read(stream: IO[bytes], size: int, source: Path) -> bytes:
    with _said_if_broken(source):
        return stream.read(size)


class _Counted:
    """What tarfile reads, up to the bytes that the archive may unpack to."""

    def __init__(self, stream: Any, source: Path, limit: int) -> None:
        self._stream, self._source = stream, source
        self._limit = self._left = limit

    def read(self, size: int) -> bytes:
        content = self._stream.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise _too_large(self._source, "its end", self._limit)
        return content


def _unpack(source: Path, name: str, target: Path) -> bool:
    with _opened(source) as (raw, limit):
        for member, size, stream in _members(source, raw, limit):
            if stream is None or PurePosixPath(member).name != name:
                continue
            if size > limit:
                raise _too_large(source, member, limit)
            with target.open("wb") as file:
                while chunk := _read(stream, 2**20, source):
                    remedy = f"set TMPDIR to a folder with {size:,} bytes of space"
                    with saying(f"{target}: cannot be written", remedy=remedy):
                        file.write(chunk)
            return True
    return False


@contextlib.contextmanager
def _said_if_broken(source: Path) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # zipfile and tarfile raise almost anything on damaged bytes
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{shown(source)}: broken archive ({why}); fetch it again") from None
