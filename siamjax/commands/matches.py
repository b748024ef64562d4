"""The line between match and no match, as ``search`` and ``rank`` draw it."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamjax import messages
from siamjax.commands.output import used
from siamjax.errors import shown

if TYPE_CHECKING:
    from siamjax.inference.calibration import OpenSet, Searched
    from siamjax.training.finished import Finished


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Who counts as found.

    Attributes:
        known: the calibration of such a search; None: there is none, and every list has someone.
        outgrown: whether the gallery is larger than the one that it was made for.
        rises: whether a value is greater for images that are more similar.
        again: the command that calibrates, as the words after ``python -m siamjax``.
    """

    known: "OpenSet | None"
    outgrown: bool
    rises: bool
    again: tuple[object, ...]

    @classmethod
    def of(
        cls, run: "Finished", searched: "Searched | None", *, images: int, index: Path | None = None
    ) -> "Matches":
        """What a run's calibration says of a gallery of so many images; warns if it is outgrown.

        ``searched`` None: by a value that is never calibrated.
        """
        from siamjax.inference.calibration import Calibration

        known, outgrown, rises = None, False, False
        if searched is None:
            return cls(known=known, outgrown=outgrown, rises=rises, again=())
        calibration = Calibration.read(run)
        if calibration is not None:
            calibration.warn()
            where = "" if index is None else str(index.resolve())
            known, outgrown = calibration.search(searched, images=images, index=where)
            rises = searched == "compare" and calibration.rises
        size = ("--gallery", images) if index is None else ("--index", index)
        again = ("calibrate", *used(run), "--data", "my_people/", *size)
        if known is not None and outgrown:
            messages.warn(
                f"{images:,} images are searched, and the threshold was made for {known.images:,}: "
                f"more than {known.wanted:g} of all strangers may be taken for someone; python -m "
                f"siamjax {shown(shlex.join(map(str, again)))} makes a new one"
            )
        return cls(known=known, outgrown=outgrown, rises=rises, again=again)

    def match(self, value: float) -> bool | None:
        """Whether a value is a match; None: not known."""
        if self.known is None:
            return None
        limit = self.known.threshold
        return value >= limit if self.rises else value <= limit

    def any(self, found: Sequence[dict[str, Any]]) -> bool | None:
        """Whether one of a query's candidates, each with its ``match``, is one; None: not known."""
        return None if self.known is None else any(one["match"] for one in found)

    def lines(
        self, values: Sequence[float], lines: Sequence[str], *, said: Callable[[float], str]
    ) -> list[str]:
        """The lines of one query's candidates, best first, with one where matches end.

        ``said`` is how a value is printed.
        """
        if self.known is None:
            return list(lines)
        count = [bool(self.match(value)) for value in values].count(True)
        if count == len(lines) > 0:
            return list(lines)
        where = "no match from here on" if count else "no match"
        border = f"      {where} (threshold: {said(self.known.threshold)})"
        return [*lines[:count], border, *lines[count:]]

    @property
    def remark(self) -> str:
        """What the threshold is, or that there is none."""
        if self.known is None:
            return "not calibrated for such a search: a stranger finds someone, too"
        wanted, images = self.known.wanted, self.known.images
        grown = ", and the gallery has grown since" if self.outgrown else ""
        return f"matches at an FPIR of {wanted:g}, calibrated for {images:,} images{grown}"

    @property
    def values(self) -> dict[str, Any]:
        """For ``--json``."""
        one = self.known
        return {
            "threshold": None if one is None else one.threshold,
            "fpir": None if one is None else one.wanted,
            "calibrated_images": None if one is None else one.images,
            "outgrown": None if one is None else self.outgrown,
        }

    def then(self, *command: object, out: Path | None) -> tuple[object, ...]:
        """The next command: to calibrate, and then the same ``command`` with a page."""
        if self.known is None or self.outgrown:
            return self.again
        return (*command, "--out", "found.html") if out is None else ()
