"""The one reader of folders: which images they hold, by one rule for every task.

* An image is known by its suffix (:data:`siamjax.data.decoding.FORMATS`).
* Links to files and folders are followed. What several paths lead to is read once: by the path
  without a link if there is one, else by the first.
* Hidden files and folders, and those that file managers write, are passed over in silence
  (:func:`siamjax.data.names.is_hidden`).
* All else is left out, counted and named: other files, empty files, links that lead nowhere, what
  is no file (a named pipe, a device), folders that cannot be read, and images at another depth
  than the task's.
"""

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from siamjax.data.decoding import IMAGE_SUFFIXES
from siamjax.data.left_out import LeftOut, sentence, tell
from siamjax.data.names import is_hidden
from siamjax.errors import UsageError, shown

UNREADABLE = BROKEN_LINK, CLOSED, UNREAD = (
    "broken link",
    "folder that cannot be read",
    "file that cannot be read",
)
"""Why something is left out behind which there may be images."""

EMPTY = "empty file"


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


@dataclass(frozen=True)
class Walked:
    """What is in a folder, and below it; paths are relative to it, their parts separated by "/".

    Attributes:
        files: of each folder (``""``, ``a``, ``a/b``) the names of its files that are not empty.
        left_out: what is not among them, but for hidden files.
    """

    files: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def paths(self) -> list[str]:
        """The paths of all files, sorted part by part."""
        paths = [_joined(below, name) for below, names in self.files.items() for name in names]
        # A NUL comes before all that names may have, so that parts are compared, without lists.
        paths.sort(key=lambda path: path.replace("/", "\0"))
        return paths


def walk(folder: Path, *, depth: int | None = None, most: int | None = None) -> Walked:
    """The files of a folder and of those below it.

    Args:
        folder: must exist, else ``UsageError`` is raised, as if it cannot be read.
        depth: how many levels of folders to open, 1 for the folder alone; None: all.
        most: number of files and folders after which ``UsageError`` is raised; None: no limit.
    """
    found, links, count = Walked(), [], 0
    seen: set[tuple[int, int]] = set()
    # Folders behind links come last, so that what is in the folder is known by its own path.
    own, linked = deque([""]), deque[str]()
    while own or linked:
        below = own.popleft() if own else linked.popleft()
        place = os.path.join(folder, below)
        try:
            about = os.stat(place)
            again = (about.st_dev, about.st_ino) in seen
            entries = [] if again else _entries(place)
        except OSError as error:
            if not below:
                raise UsageError(
                    f"{shown(folder)}: the folder cannot be read ({error.strerror}); check the "
                    "path and its permissions"
                ) from None
            found.left_out.append(LeftOut(below, CLOSED))
            continue
        if again:
            found.left_out.append(LeftOut(below, "link to what is read already"))
            continue
        seen.add((about.st_dev, about.st_ino))
        names = found.files[below] = []
        count += len(entries)
        if most is not None and count > most:
            raise UsageError(
                f"{shown(folder)}: more than {most:,} files and folders; give the folder that "
                "holds only the images"
            )
        for entry in entries:
            path = _joined(below, entry.name)
            try:
                if entry.is_symlink() and not os.path.exists(entry.path):
                    found.left_out.append(LeftOut(path, BROKEN_LINK))
                elif entry.is_dir():
                    if depth is not None and below.count("/") + bool(below) + 2 > depth:
                        found.left_out.append(LeftOut(path, "folder too deep"))
                    else:
                        (linked if entry.is_symlink() else own).append(path)
                elif not entry.is_file():
                    found.left_out.append(LeftOut(path, "neither file nor folder"))
                elif not entry.stat().st_size:
                    found.left_out.append(LeftOut(path, EMPTY))
                elif entry.is_symlink():
                    links.append(path)
                else:
                    names.append(entry.name)
            except OSError:
                found.left_out.append(LeftOut(path, UNREAD))
    _add_links(folder, found, links)
    return found


def _entries(place: str) -> list[os.DirEntry[str]]:
    with os.scandir(place) as found:
        return sorted((e for e in found if not is_hidden(e.name)), key=lambda e: e.name)


def _joined(below: str, name: str) -> str:
    return f"{below}/{name}" if below else name


def _add_links(folder: Path, found: Walked, links: list[str]) -> None:
    """Links to files, but for those to a file that is among those found."""
    if not links:
        return
    targets = {os.path.realpath(folder / below): set(names) for below, names in found.files.items()}
    for path in links:
        place, name = os.path.split(os.path.realpath(folder / path))
        known = targets.setdefault(place, set())
        if name in known:
            found.left_out.append(LeftOut(path, "link to what is read already"))
            continue
        known.add(name)
        below, _, name = path.rpartition("/")
        found.files[below].append(name)
    for names in found.files.values():
        names.sort()


def read_folder(folder: Path, *, form: str = "") -> tuple[list[str], list[LeftOut]]:
    """The images of a folder, by their sorted paths relative to it, and what is left out.

    ``form`` says where images must be, such as ``FOLDER/PERSON/IMAGE``; "": anywhere. Raises
    ``UsageError`` if there is no such folder or it cannot be read.
    """
    depth = form.count("/")
    # One level more, so that the images that are one level too deep are counted.
    found = walk(folder, depth=depth + 1 if form else None)
    images, left_out = [], found.left_out
    for path in found.paths():
        if not is_image(path):
            left_out.append(LeftOut(path, "not an image"))
        elif form and path.count("/") + 1 != depth:
            left_out.append(LeftOut(path, f"elsewhere than {form}"))
        else:
            images.append(path)
    if depth == 2:
        told = {path.split("/")[0] for path in (*images, *(one.name for one in left_out))}
        empty = [below for below in found.files if below and below.split("/")[0] not in told]
        left_out += [LeftOut(below, "folder without images") for below in sorted(empty)]
    return images, left_out


def no_images(folder: Path, left_out: Sequence[LeftOut], *, remedy: str) -> UsageError:
    """The error for a folder in which nothing is an image."""
    known = ", ".join(sorted(IMAGE_SUFFIXES))
    return UsageError(f"{shown(folder)}: {sentence(f'no image ({known})', left_out)}; {remedy}")


def image_files(folder: Path, *, strict: bool = False) -> list[Path]:
    """The images anywhere in a folder, sorted by path; prints how many, and what is left out.

    Raises ``UsageError`` if there is no such folder or no image in it; with ``strict`` if anything
    is left out.
    """
    images, left_out = read_folder(folder)
    if not images:
        raise no_images(folder, left_out, remedy="give the folder that holds images")
    tell(folder, f"{len(images):,} images", left_out, strict=strict)
    return [folder / name for name in images]
