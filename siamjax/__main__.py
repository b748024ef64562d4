"""Use a trained run from the command line: ``python -m siamjax COMMAND --help``."""

import tyro

from siamjax import cli
from siamjax.commands.catalogue import embed, search
from siamjax.commands.inspect import inspect
from siamjax.commands.ranking import rank
from siamjax.commands.verification import evaluate, folds, verify

COMMANDS = (verify, evaluate, folds, rank, embed, search, inspect)


def main() -> None:
    """Parse the command line and run the command."""
    commands = {command.__name__: command for command in COMMANDS}
    cli.guard(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m siamjax", description=__doc__
        )
    )


if __name__ == "__main__":
    main()
