"""Verification: the pairs to train on, to choose a threshold by, and to report on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int

from siamjax.data.images import ImageSet, fingerprint, images_of
from siamjax.data.pairs import (
    ListedPairs,
    PairList,
    PairStream,
    SampledPairs,
    all_pairs,
    indices_of,
    split_people,
)
from siamjax.errors import UsageError
from siamjax.messages import note
from siamjax.options import Bounds, Count, Options, Seed, Source, only, request_of

LFW_NAMES = ("lfw", "lfw/original", "lfw/funneled", "lfw/deepfunneled")
NAMES = ("orl_faces", *LFW_NAMES)


@dataclass(frozen=True, kw_only=True, eq=False)
class VerificationSplits:
    """Images and the pairs of the three splits.

    Attributes:
        images: all images; all indices refer to it.
        training: pairs to train on.
        trained_on: identities that training may show; empty where a list does not tell any.
        validation: pairs that choose threshold and checkpoint.
        test: pairs that results are reported on.
        protocol: a line to print with every number: how the splits were made, and what leaks.
        request: the arguments of :func:`load_verification`, which make the same splits again.
    """

    images: ImageSet
    training: PairStream
    trained_on: tuple[str, ...]
    validation: PairList
    test: PairList
    protocol: str
    request: dict[str, Any]

    @property
    def training_images(self) -> Int[np.ndarray, " n"]:
        """Indices of the images that training may show; those of its list, if there is no name."""
        if not self.trained_on and isinstance(self.training, ListedPairs):
            return indices_of(self.training.pairs)
        return images_of(self.images, self.trained_on)

    @property
    def validation_images(self) -> Int[np.ndarray, " n"]:
        """Indices of the images that choose threshold and checkpoint."""
        return indices_of(self.validation)

    def fingerprint(self) -> str:
        """sha256 over names, identities and the pairs of all splits, but not over pixels.

        A resumed run checks it: with one person more in the folder, people would be divided
        anew, and it would test on some whom it was trained on.
        """
        listed = [self.training.pairs] if isinstance(self.training, ListedPairs) else []
        lists = (*listed, self.validation, self.test)
        columns = [column for pairs in lists for column in (pairs.first, pairs.second, pairs.same)]
        return fingerprint(self.images, *columns, words=self.trained_on)


def load_images(data: str, *, strict: bool = False) -> ImageSet:
    """The images of ``orl_faces``, of ``lfw[/alignment]``, or of the folder with this path.

    ``strict``: what would be left out of a folder is an error.
    """
    from siamjax.data.lists import folder_images

    if data == "orl_faces" or data in LFW_NAMES:
        from siamjax.data.datasets import lfw, orl_faces  # TFDS, which takes long to import

        return orl_faces.open_images() if data == "orl_faces" else lfw.open_images(data)
    return folder_images(Path(data), strict=strict)


def divide_people(
    images: ImageSet,
    *,
    seed: int,
    validation_people: int = 6,
    test_people: int = 10,
    positive_share: float | None = 0.5,
    request: dict[str, Any] | None = None,
    unit: str = "people",
) -> VerificationSplits:
    """Divide the people of any images, such as those of ``of_arrays``, at random from ``seed``.

    Validation and test take every pair of their people's images. ``positive_share`` is that of
    :class:`~siamjax.data.pairs.SampledPairs`; ``request`` is kept with the splits; ``unit`` is that
    of :func:`~siamjax.data.pairs.split_people`.
    """
    train, validation, test = split_people(
        images, validation=validation_people, test=test_people, seed=seed, unit=unit
    )
    assert_disjoint(train, validation, test)
    if request is None:  # as load_verification takes it, if the images are a set's
        counts = {"validation_people": validation_people, "test_people": test_people}
        request = {"data": images.name, "seed": seed, **counts}
    return VerificationSplits(
        images=images,
        training=SampledPairs(images, train, seed=seed, positive_share=positive_share, unit=unit),
        trained_on=tuple(train),
        validation=all_pairs(images, images_of(images, validation), name="validation people"),
        test=all_pairs(images, images_of(images, test), name="test people"),
        protocol=(
            f"{images.name}: people divided at random (seed {seed}) into {len(train)} for "
            f"training, {len(validation)} for validation, {len(test)} for test; all pairs"
        ),
        request=request,
    )


def evaluation_pairs(data: str, *, limit: int, strict: bool = False) -> tuple[ImageSet, PairList]:
    """Images and pairs to evaluate a run on.

    They are View 2 of LFW, the pairs of a list file, or all pairs of any other set; of more than
    ``limit``, that many are drawn at random. ``strict``: what would be left out of a folder or a
    list is an error.
    """
    from siamjax.data.people import open_people

    if limit < 1:
        raise UsageError(f"limit {limit} must be at least 1")
    if data in LFW_NAMES:
        from siamjax.data.datasets import lfw

        images, (view2,), _ = lfw.read_lists(data, "pairs.txt")
        return images, view2
    people = open_people(data, strict=strict)
    if people.pairs is not None:
        return people.images, people.pairs
    shown = np.arange(len(people.images))
    return people.images, all_pairs(people.images, shown, name="all pairs", limit=limit)


def people_of(images: ImageSet, pairs: PairList) -> set[str]:
    """The people whom the pairs show."""
    return set(images.identities[indices_of(pairs)].tolist())


def leaked(images: ImageSet, pairs: PairList, trained_on: Sequence[str]) -> np.ndarray:
    """Mask of the pairs that show someone of ``trained_on``, by name."""
    known = images_of(images, trained_on)
    return np.isin(pairs.first, known) | np.isin(pairs.second, known)


def assert_disjoint(*groups: Sequence[str] | set[str]) -> None:
    """Raise ``UsageError`` if someone is in two of the groups."""
    for place, group in enumerate(groups):
        for other in groups[place + 1 :]:
            if both := set(group) & set(other):
                raise UsageError(f"{sorted(both)[0]} is in two splits, which must not share people")


@dataclass(frozen=True, kw_only=True)
class VerificationOptions(Options):
    """Options of the data: which faces, and how many people are held out."""

    seed: Seed = 0
    """Seed of the splits; in a run also of examples, augmentation and initial parameters."""
    data: Source = "orl_faces"
    """orl_faces, lfw, lfw/original, lfw/funneled, lfw/deepfunneled, a folder with
    a sub-folder for each person, or a list file of lines 'path1 path2 label'."""
    lfw_fold: Annotated[int, Bounds(at_least=1, at_most=10)] | None = None
    """LFW only: test on this fold of View 2 (1 to 10), train on the others; None: View 1."""
    validation_list: Path | None = None
    """List files only: the list that chooses threshold and checkpoint."""
    test_list: Path | None = None
    """List files only: the list to test on."""
    validation_people: Count = 6
    """Number of people who choose threshold and checkpoint, where people are divided at random."""
    test_people: Count = 10
    """Number of test people, where people are divided at random."""
    strict: bool = False
    """Refuse a folder or list of which something would be left out; else that is told."""


def load_verification(options: VerificationOptions, *, unit: str = "people") -> VerificationSplits:
    """The three splits of a data set.

    Where identities are known, no person is in two splits, except in LFW's View 1 and View 2,
    where ``protocol`` says how many pairs leak.

    * ``orl_faces`` or a folder of identity folders: people are divided at random from ``seed``;
      validation and test take every pair of their images.
    * ``lfw[/alignment]``: training takes all of View 1's pairsDevTrain.txt (image-restricted),
      validation its pairsDevTest.txt, and the test is View 2's pairs.txt, where people of View 1
      return. With ``lfw_fold`` K (1 to 10) nothing leaks: the test is fold K of View 2,
      validation the fold before it, and training the other eight.
    * a list file ``path1 path2 label`` to train on, with ``validation_list`` and ``test_list``.
      Lists do not tell identities, so that the splits are only checked to share no image.

    If LFW is on this machine, but the options ask for the embedded faces, a line says how to train
    on LFW. Errors name the options ``validation_people`` and ``test_people`` by ``unit``.
    """
    from siamjax.data.lists import list_splits

    options = only(VerificationOptions, options)
    data, request = options.data, request_of(options, sets=NAMES)
    if data == "orl_faces" or data in LFW_NAMES:
        from siamjax.data.datasets import lfw
    if data in LFW_NAMES:
        return lfw.splits(data, seed=options.seed, fold=options.lfw_fold, request=request)
    if options.lfw_fold is not None:
        raise UsageError(
            f"lfw_fold {options.lfw_fold} does not apply to {data}; use --data lfw or leave it out"
        )
    if data == "orl_faces" and (found := lfw.find_any()) is not None:
        note(f"LFW ({found.alignment}) is in {found.home}; --data lfw trains on it")
    lists = (options.validation_list, options.test_list)
    if data != "orl_faces" and os.path.isfile(data):
        if None in lists:
            raise UsageError(
                f"{data} is a list to train on; give --validation-list and --test-list too"
            )
        paths = tuple(Path(str(path)) for path in (data, *lists))
        return list_splits(paths, seed=options.seed, strict=options.strict, request=request)
    if any(lists):
        raise UsageError(f"{data} is not a list file; leave out --validation-list and --test-list")
    return divide_people(
        load_images(data, strict=options.strict),
        seed=options.seed,
        validation_people=options.validation_people,
        test_people=options.test_people,
        request=request,
        unit=unit,
    )
