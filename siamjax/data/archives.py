"""The one reader of published sets, be they folders or archives, and where it looks for them.

Nothing else in ``siamjax.data`` opens an archive, except the builders of the embedded sets, which
read the zip files that come with the package.
"""

import contextlib
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from siamjax.data.folders import files_in, is_hidden
from siamjax.data.images import read_file
from siamjax.errors import UsageError

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
_BROKEN = (
    OSError,
    EOFError,
    RuntimeError,  # zipfile: encrypted, or a compression it lacks
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)


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


def manual_folder() -> Path:
    """TFDS's folder for files that users fetch by hand; downloads go there too."""
    home = os.environ.get("TFDS_DATA_DIR", Path.home() / "tensorflow_datasets")
    return Path(home) / "downloads" / "manual"


def search_path() -> list[Path]:
    """Folders to look for the sets in: $SIAMJAX_REID alone if set, else TFDS's manual folder."""
    if "SIAMJAX_REID" in os.environ:
        return [Path(os.environ["SIAMJAX_REID"])]
    return [manual_folder()]


def locate(published: Published, home: Path | None) -> Path:
    """The folder, archive or file that holds the set.

    ``home`` is the set itself, or a folder DIR that has it under one of its published names; None
    looks in :func:`search_path`. Raises ``UsageError`` with the expected tree if it is not there.
    """
    if home is not None and not home.exists():
        raise published.missing(f"{home}: no such folder or file")
    for folder in search_path() if home is None else [home]:
        for name in published.names:
            if (folder / name).exists():
                return folder / name
    if home is None:
        looked = ", ".join(map(str, search_path()))
        raise published.missing(
            f"{published.title} is not in {looked}; set SIAMJAX_REID to the folder DIR that has "
            "it, or give its home"
        )
    if home.is_file() and not _is_archive(home) and home.suffix != ".mat":
        raise published.missing(f"{home}: not a folder, {', '.join(_ARCHIVES)} or .mat")
    return home


def collect(source: Path, key: Callable[[PurePosixPath], str | None]) -> dict[str, bytes | Path]:
    """The files of a folder (as paths) or of an archive (as bytes), sorted by key.

    ``key`` returns what to call a file, None for one that is not needed. Two files of one key
    raise ``UsageError``, as nothing tells which one is meant.
    """
    found: dict[str, bytes | Path] = {}
    origins: dict[str, str] = {}
    with _said_if_broken(source):
        for name, read in _files(source):
            path = PurePosixPath(name)
            called = None if is_hidden(path.as_posix()) else key(path)
            if called is None:
                continue
            if called in found:
                raise UsageError(
                    f"{source}: {called} is there twice, as {origins[called]} and {name}; remove "
                    "one"
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
    if source.name == name and source.is_file():
        yield source
        return
    if source.is_dir():
        inside = [path for path in files_in(source) if path.split("/")[-1] == name]
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
    if not beside.is_file():
        raise published.missing(f"{name} is neither in {source} nor beside it")
    yield beside


def _is_archive(path: Path) -> bool:
    return path.is_file() and path.name.endswith(_ARCHIVES)


def _files(source: Path) -> Iterator[tuple[str, Callable[[], bytes | Path]]]:
    """Of every file: (path relative to ``source``, a function that returns its path or bytes)."""
    if source.is_dir():
        yield from ((name, partial(source.joinpath, name)) for name in files_in(source))
    else:
        yield from ((name, stream.read) for name, stream in _members(source))


def _members(source: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, open stream) of every file of an archive, in the archive's order."""
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as stream:
                        yield member.filename, stream
        return
    with tarfile.open(source) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                yield member.name, stream


def _unpack(source: Path, name: str, target: Path) -> bool:
    with _said_if_broken(source):
        for member, stream in _members(source):
            if PurePosixPath(member).name == name:
                with target.open("wb") as file:
                    shutil.copyfileobj(stream, file)
                return True
    return False


@contextlib.contextmanager
def _said_if_broken(source: Path) -> Iterator[None]:
    try:
        yield
    except _BROKEN as error:
        what = "broken archive" if source.is_file() else "cannot be read"
        raise UsageError(f"{source}: {what} ({error}); fetch it again") from None
