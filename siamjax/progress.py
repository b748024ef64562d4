"""How far a long job is: a bar on a terminal or in a notebook, and lines in a log."""

import importlib.util
import sys
import time
from types import TracebackType
from typing import Any

from siamjax import messages

EVERY = 30.0
"""Seconds between two lines in a log."""


class Progress:
    """A bar on standard error where that is a terminal; elsewhere a line every half minute.

    A bar in a file would be thousands of carriage returns. What takes less than half a minute
    writes no line. A notebook has tqdm's own bar, and tqdm's text if ipywidgets is not installed.
    Nothing is shown within :func:`siamjax.messages.quiet`.
    """

    def __init__(
        self, what: str, *, unit: str, total: int | None, done: int = 0, shown: bool = True
    ) -> None:
        """``what`` goes on, in so many ``unit``; ``done`` of the ``total`` were done before."""
        notebook = "ipykernel" in sys.modules
        shown = shown and messages.telling()
        drawn = shown and (notebook or sys.stderr.isatty())
        self._bar = _bars(notebook)(
            total=total,
            initial=done,
            unit=f" {unit}",
            desc=what,
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5,
            disable=not drawn,
        )
        self._what, self._unit, self._total, self._done = what, unit, total, done
        self._before, self._note = done, ""
        self._lines = shown and not drawn
        self._begun = self._said = time.monotonic()

    def update(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now - self._said >= EVERY:
            self._said = now
            rate = (self._done - self._before) / (now - self._begun)
            of = f" of {self._total:,}" if self._total else ""
            done = f"{self._what}: {self._done:,}{of} {self._unit}"
            messages.note(f"{done}, {rate:,.3g}/s{self._note}")

    def note(self, text: str) -> None:
        """Show a text behind the numbers from now on."""
        self._note = f", {text}"
        self._bar.set_postfix_str(text)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()


def _bars(notebook: bool) -> Any:
    """tqdm's class; tqdm.auto would warn in a notebook without ipywidgets."""
    if notebook and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    return tqdm
