"""What was read and what was left out, in a sentence: ``1,203 images; 2 left out: ...``."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from siamjax.errors import UsageError, shown
from siamjax.messages import note

_NAMED = 3  # of each kind
_NAME = 80  # characters


class LeftOut(NamedTuple):
    """Something that is not used.

    Attributes:
        name: of a file or folder, relative to the folder that was read, or ``line 12``.
        why: what it is, such as ``empty file``; those of one kind are counted together.
    """

    name: str
    why: str


def sentence(read: str, left_out: Sequence[LeftOut]) -> str:
    """``read`` and, by kind, how many are left out, with the first names of each."""
    kinds: dict[str, list[str]] = {}
    for one in left_out:
        kinds.setdefault(one.why, []).append(shown(one.name, longest=_NAME))
    told = []
    for why, names in kinds.items():
        count = f"{len(names):,}: " if len(names) > 1 else ""
        more = ", ..." if len(names) > _NAMED else ""
        told.append(f"{why} ({count}{', '.join(names[:_NAMED])}{more})")
    return f"{read}; {len(left_out):,} left out: {', '.join(told)}" if told else read


def tell(source: Path, read: str, left_out: Sequence[LeftOut], *, strict: bool) -> None:
    """Note what was read and left out; with ``strict`` raise it if anything is left out."""
    said = f"{shown(source)}: {sentence(read, left_out)}"
    if strict and left_out:
        raise UsageError(f"{said}; mend or remove these, or leave out --strict")
    note(said)
