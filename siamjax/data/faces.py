"""Which faces to train, to choose the threshold and to test on: from one word to three splits."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from jaxtyping import Int

from siamjax.data import lfw
from siamjax.data.images import ImageSet, images_of
from siamjax.data.lists import folder_images, listed_images
from siamjax.data.orl_faces import CREDIT as ORL_CREDIT
from siamjax.data.orl_faces import OrlFaces
from siamjax.data.pairs import (
    ListedPairs,
    PairList,
    PairStream,
    SampledPairs,
    all_pairs,
    split_people,
)
from siamjax.data.prepared import FORMAT, prepared_images
from siamjax.errors import UsageError

LFW_NAMES = ("lfw", *(f"lfw/{alignment}" for alignment in get_args(lfw.Alignment)))


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceSplits:
    """Pictures and the pairs of the three splits.

    Attributes:
        images: all pictures; every split indexes into them.
        training: pairs to train on.
        trained_on: identities that training may show (empty where a list tells none).
        validation: pairs that choose threshold and checkpoint.
        test: pairs that the result is about.
        protocol: one line for every figure: how the splits were made, and what leaks.
        request: what :func:`load_splits` was asked for; asking again gives the same splits.
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
        digest = hashlib.sha256(repr((self.images.keys, self.trained_on)).encode())
        digest.update("\0".join(self.images.identities.tolist()).encode())
        listed = [self.training.pairs] if isinstance(self.training, ListedPairs) else []
        for pairs in (*listed, self.validation, self.test):
            for column in (pairs.first, pairs.second, pairs.same):
                digest.update(np.ascontiguousarray(column, np.int64).tobytes())
        return digest.hexdigest()


def load_images(data: str) -> ImageSet:
    """The pictures that a word names: ``orl_faces``, ``lfw[/alignment]`` or a folder's path."""
    if data == "orl_faces":
        return prepared_images(OrlFaces(file_format=FORMAT), credit=ORL_CREDIT)
    if data in LFW_NAMES:
        return _lfw_images(_local_lfw(data))
    return folder_images(Path(data))


