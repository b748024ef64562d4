"""Market-1501 (Zheng et al. 2015), and any folder that names its images in the same way."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from siamjax.data.archives import Published, collect, content_of, locate
from siamjax.data.folders import is_image, read_folder, walk
from siamjax.data.images import Files, ImageSet, images_of
from siamjax.data.left_out import LeftOut, tell
from siamjax.data.prepared import ImageBuilder, RawImage, prepared_people
from siamjax.data.reid import (
    Ranking,
    ReidOptions,
    ReidSplits,
    ReidTesting,
    assert_apart,
    draw_people,
    rank,
    rank_by_camera,
)
from siamjax.errors import UsageError

CREDIT = "Market-1501 (Zheng, Shen, Tian, Wang, Wang and Tian 2015)"
TRAIN, QUERY, TEST = "bounding_box_train", "query", "bounding_box_test"
COUNTS = {TRAIN: 12_936, QUERY: 3_368, TEST: 19_732}
JUNK, DISTRACTOR = -1, 0
PUBLISHED = Published(
    title="Market-1501",
    names=(
        "Market-1501-v15.09.15",
        "Market-1501",
        "market1501",
        "Market-1501-v15.09.15.zip",
        "Market-1501.zip",
        "market1501.zip",
    ),
    tree=(
        "DIR/Market-1501-v15.09.15/bounding_box_train/0002_c1s1_000451_03.jpg ..., query/ and "
        "bounding_box_test/ beside it (or DIR/Market-1501-v15.09.15.zip)"
    ),
    source="ask its authors (http://www.liangzheng.org/Project/project_reid.html)",
)
# 0002_c1s1_000451_03.jpg; not every set of this naming has the s (sequence).
_NAME = re.compile(r"(?P<identity>-1|[0-9]{1,18})_c(?P<camera>[0-9]{1,9})(s[0-9]+)?_.+")


class Market1501(ImageBuilder, skip_registration=True):
    """TFDS builder of Market-1501, JPEG bytes untouched; all three folders, with the junk."""

    name = "market1501"
    about: ClassVar[str] = "36,036 boxes by six cameras: 1,501 people, distractors and junk."

    def _images(self) -> Iterator[RawImage]:
        source = locate(PUBLISHED, self._home)
        found = collect(source, _key)
        if difference := _difference(found):
            raise UsageError(
                f"{source}: {difference}; the folder or archive is not complete (for a set of "
                "your own in this naming, give the path of its folder as data)"
            )
        for file, content in found.items():
            identity, camera = _parse(file)
            yield file, identity, content_of(content), {"camera": camera}


def folder_people(
    folder: Path, *, strict: bool = False, parts: Sequence[str] = tuple(COUNTS)
) -> tuple[ImageSet, Int[np.ndarray, " n"]]:
    """(images, cameras) of a folder in Market-1501's naming; images are read when needed.

    Only ``parts`` of its three folders are looked into. Prints how many images of how many people
    there are, and what is left out (:mod:`siamjax.data.folders`); with ``strict`` that is an error.
    """
    beside = walk(folder, depth=1)
    names = [*beside.files[""], *(one.name for one in beside.left_out)]
    left_out = [
        LeftOut(name, "in none of the three folders") for name in names if name not in COUNTS
    ]
    files: list[str] = []
    for part in parts:
        there = os.path.isdir(folder / part)
        found, others = read_folder(folder / part, form="FOLDER/IMAGE") if there else ([], [])
        if not found:
            raise UsageError(
                f"{folder}: no image in {part}/; expected FOLDER/{part}/"
                "0002_c1s1_000451_03.jpg ... (identity_camera_...), and the same in "
                f"{', '.join(other for other in parts if other != part)}"
            )
        files += [f"{part}/{name}" for name in found]
        left_out += [one._replace(name=f"{part}/{one.name}") for one in others]
    files.sort()
    parsed = [_parse(file) for file in files]
    identities = np.array([identity for identity, _ in parsed])
    people = sum(int(identity) > DISTRACTOR for identity in set(identities.tolist()))
    tell(folder, f"{len(files):,} images of {people:,} people", left_out, strict=strict)
    images = ImageSet(
        name=f"folder {folder.resolve().name}",
        credit=str(folder.absolute()),
        keys=tuple(files),
        identities=identities,
        source=Files(tuple(folder / file for file in files)),
    )
    return images, np.array([camera for _, camera in parsed], np.int64)


def divide(options: ReidOptions) -> ReidSplits:
    """The official splits, or those of a folder of one's own (``data``).

    Junk (identity -1) is left out of the gallery, distractors (0000) stay in it.
    ``validation_people`` (default a tenth) of the training people validate.
    """
    seed = options.seed
    if options.data == "market1501":
        images, cameras = prepared_people(Market1501(home=options.home), credit=CREDIT)
        official = "official counts"
    else:
        images, cameras = folder_people(Path(options.data), strict=options.strict)
        difference = _difference(images.keys)
        official = f"NOT Market-1501: {difference}" if difference else "Market-1501's counts"
    part, number = _parts(images)
    whole = np.flatnonzero(part == TRAIN)
    test, remark = _test(images, cameras, part, number)
    gallery = test.gallery
    people = sorted(set(images.identities[whole].tolist()))
    trained, validated = draw_people(people, options.validation_people, seed=[seed])
    training = np.intersect1d(whole, images_of(images, trained))
    assert_apart(images, whole, np.concatenate([test.query, gallery[number[gallery] > 0]]))
    validation, other = rank_by_camera(
        images,
        cameras,
        np.intersect1d(whole, images_of(images, validated)),
        name="validation people",
        seed=seed,
    )
    junk = int(((part == TEST) & (number == JUNK)).sum())
    return ReidSplits(
        images=images,
        cameras=cameras,
        training=training,
        validation=validation,
        test=test,
        protocol=(
            f"{images.name} ({official}), Market rule, single query: {len(trained)} people for "
            f"training ({len(training):,} images), {len(validated)} others for "
            f"validation (seed {seed}), {len(test.query):,} queries, gallery {len(gallery):,} with "
            f"{int((number[gallery] == DISTRACTOR).sum()):,} distractors, {junk:,} junk boxes left "
            f"out; no person is in two of these{remark}{other}"
        ),
    )


def folder_test(folder: Path, *, strict: bool = False) -> ReidTesting:
    """The test of a folder of one's own, whose images to train on are not needed."""
    images, cameras = folder_people(folder, strict=strict, parts=(QUERY, TEST))
    test, remark = _test(images, cameras, *_parts(images))
    request = {"data": str(folder.absolute()), "seed": 0}
    return ReidTesting(
        images=images,
        cameras=cameras,
        test=test,
        protocol=f"{images.name}, Market rule, single query{remark}",
        request=request,
    )


