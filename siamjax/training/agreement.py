"""Whether a folder holds the run that is asked for, and may go on to more steps."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siamjax.errors import UsageError, shown
from siamjax.files import read_json
from siamjax.runs import FORMAT, differences
from siamjax.surroundings import typed_command

LOCK = "lock"
"""The file in a run's folder that the process which trains it locks."""


def config_in(folder: Path) -> dict[str, Any] | None:
    """The options of the run in a folder; None of a new or an empty folder.

    Raises ``UsageError`` for a run of another format, and for a folder that holds anything else.
    """
    path = folder / "config.json"
    if path.exists():
        before = read_json(path, dict[str, Any])
        if before.get("format") != FORMAT:
            raise UsageError(
                f"{folder} is a run of another version of siamjax, which cannot be "
                "resumed; if it is finished, python -m siamjax can still use it; give --run "
                "another folder to train anew"
            )
        return before
    # A kill while a run begins leaves a file that was being written.
    if folder.is_dir() and any(p.name != LOCK and p.suffix != ".tmp" for p in folder.iterdir()):
        raise UsageError(
            f"{folder} is not empty and not a run (no config.json); give --run another"
        )
    return None


def check_same(
    folder: Path, there: Mapping[str, Any], here: Mapping[str, Any], *, extendable: bool
) -> None:
    """``UsageError`` unless the run in ``folder`` can be resumed with the options ``here``.

    An ``extendable`` run may have more steps than before. Of others that are finished the error
    gives the command that starts from their weights.
    """
    differing = differences([there, here])
    before, now = differing.get("steps", (0, 0))
    only_steps = set(differing) == {"steps"} and isinstance(before, int)
    if not differing or (only_steps and extendable and now > before):
        return
    if only_steps and now < before:
        raise UsageError(
            f"{folder} is a run of {before} steps, and {now} were asked for: it cannot become "
            f"shorter; give --run another folder, or --steps {before}"
        )
    if only_steps and os.path.exists(folder / "manifest.json"):
        more = ["--start-from", str(folder), "--run", f"{folder}-{now}"]
        command = shlex.join([*more, "--steps", str(now - before)])
        if (typed := typed_command()) != "a notebook":
            command = f"{typed} {command}"
        raise UsageError(
            f"{folder} is finished, and its learning rate falls to 0 at step {before} (one that "
            "does not depend on steps is declared by Run.open(..., extendable=True)); to train its "
            f"weights further: {command}"
        )
    raise UsageError(
        f"{folder} is a run of another config ({'; '.join(differing_words(there, here))}); give "
        "--run another folder, or resume it with the same options"
    )


def differing_words(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The differences of two configs or descriptions, each in a few words."""
    found = differences([there, here])
    return [
        f"{shown(name)} is {one!r} there and {other!r} here" for name, (one, other) in found.items()
    ]
