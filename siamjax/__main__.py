"""Use a trained run, or published weights, from the command line."""

import os
import sys
from importlib import metadata

import tyro

from siamjax import cli
from siamjax.commands.export import export
from siamjax.commands.inspect import inspect
from siamjax.commands.reid import rank
from siamjax.commands.retrieval import embed, search
from siamjax.commands.verification import evaluate, folds, verify
from siamjax.commands.weights import convert, get, list_weights
from siamjax.options import checked

COMMANDS = (verify, evaluate, folds, rank, embed, search, inspect, export)
WEIGHTS = {"list": list_weights, "get": get, "convert": convert}


def main() -> None:
    """Parse the command line and run the command."""
    # As python -m does: a network may be defined in an experiment of the current folder.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    commands = {command.__name__: checked(command) for command in COMMANDS}
    program = "siamjax" if sys.argv[0].endswith("siamjax") else "python -m siamjax"
    words = sys.argv[1:]
    description = f"Use a trained run. For published weights: {program} weights --help."
    if words == ["--version"]:
        print(f"siamjax {metadata.version('siamjax')}")
        return
    if words[:1] == ["weights"]:
        commands = {name: checked(command) for name, command in WEIGHTS.items()}
        words, program = words[1:], f"{program} weights"
        description = "Published weights: list them, download them, convert other formats."
    cli.guard(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands, prog=program, description=description, args=words
        )
    )


if __name__ == "__main__":
    main()
