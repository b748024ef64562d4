"""The arguments that several commands share, with their help: ``trust: Trust = ()``.

``--quiet`` is no argument: :func:`siamjax.cli.call` gives it to every command and experiment.
"""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

Trust = Annotated[
    tuple[str, ...],
    arg(
        help="Modules to import the run's network from; the error that asks for one names it.",
        metavar="[MODULE ...]",
    ),
]
UsedRun = Annotated[
    Path,
    arg(
        aliases=("--network",),
        help="Folder of a finished run; or published weights: a file, its folder, or a name that "
        "`weights list` shows.",
    ),
]
Strict = Annotated[
    bool, arg(help="Refuse data of which something would be left out; else that is told.")
]
