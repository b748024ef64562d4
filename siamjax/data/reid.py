"""Re-identification: whom to train on, and the rankings that validate and test."""

import dataclasses
import importlib
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from siamjax.checks import require_bool, require_names, require_whole
from siamjax.data.images import ImageSet, fingerprint, images_of
from siamjax.errors import UsageError
from siamjax.options import Count, Options, Seed, Source, Whole, only, request_of

NAMES = ("pedestrians", "cuhk03/labeled", "cuhk03/detected", "cuhk01", "grid", "market1501")

Rule = Literal["market", "single_shot"]
Protocol = Literal["classic", "new"]
Disjoint = Literal["person", "tracklet"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Queries, and the gallery to search for each.

    Attributes:
        name: such as ``test people``, as figures show it.
        query: (queries,) indices into the image set. Each has a true match in the gallery.
        gallery: (gallery,) indices into the image set.
        rule: ``market`` drops, for each query, the gallery's images of the same identity by the
            same camera, and ranks all others (CMC, mAP). ``single_shot`` draws in each trial one
            gallery image of each identity, and averages CMC over the trials.
        distractor: (gallery,) True = shows the identity of no query and is in the gallery of every
            trial, such as GRID's 775 and Market-1501's 0000.
    """

    name: str
    query: Int[np.ndarray, " queries"]
    gallery: Int[np.ndarray, " gallery"]
    rule: Rule
    distractor: Bool[np.ndarray, " gallery"]

    def __post_init__(self) -> None:
        require_bool("distractor", self.distractor, true="matches nobody")
        if self.distractor.shape != self.gallery.shape:
            raise ValueError(f"{self.distractor.shape} distractors, {self.gallery.shape} gallery")

    def part(self, most: int) -> "Ranking":
        """At most ``most`` queries, evenly spaced, with the whole gallery."""
        if most < 1:
            raise UsageError(f"{most} queries of {self.name}: ask for at least 1")
        if len(self.query) <= most:
            return self
        chosen = np.linspace(0, len(self.query) - 1, most).round().astype(int)
        name = f"{self.name} ({most} queries)"
        return dataclasses.replace(self, name=name, query=self.query[chosen])


@dataclass(frozen=True, kw_only=True, eq=False)
class ReidTesting:
    """Images, and the ranking to test on.

    Attributes:
        images: all images; all indices refer to it. Some may be in no split.
        cameras: (n,) the camera of each image, as the set numbers them; of the embedded
            pedestrians, the tracklet.
        test: what results are reported on.
        protocol: a line to print with every number: boxes, protocol, split, counts, and what the
            splits do not share.
        request: the arguments of :func:`load_reid`, which make the same splits again.
    """

    images: ImageSet
    cameras: Int[np.ndarray, " n"]
    test: Ranking
    protocol: str
    request: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_whole(f"cameras of {self.images.name}", self.cameras, count=len(self.images))


@dataclass(frozen=True, kw_only=True, eq=False)
class ReidSplits(ReidTesting):
    """The images to train on, and the rankings that choose the checkpoint and test it.

    Attributes:
        training: indices of the images to train on.
        validation: chooses the checkpoint; shows no one of the test.
    """

    training: Int[np.ndarray, " train"]
    validation: Ranking

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The people whom the training images show."""
        return tuple(sorted(set(self.images.identities[self.training].tolist())))

    @property
    def training_images(self) -> Int[np.ndarray, " train"]:
        """Indices of the images to train on."""
        return self.training

    @property
    def validation_images(self) -> Int[np.ndarray, " n"]:
        """Indices of the images that choose the checkpoint."""
        return np.union1d(self.validation.query, self.validation.gallery)

    def fingerprint(self) -> str:
        """sha256 over names, identities, cameras and all indices, but not over pixels.

        A resumed run checks it, so that it does not test on people whom it was trained on.
        """
        columns = [self.cameras, self.training]
        for ranking in (self.validation, self.test):
            columns += [ranking.query, ranking.gallery, ranking.distractor]
        rules = (self.validation.rule, self.test.rule)
        return fingerprint(self.images, *columns, words=rules)


def rank(
    images: ImageSet,
    cameras: Int[np.ndarray, " n"],
    *,
    name: str,
    query: Int[np.ndarray, " queries"],
    gallery: Int[np.ndarray, " gallery"],
    rule: Rule,
) -> tuple[Ranking, str]:
    """A ranking of the queries that have a true match, and a remark on the others.

    The remark is empty where there are no others, as in the official lists. Raises ``UsageError``
    where the queries show fewer than two people, as any network would then be right.
    """
    shown = require_names(f"identities of {images.name}", images.identities).tolist()
    cameras = require_whole(f"cameras of {images.name}", cameras, count=len(images))
    # Single-shot compares no cameras: any gallery image of the query's identity is a match.
    by = cameras.tolist() if rule == "market" else [0] * len(images)
    own = cameras.tolist() if rule == "market" else [-1] * len(images)
    seen: dict[str, set[int]] = {}
    for index in gallery.tolist():
        seen.setdefault(shown[index], set()).add(by[index])
    matched = [bool(seen.get(shown[i], set()) - {own[i]}) for i in query.tolist()]
    kept = query[np.array(matched, np.bool_)]
    people = len(set(images.identities[kept].tolist()))
    seen_by = np.unique(cameras[np.concatenate([query, gallery])]).tolist()
    if people < 2 and rule == "market" and len(seen_by) < 2:
        raise UsageError(
            f"{name} of {images.name}: all images are of one camera ({', '.join(map(str, seen_by))}"
            "), but a match must be by another camera than its query; add images of a second camera"
        )
    if people < 2:
        raise UsageError(
            f"{name} of {images.name}: {people} of its people can be searched for (seen by a "
            "second camera, with an image in the gallery), but 2 are needed; hold out more people"
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
    """A ranking by the Market rule where there is no official one.

    As in Market-1501, the queries are one image of each person and camera, drawn from ``seed``.
    They are in the gallery too, where the rule drops each for itself. People seen by one camera
    only are no queries but distractors.
    """
    cameras = require_whole(f"cameras of {images.name}", cameras, count=len(images))
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
    """A single-shot ranking: the queries are of view 1, the gallery is of view 2."""
    cameras = require_whole(f"cameras of {images.name}", cameras, count=len(images))
    chosen = np.isin(np.arange(len(images)), images_of(images, list(people)))
    return rank(
        images,
        cameras,
        name=name,
        query=np.flatnonzero(chosen & (cameras == 1)),
        gallery=np.flatnonzero(chosen & (cameras == 2)),
        rule="single_shot",
    )


def draw_people(
    people: Sequence[str],
    count: int | None,
    *,
    seed: Sequence[int],
    least_left: int = 2,
    what: str = "validation",
) -> tuple[list[str], list[str]]:
    """Draw ``count`` people at random from ``seed``: (the others, those drawn), both sorted.

    ``count`` None is a tenth, at least 2. Raises ``UsageError`` unless ``count`` is at least 2 and
    ``least_left`` others remain.
    """
    count = max(2, len(people) // 10) if count is None else count
    if not 2 <= count <= len(people) - least_left:
        raise UsageError(
            f"{count} of {len(people)} people cannot be held out for {what}; ask for 2 to "
            f"{len(people) - least_left}"
        )
    order = np.random.default_rng(list(seed)).permutation(len(people))
    ordered = sorted(people)
    drawn = [ordered[i] for i in order[:count]]
    return sorted(set(people) - set(drawn)), sorted(drawn)


def assert_apart(images: ImageSet, *parts: Int[np.ndarray, " part"]) -> None:
    """Raise ``UsageError`` if two of the parts show the same person."""
    people = [set(images.identities[part].tolist()) for part in parts]
    for place, group in enumerate(people):
        for other in people[place + 1 :]:
            if both := group & other:
                raise UsageError(
                    f"{images.name}: {sorted(both)[0]} is in two of training, validation and "
                    "test, which must not share people; check the folders or the split file"
                )


@dataclass(frozen=True, kw_only=True)
class ReidOptions(Options):
    """Options of the data: which set, and who is held out."""

    seed: Seed = 0
    """Seed of the splits; in a run also of examples, augmentation and initial parameters."""
    data: Source = "pedestrians"
    """pedestrians, cuhk03/labeled, cuhk03/detected, cuhk01, grid, market1501, or
    a folder in Market-1501's naming."""
    home: Path | None = None
    """Folder, archive or .mat file of the set; None: in $SIAMJAX_REID, else in TFDS's folder."""
    protocol: Protocol = "classic"
    """CUHK03 only: classic (20 splits, single-shot) or new (767/700)."""
    split: Whole = 0
    """CUHK03 classic and GRID only: number of the official split, from 0."""
    test_people: Count | None = None
    """Number of test people (cuhk01, pedestrians); None: as published (100), pedestrians 4."""
    validation_people: Count | None = None
    """Number of people who choose the checkpoint; None: see docs/reid.md."""
    disjoint: Disjoint = "person"
    """Pedestrians only: whether training and test share no person or no tracklet."""
    strict: bool = False
    """Refuse a folder of which something would be left out; else that is told."""


def load_reid(options: ReidOptions, *, unit: str = "people") -> ReidSplits:
    """The splits of a set, by its published protocol.

    Validation shows no test person. An option that does not apply to the set raises
    ``UsageError``, so that nobody believes that a number depends on it. Errors name the option
    ``test_people`` by ``unit``.
    """
    options = only(ReidOptions, options)
    data, home = options.data, None if options.home is None else Path(options.home)
    if data not in NAMES and not os.path.isdir(data):
        raise UsageError(
            f"{data}: no such data set; give a folder in Market-1501's naming or one of "
            f"{', '.join(NAMES)}"
        )
    cuhk03 = data.startswith("cuhk03/")
    applies = {
        "split": (cuhk03 and options.protocol == "classic") or data == "grid",
        "protocol": cuhk03,
        "test_people": data in ("cuhk01", "pedestrians"),
        "disjoint": data == "pedestrians",
        "home": data in NAMES and data != "pedestrians",
    }
    for name, needed in applies.items():
        value = getattr(options, name)
        if value != getattr(ReidOptions, name) and not needed:
            name = name.replace("people", unit)
            raise UsageError(f"{name} {value} does not apply to {data}; leave it out")
    if home is not None and not os.path.exists(home):
        # Otherwise a prepared copy would hide the mistake.
        raise UsageError(f"{home}: no such folder or file; give the home of {data}, or none")
    # A set's file is called as the set and imported only here, as some need h5py or SciPy.
    file = data.partition("/")[0] if data in NAMES else "market1501"
    divide: Callable[[ReidOptions], ReidSplits]
    divide = importlib.import_module(f"siamjax.data.datasets.{file}").divide
    return dataclasses.replace(divide(options), request=request_of(options, sets=NAMES))


def load_reid_test(data: str, *, strict: bool = False) -> ReidTesting:
    """The test of a set, as :func:`load_reid` makes it by default.

    A folder in Market-1501's naming needs no images to train on.
    """
    if data not in NAMES:
        from siamjax.data.datasets.market1501 import folder_test

        return folder_test(Path(data), strict=strict)
    return load_reid(ReidOptions(data=data, strict=strict))
