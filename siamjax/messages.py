"""What is told beside results: notes, which ``--quiet`` leaves out, and warnings.

Both are lines on standard error, so that standard output has the results alone.
"""

import contextlib
import sys
from collections.abc import Iterator

_told = True
_warned = True


def telling() -> bool:
    """Whether notes and progress are shown."""
    return _told


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out notes and progress for a while: what ``--quiet`` does, in any thread."""
    global _told
    before, _told = _told, False
    try:
        yield
    finally:
        _told = before


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Leave out warnings as well: of several processes that all would say the same, one does."""
    global _warned
    _warned = False
    try:
        with quiet():
            yield
    finally:
        _warned = True


def note(line: str) -> None:
    """Tell what is good to know: what was left out or resumed, where a page is."""
    if _told:
        _write(line)


def warn(line: str, *, alone: bool = False) -> None:
    """Tell what may make the results wrong or lost; ``--quiet`` does not leave it out.

    ``alone`` is for what one of several processes has met and the others have not.
    """
    if _warned or alone:
        _write(f"warning: {line}")


def _write(line: str) -> None:
    bars = sys.modules.get("tqdm")  # a bar that is shown goes out of the way
    if bars is None:
        print(line, file=sys.stderr, flush=True)
    else:
        bars.tqdm.write(line, file=sys.stderr)
