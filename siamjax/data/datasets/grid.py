"""QMUL GRID (Loy, Xiang, Gong 2009): 250 people of an underground station, and 775 strangers."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from siamjax.data.archives import Published, collect, content_of, locate, opened_file
from siamjax.data.images import images_of
from siamjax.data.matlab import Variable, cells_of, load_v5, whole_numbers_of
from siamjax.data.prepared import ImageBuilder, RawImage, partitions, prepared_people
from siamjax.data.reid import ReidOptions, ReidSplits, assert_apart, draw_people, rank
from siamjax.errors import UsageError

CREDIT = "QMUL underground re-identification, GRID (Loy, Xiang and Gong 2009)"
PEOPLE, STRANGERS = 250, 775
SPLITS, TRAINED = 10, 125
STRANGER = "0000"
PARTITIONS = "features_and_partitions.mat"
_Partitions = Annotated[list[list[int]], msgspec.Meta(min_length=SPLITS)]
PUBLISHED = Published(
    title="QMUL GRID",
    names=("underground_reid", "grid", "GRID", "QMUL-GRID", "underground_reid.zip", "grid.zip"),
    tree=(
        "DIR/underground_reid/probe/0001_1_25004_107_32_106_221.jpeg ..., gallery/ and "
        f"{PARTITIONS} beside it (or DIR/underground_reid.zip)"
    ),
    source=(
        "ask its authors (http://personal.ie.cuhk.edu.hk/~ccloy/"
        "downloads_qmul_underground_reid.html)"
    ),
)
_NAME = re.compile(r"(?P<identity>[0-9]{4})_(?P<camera>[0-9]{1,9})_.*\.jpe?g")


class Grid(ImageBuilder, skip_registration=True):
    """TFDS builder of GRID, JPEG bytes untouched; its ten partitions are in the metadata."""

    name = "grid"
    about: ClassVar[str] = "250 people seen by two of eight cameras each, and 775 strangers."

    def _images(self) -> Iterator[RawImage]:
        source = locate(PUBLISHED, self._home)
        found = collect(source, _key)
        _check(source, list(found))
        for file, content in found.items():
            identity, camera = file.split("/")[1].split("_")[:2]
            yield file, identity, content_of(content), {"camera": int(camera)}

    def _partitions(self) -> dict[str, Any]:
        with opened_file(locate(PUBLISHED, self._home), PARTITIONS, PUBLISHED) as path:
            return {"training": read_partitions(path)}


def read_partitions(path: Path) -> list[list[int]]:
    """The people that each of the ten official splits trains on, from ``trainIdxAll``.

    It is a cell array of ten. A cell holds the numbers of the people, or, as published, a structure
    whose third field holds them. Like other public readers, this one takes the field by its place.
    """
    name = "trainIdxAll"
    variables = load_v5(path, name)
    if name not in variables:
        raise UsageError(f"{path}: no variable {name} in it; fetch it again")
    cells = cells_of(variables[name], f"{path}: {name}")
    if len(cells) != SPLITS:
        raise UsageError(f"{path}: {name} has {len(cells)} splits instead of {SPLITS}")
    return [_trained(cell, f"{path}: {name}{{{place}}}") for place, cell in enumerate(cells, 1)]


def _trained(cell: Variable, where: str) -> list[int]:
    fields = [name for name, _ in cell.fields or ()]
    if cell.fields and len(fields) >= 3:
        cell = cell.fields[2][1]
    numbers = sorted(set(whole_numbers_of(cell, where).tolist()))
    if len(numbers) != TRAINED or numbers[0] < 1 or numbers[-1] > PEOPLE:
        raise UsageError(
            f"{where}: {len(numbers)} numbers of people, expected {TRAINED} different ones from 1 "
            f"to {PEOPLE}; fetch it again"
        )
    return numbers


def divide(options: ReidOptions) -> ReidSplits:
    """Official split 0 to 9: 125 people for training, 125 for test; single-shot, gallery 900.

    The queries are the probe images; the gallery is the other image of each test person and the
    775 strangers. ``validation_people`` (default a tenth) of the training people, drawn from the
    seed, validate without strangers, as these belong to the test.
    """
    seed, split = options.seed, options.split
    if not 0 <= split < SPLITS:
        raise UsageError(f"grid: split {split} must be 0 to {SPLITS - 1}")
    builder = Grid(home=options.home)
    images, cameras = prepared_people(builder, credit=CREDIT)
    everyone = sorted(set(images.identities.tolist()) - {STRANGER})
    people = [f"{number:04d}" for number in partitions(builder, "training", _Partitions)[split]]
    tested = sorted(set(everyone) - set(people))
    trained, validated = draw_people(people, options.validation_people, seed=[seed, split])
    asks = np.array([key.startswith("probe/") for key in images.keys])
    stranger = images.identities == STRANGER

    def looked_up(chosen: list[str], name: str, extra: np.ndarray):
        shown = np.isin(images.identities, chosen)
        return rank(
            images,
            cameras,
            name=name,
            query=np.flatnonzero(shown & asks),
            gallery=np.flatnonzero((shown & ~asks) | extra),
            rule="single_shot",
        )

    test, remark = looked_up(tested, "test people", stranger)
    validation, other = looked_up(validated, "validation people", np.zeros_like(stranger))
    training = images_of(images, trained)
    assert_apart(images, training, validation.gallery, test.gallery)
    return ReidSplits(
        images=images,
        cameras=cameras,
        training=training,
        validation=validation,
        test=test,
        protocol=(
            f"grid: official split {split} of 0 to {SPLITS - 1}: {len(people)}/{len(tested)} "
            f"people, of the {len(people)} {len(trained)} for training and {len(validated)} for "
            f"validation (seed {seed}); single-shot, {len(test.query)} probes, gallery "
            f"{len(test.gallery)} with {int(test.distractor.sum())} strangers; no person is in two "
            f"of these{remark}{other}"
        ),
    )


def _key(path: PurePosixPath) -> str | None:
    """``probe/0001_1_25004_107_32_106_221.jpeg``; ``UsageError`` for an image of another name."""
    folder = path.parent.name
    if folder not in ("probe", "gallery") or path.suffix.lower() not in (".jpeg", ".jpg"):
        return None
    if not _NAME.fullmatch(path.name):
        raise UsageError(
            f"{path}: not named like 0001_1_25004_107_32_106_221.jpeg (identity, camera, ...); "
            "rename it or move it away"
        )
    return f"{folder}/{path.name}"


def _check(source: Path, files: list[str]) -> None:
    """Raise ``UsageError`` unless each person is in both folders once, and all strangers are."""
    named = [(file.split("/")[0], file.split("/")[1][:4]) for file in files]
    for number in range(1, PEOPLE + 1):
        for folder in ("probe", "gallery"):
            count = named.count((folder, f"{number:04d}"))
            if count != 1:
                raise UsageError(
                    f"{source}: {count} images of person {number:04d} in {folder}/ instead of "
                    f"one, of {len(files):,} images; GRID has {PEOPLE} people in both folders: "
                    "the folder or archive is not complete"
                )
    strangers = named.count(("gallery", STRANGER))
    if strangers != STRANGERS or len(named) != 2 * PEOPLE + STRANGERS:
        raise UsageError(
            f"{source}: {strangers} strangers ({STRANGER}) in gallery/ and {len(named):,} images "
            f"in all, but GRID has {STRANGERS} and {2 * PEOPLE + STRANGERS:,}; the folder or "
            "archive is not complete"
        )
