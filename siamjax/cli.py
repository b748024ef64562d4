"""From a dataclass to flags, and from a user's mistake to one line."""

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

from siamjax.errors import Interrupted, UsageError
from siamjax.platform import use_fast_cpu_kernels

Config = TypeVar("Config")


def run(main: Callable[[Config], object], config: type[Config], *, description: str | None) -> None:
    """Parse the flags of a dataclass, call ``main`` with it, and end as a command should.

    Status 0 when done; 1 and one line on standard error for a :class:`UsageError`; 128 + the
    signal after an interruption that saved everything. Anything else is a bug and keeps its
    traceback.
    """
    import tyro  # here, so that an experiment can be imported without it

    spec = sys.modules["__main__"].__spec__
    program = f"python -m {spec.name}" if spec else None
    parsed = tyro.cli(config, prog=program, description=description)
    guard(lambda: main(parsed))


def guard(command: Callable[[], object]) -> None:
    """Call a command with XLA's CPU settings made, and errors told as :func:`run` does."""
    use_fast_cpu_kernels()
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax and TFDS report their progress
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Orbax on files that we report
    try:
        command()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as stop:
        print(stop.message, file=sys.stderr)
        raise
    except KeyboardInterrupt:  # outside the training loop nothing is left to save
        print("interrupted; what was saved stands", file=sys.stderr)
        sys.exit(130)
