"""How a command answers: text for people, or with ``--json`` one JSON object for programs.

Warnings and progress go to standard error. The keys of the objects are listed in docs/commands.md.
"""

import contextlib
import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from siamjax.errors import UsageError, shown
from siamjax.files import dump_json

_Json = Annotated[
    bool,
    tyro.conf.arg(help="Print one JSON object in place of text; docs/commands.md has its keys."),
]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command found.

    Attributes:
        values: what ``--json`` prints. The keys are stable: those of a command are always there,
            and None is what is not known.
        text: the lines that are printed without ``--json``.
        then: the next useful command, as the words after ``python -m siamjax``; (): there is none.
        failed: what went wrong although there is an answer; the exit status is then 1.
    """

    values: Mapping[str, Any]
    text: Sequence[str]
    then: Sequence[object] = ()
    failed: str = ""


def answers(command: Callable[..., Answer]) -> Callable[..., Answer]:
    """A command with the option ``json`` that prints what the function returns.

    With ``json`` whatever else is printed meanwhile goes to standard error.
    """
    signature = inspect.signature(command)
    option = inspect.Parameter(
        "json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Json
    )

    @functools.wraps(command)
    def call(*arguments: Any, json: bool = False, **options: Any) -> Answer:
        with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
            answer = command(*arguments, **options)
        if json:
            print(dump_json(answer.values))
        else:
            for line in answer.text:
                print(line)
            if answer.then:
                words = shlex.join(str(word) for word in answer.then)
                print(shown(f"next: python -m siamjax {words}", longest=10**6))
        if answer.failed:
            raise UsageError(answer.failed)
        return answer

    call.__signature__ = signature.replace(  # pyright: ignore[reportFunctionMemberAccess]
        parameters=[*signature.parameters.values(), option]
    )
    call.__annotations__ = {**command.__annotations__, "json": _Json}
    return call
