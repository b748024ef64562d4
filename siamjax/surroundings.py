"""What a process finds around it: its standard streams, the user's folders, what was typed."""

import errno
import os
import select
import shlex
import sys
from pathlib import Path
from typing import TextIO

from siamjax.errors import UsageError, shown


def open_streams() -> None:
    """Make sure that everything can be printed, and that nothing else is written there.

    A stream that is closed (``2>&-``, a daemon) leads nowhere: otherwise the next file that is
    opened would get its number, and messages of libraries would be written into it. What a
    stream's encoding does not have (another alphabet, a name that is not UTF-8) is printed as its
    code.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the first free number
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):  # not in a notebook
            stream.reconfigure(errors="backslashreplace")


def close_stream(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, so that Python does not try it again at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # no file at all
        pass


def has_no_reader(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads any more, such as that to ``head``."""
    try:
        asked = select.poll()
        asked.register(stream.fileno(), 0)
        # Linux tells it by the one, macOS by the other.
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))
    except (OSError, ValueError):
        return False


def typed_command() -> str:
    """The command that started this process, as a shell takes it; or ``a notebook``."""
    if "ipykernel" in sys.modules:
        return "a notebook"
    return shlex.join(["python", *sys.orig_argv[1:]])


def expanded(text: str, *, name: str) -> str:
    """A path whose ``~`` or ``~somebody`` at the start is a home folder, as in a shell.

    Raises ``UsageError`` that begins with ``name`` for what can be no path on this machine.
    """
    path = os.path.expanduser(text)
    if path.split("/")[0] == "~":
        raise UsageError(
            f"{name} {shown(text)}: no home folder is known; set HOME, or write it out"
        )
    try:
        os.lstat(path)
    except ValueError:
        raise UsageError(f"{name} {shown(text)}: a path cannot hold the character \\x00") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(
                f"{name} {shown(path)}: {error.strerror}; give a shorter path"
            ) from None
    return path


def folder_of(variable: str, *, default: str) -> Path:
    """The folder that an environment variable names, or ``default``, which may begin with ``~``."""
    given = os.environ.get(variable)
    return Path(expanded(given or default, name=variable if given else f"{variable}, by default"))


def cache_folder() -> Path:
    """What can be made again is kept here: ``siamjax`` in the user's cache folder."""
    return folder_of("XDG_CACHE_HOME", default="~/.cache") / "siamjax"
