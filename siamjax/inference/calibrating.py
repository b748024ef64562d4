"""Calibrate a run: a threshold from half of some people, and its rates on the other half."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from siamjax.errors import UsageError
from siamjax.inference.calibration import (
    LEAST,
    Calibration,
    Estimate,
    Logistic,
    Point,
    fingerprint,
)
from siamjax.inference.halves import Compared, Pairs
from siamjax.metrics import calibration as metric
from siamjax.metrics import verification
from siamjax.metrics.bootstrap import PairBootstrap
from siamjax.metrics.intervals import (
    Rate,
    comparisons_needed,
    people_needed,
    people_rate,
    smallest_fmr,
    smallest_rate,
    why_unknown,
)
from siamjax.models import comparing
from siamjax.training.environment import PACKAGES, version

RATES = (0.1, 0.01, 0.001)
"""False match rates, of which the smallest that the people support is the default."""

_POINTS = 60  # values whose false match rate is kept


def calibrate(
    compared: Compared, *, fmr: float | None = None, notes: Sequence[str] = ()
) -> Calibration:
    """Threshold, rates and likelihood ratio of the images that were compared.

    ``fmr`` is the wanted false match rate; None: the smallest of :data:`RATES` that so many people
    support. ``notes`` are kept with the result. Raises ``UsageError`` for an ``fmr`` that the
    people cannot support, saying how many are missing.
    """
    run, images = compared.run, compared.people.images
    rises = comparing.rises(run.network)
    sign = 1.0 if rises else -1.0
    setting, judging = compared.half(False), compared.half(True)
    wanted, smallest, told = _wanted(compared, setting, judging, fmr)
    for half in (setting, judging):
        if not half.same.any() or half.same.all():
            kind = "two people" if half.same.any() else "one person"
            raise UsageError(f"{images.name}: one half of it has no pair of {kind}; add images")
    impostors = setting.of(~setting.same)
    limit = metric.threshold_at_fmr(*impostors, fmr=wanted)
    evidence = _evidence(setting.score, rises)
    ratio = metric.fit_llr(evidence, setting.same, first=setting.first, second=setting.second)
    measures, intervals = _measures(judging)
    if compared.total > len(images):
        told.append(f"{len(images):,} of {compared.total:,} images were compared (--limit)")
    return Calibration(
        fingerprint=fingerprint(run),
        measure=comparing.measure(run.network),  # pyright: ignore[reportArgumentType]
        rises=rises,
        data=images.name,
        credit=images.credit,
        data_sha256=images.checksum(),
        images=len(images),
        people=None if compared.sizes is None else list(compared.sizes),
        seed=compared.seed,
        wanted=wanted,
        smallest=smallest,
        threshold=sign * limit,
        fmr=Estimate.of(_rate(judging, ~judging.same, limit)),
        fnmr=Estimate.of(_rate(judging, judging.same, limit)),
        measures=measures,
        intervals=intervals,
        ratio=Logistic(
            slope=sign * ratio.slope,
            offset=ratio.offset,
            lowest=ratio.lowest,
            highest=ratio.highest,
            logarithm=not rises,
        ),
        cllr=metric.cllr(ratio(_evidence(judging.score, rises)), judging.same),
        cllr_min=metric.min_cllr(judging.score, judging.same),
        points=_points(judging, sign),
        notes=[*notes, *told],
        made={
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **{name: version(name) for name in PACKAGES},
        },
    )


def _evidence(score: np.ndarray, rises: bool) -> np.ndarray:
    """What the log-likelihood ratio is linear in: a logit, or minus the logarithm of a distance.

    Of distances themselves a few images that are far from all others would flatten the line: on
    the ORL faces a Cllr of 0.98 in place of 0.69.
    """
    return score if rises else -np.log(np.maximum(-score.astype(np.float64), LEAST))


def _wanted(
    compared: Compared, setting: Pairs, judging: Pairs, fmr: float | None
) -> tuple[float, float, list[str]]:
    """The false match rate to set the threshold for, the smallest supported, and remarks."""
    name, sizes, count = compared.people.images.name, compared.sizes, len(compared.people.images)
    if compared.total > count:
        name = f"{count:,} of {compared.total:,} images of {name} (--limit)"
    if sizes is None:
        units = min(int((~half.same).sum()) for half in (setting, judging))
        smallest, needed = smallest_rate(units), comparisons_needed
        have, kind = units, "pairs of two people in each half"
        told = ["the list names no people: its pairs are taken as independent"]
    else:
        smallest, needed = smallest_fmr(min(sizes)), people_needed
        have, kind, told = min(sizes), "people in each half", []
    supported = [rate for rate in RATES if rate >= smallest]
    asked = (supported[-1] if supported else RATES[0]) if fmr is None else fmr
    if asked < smallest:
        missing = needed(asked) - have
        raise UsageError(
            f"{name}: a false match rate of {asked:g} needs {needed(asked):,} {kind} (one half "
            f"sets the threshold, the other gives the rates), and there are {have:,}: at least "
            f"{2 * missing:,} more are missing in all"
            + (f"; {smallest:.2g} and above can be had (--fmr)" if supported else "")
        )
    if sizes is not None and asked < smallest_fmr(min(sizes), disjoint=True):
        told.append(
            f"a false match rate of {asked:g} with so few people assumes that pairs which share a "
            "person are independent"
        )
    return asked, smallest, told


def _rate(pairs: Pairs, chosen: np.ndarray, limit: float) -> Rate:
    """Share of errors among pairs of one kind, with its interval over people."""
    score, first, second = pairs.of(chosen)
    accepted = score >= limit
    wrong = ~accepted if pairs.same[chosen][0] else accepted
    return people_rate(wrong, first, second)


def _measures(pairs: Pairs) -> tuple[dict[str, float | None], dict[str, list[float]]]:
    """AUC, EER and TAR at false accept rates, and their intervals; None: too few people."""
    drawn = PairBootstrap(pairs.same, pairs.first, pairs.second)
    found = verification.summary(pairs.score, pairs.same, threshold=0.0)
    del found["accuracy"]
    for far in verification.FARS:
        if why_unknown(far, pairs=drawn.impostors, people=drawn.people):
            found[f"tar_at_far_{far:g}"] = None
    intervals = drawn.intervals(pairs.score)
    known = {name: list(intervals[name]) for name in intervals if found.get(name) is not None}
    return found, known


def _points(pairs: Pairs, sign: float) -> list[Point]:
    """False match rates at values of impostors, from unlike to alike; steps of equal ratio."""
    score, first, second = pairs.of(~pairs.same)
    score = score.astype(np.float64)  # as values are read from the file
    values = np.sort(score)[::-1]
    ranks = np.unique(np.geomspace(1, len(values), _POINTS).round().astype(int)) - 1
    chosen = np.unique(values[ranks])
    none = np.nextafter(values[0], np.inf)  # above all of them
    points = []
    for value in [*chosen.tolist(), float(none)]:
        rate = Estimate.of(people_rate(score >= value, first, second))
        points.append(Point(value=sign * value, fmr=rate.value, low=rate.low, high=rate.high))
    return points
