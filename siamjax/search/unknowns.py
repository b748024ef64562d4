"""When does a search say "no match"? Thresholds from searches of people who are not there.

The largest score of a whole gallery decides whether a stranger is taken for somebody, and it grows
with the gallery: a threshold holds for the size that it was made for.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from siamjax.data.images import of_files
from siamjax.errors import UsageError, shown
from siamjax.exact_distances import Metric, RankedDistances, distances_to
from siamjax.inference.calibration import Estimate, OpenSet, Searched, fingerprint
from siamjax.inference.halves import Compared, places
from siamjax.metrics import open_set
from siamjax.metrics.intervals import comparisons_needed
from siamjax.metrics.open_set import conformal_threshold, fnir, threshold_at_fpir
from siamjax.models import comparing
from siamjax.search.index import Index, listed
from siamjax.search.nearest import nearest

RATES = (0.1, 0.01)
"""False positive identification rates, of which the smallest that is supported is the default."""

METRICS: tuple[Metric, ...] = ("squared_euclidean", "cosine")


@dataclass(frozen=True, kw_only=True, eq=False)
class Searches:
    """What searches of one gallery found; scores rise with similarity.

    Attributes:
        searched: the measure.
        sign: 1 where the measure rises with similarity, -1 for a distance.
        best: (searches,) the best score of each search of somebody who is not in the gallery.
        person: (searches,) who that is.
        rates: (searches,) whether the search gives the rates; the others set the threshold.
        own: (mated,) the best score of each search of somebody who is in it with his own images.
        other: (mated,) its best score with those of other people.
        mate: (mated,) who that is.
    """

    searched: Searched
    sign: float
    best: Float[np.ndarray, " searches"]
    person: Int[np.ndarray, " searches"]
    rates: Bool[np.ndarray, " searches"]
    own: Float[np.ndarray, " mated"]
    other: Float[np.ndarray, " mated"]
    mate: Int[np.ndarray, " mated"]

    def calibrated(self, *, images: int, index: str, data: str, fpir: float | None) -> OpenSet:
        """The threshold for a wanted FPIR; None: the smallest of :data:`RATES` supported.

        Few people have the conformal rule. ``UsageError`` says how many are missing for that.
        """
        best, person = self.best[~self.rates], self.person[~self.rates]
        people = len(np.unique(person))
        wanted = fpir or min(
            [r for r in RATES if people >= comparisons_needed(r)], default=RATES[0]
        )
        if people + 1 < (needed := math.ceil(1 / wanted - 1e-9)):
            larger = math.ceil(100 / max(2, people + 1)) / 100
            raise UsageError(
                f"{data}: an FPIR of {wanted:g} needs {needed - 1:,} people who are not in the "
                "gallery in the half that sets the threshold, and there are "
                f"{people:,}; give more people, or --fpir {larger:g}"
            )
        few = people < comparisons_needed(wanted)
        at_fpir = conformal_threshold if few else threshold_at_fpir
        limit = float(at_fpir(best, person, fpir=wanted))
        missed = None
        if len(self.mate):
            place = np.where(self.own > self.other, 1, 2)
            missed = Estimate.of(fnir(self.own, place, self.mate, threshold=limit))
        wrong = open_set.fpir(self.best[self.rates], self.person[self.rates], threshold=limit)
        return OpenSet(
            searched=self.searched,
            images=images,
            data=data,
            index=index,
            wanted=wanted,
            rule="conformal" if few else "people",
            threshold=self.sign * limit,
            fpir=Estimate.of(wrong),
            fnir=missed,
        )


def open_set_of(
    compared: Compared,
    *,
    gallery: int | None = None,
    index: Index | None = None,
    fpir: float | None = None,
) -> list[OpenSet]:
    """Thresholds of searches of a ``gallery`` of so many images, or of an ``index``.

    There is one for each measure; ``fpir`` as of :meth:`Searches.calibrated`. Raises ``UsageError``
    for a list of pairs, and as :func:`search_gallery` and :func:`search_catalogue` do.
    """
    if compared.people.pairs is not None:
        raise UsageError(
            f"{compared.people.images.name} names no people, of whom some must be in a gallery and "
            "others not; give a folder with a sub-folder for each person"
        )
    if index is None:
        images, where, searches = gallery or 0, "", search_gallery(compared, gallery or 0)
    else:
        images, where = len(index), str(index.folder.resolve())
        searches = search_catalogue(compared, index)
    about = {"images": images, "index": where, "data": compared.people.images.name}
    return [one.calibrated(**about, fpir=fpir) for one in searches]


def search_gallery(compared: Compared, images: int) -> Iterator[Searches]:
    """Searches of a gallery of so many images, by each measure that ``search`` or ``rank`` takes.

    A third of the people is enrolled, with as few images each as make up the gallery, and is
    searched by the images left; all others are not in it. Raises ``UsageError`` for a gallery that
    a third of the people cannot fill.
    """
    person, counts = compared.person, np.bincount(compared.person)
    rng = np.random.default_rng([compared.seed, images])
    order = rng.permutation(len(counts))
    some = order[counts[order] > 1][: min(len(counts) // 3, images)]
    place = places(person)
    # The first images of each of them first, and the last of each never.
    free = np.flatnonzero(np.isin(person, some) & (place < counts[person] - 1))
    if len(free) < images:
        raise UsageError(
            f"--gallery {images}: a third of the {len(counts):,} people of "
            f"{compared.people.images.name} has {len(free):,} images to enrol (one of each person "
            "is left to search by); ask for fewer, add people, raise --limit, or give an --index"
        )
    gallery = free[np.argsort(place[free], kind="stable")[:images]]
    asked = np.setdiff1d(np.arange(len(person)), gallery)
    mated = np.isin(person[asked], person[gallery])
    mate = person[asked[mated]]
    own = mate[:, None] == person[gallery]
    found = own & compared.people.apart(asked[mated][:, None], gallery)
    kept = found.any(axis=1)
    for searched, sign, score in _scores(compared, asked, gallery):
        yield Searches(
            searched=searched,
            sign=sign,
            best=score[~mated].max(axis=1),
            person=person[asked[~mated]],
            rates=compared.rates[person[asked[~mated]]],
            own=np.where(found, score[mated], -np.inf).max(axis=1)[kept],
            other=np.where(own, -np.inf, score[mated]).max(axis=1)[kept],
            mate=mate[kept],
        )


def _scores(
    compared: Compared, asked: Int[np.ndarray, " n"], gallery: Int[np.ndarray, " m"]
) -> Iterator[tuple[Searched, float, Float[np.ndarray, "n m"]]]:
    """The scores of each measure, and its sign."""
    if compared.features.ndim == 2:
        for metric in METRICS:
            ranked = RankedDistances(compared.features[gallery], metric=metric)
            yield metric, -1.0, -ranked(compared.features[asked])
    rises = comparing.rises(compared.run.network)
    yield "compare", 1.0 if rises else -1.0, compared.score[np.ix_(asked, gallery)]


def search_catalogue(compared: Compared, index: Index) -> Iterator[Searches]:
    """Searches of an index, by each measure that ``search`` takes; nobody is in it.

    For the searches of people who are in it, one image of each person is added while his others
    are searched. Raises ``UsageError`` for an index of another network, and for one that has
    people or images of the calibration.
    """
    index.check(fingerprint(compared.run))
    if not len(index):
        raise UsageError(f"{shown(index.folder)} has no items; embed a catalogue into it")
    person, place = compared.person, places(compared.person)
    _check_apart(compared, index)
    asked = np.flatnonzero(place > 0)
    enrolled = np.flatnonzero(place == 0)[person[asked]]
    kept = compared.people.apart(asked, enrolled)
    asked, enrolled = asked[kept], enrolled[kept]
    for metric in METRICS:
        best = -nearest(compared.features, index, top=1, metric=metric).distances[:, 0]
        own = [
            -distances_to(compared.features[query], compared.features[[mate]], metric=metric)[0][0]
            for query, mate in zip(asked, enrolled, strict=True)
        ]
        judged = compared.rates[person[asked]]
        yield Searches(
            searched=metric,
            sign=-1.0,
            best=best,
            person=person,
            rates=compared.rates[person],
            own=np.array(own)[judged],
            other=best[asked][judged],
            mate=person[asked][judged],
        )


def _check_apart(compared: Compared, index: Index) -> None:
    """``UsageError`` if the index has someone of the calibration, by name or by the image."""
    images = compared.people.images
    found = nearest(compared.features, index, top=1).rows[:, 0].tolist()
    nearby, names, alike = set(found), set(), {}
    for row, item in index.items():
        names.add(item.item)
        if item.image and row in nearby:
            alike[row] = Path(item.image)
    numbers = all(map(str.isdecimal, compared.people.names))  # of another set, they mean nobody
    both = [] if numbers else sorted(names & set(compared.people.names))
    if not both:  # of an image that is in the index, the nearest is itself
        files = of_files(list(alike.values()), name="index")
        digests = dict(zip(alike, files.content(np.arange(len(files))), strict=True))
        content = images.content(np.arange(len(images)))
        same = [one == digests.get(row) for one, row in zip(content, found, strict=True)]
        both = [images.keys[place] for place in np.flatnonzero(same)]
    if both:
        raise UsageError(
            f"{shown(index.folder)} has people of {images.name} ({listed(both)}), but only people "
            "who are not in an index can tell when a search of it should find nobody; calibrate "
            "with others"
        )
