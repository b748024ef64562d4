"""Verification: which images, and the pairs that train, choose a threshold and are reported on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from siamjax.data.images import ImageSet, fingerprint, images_of
from siamjax.data.options import asked
from siamjax.data.pairs import (
    ListedPairs,
    PairList,
    PairStream,
    SampledPairs,
    all_pairs,
    split_people,
)
from siamjax.errors import UsageError

LFW_NAMES = ("lfw", "lfw/original", "lfw/funneled", "lfw/deepfunneled")


@dataclass(frozen=True, kw_only=True, eq=False)
class VerificationSplits:
    """Images and the pairs of the three splits.

    Attributes:
        images: all images; every split indexes into them.
        training: pairs to train on.
        trained_on: identities that training may show (empty where a list tells none).
        validation: pairs that choose threshold and checkpoint.
        test: pairs that the result is about.
        protocol: one line for every figure: how the splits were made, and what leaks.
        request: what :func:`verification_splits` was asked for; asking again gives the same splits.
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
        """Indices of the images of the identities that training may show; all, if none is told."""
        if not self.trained_on:
            return np.arange(len(self.images))
        return images_of(self.images, self.trained_on)

    def fingerprint(self) -> str:
        """sha256 over names, identities and the pairs of all splits, but not over pixels.

        A run that goes on checks it: a person more in the folder would divide people anew, and
        some that were trained on would come to be tested on.
        """
        listed = [self.training.pairs] if isinstance(self.training, ListedPairs) else []
        lists = (*listed, self.validation, self.test)
        columns = [column for pairs in lists for column in (pairs.first, pairs.second, pairs.same)]
        return fingerprint(self.images, *columns, words=self.trained_on)


def load_images(data: str) -> ImageSet:
    """The images that a word names: ``orl_faces``, ``lfw[/alignment]`` or a folder's path."""
    from siamjax.data.datasets import lfw, orl_faces
    from siamjax.data.lists import folder_images

    if data == "orl_faces":
        return orl_faces.open_images()
    if data in LFW_NAMES:
        return lfw.open_images(data)
    return folder_images(Path(data))


def verification_splits(
    data: str,
    *,
    seed: int,
    validation_people: int = 6,
    test_people: int = 10,
    lfw_fold: int | None = None,
    validation_list: Path | str | None = None,
    test_list: Path | str | None = None,
    positive_share: float | None = 0.5,
) -> VerificationSplits:
    """The three splits of a data set.

    Where identities are known, no person is in two of them (asserted), but for LFW's View 2 after
    View 1: there the leak is counted and said.

    * ``orl_faces`` or a folder of identity folders: people are divided at random from ``seed``;
      validation and test ask every pair of their images.
    * ``lfw[/alignment]``: training takes View 1's pairsDevTrain.txt whole (image-restricted),
      validation its pairsDevTest.txt, test is View 2's pairs.txt. View 1's people return in View
      2: the protocol line counts them. With ``lfw_fold`` K (1..10) nothing leaks: test is fold K
      of View 2, validation the fold before it, training the other eight, whole.
    * a list file ``path1 path2 label``: it is trained on, with ``validation_list`` and
      ``test_list`` for the rest; lists tell no identities, so only the images are compared.

    ``positive_share`` applies where pairs are drawn from identities, not to lists.
    """
    from siamjax.data.datasets import lfw
    from siamjax.data.lists import list_splits

    request = {
        "data": data,
        "seed": seed,
        "validation_people": validation_people,
        "test_people": test_people,
        "lfw_fold": lfw_fold,
        "validation_list": None if validation_list is None else str(validation_list),
        "test_list": None if test_list is None else str(test_list),
        "positive_share": positive_share,
    }
    if seed < 0:
        raise UsageError(f"seed {seed} must be 0 or greater")
    if data in LFW_NAMES:
        return lfw.splits(data, seed=seed, fold=lfw_fold, request=request)
    if lfw_fold is not None:
        raise UsageError(f"a fold of LFW was asked for, but the data is {data}; use --data lfw")
    if data != "orl_faces" and Path(data).is_file():
        if validation_list is None or test_list is None:
            raise UsageError(
                f"{data} is a list to train on; give --validation-list and --test-list beside it"
            )
        lists = (Path(data), Path(validation_list), Path(test_list))
        return list_splits(lists, seed=seed, request=request)
    if validation_list or test_list:
        raise UsageError(f"{data} is no list file, so validation and test lists do not apply")
    return divide_people(
        load_images(data),
        seed=seed,
        validation_people=validation_people,
        test_people=test_people,
        positive_share=positive_share,
        request=request,
    )


