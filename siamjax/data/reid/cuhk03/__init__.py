"""CUHK03 (Li, Zhao, Xiao, Wang 2014): reader of cuhk-03.mat, classic and new protocol."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Shaped
from PIL import Image

from siamjax.data.reid.builder import PeopleBuilder, Picture
from siamjax.data.reid.matlab import array, open_v73
from siamjax.data.reid.raw import Published, locate, opened_file
from siamjax.errors import UsageError

Boxes = Literal["labeled", "detected"]

CREDIT = "CUHK03 (Li, Zhao, Xiao and Wang 2014)"
MAT = "cuhk-03.mat"
PEOPLE = (843, 440, 77, 58, 49)  # of each pair of cameras; the paper's 1,360 are the first three
PICTURES = {"labeled": 14_096, "detected": 14_097}
SPLITS, TESTED = 20, 100
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


class Cuhk03(PeopleBuilder, skip_registration=True):
    """TFDS builder of CUHK03, one configuration for each kind of boxes; PNG, lossless.

    A file is ``1_001_2_06.png``: pair of cameras, person of it, view, number (1 to 5 of view 1,
    6 to 10 of view 2). The identity is ``1_001``, the camera is the view. The 20 test sets are
    in the metadata, as [pair, person] counted from 1.
    """

    name = "cuhk03"
    encoding: ClassVar[str] = "png"
    about: ClassVar[str] = "1,467 people, up to five pictures by each of two cameras."
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="labeled", description="boxes drawn by hand"),
        tfds.core.BuilderConfig(name="detected", description="boxes found by a detector"),
    ]

    def __init__(
        self, *, boxes: Boxes, home: Path | None = None, data_dir: Path | None = None
    ) -> None:
        """``home`` holds cuhk-03.mat; it is opened only if nothing was prepared before."""
        self._boxes = boxes
        super().__init__(home=home, config=boxes, data_dir=data_dir)

    def _pictures(self) -> Iterator[Picture]:
        source = locate(PUBLISHED, self._home)
        with opened_file(source, MAT, PUBLISHED) as path, open_v73(path, self._boxes) as file:
            pairs = [array(file, pair) for pair in array(file, self._boxes).ravel()]
            people = tuple(len(pair) for pair in pairs)
            if people != PEOPLE or any(pair.shape[1:] != (10,) for pair in pairs):
                raise UsageError(
                    f"{path}: '{self._boxes}' has {people} people in its pairs of cameras, with "
                    f"{sorted({pair.shape[1:] for pair in pairs})} pictures each, but CUHK03 has "
                    f"{PEOPLE} with 10; fetch it again"
                )
            count = 0
            for pair, cells in enumerate(pairs, 1):
                for (person, number), cell in np.ndenumerate(cells):
                    file_name = f"{pair}_{person + 1:03d}_{1 + number // 5}_{number + 1:02d}.png"
                    picture = array(file, cell) if cell else np.empty(0)
                    # An empty cell, marked or stored as its dimensions 0 x 0: this view has
                    # fewer than five pictures.
                    if picture.ndim < 3 and not picture.any():
                        continue
                    count += 1
                    yield file_name, file_name[:5], 1 + number // 5, _png(picture, file_name, path)
            if count != PICTURES[self._boxes]:
                raise UsageError(
                    f"{path}: {count:,} pictures in '{self._boxes}', but CUHK03 has "
                    f"{PICTURES[self._boxes]:,}; fetch it again"
                )

    def _partitions(self) -> dict[str, Any]:
        with opened_file(locate(PUBLISHED, self._home), MAT, PUBLISHED) as path:
            return {"testsets": read_test_sets(path)}


def read_test_sets(path: Path) -> list[list[list[int]]]:
    """The 20 official test sets of cuhk-03.mat: 100 rows [pair of cameras, person], from 1."""
    with open_v73(path, "testsets") as file:
        sets = [array(file, reference) for reference in array(file, "testsets").ravel()]
    if len(sets) != SPLITS:
        raise UsageError(f"{path}: {len(sets)} test sets instead of {SPLITS}; fetch it again")
    for place, rows in enumerate(sets):
        where = f"{path}: test set {place} (from 0)"
        if rows.shape != (TESTED, 2) or len(np.unique(rows, axis=0)) != TESTED:
            raise UsageError(
                f"{where} is {rows.shape}, but expected are {TESTED} different rows of two; fetch "
                "it again"
            )
        for pair, person in rows:
            if not (1 <= pair <= len(PEOPLE) and 1 <= person <= PEOPLE[int(pair) - 1]):
                raise UsageError(
                    f"{where} names person {int(person)} of pair {int(pair)}, but the pairs have "
                    f"{PEOPLE} people; fetch it again"
                )
    return [rows.astype(int).tolist() for rows in sets]


def _png(picture: Shaped[np.ndarray, "..."], name: str, path: Path) -> bytes:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise UsageError(
            f"{path}: the cell of {name} is {picture.dtype} {picture.shape}, which is no RGB "
            "picture of 8 bits; fetch it again"
        )
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(encoded, "PNG")
    return encoded.getvalue()
