"""The embedded pedestrians: 832 images of 9 walkers in 37 tracklets."""

import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from siamjax.data.images import ImageSet, images_of
from siamjax.data.prepared import EMBEDDED, ImageBuilder, RawImage, prepared_people
from siamjax.data.reid import Ranking, ReidOptions, ReidSplits, assert_apart, rank
from siamjax.errors import UsageError

CREDIT = (
    "pedestrians cut from PETS 2009 S2.L1 (Ferryman and Shahrokni 2009), as OpenCV's samples carry "
    "it (vtest.avi, Apache-2.0)"
)
TEST_PEOPLE = 4
HELD_OUT = 2  # tracklets of a person: queries of the one, matches in the other
_ARCHIVE = EMBEDDED / "pedestrians.zip"


class Pedestrians(ImageBuilder, skip_registration=True):
    """TFDS builder of the embedded pedestrians; camera = tracklet, one walk through the view.

    There is only one real camera, and people come back within seconds in the same clothes. The
    set shows that code works and learns, but supports no claim about re-identification.
    """

    name = "pedestrians"
    about: ClassVar[str] = "9 walkers, 37 tracklets, 832 crops of 60x160 from one static camera."

    def _images(self) -> Iterator[RawImage]:
        with zipfile.ZipFile(_ARCHIVE) as archive:
            labels = io.StringIO(archive.read("labels.csv").decode())
            for row in csv.DictReader(labels):
                content = archive.read(f"images/{row['file']}")
                identity = f"p{row['person']}_{row['description']}"
                yield row["file"], identity, content, {"camera": int(row["tracklet"])}


def divide(options: ReidOptions) -> ReidSplits:
    """The splits of the embedded pedestrians, drawn from ``seed``; Market rule.

    ``person``: training shows none of the ``test_people`` (default 4). They are three of the six
    who walk by more than once, and one of the three who do not, who is in the gallery but is no
    query (other numbers in that proportion). By default, as people are few, two held-out tracklets
    of each training person who has three or more validate; with ``validation_people`` (2 or more),
    that many people validate and training shows none of them.

    ``tracklet``: training shows everyone. Two tracklets of each person who has three or more are
    for test, and two more, where three or more are left, for validation.
    """
    images, cameras = prepared_people(Pedestrians(), credit=CREDIT)
    if options.disjoint == "tracklet":
        if options.test_people is not None or options.validation_people is not None:
            raise UsageError(
                "pedestrians: disjoint='tracklet' trains on everyone, so that test_people and "
                "validation_people do not apply; leave them out"
            )
        return _divide_tracklets(images, cameras, seed=options.seed)
    return _divide_people(images, cameras, options)


def _divide_people(
    images: ImageSet, cameras: Int[np.ndarray, " n"], options: ReidOptions
) -> ReidSplits:
    seed, validation_people = options.seed, options.validation_people or 0
    test_people = TEST_PEOPLE if options.test_people is None else options.test_people
    everyone = sorted(set(images.identities.tolist()))
    most = len(everyone) - validation_people - 2
    if not 2 <= test_people <= most or validation_people < 0 or validation_people == 1:
        raise UsageError(
            f"pedestrians: {test_people} people for test and {validation_people} for validation do "
            f"not fit; of {len(everyone)} people, choose 2 or more for each (0 for validation: "
            "held-out tracklets validate), and leave 2 for training"
        )
    rng = np.random.default_rng(seed)
    left, test = _draw(images, cameras, everyone, test_people, rng=rng)
    trained, validated = _draw(images, cameras, left, validation_people, rng=rng)
    own = np.flatnonzero(np.isin(images.identities, trained))
    asked = images_of(images, test)
    ranking, remark = _everything(images, cameras, asked, name="test people")
    if validated:
        training = own
        chosen = images_of(images, validated)
        validation, other = _everything(images, cameras, chosen, name="validation people")
        assert_apart(images, training, chosen, asked)
        how = f"{len(validated)} others choose the checkpoint; no person is in two of these"
    else:
        training, held_out = hold_out(images, cameras, own, rng=rng)
        validation, other = _everything(images, cameras, held_out, name="held-out tracklets")
        assert_apart(images, own, asked)
        how = (
            f"training shows no test person; {HELD_OUT} held-out tracklets of each of "
            f"{_count(images, held_out)} training people choose the checkpoint (SAME PEOPLE as in "
            "training, other tracklets)"
        )
    return ReidSplits(
        images=images,
        cameras=cameras,
        training=training,
        validation=validation,
        test=ranking,
        protocol=(
            f"pedestrians (embedded, one real camera; tracklet = camera, Market rule): people "
            f"divided at random (seed {seed}): {len(trained)} for training ({len(training)} "
            f"images), {len(test)} for test ({_asked(images, ranking)}); {how}{remark}{other}"
        ),
    )


