"""Pairs of images, drawn at random or taken from a list."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Int, Shaped

from siamjax.checks import require_bool, require_names
from siamjax.data.images import ImageSet, images_of
from siamjax.errors import UsageError


@dataclass(frozen=True, kw_only=True, eq=False)
class PairList:
    """Pairs of images of one set, by index.

    Attributes:
        name: such as ``pairs.txt``, as figures show it.
        first, second: (pairs,) indices into the image set.
        same: (pairs,) bool, True = the same identity.
        fold: (pairs,) number of each pair's fold; None where the list has no folds.
    """

    name: str
    first: Int[np.ndarray, " pairs"]
    second: Int[np.ndarray, " pairs"]
    same: Bool[np.ndarray, " pairs"]
    fold: Int[np.ndarray, " pairs"] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "same", require_bool("same", self.same, true="the same identity"))
        lengths = {len(self.first), len(self.second), len(self.same)}
        if self.fold is not None:
            lengths.add(len(require_names("fold", self.fold)))
        if len(lengths) > 1:
            raise UsageError(f"{self.name}: first, second, same, fold of {sorted(lengths)} pairs")

    def __len__(self) -> int:
        return len(self.same)

    def take(self, chosen: np.ndarray, *, name: str) -> "PairList":
        """The pairs that ``chosen`` (indices or a mask) selects."""
        return PairList(
            name=name,
            first=self.first[chosen],
            second=self.second[chosen],
            same=self.same[chosen],
            fold=None if self.fold is None else self.fold[chosen],
        )


def indices_of(pairs: PairList) -> Int[np.ndarray, " n"]:
    """Indices of the images that the pairs show, ascending."""
    return np.unique(np.concatenate([pairs.first, pairs.second]))


def all_pairs(
    images: ImageSet, indices: Int[np.ndarray, " n"], *, name: str, limit: int | None = None
) -> PairList:
    """Every unordered pair of the images, once: n (n - 1) / 2.

    Of more than ``limit`` pairs, that many different ones are drawn at random (seed 0), and the
    name says so. Raises ``UsageError`` unless there are pairs of both kinds.
    """
    count = len(indices)
    total = count * (count - 1) // 2
    if limit is not None and total > limit:
        chosen = np.sort(np.random.default_rng(0).choice(total, limit, replace=False))
        name = f"{name}, {limit:,} of {total:,} pairs drawn at random"
    else:
        chosen = np.arange(total)
    # Pairs are numbered row by row: row r (image r with all later ones) begins at starts[r].
    starts = np.concatenate([[0], np.cumsum(np.arange(count - 1, 0, -1))])
    rows = np.searchsorted(starts, chosen, side="right") - 1
    columns = chosen - starts[rows] + rows + 1
    first, second = indices[rows], indices[columns]
    require_names(f"identities of {images.name}", images.identities[indices])
    same = images.identities[first] == images.identities[second]
    if not same.any() or same.all():
        people = len(set(images.identities[indices]))
        remedy = "give at least two people, and two images of one of them"
        raise UsageError(
            f"{name} of {images.name}: {count} images of {people} people make no pair of "
            f"{'one person' if not same.any() else 'two people'}; "
            + ("draw more pairs" if 1 < people < count else remedy)
        )
    return PairList(name=name, first=first, second=second, same=same)


def split_people(
    images: ImageSet, *, validation: int, test: int, seed: int, unit: str = "people"
) -> tuple[list[str], list[str], list[str]]:
    """Disjoint people for training, validation and test, drawn from ``seed``.

    Validation and test get only people with at least two images, as others make no pair of one
    person. Errors name the options that hold some out: --validation-``unit``, --test-``unit``.
    """
    shown = require_names(f"identities of {images.name}", images.identities)
    people, counts = np.unique(shown, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(people))
    eligible = [str(people[i]) for i in shuffled if counts[i] >= 2]
    needed = validation + test + 1
    if len(eligible) < needed or validation < 2 or test < 2:
        raise UsageError(
            f"{images.name}: {len(eligible)} of {len(people)} people have two images or more; "
            f"{validation} for validation and {test} for test do not fit: each needs 2 or more, "
            f"and training 1; add people, or {_fewer(unit)}"
        )
    held_out = eligible[: validation + test]
    training = sorted(set(map(str, people)) - set(held_out))
    return training, sorted(held_out[test:]), sorted(held_out[:test])


class PairStream(Protocol):
    """An endless stream of training pairs, with random access."""

    def __getitem__(self, position: int) -> tuple[int, int, bool]:
        """At a position >= 0: the indices of two images, and whether they show the same."""
        ...


class SampledPairs:
    """Pairs drawn at random; the pair at a position depends only on the seed and the position.

    So a resumed run sees the same pairs as one that was never interrupted. A positive pair is two
    different images of a person, uniform over those with two images or more; a negative pair is an
    image of each of two people.
    """

    def __init__(
        self,
        images: ImageSet,
        people: Sequence[str] | None = None,
        *,
        seed: int,
        positive_share: float | None = 0.5,
        unit: str = "people",
    ) -> None:
        """``people`` None draws from all people of the set.

        ``positive_share`` None draws any two different images, uniformly. ``unit``: as of
        :func:`split_people`.
        """
        self._pool = np.arange(len(images)) if people is None else images_of(images, people)
        self._groups = _groups(images, self._pool, unit)
        self._repeated = [group for group in self._groups if len(group) >= 2]
        self._labels = images.identities
        self._seed, self._share = seed, positive_share
        if positive_share is not None and not 0 < positive_share < 1:
            raise UsageError(
                f"positive_share {positive_share} must lie between 0 and 1, as training needs both "
                "kinds of pairs"
            )
        if not self._repeated:
            raise UsageError(
                f"{images.name}: each of the {len(self._groups)} training people has a single "
                "image, so that there is no pair of one person; add images"
            )

    def __getitem__(self, position: int) -> tuple[int, int, bool]:
        rng = generator(self._seed, position, stream=0)
        if self._share is None:
            first, second = rng.choice(self._pool, 2, replace=False)
            return int(first), int(second), bool(self._labels[first] == self._labels[second])
        # Spread evenly instead of drawn, so that every batch holds just this share.
        same = int((position + 1) * self._share) > int(position * self._share)
        if same:
            group = self._repeated[rng.integers(len(self._repeated))]
            first, second = rng.choice(group, 2, replace=False)
        else:
            first, second = _of_two(rng, self._groups)
        return int(first), int(second), same


class PositivesOfAnEpoch:
    """Every pair of one identity once an epoch, each followed by pairs of two identities.

    This is how the released code of the normxcorr paper samples: all unordered pairs of an
    identity's images are the positives of an epoch, in an order drawn anew for each, and each
    positive is followed by ``negatives`` random pairs of two people. Which image of a pair comes
    first is drawn too, for networks that are not symmetric. The pair at a position depends only on
    the seed and the position.
    """

    def __init__(
        self,
        images: ImageSet,
        indices: Int[np.ndarray, " n"],
        *,
        seed: int,
        negatives: int = 2,
        cameras: Shaped[np.ndarray, " images"] | None = None,
    ) -> None:
        """``cameras``: that of each image of the set; positives are then of two cameras only."""
        if negatives < 1:
            raise UsageError(f"negatives {negatives} must be at least 1")
        self._groups = _groups(images, indices)
        if cameras is not None:
            cameras = require_names("cameras", cameras, count=len(images))
        couples = []
        for group in self._groups:
            first, second = np.triu_indices(len(group), 1)
            couple = np.stack([group[first], group[second]], axis=1)
            if cameras is not None:
                couple = couple[cameras[couple[:, 0]] != cameras[couple[:, 1]]]
            couples.append(couple)
        self._positives = np.concatenate(couples)
        if not len(self._positives):
            raise UsageError(
                f"{images.name}: no training person has two images"
                f"{'' if cameras is None else ' of two cameras'}, so that there is no positive "
                "pair; add images"
            )
        self._seed, self._cycle = seed, 1 + negatives
        self._order = EpochOrder(len(self._positives), seed=seed, stream=2)

    @property
    def epoch(self) -> int:
        """Number of pairs in an epoch."""
        return len(self._positives) * self._cycle

    def __getitem__(self, position: int) -> tuple[int, int, bool]:
        rng = generator(self._seed, position, stream=0)
        turn, place = divmod(position, self._cycle)
        if place == 0:
            first, second = self._positives[self._order[turn]]
        else:
            first, second = _of_two(rng, self._groups)
        if rng.random() < 0.5:
            first, second = second, first
        return int(first), int(second), place == 0


class ListedPairs:
    """All pairs of a list once an epoch, in an order drawn anew from the seed for each epoch."""

    def __init__(self, pairs: PairList, *, seed: int) -> None:
        self.pairs = pairs
        self._order = EpochOrder(len(pairs), seed=seed, stream=0)

    def __getitem__(self, position: int) -> tuple[int, int, bool]:
        index, pairs = self._order[position], self.pairs
        return int(pairs.first[index]), int(pairs.second[index]), bool(pairs.same[index])


class EpochOrder:
    """Every number below ``length`` once an epoch, in an order that depends on seed and epoch."""

    def __init__(self, length: int, *, seed: int, stream: int) -> None:
        self._length, self._seed, self._stream = length, seed, stream
        self._current: tuple[int, np.ndarray] = (-1, np.empty(0, int))

    def __getitem__(self, turn: int) -> int:
        """The number at a turn; turns are counted from the start of the first epoch."""
        epoch, at = divmod(turn, self._length)
        current = self._current  # read once: threads share it
        if current[0] != epoch:
            order = generator(self._seed, epoch, stream=self._stream).permutation(self._length)
            current = self._current = (epoch, order)
        return int(current[1][at])


def by_identity(images: ImageSet, indices: np.ndarray) -> list[np.ndarray]:
    """The indices of each identity's images, in the order of the identities."""
    labels = require_names(f"identities of {images.name}", images.identities[indices])
    order = np.argsort(labels, kind="stable")  # not a comparison of all images for each person
    begins = np.flatnonzero(labels[order][1:] != labels[order][:-1]) + 1
    return np.split(indices[order], begins) if len(indices) else []


def _groups(images: ImageSet, indices: np.ndarray, unit: str = "people") -> list[np.ndarray]:
    """The images of each person; raises ``UsageError`` for fewer than two people."""
    groups = by_identity(images, indices)
    if len(groups) < 2:
        raise UsageError(
            f"{images.name}: {len(groups)} person to train on, so that there is no pair of two "
            f"people; add people, or {_fewer(unit)}"
        )
    return groups


def _fewer(unit: str) -> str:
    return f"hold out fewer (--validation-{unit}, --test-{unit})"


def _of_two(rng: np.random.Generator, groups: list[np.ndarray]) -> tuple[int, int]:
    """One image of each of two people."""
    one, other = rng.choice(len(groups), 2, replace=False)
    return rng.choice(groups[one]), rng.choice(groups[other])


def generator(seed: int, position: int, *, stream: int) -> np.random.Generator:
    """Random numbers that depend only on the arguments; counter-based, so without a state."""
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, position]))
