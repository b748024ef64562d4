"""People divided in two, and the scores of all of their images by a run's network."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from siamjax.data.pairs import indices_of
from siamjax.data.people import People
from siamjax.errors import UsageError
from siamjax.inference.embedder import Embedder
from siamjax.inference.pairs import PairScorer
from siamjax.inference.tiles import TileScorer
from siamjax.progress import Progress
from siamjax.training.finished import Finished

_IMAGES, _IMAGES_OF_MAPS = 2000, 200  # compared by default: of vectors, and of maps
_ROWS, _COLUMNS = 16, 256  # of a tile of scores


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Scores of pairs, which rise with similarity, and whom they show; None: not known."""

    score: Float[np.ndarray, " pairs"]
    same: Bool[np.ndarray, " pairs"]
    first: Int[np.ndarray, " pairs"] | None
    second: Int[np.ndarray, " pairs"] | None

    def of(
        self, chosen: Bool[np.ndarray, " pairs"]
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Scores of some pairs, and the people of both sides."""
        if self.first is None or self.second is None:
            return self.score[chosen], None, None
        return self.score[chosen], self.first[chosen], self.second[chosen]


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """People divided in two, with the scores of their images.

    Attributes:
        run: the network.
        people: the images that were compared.
        total: how many images there were.
        features: what the network makes of the images; none of a list.
        score: from a first image (row) to a second (column), or of each pair of a list; rises.
        person: the number of each image's person; none of a list.
        rates: of each person, or of each pair of a list, whether it gives the rates.
        seed: of the division.
    """

    run: Finished
    people: People
    total: int
    features: Float[np.ndarray, "images ..."]
    score: Float[np.ndarray, "images images"] | Float[np.ndarray, " pairs"]
    person: Int[np.ndarray, " images"]
    rates: Bool[np.ndarray, " people"]
    seed: int

    def half(self, rates: bool) -> Pairs:
        """All pairs of the people who set the threshold, or of those who give the rates."""
        if (listed := self.people.pairs) is not None:
            kept = self.rates == rates
            return Pairs(score=self.score[kept], same=listed.same[kept], first=None, second=None)
        shown = np.flatnonzero(self.rates[self.person] == rates)
        first, second = (shown[side] for side in np.triu_indices(len(shown), 1))
        one, other = self.person[first], self.person[second]
        kept = (one != other) | self.people.apart(first, second)
        first, second, one, other = first[kept], second[kept], one[kept], other[kept]
        return Pairs(score=self.score[first, second], same=one == other, first=one, second=other)

    @cached_property
    def sizes(self) -> tuple[int, int] | None:
        """How many people set the threshold, and how many give the rates; None: not known."""
        if self.people.pairs is not None:
            return None
        return int((~self.rates).sum()), int(self.rates.sum())


def compare_people(
    run: Finished, people: People, *, seed: int = 0, limit: int | None = None, progress: bool = True
) -> Compared:
    """Divide people in two at random from ``seed``, and compare all of their images.

    Of more than ``limit`` images (None: 2,000, of a network of maps 200) as many people as
    possible stay, each with images of an equal number. Raises ``UsageError`` for people of one
    image each, for values that are all equal, and as of ``Embedder``.
    """
    rng = np.random.default_rng(seed)
    if people.pairs is not None:
        score = PairScorer(run.network, run.size).scores(run.variables, people.images, people.pairs)
        features, person, total = np.zeros((0, 1)), np.zeros(0, int), len(indices_of(people.pairs))
        rates = _halves(people.pairs.same, rng)
    else:
        embedder = Embedder(network=run.network, variables=run.variables, size=run.size)
        most = limit or (_IMAGES if len(embedder.feature.shape) == 1 else _IMAGES_OF_MAPS)
        total = len(people.images)
        people = people.take(_some(people, most, rng))
        _, person = np.unique(people.images.identities, return_inverse=True)
        rates = _halves(np.bincount(person) > 1, rng)
        features = embedder.embeddings(people.images, np.arange(len(people.images)))
        score = _scores(run, features, progress=progress)
    if not np.isfinite(score).all():
        raise UsageError(
            f"{int((~np.isfinite(score)).sum()):,} of {score.size:,} values are not finite: the "
            "network has diverged; use an earlier checkpoint"
        )
    if score.size > 1 and score.min() == score.max():
        raise UsageError(
            f"all values of {people.images.name} are {abs(score.flat[0]):g}: the network has "
            "collapsed and tells nobody apart, or all images are alike; train it again, or give "
            "other images"
        )
    return Compared(
        run=run,
        people=people,
        total=total,
        features=features,
        score=score,
        person=person,
        rates=rates,
        seed=seed,
    )


def _some(people: People, most: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Images of as many people as possible: of each a second one before of any a third."""
    _, person = np.unique(people.images.identities, return_inverse=True)
    order, counts = rng.permutation(len(person)), np.bincount(person)
    order = order[np.argsort(person[order], kind="stable")]
    place = places(person[order])
    several = int((counts > 1).sum())
    if several < 2:
        raise UsageError(
            f"{people.images.name}: {several} of {len(counts):,} people have two images or more, "
            "and each half of the people needs a pair of one person; add images"
        )
    chosen = rng.permutation(len(counts))  # of more people than fit, some
    chosen = chosen[np.argsort(counts[chosen] < 2, kind="stable")][: max(1, most // 2)]
    order, place = (x[np.isin(person[order], chosen)] for x in (order, place))
    return np.sort(order[np.argsort(place, kind="stable")][:most])


def places(person: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The place of each image among those of its person, in their order."""
    order, counts = np.argsort(person, kind="stable"), np.bincount(person)
    place = np.empty(len(person), np.int64)
    place[order] = np.arange(len(person)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place


def _halves(kind: Bool[np.ndarray, " n"], rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
    """Divide things of two kinds in two at random, each kind evenly."""
    order = rng.permutation(len(kind))
    order = order[np.argsort(~kind[order], kind="stable")]
    half = np.zeros(len(kind), np.bool_)
    half[order[1::2]] = True
    return half


def _scores(
    run: Finished, features: Float[np.ndarray, "n ..."], *, progress: bool
) -> Float[np.ndarray, "n n"]:
    """Scores of all images with all, which rise with similarity."""
    count = len(features)
    scorer = TileScorer(run.network, run.variables, dtype=features.dtype, symmetric=False)
    found = np.empty((count, count), np.float32)
    rows, columns = min(_ROWS, count), min(_COLUMNS, count)
    with Progress("comparing", unit="images", total=count, shown=progress) as bar:
        for top in range(0, count, rows):
            queries = np.arange(top, top + rows) % count  # all tiles have one shape
            for left in range(0, count, columns):
                gallery = np.arange(left, left + columns) % count
                tile = scorer(features[queries], features[gallery][:, None])
                place = found[top : top + rows, left : left + columns]
                place[:] = tile[: place.shape[0], : place.shape[1]]
            bar.update(min(rows, count - top))
    return found
