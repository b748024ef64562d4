"""Use a trained run, or published weights, from the command line."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from siamjax import cli
from siamjax.options import checked

COMMANDS = {
    "verify": "verification:verify",
    "evaluate": "verification:evaluate",
    "calibrate": "calibrate:calibrate",
    "runs": "runs:runs",
    "compare": "runs:compare",
    "folds": "verification:folds",
    "rank": "reid:rank",
    "embed": "retrieval:embed",
    "search": "retrieval:search",
    "inspect": "inspect:inspect",
    "export": "export:export",
}
"""Module of :mod:`siamjax.commands` and function of each command, imported when it is called.

These modules import no more than their functions' signatures need, so that help comes at once.
"""

WEIGHTS = {"list": "weights:list_weights", "get": "weights:get", "convert": "weights:convert"}
"""The commands after ``weights``."""

_DIVIDED = ("embed", "evaluate")  # over several processes

_GROUPS = {
    "": (COMMANDS, "Use a trained run."),
    "weights": (WEIGHTS, "Published weights: list them, download them, convert other formats."),
}


def main() -> None:
    """Parse the command line and run the command."""
    # As python -m does: a network may be defined in an experiment of the current folder.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    program = "siamjax" if sys.argv[0].endswith("siamjax") else "python -m siamjax"
    words = sys.argv[1:]
    if words == ["--version"]:
        print(f"siamjax {metadata.version('siamjax')}")
        return
    group = ""
    if words and words[0] in _GROUPS:
        group, words = words[0], words[1:]
        program = f"{program} {group}"
    commands, description = _GROUPS[group]
    if words and words[0] in commands:
        cli.call(
            command(commands[words[0]]),
            program=f"{program} {words[0]}",
            words=words[1:],
            divided=words[0] in _DIVIDED,
        )
    else:
        others = {name: about for name, (_, about) in _GROUPS.items() if name and not group}
        _list(commands, others, program=program, description=description, words=words)


def command(place: str) -> Callable[..., Any]:
    """The function of a command, which checks its arguments; ``place`` is as in ``COMMANDS``."""
    module, _, name = place.partition(":")
    return checked(getattr(importlib.import_module(f"siamjax.commands.{module}"), name))


def _list(
    commands: Mapping[str, str],
    others: Mapping[str, str],
    *,
    program: str,
    description: str,
    words: list[str],
) -> None:
    """List the commands, or say that the words name none of them."""
    import tyro

    abouts = {name: command(place).__doc__ or "" for name, place in commands.items()}
    entries = {}
    for name, about in {**abouts, **others}.items():
        entries[name] = lambda: None
        entries[name].__doc__ = about.splitlines()[0]
    cli.guard(
        lambda: tyro.extras.subcommand_cli_from_dict(
            entries, prog=program, description=description, args=words
        )
    )


if __name__ == "__main__":
    main()
