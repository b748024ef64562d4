"""What is known of a run's decisions: ``calibration.json``, which ``calibrate`` writes into a run.

Values and thresholds are in the network's own measure: a distance accepts at or below its
threshold, a logit at or above.
"""

import math
import os
import shlex
from bisect import bisect_right
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from siamjax import messages
from siamjax.data.images import public_credit
from siamjax.errors import UsageError, shown
from siamjax.files import Finite, Natural, read_json, write_json
from siamjax.inference import embedder
from siamjax.inference.digests import differing
from siamjax.metrics.calibration import posterior
from siamjax.metrics.intervals import Rate
from siamjax.training.finished import Finished

CALIBRATION = "calibration.json"

LEAST = 1e-9
"""The distance, of nearly equal images, below which the likelihood ratio does not change."""

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Log = Annotated[float, msgspec.Meta(ge=-100, le=100)]
_Two = Annotated[list[Natural], msgspec.Meta(min_length=2, max_length=2)]
Searched = Literal["squared_euclidean", "cosine", "compare"]
"""How a gallery is searched: by a distance of embeddings, or by the network's own value."""


class Estimate(msgspec.Struct, kw_only=True):
    """A rate with its 95 % interval; ``people`` None: comparisons are taken as independent."""

    value: _Share
    low: _Share
    high: _Share
    comparisons: Natural
    people: Natural | None

    @classmethod
    def of(cls, rate: Rate) -> "Estimate":
        """What :func:`~siamjax.metrics.intervals.people_rate` gives."""
        low, high = (min(1.0, max(0.0, float(end))) for end in rate.interval)
        return cls(
            value=rate.value, low=low, high=high, comparisons=rate.comparisons, people=rate.people
        )

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


class Point(msgspec.Struct, kw_only=True):
    """The false match rate, with its 95 % interval, if ``value`` is the threshold."""

    value: Finite
    fmr: _Share
    low: _Share
    high: _Share

    def __str__(self) -> str:
        return f"{self.fmr:.4g} [{self.low:.4g}, {self.high:.4g}]"


class Logistic(msgspec.Struct, kw_only=True):
    """Value -> log-likelihood ratio (natural): ``slope * x + offset``, within bounds.

    ``x`` is a logit itself, and the logarithm of a distance, where ``logarithm`` says so. No value
    says more than the calibration's people do: beyond them the ratio stays as it is.
    """

    slope: Finite
    offset: Finite
    lowest: _Log
    highest: _Log
    logarithm: bool

    def __call__(self, value: float) -> float:
        """The log-likelihood ratio of "same" to "different"."""
        x = math.log(max(value, LEAST)) if self.logarithm else value
        return min(self.highest, max(self.lowest, self.slope * x + self.offset))


class OpenSet(msgspec.Struct, kw_only=True):
    """When a search of a gallery says "no match".

    Attributes:
        searched: the measure of the search.
        images: size of the gallery.
        data: name of the calibration's images.
        index: absolute path of the index that was searched; "": a gallery of calibration people.
        wanted: the false positive identification rate (FPIR) that the threshold is for.
        rule: how the threshold was set: with ``people`` the FPIR exceeds the wanted one in at most
            5 % of calibrations; ``conformal``, of few people, keeps it on average over
            calibrations.
        threshold: in the search's measure.
        fpir: share of searches of people who are not in the gallery that find someone.
        fnir: share of searches of people who are in it that do not find them first; None: nobody
            has a second image.
    """

    searched: Searched
    images: Natural
    data: str
    index: str
    wanted: _Share
    rule: Literal["people", "conformal"]
    threshold: Finite
    fpir: Estimate
    fnir: Estimate | None


