"""Turn a dataclass into flags, and what a user or a machine does wrong into a single line."""

import contextlib
import errno
import functools
import inspect
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn, TextIO, TypeVar

from siamjax import messages
from siamjax.errors import Hung, Interrupted, UsageError, shown
from siamjax.host_memory import keep_memory
from siamjax.options import add_option, only
from siamjax.platform import import_as_usual, keep_compilations, no_device, use_fast_cpu_kernels
from siamjax.surroundings import close_stream, has_no_reader, open_streams

Config = TypeVar("Config")

_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOSPC: "make space, and run the same command again",
    errno.EDQUOT: "make space, and run the same command again",
    errno.EROFS: "choose a place on a disk that can be written",
    errno.EACCES: "choose a place that you may read and write, or change its mode",
    errno.EPERM: "choose a place that you may read and write, or change its mode",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close other programs: the machine has too many open files",
    errno.ENOMEM: "free memory, or use smaller batches",
    errno.ENAMETOOLONG: "use shorter names",
    errno.EFBIG: "the file system or a limit (ulimit -f) has no room for a larger file",
    errno.EIO: "the disk cannot be read or written: look into the system's log",
    errno.ESTALE: "the network disk has gone: mount it again",
}


def run(main: Callable[[Config], object], config: type[Config], *, description: str | None) -> None:
    """Parse the flags of a dataclass, call ``main`` with it, and exit with a status.

    The status is 0 when done; 1, with one line on standard error, for a :class:`UsageError` and
    for what the machine refuses (a full disk, a folder that may not be written, JAX without the
    device that was asked for); 141 where the reader of the output has gone, as after ``| head``;
    and 128 + the signal after an interruption, when everything is saved. Any other exception is a
    bug and keeps its traceback.
    """
    from tyro.conf import arg

    spec = sys.modules["__main__"].__spec__
    # Tyro's own box would be drawn around what the options' class refuses: it is made afterwards.
    unchecked = type(config.__name__, (config,), {"__post_init__": _nothing})
    unchecked.__doc__ = config.__doc__

    def train(options: Any) -> object:
        return main(only(config, options))

    train.__annotations__["options"] = Annotated[unchecked, arg(name="")]
    program = f"python -m {spec.name}" if spec else None
    call(train, program=program, description=description, divided=True)


def _nothing(self: object) -> None:
    """In place of the checks of an options' class."""


def call(
    function: Callable[..., object],
    *,
    program: str | None,
    description: str | None = None,
    words: Sequence[str] | None = None,
    divided: bool = False,
) -> None:
    """Parse words (None: those that were typed) as the arguments of a function, and call it.

    It has fast CPU kernels, and memory and what JAX compiles are kept. ``--quiet`` is added to the
    arguments, and ``--distributed`` where the function's work is ``divided`` over processes. Ends
    as :func:`run` does, and with status 2 for words that are not arguments.
    """
    import tyro  # here, so that experiments can be imported without tyro

    @functools.wraps(function)
    def called(*arguments: Any, quiet: bool, distributed: str = "", **options: Any) -> object:
        with contextlib.ExitStack() as stack:
            if quiet:
                stack.enter_context(messages.quiet())
            import_as_usual()
            use_fast_cpu_kernels()
            keep_memory()
            keep_compilations()
            if distributed:
                from siamjax import processes

                processes.start(distributed)
                if not processes.is_first():
                    stack.enter_context(messages.silent())
            return function(*arguments, **options)

    said = "Show no progress and no notes: only results, warnings and errors."
    # Tyro keeps the line breaks of an argument's description, and wraps each line by itself.
    called.__doc__ = re.sub(r"\n {8}", " ", inspect.cleandoc(function.__doc__ or ""))
    kind = Annotated[tyro.conf.FlagCreatePairsOff[bool], tyro.conf.arg(help=said)]
    add_option(called, function, "quiet", kind, default=False)
    if divided:
        said = (
            "One of several processes that do this together: HOST:PORT,COUNT,INDEX, or auto on a "
            "cluster that JAX knows. See docs/scaling.md."
        )
        one = Annotated[str, tyro.conf.arg(help=said, metavar="WHERE")]
        add_option(called, called, "distributed", one, default="")
    guard(lambda: tyro.cli(called, prog=program, description=description, args=words))


def guard(command: Callable[[], object]) -> None:
    """Call a command, and treat its errors as :func:`run` does."""
    open_streams()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax and TFDS: their progress, errors
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Orbax logs errors that we report
    try:
        try:
            command()
        finally:
            sys.stdout.flush()  # here, where a full disk or a reader that has gone is noticed
    except UsageError as error:
        _end(f"error: {error}", status=1, at_once=isinstance(error, Hung))
    except Interrupted as stop:
        _say(stop.message)
        raise
    except KeyboardInterrupt:  # outside the training loop there is nothing to save
        _end("interrupted; what was saved before is kept", status=130)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and any(map(has_no_reader, (sys.stdout, sys.stderr))):
            _end("", status=141)  # 128 + SIGPIPE, as other programs end
        if error.filename is None and error.errno not in _REMEDIES:
            raise
        _end(f"error: {_reason(error)}", status=1)
    except Exception as error:
        others = _processes()
        if problem := no_device() or (others and others.lost(error)) or _memory(error):
            _end(f"error: {problem}", status=1)
        if others is None:
            raise
        _end(traceback.format_exc().rstrip(), status=1)


def _reason(error: OSError) -> str:
    """What the machine refused: file, reason, and what to do."""
    where = "" if error.filename is None else f"{shown(error.filename)}: "
    if not where and _is_full(sys.stdout):
        where = "standard output: "
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{where}{error.strerror}" + (f"; {remedy}" if remedy else "")


def _memory(error: Exception) -> str:
    """What to do where memory is not enough, of the host or of a device; "" for another error."""
    refused = str(error).partition("\n")[0]
    if not isinstance(error, MemoryError) and not refused.startswith("RESOURCE_EXHAUSTED"):
        return ""
    return f"not enough memory ({shown(refused or 'none left')}); use smaller images or batches"


def _is_full(stream: TextIO) -> bool:
    """Whether what the stream holds cannot be written."""
    try:
        stream.flush()
    except OSError:
        return True
    return False


def _end(message: str, *, status: int, at_once: bool = False) -> NoReturn:
    """Say the last words, and exit; ``at_once`` where Python would first wait for a thread."""
    if message:
        _say(message)
    for stream in (sys.stdout, sys.stderr):
        if _is_full(stream):
            close_stream(stream)
    if (others := _processes()) is not None:
        others.leave(status)
    if at_once:
        os._exit(status)
    sys.exit(status)


def _processes() -> Any:
    """The module of several processes, where this is one of them; else None."""
    found = sys.modules.get("siamjax.processes")  # not imported without need: it takes JAX
    return found if found is not None and found.joined() else None


def _say(message: str) -> None:
    """A line on standard error, if anybody can read it."""
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)
