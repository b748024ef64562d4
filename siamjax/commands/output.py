"""How a command answers: text for people, or with ``--json`` one JSON object for programs.

Notes, warnings and progress go to standard error. The objects' keys stand in docs/commands.md.
"""

import contextlib
import functools
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg

from siamjax import messages
from siamjax.errors import UsageError, shown
from siamjax.files import dump_json
from siamjax.options import add_option

if TYPE_CHECKING:
    from siamjax.training.finished import Described

_Json = Annotated[
    FlagCreatePairsOff[bool], arg(help="Print one JSON object instead of text: docs/commands.md.")
]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command found.

    Attributes:
        values: what ``--json`` prints. The keys are stable: a command's are always there, and
            what is not known is None.
        text: the lines that are printed without ``--json``.
        then: the next useful command, as the words after ``python -m siamjax``; (): there is none.
        failed: what went wrong although there is an answer; the exit status is then 1.
    """

    values: Mapping[str, Any]
    text: Sequence[str]
    then: Sequence[object] = ()
    failed: str = ""


def answers(command: Callable[..., Answer]) -> Callable[..., Answer]:
    """A command that prints what its function returns, and has the option ``json``.

    With ``json`` whatever else is printed meanwhile goes to standard error.
    """

    @functools.wraps(command)
    def call(*arguments: Any, json: bool = False, **options: Any) -> Answer:
        with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
            answer = command(*arguments, **options)
        for line in [dump_json(answer.values)] if json else answer.text:
            print(line)
        if answer.then and not json:
            sys.stdout.flush()  # the note comes last
            trust = options.get("trust")  # without it the next command would ask for it
            words = shlex.join(map(str, (*answer.then, *(("--trust", *trust) if trust else ()))))
            messages.note(shown(f"next: python -m siamjax {words}", longest=10**6))
        if answer.failed:
            raise UsageError(answer.failed)
        return answer

    add_option(call, command, "json", _Json, default=False)
    return call


def used(run: "Described") -> tuple[object, object]:
    """The words that name a run, or published weights, on the command line."""
    return ("--network" if run.folder.is_file() else "--run"), run.folder


def calibrate(run: "Described", *, then: Sequence[object] = ()) -> Sequence[object]:
    """The next command for a run that is not calibrated; ``then`` for one that is."""
    if os.path.lexists(run.kept / "calibration.json"):
        return then
    return ("calibrate", *used(run), "--data", "my_people/")
