"""Images of people to measure a network on, whatever task their set was made for."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Shaped

from siamjax.data import verification
from siamjax.data.images import ImageSet
from siamjax.data.open_catalogue import open_catalogue
from siamjax.data.pairs import PairList, indices_of
from siamjax.data.reid import ReidTesting, load_reid_test
from siamjax.data.retrieval import RetrievalSplits
from siamjax.data.tasks import tasks_of
from siamjax.data.verification import VerificationSplits
from siamjax.errors import UsageError


@dataclass(frozen=True, kw_only=True, eq=False)
class People:
    """Images of people, or a list of pairs that does not tell who they are.

    Attributes:
        images: the images; their identities are the people, except in a list.
        cameras: of each image; two images of one person by one camera then make no pair, as they
            are too much alike. None: any two make one.
        pairs: the pairs of a list; None: any two images make one.
    """

    images: ImageSet
    cameras: Shaped[np.ndarray, " images"] | None = None
    pairs: PairList | None = None

    @property
    def names(self) -> list[str]:
        """The people, sorted; none of a list."""
        return [] if self.pairs is not None else sorted(set(self.images.identities.tolist()))

    def apart(
        self, first: Int[np.ndarray, "*n"], second: Int[np.ndarray, "*n"]
    ) -> Bool[np.ndarray, "*n"]:
        """Whether two images of one person make a pair: all do that are of different cameras."""
        if self.cameras is None:
            return np.broadcast_to(True, np.broadcast_shapes(first.shape, second.shape))
        return self.cameras[first] != self.cameras[second]

    def take(self, indices: Int[np.ndarray, " n"]) -> "People":
        """These images, in this order; not of a list."""
        cameras = None if self.cameras is None else self.cameras[indices]
        return People(images=self.images.take(indices), cameras=cameras)


def open_people(data: str, *, strict: bool = False) -> People:
    """The people of a set, of a folder or of a table, or the pairs of a list file.

    * The name of a set of verification or retrieval: all of its images. Of re-identification: its
      test people, without distractors.
    * A folder in Market-1501's naming: its test people.
    * A table (.csv, .tsv), or a folder with one: each item is a person.
    * Any other folder: a sub-folder for each person. Any other file: a list of pairs.

    Raises ``UsageError`` for what cannot be opened, and for people who are not known.
    """
    from siamjax.data.lists import listed_images

    made_for = tasks_of(data)[0]
    if made_for == "reid":
        return people_of(load_reid_test(data, strict=strict))
    if made_for == "retrieval":
        return _known(open_catalogue(data, strict=strict).images)
    if data not in verification.NAMES and os.path.isfile(data):
        images, (pairs,) = listed_images(Path(data), strict=strict)
        return People(images=images, pairs=pairs)
    return _known(verification.load_images(data, strict=strict))


def people_of(splits: VerificationSplits | ReidTesting | RetrievalSplits) -> People:
    """The people whom the test of a set's splits shows."""
    if isinstance(splits, VerificationSplits):
        shown = indices_of(splits.test)
        images = splits.images.take(shown)
        if splits.trained_on:
            return _known(images)
        first, second = (np.searchsorted(shown, x) for x in (splits.test.first, splits.test.second))
        return People(images=images, pairs=replace(splits.test, first=first, second=second))
    gallery, cameras = splits.test.gallery, None
    if isinstance(splits, ReidTesting):
        gallery, cameras = gallery[~splits.test.distractor], splits.cameras
    shown = np.union1d(splits.test.query, gallery)
    return People(images=splits.images, cameras=cameras).take(shown)


def _known(images: ImageSet) -> People:
    if unknown := int((images.identities == "").sum()):
        raise UsageError(
            f"{images.name}: of {unknown} images it is not known whom they show; give a folder "
            "with a sub-folder for each person"
        )
    return People(images=images)
