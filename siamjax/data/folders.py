"""The one reader of folders: which files they hold, by one rule for every task.

* Links to files and folders are followed. A folder that contains itself, by a link to one of the
  folders above it, is left out there. An image that two paths lead to is in both places.
* Hidden files and folders are left out; their names begin with a dot (``._x`` is macOS's shadow
  of x).
* A folder that cannot be read and a broken link raise ``UsageError`` with their path, as what is
  behind them would otherwise be missing in silence.
"""

import os
from pathlib import Path

from siamjax.data.images import IMAGE_SUFFIXES
from siamjax.errors import UsageError


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder on its path, has a name that begins with a dot (and not ..)."""
    return any(part.startswith(".") and part.strip(".") for part in name.split("/"))


def entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is directly in a folder and not hidden, by name."""
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if not is_hidden(e.name)), key=lambda e: e.name)
    except OSError as error:
        raise UsageError(
            f"{folder}: the folder cannot be read ({error.strerror}); change its permissions or "
            "move it away"
        ) from None


def walk(folder: Path, *, keep_broken: bool = False) -> dict[str, list[str]]:
    """The names of the files in a folder ("") and in every folder below it ("a", "a/b").

    ``keep_broken``: a broken link with the suffix of an image stands among the files; for callers
    that report each image that cannot be read.
    """
    files: dict[str, list[str]] = {}
    # Path below ``folder``, and the real paths of it and of the folders above it.
    pending: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(folder),))]
    while pending:
        below, above = pending.pop()
        names = files[below] = []
        for entry in entries(folder / below):
            if entry.is_symlink():
                is_folder, real = os.path.isdir(entry.path), os.path.realpath(entry.path)
                kept = keep_broken and is_image(entry.name)
                if not kept and not os.path.exists(entry.path):
                    target = os.readlink(entry.path)
                    raise UsageError(f"{entry.path}: a broken link to {target}; mend or remove it")
            else:
                is_folder, real = entry.is_dir(), os.path.join(above[-1], entry.name)
            if not is_folder:
                names.append(entry.name)
            elif real not in above:
                pending.append((f"{below}/{entry.name}".lstrip("/"), (*above, real)))
    return dict(sorted(files.items(), key=lambda item: item[0].split("/")))


def files_in(folder: Path, *, keep_broken: bool = False) -> list[str]:
    """The paths of all files of :func:`walk`, relative to the folder, folder by folder."""
    found = walk(folder, keep_broken=keep_broken).items()
    names = [f"{below}/{name}".lstrip("/") for below, listed in found for name in listed]
    return sorted(names, key=lambda name: name.split("/"))


def image_files(folder: Path) -> list[Path]:
    """The image files (by suffix) anywhere in a folder, sorted by path.

    Raises ``UsageError`` if there is no such folder or no image in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of images; check the path")
    found = [folder / name for name in files_in(folder) if is_image(name)]
    if not found:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"{folder} holds no image ({known}); give the folder that does")
    return found
