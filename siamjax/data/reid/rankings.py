"""Queries and galleries: what a re-identification result is about."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from siamjax.data.images import ImageSet, images_of
from siamjax.errors import UsageError

Rule = Literal["market", "single_shot"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Queries and the gallery that each is looked up in.

    Attributes:
        name: such as ``test people``; what a figure calls it.
        query: (queries,) indices into the image set. Each has a true match in the gallery.
        gallery: (gallery,) indices into the image set.
        rule: ``market``: for each query the gallery's pictures of the same identity by the same
            camera are dropped, all others ranked (CMC, mAP). ``single_shot``: a trial draws one
            gallery picture of each identity; CMC is averaged over trials.
        distractor: (gallery,) True = shows no query's identity and is in the gallery in every
            trial, such as GRID's 775 and Market-1501's 0000.
    """

    name: str
    query: Int[np.ndarray, " queries"]
    gallery: Int[np.ndarray, " gallery"]
    rule: Rule
    distractor: Bool[np.ndarray, " gallery"]

    def __post_init__(self) -> None:
        if self.distractor.shape != self.gallery.shape:
            raise ValueError(f"{self.distractor.shape} distractors, {self.gallery.shape} gallery")

    def part(self, most: int) -> "Ranking":
        """At most so many queries, evenly spaced; the gallery whole."""
        if most < 1:
            raise UsageError(f"{most} queries of {self.name}: at least 1 is needed")
        if len(self.query) <= most:
            return self
        chosen = np.linspace(0, len(self.query) - 1, most).round().astype(int)
        return Ranking(
            name=f"{self.name} ({most} queries)",
            query=self.query[chosen],
            gallery=self.gallery,
            rule=self.rule,
            distractor=self.distractor,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ReidSplits:
    """Pictures, those that are trained on, and the rankings that choose and test.

    Attributes:
        images: all pictures; every index is into it. Some may be in no split at all.
        cameras: (n,) who took each picture; numbers as the set has them. Of the embedded
            pedestrians it is the tracklet.
        training: indices of the pictures to train on.
        validation: chooses the checkpoint; shows no one of the test.
        test: what the result is about.
        protocol: one line for every number: boxes, protocol, split, counts, what is disjoint.
        request: what :func:`siamjax.data.reid.splits.load_splits` was asked for; asking again
            gives the same splits.
    """

    images: ImageSet
    cameras: Int[np.ndarray, " n"]
    training: Int[np.ndarray, " train"]
    validation: Ranking
    test: Ranking
    protocol: str
    request: dict[str, Any]

    @property
    def trained_on(self) -> tuple[str, ...]:
        """People whom the training images show."""
        return tuple(sorted(set(self.images.identities[self.training].tolist())))

    def fingerprint(self) -> str:
        """sha256 over names, identities, cameras and all indices, but not over pixels.

        A run that goes on checks it, so that no one who was trained on comes to be tested on.
        """
        digest = hashlib.sha256(repr(self.images.keys).encode())
        digest.update("\0".join(self.images.identities.tolist()).encode())
        columns = [self.cameras, self.training]
        for ranking in (self.validation, self.test):
            digest.update(f"\0{ranking.rule}".encode())
            columns += [ranking.query, ranking.gallery, ranking.distractor]
        for column in columns:
            digest.update(f"\0{len(column)}\0".encode())  # else [1][2] would equal [1, 2][]
            digest.update(np.ascontiguousarray(column, np.int64).tobytes())
        return digest.hexdigest()


def rank(
    images: ImageSet,
    cameras: Int[np.ndarray, " n"],
    *,
    name: str,
    query: Int[np.ndarray, " queries"],
    gallery: Int[np.ndarray, " gallery"],
    rule: Rule,
) -> tuple[Ranking, str]:
    """A ranking of those queries that have a true match, and a remark on those that have none.

    The remark is empty where every query has one, as in the official lists. Raises
    ``UsageError`` where fewer than two people can be asked for: then any network is right.
    """
    shown: list[str] = images.identities.tolist()
    # Single-shot has no cameras to compare: one picture in the gallery is a match for any query.
    by = cameras.tolist() if rule == "market" else [0] * len(images)
    own = cameras.tolist() if rule == "market" else [-1] * len(images)
    seen: dict[str, set[int]] = {}
    for index in gallery.tolist():
        seen.setdefault(shown[index], set()).add(by[index])
    matched = [bool(seen.get(shown[i], set()) - {own[i]}) for i in query.tolist()]
    kept = query[np.array(matched, np.bool_)]
    people = len(set(images.identities[kept].tolist()))
    if people < 2:
        raise UsageError(
            f"{name} of {images.name}: {people} of its people can be looked up (seen by a second "
            f"camera, with a picture in the gallery); at least 2 are needed: hold out more people"
        )
    ranking = Ranking(
        name=name,
        query=kept,
        gallery=gallery,
        rule=rule,
        distractor=~np.isin(images.identities[gallery], images.identities[kept]),
    )
    without = len(query) - len(kept)
    return ranking, f"; {without} queries of {name} left out, without a match" if without else ""


def rank_by_camera(
    images: ImageSet,
    cameras: Int[np.ndarray, " n"],
    gallery: Int[np.ndarray, " gallery"],
    *,
    name: str,
    seed: int,
) -> tuple[Ranking, str]:
    """A ranking by the Market rule where no official one exists.

    The queries are one picture of each person and camera, drawn from ``seed``, as Market-1501
    took its own. They stay in the gallery too, where the rule drops them for themselves. People
    seen by one camera are not asked for; they are distractors.
    """
    shuffled = np.random.default_rng(seed).permutation(gallery)
    drawn = {(images.identities[i], int(cameras[i])): int(i) for i in shuffled}
    seen = {person: 0 for person, _ in drawn}
    for person, _ in drawn:
        seen[person] += 1
    query = np.array(
        sorted(i for (person, _), i in drawn.items() if seen[person] > 1), dtype=np.int64
    )
    return rank(images, cameras, name=name, query=query, gallery=gallery, rule="market")


def rank_views(
    images: ImageSet, cameras: Int[np.ndarray, " n"], people: Collection[str], *, name: str
) -> tuple[Ranking, str]:
    """Single-shot: pictures of view 1 ask, those of view 2 are the gallery."""
    chosen = np.zeros(len(images), np.bool_)
    chosen[images_of(images, sorted(people))] = True
    return rank(
        images,
        cameras,
        name=name,
        query=np.flatnonzero(chosen & (cameras == 1)),
        gallery=np.flatnonzero(chosen & (cameras == 2)),
        rule="single_shot",
    )


def tenth(people: Sequence[str]) -> int:
    """How many of the training people validate unless told: a tenth, at least two."""
    return max(2, len(people) // 10)


def draw_people(
    people: Sequence[str], count: int, *, seed: Sequence[int], least_left: int, what: str
) -> tuple[list[str], list[str]]:
    """(the others, ``count`` drawn at random from ``seed``), both sorted.

    ``UsageError`` unless ``count`` is at least 2 and ``least_left`` others remain.
    """
    if not 2 <= count <= len(people) - least_left:
        raise UsageError(
            f"{count} people for {what} were asked for, of {len(people)}; ask for 2 to "
            f"{len(people) - least_left}"
        )
    order = np.random.default_rng(list(seed)).permutation(len(people))
    ordered = sorted(people)
    drawn = [ordered[i] for i in order[:count]]
    return sorted(set(people) - set(drawn)), sorted(drawn)


def assert_apart(images: ImageSet, *parts: Int[np.ndarray, " part"]) -> None:
    """Raise ``UsageError`` if someone is shown in two of the parts."""
    people = [set(images.identities[part].tolist()) for part in parts]
    for place, group in enumerate(people):
        for other in people[place + 1 :]:
            if both := group & other:
                raise UsageError(
                    f"{images.name}: {sorted(both)[0]} is in two of training, validation and "
                    "test, which must share no one; check the folders or the split file"
                )
