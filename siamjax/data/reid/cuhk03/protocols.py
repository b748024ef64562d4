"""CUHK03's two protocols. Their numbers differ by tens of points: never compare across."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from siamjax.data.images import ImageSet, images_of
from siamjax.data.prepared import prepared_people
from siamjax.data.reid.cuhk03 import (
    CREDIT,
    MAT,
    PUBLISHED,
    SPLITS,
    Boxes,
    Cuhk03,
)
from siamjax.data.reid.matlab import load_v5
from siamjax.data.reid.rankings import (
    ReidSplits,
    assert_apart,
    draw_people,
    rank,
    rank_by_camera,
    rank_views,
    tenth,
)
from siamjax.data.reid.raw import locate, opened_file
from siamjax.errors import UsageError

PAIRS = 3  # pairs of cameras of the paper: 843 + 440 + 77 = 1,360 people
VALIDATION_PEOPLE = 100
COUNTS = {  # new protocol: training, queries, gallery
    "labeled": (7368, 1400, 5328),
    "detected": (7365, 1400, 5332),
}


def divide_classic(
    *,
    boxes: Boxes,
    home: Path | None,
    seed: int,
    split: int,
    validation_people: int | None,
    request: dict[str, Any],
) -> ReidSplits:
    """The paper's protocol: official split 0 to 19, 1,160/100/100 people, single-shot.

    The file tells the 100 test people; the 100 for validation are drawn from (seed, split) out
    of the other 1,260 of the first three pairs of cameras, which are the paper's. View 1 asks.
    """
    if not 0 <= split < SPLITS:
        raise UsageError(f"cuhk03: split {split} must be 0 to {SPLITS - 1}")
    builder = Cuhk03(boxes=boxes, home=home)
    images, cameras = prepared_people(builder, credit=CREDIT)
    assert builder.info.metadata is not None  # given by PeopleBuilder
    rows = builder.info.metadata["testsets"][split]
    tested = sorted(f"{pair}_{person:03d}" for pair, person in rows)
    everyone = set(images.identities.tolist())
    if absent := sorted(set(tested) - everyone):
        raise UsageError(
            f"{images.name}: person {absent[0]} of test set {split} has no picture; fetch {MAT} "
            "again"
        )
    others = sorted({p for p in everyone if int(p.split("_")[0]) <= PAIRS} - set(tested))
    count = VALIDATION_PEOPLE if validation_people is None else validation_people
    trained, validated = draw_people(
        others, count, seed=[seed, split], least_left=2, what="validation"
    )
    test, remark = rank_views(images, cameras, tested, name="test people")
    validation, other = rank_views(images, cameras, validated, name="validation people")
    training = images_of(images, trained)
    return ReidSplits(
        images=images,
        cameras=cameras,
        training=training,
        validation=validation,
        test=test,
        protocol=(
            f"{images.name}, CLASSIC protocol, {boxes} boxes, official split {split} of 0 to "
            f"{SPLITS - 1}: {len(trained):,}/{len(validated)}/{len(tested)} people trained on, for "
            f"validation (seed {seed}) and tested; single-shot, {len(test.query)} queries of view "
            f"1, {len(test.gallery)} gallery pictures of view 2; no person is in two of these"
            f"{remark}{other}"
        ),
        request=request,
    )


def divide_new(
    *,
    boxes: Boxes,
    home: Path | None,
    seed: int,
    validation_people: int | None,
    request: dict[str, Any],
) -> ReidSplits:
    """The protocol of Zhong et al. (2017): 767/700 people, fixed lists, Market rule.

    Validation is on ``validation_people`` (default a tenth) of the training people.
    """
    images, cameras = prepared_people(Cuhk03(boxes=boxes, home=home), credit=CREDIT)
    name = f"cuhk03_new_protocol_config_{boxes}.mat"
    with opened_file(locate(PUBLISHED, home), name, PUBLISHED) as path:
        whole, query, gallery = read_config(path, images, cameras, boxes=boxes)
    test, remark = rank(
        images, cameras, name="test people", query=query, gallery=gallery, rule="market"
    )
    people = sorted(set(images.identities[whole].tolist()))
    assert_apart(images, whole, np.concatenate([query, gallery]))
    count = tenth(people) if validation_people is None else validation_people
    trained, validated = draw_people(people, count, seed=[seed], least_left=2, what="validation")
    training = np.intersect1d(whole, images_of(images, trained))
    validation, other = rank_by_camera(
        images,
        cameras,
        np.intersect1d(whole, images_of(images, validated)),
        name="validation people",
        seed=seed,
    )
    tested = len(set(images.identities[gallery].tolist()))
    return ReidSplits(
        images=images,
        cameras=cameras,
        training=training,
        validation=validation,
        test=test,
        protocol=(
            f"{images.name}, NEW protocol ({len(people)}/{tested} people), {boxes} boxes, Market "
            f"rule: {len(trained)} people trained on ({len(training):,} pictures), "
            f"{len(validated)} of the training people for validation (seed {seed}), "
            f"{len(test.query):,} queries, gallery {len(test.gallery):,}; no person is in two of "
            f"these{remark}{other}"
        ),
        request=request,
    )


def read_config(
    path: Path, images: ImageSet, cameras: Int[np.ndarray, " n"], *, boxes: Boxes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(training, query, gallery) of a new protocol's file, as indices into ``images``.

    It numbers its own list of files from 1; they are joined to the pictures by name. Checked:
    the official counts, that every file exists, and that labels and cameras mean the same here.
    """
    wanted = ("train_idx", "query_idx", "gallery_idx", "labels", "filelist")
    found = load_v5(path, *wanted, "camId")
    if missing := [name for name in wanted if name not in found]:
        raise UsageError(f"{path}: no variable {', '.join(missing)} in it; fetch it again")
    files = [Path(str(np.ravel(cell)[0])).name for cell in found["filelist"].ravel()]
    place = {key: index for index, key in enumerate(images.keys)}
    for row, file in enumerate(files, 1):
        if file not in place:
            raise UsageError(
                f"{path}: filelist row {row} names {file}, which is not in {images.name} of {MAT}"
            )
    joined = np.array([place[file] for file in files], np.int64)
    labels = found["labels"].ravel()
    if len(labels) != len(files):
        raise UsageError(f"{path}: {len(labels):,} labels, but {len(files):,} files")
    pairs = set(zip(labels.tolist(), images.identities[joined].tolist(), strict=True))
    if not len(pairs) == len({label for label, _ in pairs}) == len({name for _, name in pairs}):
        raise UsageError(f"{path}: labels and filelist disagree on who is shown; fetch it again")
    if "camId" in found and not np.array_equal(found["camId"].ravel(), cameras[joined]):
        raise UsageError(f"{path}: camId and filelist disagree on the view; fetch it again")
    parts = []
    for variable, count in zip(wanted[:3], COUNTS[boxes], strict=True):
        numbers = found[variable].ravel().astype(np.int64)
        if len(numbers) != count:
            raise UsageError(
                f"{path}: {len(numbers):,} in {variable}, but the new protocol has {count:,} for "
                f"{boxes} boxes; fetch it again"
            )
        if numbers.min() < 1 or numbers.max() > len(files):
            raise UsageError(
                f"{path}: {variable} counts {numbers.min()} to {numbers.max()}, but there are "
                f"{len(files):,} files, from 1"
            )
        parts.append(np.sort(joined[numbers - 1]))
    return parts[0], parts[1], parts[2]