def divide_people(
    images: ImageSet,
    *,
    seed: int,
    validation_people: int = 6,
    test_people: int = 10,
    positive_share: float | None = 0.5,
    request: dict[str, Any] | None = None,
) -> VerificationSplits:
    """Splits of any images, such as those of ``of_arrays``: people divided at random from ``seed``.

    Validation and test ask every pair of their people's images. ``positive_share`` is that of
    :class:`~siamjax.data.pairs.SampledPairs`; ``request`` says how to ask for these splits again.
    """
    train, validation, test = split_people(
        images, validation=validation_people, test=test_people, seed=seed
    )
    assert_disjoint(train, validation, test)
    return VerificationSplits(
        images=images,
        training=SampledPairs(images, train, seed=seed, positive_share=positive_share),
        trained_on=tuple(train),
        validation=all_pairs(images, images_of(images, validation), name="validation people"),
        test=all_pairs(images, images_of(images, test), name="test people"),
        protocol=(
            f"{images.name}: people divided at random (seed {seed}) into {len(train)} for "
            f"training, {len(validation)} for validation, {len(test)} for test; all pairs"
        ),
        request={"data": images.name, "seed": seed} if request is None else request,
    )


def evaluation_pairs(data: str, *, limit: int) -> tuple[ImageSet, PairList]:
    """Images and pairs to evaluate a run on.

    LFW gives View 2, a list file its pairs; of any other set all pairs are asked, of more than
    ``limit`` so many drawn at random.
    """
    from siamjax.data.datasets import lfw
    from siamjax.data.lists import listed_images

    if limit < 1:
        raise UsageError(f"limit {limit} must be at least 1")
    if data in LFW_NAMES:
        images, (view2,), _ = lfw.read_lists(data, "pairs.txt")
        return images, view2
    if data != "orl_faces" and Path(data).is_file():
        images, (pairs,) = listed_images(Path(data))
        return images, pairs
    images = load_images(data)
    return images, all_pairs(images, np.arange(len(images)), name="all pairs", limit=limit)


def people_of(images: ImageSet, pairs: PairList) -> set[str]:
    """Everyone whom the pairs show."""
    shown = np.concatenate([pairs.first, pairs.second])
    return set(images.identities[shown].tolist())


def leaked(images: ImageSet, pairs: PairList, trained_on: Sequence[str]) -> np.ndarray:
    """Mask of the pairs that show someone whom training has seen."""
    known = np.isin(images.identities, list(trained_on))
    return known[pairs.first] | known[pairs.second]


def assert_disjoint(*groups: Sequence[str] | set[str]) -> None:
    """Raise ``UsageError`` naming someone who is in two of the groups."""
    for place, group in enumerate(groups):
        for other in groups[place + 1 :]:
            both = set(group) & set(other)
            if both:
                raise UsageError(f"{sorted(both)[0]} is in two splits, which must share no one")


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """Which faces, and how many people are held out."""

    seed: int = 0
    """Seed of the division; of a run also of examples, augmentation and initial parameters."""
    data: str = "orl_faces"
    """orl_faces, lfw, lfw/original, lfw/funneled, lfw/deepfunneled, a folder with one sub-folder
    a person, or a list file of lines 'path1 path2 label'."""
    lfw_fold: int | None = None
    """LFW only: test on this fold of View 2 (1 to 10), train on the others; None: View 1."""
    validation_list: Path | None = None
    """List file only: the list that chooses threshold and checkpoint."""
    test_list: Path | None = None
    """List file only: the list that is reported on."""
    validation_people: int = 6
    """People who choose threshold and checkpoint, where people are divided at random."""
    test_people: int = 10
    """People who are reported on, where people are divided at random."""


def load_verification(options: VerificationOptions) -> VerificationSplits:
    """:func:`verification_splits` of an experiment's options.

    Where LFW lies on this machine and the embedded faces are asked for, a line says how to train
    on it.
    """
    from siamjax.data.datasets import lfw

    if options.data == "orl_faces" and (found := lfw.find_any()) is not None:
        print(f"LFW ({found.alignment}) is in {found.home}; --data lfw trains on it")
    return verification_splits(**asked(VerificationOptions, options))
