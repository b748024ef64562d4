"""CUHK03 (Li, Zhao, Xiao, Wang 2014): reader of cuhk-03.mat, classic and new protocol.

Results of the two protocols differ by tens of points; never compare one with the other.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, Shaped

from siamjax.data.archives import Published, locate, opened_file
from siamjax.data.images import ImageSet, images_of
from siamjax.data.matlab import (
    cells_of,
    cells_of_cells_v73,
    cells_v73,
    load_v5,
    whole_numbers_of,
)
from siamjax.data.prepared import ImageBuilder, RawImage, as_png, partitions, prepared_people
from siamjax.data.reid import (
    ReidOptions,
    ReidSplits,
    assert_apart,
    draw_people,
    rank,
    rank_by_camera,
    rank_views,
)
from siamjax.errors import UsageError, shown

Boxes = Literal["labeled", "detected"]

CREDIT = "CUHK03 (Li, Zhao, Xiao and Wang 2014)"
MAT = "cuhk-03.mat"
PEOPLE = (843, 440, 77, 58, 49)  # of each pair of cameras; the paper uses the first three
IMAGES = {"labeled": 14_096, "detected": 14_097}
SPLITS, TESTED = 20, 100
_TestSets = Annotated[list[list[tuple[int, int]]], msgspec.Meta(min_length=SPLITS)]
PUBLISHED = Published(
    title="CUHK03",
    names=("cuhk03", "CUHK03", "cuhk03_release", "cuhk03_release.zip", "cuhk03.zip", MAT),
    tree=(
        "DIR/cuhk03_release/cuhk-03.mat (or DIR/cuhk03_release.zip, or DIR/cuhk-03.mat), and for "
        "the new protocol cuhk03_new_protocol_config_labeled.mat and ..._detected.mat inside or "
        "beside it"
    ),
    source=(
        "ask the Multimedia Laboratory of the Chinese University of Hong Kong "
        "(http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html); the new protocol's files "
        "are in https://github.com/zhunzhong07/person-re-ranking, evaluation/data/CUHK03"
    ),
)

PAIRS = 3  # pairs of cameras in the paper: 843 + 440 + 77 = 1,360 people
VALIDATION_PEOPLE = 100
COUNTS = {  # new protocol: training, queries, gallery
    "labeled": (7368, 1400, 5328),
    "detected": (7365, 1400, 5332),
}


class Cuhk03(ImageBuilder, skip_registration=True):
    """TFDS builder of CUHK03, one configuration for each kind of boxes; PNG, lossless.

    A file is called ``1_001_2_06.png``: pair of cameras, its person, view, number (1 to 5 of view
    1, 6 to 10 of view 2). The identity is ``1_001``, the camera is the view. The metadata hold the
    20 test sets, as [pair, person] from 1.
    """

    name = "cuhk03"
    encoding: ClassVar[str] = "png"
    about: ClassVar[str] = "1,467 people, up to five images by each of two cameras."
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="labeled", description="boxes drawn by hand"),
        tfds.core.BuilderConfig(name="detected", description="boxes found by a detector"),
    ]

    def __init__(
        self, *, boxes: Boxes, home: Path | None = None, data_dir: Path | None = None
    ) -> None:
        """``home`` holds cuhk-03.mat; it is opened only if the set is not prepared yet."""
        self._boxes = boxes
        super().__init__(home=home, config=boxes, data_dir=data_dir)

    def _images(self) -> Iterator[RawImage]:
        source = locate(PUBLISHED, self._home)
        with (
            opened_file(source, MAT, PUBLISHED) as path,
            cells_of_cells_v73(path, self._boxes) as (shapes, cells),
        ):
            people = tuple(shape[0] for shape in shapes)
            if people != PEOPLE or any(shape[1:] != (10,) for shape in shapes):
                raise UsageError(
                    f"{path}: '{self._boxes}' has {people} people in its pairs of cameras, with "
                    f"{sorted({shape[1:] for shape in shapes})} images each, but CUHK03 has "
                    f"{PEOPLE} with 10; fetch it again"
                )
            count = 0
            places = [(pair, *at) for pair, of in enumerate(shapes, 1) for at in np.ndindex(of)]
            for (pair, person, number), image in zip(places, cells, strict=True):
                # A view with fewer than five images has empty cells, marked as such or stored as
                # their dimensions, 0 x 0.
                if image.ndim < 3 and not image.any():
                    continue
                count += 1
                file_name = f"{pair}_{person + 1:03d}_{1 + number // 5}_{number + 1:02d}.png"
                png = _png(image, file_name, path)
                yield file_name, file_name[:5], png, {"camera": 1 + number // 5}
            if count != IMAGES[self._boxes]:
                raise UsageError(
                    f"{path}: {count:,} images in '{self._boxes}', but CUHK03 has "
                    f"{IMAGES[self._boxes]:,}; fetch it again"
                )

    def _partitions(self) -> dict[str, Any]:
        with opened_file(locate(PUBLISHED, self._home), MAT, PUBLISHED) as path:
            return {"testsets": read_test_sets(path)}


def read_test_sets(path: Path) -> list[list[list[int]]]:
    """The 20 official test sets of cuhk-03.mat: 100 rows [pair of cameras, person], from 1."""
    sets = cells_v73(path, "testsets")
    if len(sets) != SPLITS:
        raise UsageError(f"{path}: {len(sets)} test sets instead of {SPLITS}; fetch it again")
    for place, rows in enumerate(sets):
        where = f"{path}: test set {place} (from 0)"
        if rows.shape != (TESTED, 2) or len(np.unique(rows, axis=0)) != TESTED:
            raise UsageError(
                f"{where} is {rows.shape}, expected {TESTED} different rows of two; fetch it again"
            )
        for pair, person in rows.tolist():
            known = pair in range(1, 1 + len(PEOPLE)) and person in range(
                1, 1 + PEOPLE[int(pair) - 1]
            )
            if not known:  # NaN and halves are in no range
                raise UsageError(
                    f"{where} names person {person:g} of pair {pair:g}, but the pairs have "
                    f"{PEOPLE} people; fetch it again"
                )
    return [rows.astype(int).tolist() for rows in sets]


def _png(image: Shaped[np.ndarray, "..."], name: str, path: Path) -> bytes:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UsageError(
            f"{path}: the cell of {name} is {image.dtype} {image.shape}, not an RGB image "
            "of 8 bits; fetch it again"
        )
    return as_png(np.ascontiguousarray(image))


def divide(options: ReidOptions) -> ReidSplits:
    """The splits of the classic or the new protocol."""
    return (divide_classic if options.protocol == "classic" else divide_new)(options)


def _boxes(options: ReidOptions) -> Boxes:
    return "labeled" if options.data == "cuhk03/labeled" else "detected"


def divide_classic(options: ReidOptions) -> ReidSplits:
    """The paper's protocol: official split 0 to 19, 1,160/100/100 people, single-shot.

    The file names the 100 test people; the 100 for validation are drawn from (seed, split) out
    of the other 1,260 of the first three pairs of cameras, as in the paper. The queries are of
    view 1.
    """
    seed, split = options.seed, options.split
    boxes = _boxes(options)
    if not 0 <= split < SPLITS:
        raise UsageError(f"cuhk03: split {split} must be 0 to {SPLITS - 1}")
    builder = Cuhk03(boxes=boxes, home=options.home)
    images, cameras = prepared_people(builder, credit=CREDIT)
    rows = partitions(builder, "testsets", _TestSets)[split]
    tested = sorted(f"{pair}_{person:03d}" for pair, person in rows)
    everyone = set(images.identities.tolist())
    if absent := sorted(set(tested) - everyone):
        raise UsageError(
            f"{images.name}: person {absent[0]} of test set {split} has no image; fetch {MAT} again"
        )
    others = sorted({p for p in everyone if int(p.split("_")[0]) <= PAIRS} - set(tested))
    count = VALIDATION_PEOPLE if options.validation_people is None else options.validation_people
    trained, validated = draw_people(others, count, seed=[seed, split])
    test, remark = rank_views(images, cameras, tested, name="test people")
    validation, other = rank_views(images, cameras, validated, name="validation people")
    return ReidSplits(
        images=images,
        cameras=cameras,
        training=images_of(images, trained),
        validation=validation,
        test=test,
        protocol=(
            f"{images.name}, CLASSIC protocol, {boxes} boxes, official split {split} of 0 to "
            f"{SPLITS - 1}: {len(trained):,}/{len(validated)}/{len(tested)} people for training, "
            f"validation (seed {seed}) and test; single-shot, {len(test.query)} queries of view "
            f"1, {len(test.gallery)} gallery images of view 2; no person is in two of these"
            f"{remark}{other}"
        ),
    )


def divide_new(options: ReidOptions) -> ReidSplits:
    """The protocol of Zhong et al. (2017): 767/700 people, fixed lists, Market rule.

    ``validation_people`` (default a tenth) of the training people validate.
    """
    boxes = _boxes(options)
    images, cameras = prepared_people(Cuhk03(boxes=boxes, home=options.home), credit=CREDIT)
    name = f"cuhk03_new_protocol_config_{boxes}.mat"
    with opened_file(locate(PUBLISHED, options.home), name, PUBLISHED) as path:
        whole, query, gallery = read_config(path, images, cameras, boxes=boxes)
    test, remark = rank(
        images, cameras, name="test people", query=query, gallery=gallery, rule="market"
    )
    people = sorted(set(images.identities[whole].tolist()))
    assert_apart(images, whole, np.concatenate([query, gallery]))
    trained, validated = draw_people(people, options.validation_people, seed=[options.seed])
    training = np.intersect1d(whole, images_of(images, trained))
    validation, other = rank_by_camera(
        images,
        cameras,
        np.intersect1d(whole, images_of(images, validated)),
        name="validation people",
        seed=options.seed,
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
            f"rule: {len(trained)} people for training ({len(training):,} images), "
            f"{len(validated)} others for validation (seed {options.seed}), "
            f"{len(test.query):,} queries, gallery {len(test.gallery):,}; no person is in two of "
            f"these{remark}{other}"
        ),
    )


def read_config(
    path: Path, images: ImageSet, cameras: Int[np.ndarray, " n"], *, boxes: Boxes
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(training, query, gallery) from a file of the new protocol, as indices into ``images``.

    The file numbers its own list of image files from 1; their names lead to the images. Raises
    ``UsageError`` unless the counts are official, every image exists, and labels and cameras agree
    with those of the images.
    """
    wanted = ("train_idx", "query_idx", "gallery_idx", "labels", "filelist")
    found = load_v5(path, *wanted, "camId")
    if missing := [name for name in wanted if name not in found]:
        raise UsageError(f"{path}: no variable {', '.join(missing)} in it; fetch it again")
    cells = cells_of(found["filelist"], f"{path}: filelist")
    files = [Path(cell.text or "").name for cell in cells]
    place = {key: index for index, key in enumerate(images.keys)}
    for row, file in enumerate(files, 1):
        if file not in place:
            raise UsageError(
                f"{path}: filelist row {row} names {shown(file)}, which is not in "
                f"{images.name} of {MAT}; fetch both again"
            )
    joined = np.array([place[file] for file in files], np.int64)
    labels = whole_numbers_of(found["labels"], f"{path}: labels")
    if len(labels) != len(files):
        raise UsageError(f"{path}: {len(labels):,} labels for {len(files):,} files; fetch it again")
    pairs = set(zip(labels.tolist(), images.identities[joined].tolist(), strict=True))
    if not len(pairs) == len({label for label, _ in pairs}) == len({name for _, name in pairs}):
        raise UsageError(f"{path}: labels and filelist disagree on identities; fetch it again")
    if "camId" in found:
        views = whole_numbers_of(found["camId"], f"{path}: camId")
        if not np.array_equal(views, cameras[joined]):
            raise UsageError(f"{path}: camId and filelist disagree on the view; fetch it again")
    parts = []
    for variable, count in zip(wanted[:3], COUNTS[boxes], strict=True):
        numbers = whole_numbers_of(found[variable], f"{path}: {variable}")
        if len(numbers) != count:
            raise UsageError(
                f"{path}: {len(numbers):,} in {variable}, but the new protocol has {count:,} for "
                f"{boxes} boxes; fetch it again"
            )
        if numbers.min() < 1 or numbers.max() > len(files):
            raise UsageError(
                f"{path}: {variable} has numbers {numbers.min()} to {numbers.max()}, expected 1 to "
                f"{len(files):,}; fetch it again"
            )
        parts.append(np.sort(joined[numbers - 1]))
    return parts[0], parts[1], parts[2]