def _divide_tracklets(images: ImageSet, cameras: Int[np.ndarray, " n"], *, seed: int) -> ReidSplits:
    rng = np.random.default_rng(seed)
    left, asked = hold_out(images, cameras, np.arange(len(images)), rng=rng)
    training, validated = hold_out(images, cameras, left, rng=rng)
    test, remark = _everything(images, cameras, asked, name="test tracklets")
    validation, other = _everything(images, cameras, validated, name="validation tracklets")
    return ReidSplits(
        images=images,
        cameras=cameras,
        training=training,
        validation=validation,
        test=test,
        protocol=(
            f"pedestrians (embedded, one real camera; tracklet = camera, Market rule): tracklets "
            f"divided at random (seed {seed}): {_count(images, training)} people for training "
            f"({len(training)} images), {HELD_OUT} held-out tracklets of {_count(images, asked)} "
            f"of them for test ({_asked(images, test)}), {HELD_OUT} more of "
            f"{_count(images, validated)} choose the checkpoint; no tracklet is in two of these, "
            f"but PEOPLE ARE{remark}{other}"
        ),
    )


def hold_out(
    images: ImageSet,
    cameras: Int[np.ndarray, " n"],
    among: Int[np.ndarray, " among"],
    *,
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held_out"]]:
    """Hold out two tracklets of each person who has three or more."""
    held: list[int] = []
    for person in sorted(set(images.identities[among].tolist())):
        tracklets = np.unique(cameras[among[images.identities[among] == person]])
        if len(tracklets) > HELD_OUT:
            held += rng.permutation(tracklets)[:HELD_OUT].tolist()
    out = np.isin(cameras[among], held)
    return among[~out], among[out]


def _draw(
    images: ImageSet,
    cameras: Int[np.ndarray, " n"],
    people: Sequence[str],
    count: int,
    *,
    rng: np.random.Generator,
) -> tuple[list[str], list[str]]:
    """Draw ``count`` people: (the others, those drawn), both sorted."""
    # People with a single tracklet have no match. They are drawn in proportion, rounded down, so
    # that neither side gets all of them.
    returning = [p for p in people if len(set(cameras[images.identities == p].tolist())) >= 2]
    once = sorted(set(people) - set(returning))
    single = count * len(once) // len(people)
    drawn = [
        *rng.permutation(returning)[: count - single].tolist(),
        *rng.permutation(once)[:single].tolist(),
    ]
    return sorted(set(people) - set(drawn)), sorted(drawn)


def _everything(
    images: ImageSet,
    cameras: Int[np.ndarray, " n"],
    chosen: Int[np.ndarray, " chosen"],
    *,
    name: str,
) -> tuple[Ranking, str]:
    """Every image of a person with two tracklets or more is a query; all are the gallery."""
    seen = {
        person: len(set(cameras[chosen[images.identities[chosen] == person]].tolist()))
        for person in set(images.identities[chosen].tolist())
    }
    query = np.array([i for i in chosen if seen[images.identities[i]] >= 2], np.int64)
    return rank(images, cameras, name=name, query=query, gallery=chosen, rule="market")


def _asked(images: ImageSet, ranking: Ranking) -> str:
    return (
        f"{len(ranking.query)} queries of {_count(images, ranking.query)} people, gallery "
        f"{len(ranking.gallery)}"
    )


def _count(images: ImageSet, indices: Int[np.ndarray, " n"]) -> int:
    return len(set(images.identities[indices].tolist()))
