"""Read what a process says and pass it on, with C++'s way of dying as a line: a program of its own.

When another process has gone, or the processes do not meet, jaxlib aborts: it prints the names of
its functions, and no Python runs any more. :mod:`siamjax.processes` therefore lets this program
read what the process writes on standard error. It outlives that, and imports next to nothing.
"""

import re
import sys
from collections.abc import Iterable, Iterator

_FATAL = re.compile(r"F\d{4} .*Terminating process because the JAX distributed service")
_DYING = re.compile(r"[EFW]\d{4} .*(coordination_service|JAX distributed service)")
_MORE = re.compile(  # lines of such a message after its first
    r"\d+$|The tasks have crashed|RPC: /xla\.|Additional GRPC error|:[A-Z_]+:"
    r"|\*\*\* Check failure|    @  |=== Source Location Trace|external/xla|$"
)
# Threads of gloo write such lines into one another, piece by piece: a number, or nothing, may be
# all that is left for the last line.
_GLOO = re.compile(r".*(\[Gloo\] Rank|number of connected peer ranks is)")
_REST_OF_GLOO = re.compile(r"(\d+| |is connected to|peer ranks\.)*$")
_RESUME = "run the same command again in all processes: it resumes at what was saved"
GONE = f"another process has gone; look at what it said last, and {_RESUME}"
"""What to say where another process has gone."""


def told(lines: Iterable[str], *, unmet: str) -> Iterator[str]:
    """The lines to pass on; ``unmet`` is said where the processes did not meet."""
    dying, fatal, said, greetings = False, "", False, 0
    for line in lines:
        said |= line.startswith("error: ")
        dying |= bool(_DYING.match(line))
        if _FATAL.match(line) or fatal:
            fatal += line
        greetings += line.count("[Gloo] Rank")
        if _GLOO.match(line) or (greetings and _REST_OF_GLOO.match(line)):
            greetings = max(0, greetings - 1)  # each ends one line
        elif not (_DYING.match(line) or (dying and _MORE.match(line))):
            yield line
    if fatal and not said:  # jaxlib has met nobody as long as it registers itself
        yield f"error: {unmet if 'RegisterTask' in fatal else GONE}\n"


if __name__ == "__main__":
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):  # of its process, which may have much to say
        signal.signal(number, signal.SIG_IGN)
    with open(0, encoding="utf-8", errors="backslashreplace", newline="\n") as words:
        for one in told(words, unmet=sys.argv[1]):
            sys.stderr.write(one)
            sys.stderr.flush()
