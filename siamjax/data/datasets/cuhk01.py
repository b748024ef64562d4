"""CUHK01 (Li, Zhao, Wang 2012): 971 people, two images by each of two cameras."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import ClassVar

from siamjax.data.archives import Published, collect, content_of, locate
from siamjax.data.images import images_of
from siamjax.data.prepared import ImageBuilder, RawImage, prepared_people
from siamjax.data.reid import ReidOptions, ReidSplits, draw_people, rank_views
from siamjax.errors import UsageError

CREDIT = "CUHK01 (Li, Zhao and Wang 2012)"
PEOPLE = 971
PUBLISHED_TESTS = (100, 486)
PUBLISHED = Published(
    title="CUHK01",
    names=("CUHK01", "cuhk01", "CUHK01.zip", "cuhk01.zip", "campus"),
    tree="DIR/CUHK01/campus/0001001.png ... 0971004.png (or DIR/CUHK01.zip)",
    source=(
        "ask the Multimedia Laboratory of the Chinese University of Hong Kong "
        "(http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html)"
    ),
)
_NAME = re.compile(r"([0-9]{4})([0-9]{3})\.png")


class Cuhk01(ImageBuilder, skip_registration=True):
    """TFDS builder of CUHK01; images 1 and 2 of a person are of view 1, 3 and 4 of view 2."""

    name = "cuhk01"
    encoding: ClassVar[str] = "png"
    about: ClassVar[str] = "971 people, 4 images of 60x160 each, two by each of two cameras."

    def _images(self) -> Iterator[RawImage]:
        source = locate(PUBLISHED, self._home)
        found = collect(source, _key)
        expected = [f"{p:04d}{n:03d}.png" for p in range(1, PEOPLE + 1) for n in range(1, 5)]
        absent = sorted(set(expected) - set(found))
        if absent or len(found) != len(expected):
            lack = f"{absent[0]} is missing" if absent else f"{max(found)} is not one of them"
            raise UsageError(
                f"{source}: {len(found):,} images named like 0001001.png, but CUHK01 has "
                f"{len(expected):,} ({PEOPLE} people x 4): {lack}; the folder or archive is not "
                "complete"
            )
        for file, content in found.items():
            camera = 1 if int(file[4:7]) <= 2 else 2
            yield file, file[:4], content_of(content), {"camera": camera}


def _key(path: PurePosixPath) -> str | None:
    return path.name if _NAME.fullmatch(path.name) else None


def divide(options: ReidOptions) -> ReidSplits:
    """People divided at random, as published: 871/100 (default) or 485/486. Single-shot.

    The queries are of view 1, the gallery of view 2. ``validation_people`` (default a tenth) are
    taken out of the training people.
    """
    seed = options.seed
    images, cameras = prepared_people(Cuhk01(home=options.home), credit=CREDIT)
    everyone = sorted(set(images.identities.tolist()))
    count = PUBLISHED_TESTS[0] if options.test_people is None else options.test_people
    left, test = draw_people(everyone, count, seed=[seed, 0], least_left=4, what="test")
    trained, validated = draw_people(left, options.validation_people, seed=[seed, 1])
    ranking, remark = rank_views(images, cameras, test, name="test people")
    validation, other = rank_views(images, cameras, validated, name="validation people")
    published = " or ".join(f"{PEOPLE - n}/{n}" for n in PUBLISHED_TESTS)
    unusual = "" if count in PUBLISHED_TESTS else f" (NOT a published division: {published})"
    return ReidSplits(
        images=images,
        cameras=cameras,
        training=images_of(images, trained),
        validation=validation,
        test=ranking,
        protocol=(
            f"cuhk01: {len(left)}/{count} people{unusual}, divided at random (seed {seed}); "
            f"{len(trained)} for training, {len(validated)} for validation, {count} for test; "
            f"single-shot, queries of view 1, gallery of view 2; no person is in two of these"
            f"{remark}{other}"
        ),
    )