def load_splits(
    data: str,
    *,
    seed: int,
    validation_people: int = 6,
    test_people: int = 10,
    lfw_fold: int | None = None,
    validation_list: Path | str | None = None,
    test_list: Path | str | None = None,
    positive_share: float | None = 0.5,
) -> FaceSplits:
    """The three splits of a data set.

    Where identities are known, no person is in two of them (asserted), but for LFW's View 2 after
    View 1: there the leak is counted and said.

    * ``orl_faces`` or a folder of identity folders: people are divided at random from ``seed``;
      validation and test ask every pair of their pictures.
    * ``lfw[/alignment]``: training takes View 1's pairsDevTrain.txt whole (image-restricted),
      validation its pairsDevTest.txt, test is View 2's pairs.txt. View 1's people return in View
      2: the protocol line counts them. With ``lfw_fold`` K (1..10) nothing leaks: test is fold K
      of View 2, validation the fold before it, training the other eight, whole.
    * a list file ``path1 path2 label``: it is trained on, with ``validation_list`` and
      ``test_list`` for the rest; lists tell no identities, so only the pictures are compared.

    ``positive_share`` applies where pairs are drawn from identities, not to lists.
    """
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
        return _lfw_splits(data, seed=seed, fold=lfw_fold, request=request)
    if lfw_fold is not None:
        raise UsageError(f"a fold of LFW was asked for, but the data is {data}; use --data lfw")
    if data != "orl_faces" and Path(data).is_file():
        if validation_list is None or test_list is None:
            raise UsageError(
                f"{data} is a list to train on; give --validation-list and --test-list beside it"
            )
        lists = (Path(data), Path(validation_list), Path(test_list))
        return _list_splits(lists, seed=seed, request=request)
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
) -> FaceSplits:
    """Splits of any images, such as those of ``of_arrays``: people divided at random from ``seed``.

    Validation and test ask every pair of their people's images. ``positive_share`` is that of
    :class:`~siamjax.data.pairs.SampledPairs`; ``request`` says how to ask for these splits again.
    """
    train, validation, test = split_people(
        images, validation=validation_people, test=test_people, seed=seed
    )
    _assert_disjoint(train, validation, test)
    return FaceSplits(
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
    """Pictures and pairs to evaluate a run on.

    LFW gives View 2, a list file its pairs; of any other set all pairs are asked, of more than
    ``limit`` so many drawn at random.
    """
    if limit < 1:
        raise UsageError(f"limit {limit} must be at least 1")
    if data in LFW_NAMES:
        images, (view2,), _ = _lfw_lists(data, "pairs.txt")
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


def _local_lfw(data: str) -> lfw.LocalLfw:
    named = data.partition("/")[2]
    alignment = cast(lfw.Alignment, named or "funneled")
    return lfw.find(alignment) or lfw.download(alignment)


def _lfw_images(local: lfw.LocalLfw) -> ImageSet:
    return prepared_images(lfw.Lfw(local=local), credit=lfw.CREDIT)


def _lfw_lists(data: str, *names: str) -> tuple[ImageSet, list[PairList], str]:
    """Pictures, official lists, and a remark if one is not the published file."""
    local = _local_lfw(data)
    images = _lfw_images(local)
    paths = [lfw.find_list(name, local) for name in names]
    changed = [path.name for path in paths if not lfw.is_official(path)]
    remark = f"; NOT the published {', '.join(changed)}" if changed else ""
    return images, [lfw.read_pairs(path, images) for path in paths], remark


def _lfw_splits(data: str, *, seed: int, fold: int | None, request: dict[str, Any]) -> FaceSplits:
    if fold is None:
        images, (train, validation, view2), remark = _lfw_lists(data, *lfw.LISTS)
        people = people_of(images, train)
        _assert_disjoint(people, people_of(images, validation))
        count = int(leaked(images, view2, tuple(people)).sum())
        test = view2
        protocol = (
            f"{images.name}: trained on View 1 (pairsDevTrain, image-restricted), tested on "
            f"View 2; CONTAMINATED: {count:,} of its {len(view2):,} pairs show people seen in "
            "training. --lfw-fold K trains without the fold's people"
        )
    else:
        images, (view2,), remark = _lfw_lists(data, "pairs.txt")
        if view2.fold is None or fold not in range(1, 11):
            raise UsageError(f"fold {fold} must be 1 to 10")
        before = 10 if fold == 1 else fold - 1
        test = view2.take(view2.fold == fold, name=f"pairs.txt, fold {fold}")
        validation = view2.take(view2.fold == before, name=f"pairs.txt, fold {before}")
        others = ~np.isin(view2.fold, [fold, before])
        train = view2.take(others, name=f"pairs.txt, without folds {fold} and {before}")
        people = people_of(images, train)
        _assert_disjoint(people, people_of(images, validation), people_of(images, test))
        protocol = (
            f"{images.name}: View 2, trained on eight folds (image-restricted), threshold from "
            f"fold {before}, tested on fold {fold}; no person is in two of these"
        )
    return FaceSplits(
        images=images,
        training=ListedPairs(train, seed=seed),
        trained_on=tuple(sorted(people)),
        validation=validation,
        test=test,
        protocol=protocol + remark,
        request=request,
    )


def _list_splits(
    lists: tuple[Path, Path, Path], *, seed: int, request: dict[str, Any]
) -> FaceSplits:
    images, parts = listed_images(*lists)
    for pairs in parts:
        if pairs.same.all() or not pairs.same.any():
            kind = "different" if pairs.same.all() else "same"
            raise UsageError(f"{pairs.name}: no pair is labelled '{kind}'; both kinds are needed")
    shown = [set(np.concatenate([pairs.first, pairs.second]).tolist()) for pairs in parts]
    for one, other in itertools.combinations(range(3), 2):
        both = shown[one] & shown[other]
        if both:
            raise UsageError(
                f"{images.keys[min(both)]} is in {lists[one]} and in {lists[other]}: a picture "
                "must not be in two of the lists for training, validation and test"
            )
    training, validating, testing = parts
    names = ", ".join(path.name for path in lists)
    return FaceSplits(
        images=images,
        training=ListedPairs(training, seed=seed),
        trained_on=(),
        validation=validating,
        test=testing,
        protocol=f"lists {names}: no picture is in two; identities are unknown, so people may be",
        request=request,
    )


def _assert_disjoint(*groups: Sequence[str] | set[str]) -> None:
    for place, group in enumerate(groups):
        for other in groups[place + 1 :]:
            both = set(group) & set(other)
            if both:
                raise UsageError(f"{sorted(both)[0]} is in two splits, which must share no one")
