"""Turn a dataclass into flags, and a user's mistake into a single line."""

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from siamjax.errors import Interrupted, UsageError
from siamjax.options import only
from siamjax.platform import use_fast_cpu_kernels

Config = TypeVar("Config")


def run(main: Callable[[Config], object], config: type[Config], *, description: str | None) -> None:
    """Parse the flags of a dataclass, call ``main`` with it, and exit with a status.

    The status is 0 when done; 1, with one line on standard error, for a :class:`UsageError`; and
    128 + the signal after an interruption, when everything is saved. Any other exception is a bug
    and keeps its traceback.
    """
    import tyro  # here, so that experiments can be imported without tyro

    spec = sys.modules["__main__"].__spec__
    program = f"python -m {spec.name}" if spec else None
    # Tyro's own box would be drawn around what the options' class refuses: it is made afterwards.
    unchecked = type(config.__name__, (config,), {"__post_init__": _nothing})
    unchecked.__doc__ = config.__doc__
    parsed = tyro.cli(unchecked, prog=program, description=description)
    guard(lambda: main(only(config, parsed)))


def _nothing(self: object) -> None:
    """In place of the checks of an options' class."""


def guard(command: Callable[[], object]) -> None:
    """Call a command with fast CPU kernels, and treat its errors as :func:`run` does."""
    use_fast_cpu_kernels()
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax and TFDS log their progress
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Orbax logs errors that we report
    try:
        command()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as stop:
        print(stop.message, file=sys.stderr)
        raise
    except KeyboardInterrupt:  # outside the training loop there is nothing to save
        print("interrupted; what was saved before is kept", file=sys.stderr)
        sys.exit(130)