class Calibration(msgspec.Struct, kw_only=True):
    """Thresholds of a network, the rates at them on other people, and what a value says.

    Attributes:
        fingerprint: network, weights and preprocessing (``Embedder.fingerprint``).
        measure: what the network's value is, ``distance`` or ``logit``.
        rises: whether it is greater for images that are more similar.
        data: name of the images.
        credit: where they come from.
        data_sha256: sha256 over their names, people and pixels.
        images: how many were compared.
        people: how many people set the threshold, and how many others gave the rates; None: a
            list of pairs, which names nobody.
        seed: of the division into the two.
        wanted: the false match rate (FMR) that the threshold is for.
        smallest: the smallest FMR that so many people can support.
        threshold: between same and different.
        fmr, fnmr: rates at the threshold.
        measures: AUC, EER and others on the people of the rates.
        intervals: their 95 % intervals over people.
        ratio: value -> log-likelihood ratio.
        cllr, cllr_min: cost of the ratio in bits (1: it says nothing), and the least that any
            monotone function of the value has on these pairs.
        points: the FMR at values from unlike to alike.
        open_set: thresholds of searches.
        notes: what whoever reads the numbers must know.
        made: date and versions.
    """

    format: Literal[1] = 1
    fingerprint: dict[str, str]
    measure: Literal["distance", "logit"]
    rises: bool
    data: str
    credit: str
    data_sha256: str
    images: Natural
    people: _Two | None
    seed: Natural
    wanted: _Share
    smallest: _Share
    threshold: Finite
    fmr: Estimate
    fnmr: Estimate
    measures: dict[str, Finite | None]
    intervals: dict[str, list[Finite]]
    ratio: Logistic
    cllr: Finite
    cllr_min: Finite
    points: Annotated[list[Point], msgspec.Meta(min_length=1)]
    open_set: list[OpenSet] = []
    notes: list[str] = []
    made: dict[str, str] = {}

    @classmethod
    def read(cls, run: Finished) -> "Calibration | None":
        """That of a run; None of one that is not calibrated.

        Raises ``UsageError`` for a damaged file, and for the calibration of another network.
        """
        path = run.kept / CALIBRATION
        if not os.path.lexists(path):
            return None
        command = f"python -m siamjax calibrate --run {shlex.quote(shown(run.folder))}"
        remedy = f"{command} --data my_people/ makes it again"
        try:
            found = read_json(path, cls)
        except UsageError as error:
            raise UsageError(f"{error}; {remedy}") from None
        if different := differing(found.fingerprint, fingerprint(run)):
            raise UsageError(
                f"{shown(path)} is the calibration of another network: {'; '.join(different)}; "
                f"{remedy}"
            )
        return found

    @classmethod
    def valid(cls, run: Finished) -> "Calibration | None":
        """That of a run; None also if it is damaged, or of another network."""
        try:
            return cls.read(run)
        except UsageError:
            return None

    def write(self, run: Finished) -> None:
        """Write it into the run's folder, or one beside published weights, whole or not at all."""
        self.write_into(run.kept)

    def write_into(self, folder: Path) -> None:
        """Write it into a folder, such as that of an exported run."""
        write_json(folder / CALIBRATION, msgspec.to_builtins(self))

    def to_publish(self) -> "Calibration":
        """Without the paths of this machine, and the searches of the indexes at these paths."""
        searches = [one for one in self.open_set if not one.index]
        return msgspec.structs.replace(self, credit=public_credit(self.credit), open_set=searches)

    def keep_searches(self, run: Finished) -> None:
        """Take over the thresholds of searches of other galleries from the run's last one.

        Not those of people whom the run was trained on, unless they are the same people.
        """
        before = Calibration.valid(run)
        if before is None:
            return
        own = {one.index or one.images for one in self.open_set}
        clean = not before.contaminated
        self.open_set += [
            one
            for one in before.open_set
            if (one.index or one.images) not in own and (clean or one.data == self.data)
        ]

    @property
    def contaminated(self) -> bool:
        """Whether the run was trained on people of the calibration."""
        return any("CONTAMINATED" in note for note in self.notes)

    def warn(self) -> None:
        """Warn of numbers that are too good."""
        if self.contaminated:
            messages.warn(
                "the run was calibrated on people of its training: errors are more frequent than "
                "it says; calibrate it on others"
            )

    def at(self, value: float) -> Point:
        """The false match rate if this value were the threshold; never less than was measured.

        Between two values that were measured it is that of the less similar one; beyond the least
        similar it is that one's, at which every pair matches.
        """
        sign = 1 if self.rises else -1
        place = bisect_right([sign * point.value for point in self.points], sign * value)
        return self.points[max(0, place - 1)]

    def posterior(self, value: float, *, prior: float) -> float:
        """P(same), in (0, 1), where a share ``prior`` of all pairs that are compared is same."""
        return float(posterior(self.ratio(value), prior=prior))

    def search(
        self, searched: Searched, *, images: int, index: str = ""
    ) -> tuple[OpenSet | None, bool]:
        """The threshold to search a gallery of so many images by, and whether that is outgrown.

        Galleries that are as large come first, of these the index itself, then the nearest in size.
        None: there is none for this measure.
        """
        known = [
            one for one in self.open_set if one.searched == searched and one.index in ("", index)
        ]
        known.sort(key=lambda x: (x.images < images, x.index != index, abs(x.images - images)))
        return (known[0], known[0].images < images) if known else (None, False)


def fingerprint(run: Finished) -> dict[str, str]:
    """Network, weights and preprocessing of a run."""
    return embedder.fingerprint(run.network, run.weights, run.size)