def _parts(images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """The folder of each image, and the number of its person; ``UsageError`` for misplaced ones."""
    part = np.array([key.split("/")[0] for key in images.keys])
    number = images.identities.astype(np.int64)
    for where, name in ((part == TRAIN, "trained on"), (part == QUERY, "searched for")):
        if (bad := np.flatnonzero(where & (number <= DISTRACTOR))).size:
            raise UsageError(
                f"{images.keys[bad[0]]} of {images.name}: junk (-1) and distractors (0) cannot be "
                f"{name}; move it to {TEST}"
            )
    return part, number


def _test(
    images: ImageSet, cameras: Int[np.ndarray, " n"], part: np.ndarray, number: np.ndarray
) -> tuple[Ranking, str]:
    """The ranking of the test people without the junk, and a remark on queries left out."""
    return rank(
        images,
        cameras,
        name="test people",
        query=np.flatnonzero(part == QUERY),
        gallery=np.flatnonzero((part == TEST) & (number != JUNK)),
        rule="market",
    )


def _key(path: PurePosixPath) -> str | None:
    """``query/0001_c1s1_001051_00.jpg``; ``UsageError`` for an image of another name."""
    folder = path.parent.name
    if folder not in COUNTS or not is_image(path.name):
        return None  # gt_bbox, readme.txt
    _parse(f"{folder}/{path.name}")
    return f"{folder}/{path.name}"


def _parse(file: str) -> tuple[str, int]:
    """Identity and camera, from the name of an image."""
    matched = _NAME.fullmatch(file.split("/")[1])
    if matched is None:
        raise UsageError(
            f"{file}: not named like 0002_c1s1_000451_03.jpg (identity, camera, ...); rename it "
            "or move it away"
        )
    return matched["identity"], int(matched["camera"])


def _difference(files: Any) -> str:
    """What differs from the official counts; "" if nothing does."""
    counts = Counter(file.split("/")[0] for file in files)
    return ", ".join(
        f"{counts[part]:,} images in {part} instead of {count:,}"
        for part, count in COUNTS.items()
        if counts[part] != count
    )
