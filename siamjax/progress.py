"""How far a long job is: a bar on a terminal, and lines in a log."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines in a log."""


class Progress:
    """A bar on standard error where that is a terminal; elsewhere a line every half minute.

    A bar in a file would be thousands of carriage returns. What takes less than half a minute
    writes no line.
    """

    def __init__(
        self, what: str, *, unit: str, total: int | None, done: int = 0, shown: bool = True
    ) -> None:
        """``what`` goes on, in so many ``unit``; ``done`` of the ``total`` were done before."""
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=f" {unit}",
            desc=what,
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.5,
            disable=not (shown and terminal),
        )
        self._what, self._unit, self._total, self._done = what, unit, total, done
        self._before, self._note = done, ""
        self._lines = shown and not terminal
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
            self.write(f"{self._what}: {self._done:,}{of} {self._unit}, {rate:,.3g}/s{self._note}")

    def note(self, text: str) -> None:
        """Show a text behind the numbers from now on."""
        self._note = f", {text}"
        self._bar.set_postfix_str(text)

    def write(self, line: str) -> None:
        """Write a line of its own."""
        tqdm.write(line, file=sys.stderr)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()
