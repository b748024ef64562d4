"""Which data, and who is held out: the options of each task, and the splits that they give.

Contract: an experiment's ``Config`` takes its task's options by inheritance, and ``load_*`` reads
them there. What reads a set is imported when it is asked for.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from siamjax.data.catalogue.splits import CatalogueSplits
    from siamjax.data.faces import FaceSplits
    from siamjax.data.reid.rankings import ReidSplits


@dataclass(frozen=True, kw_only=True)
class FaceOptions:
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


@dataclass(frozen=True, kw_only=True)
class ReidOptions:
    """Which people on which cameras, and who is held out."""

    seed: int = 0
    """Seed of the division; of a run also of examples, augmentation and initial parameters."""
    data: str = "pedestrians"
    """pedestrians, cuhk03/labeled, cuhk03/detected, cuhk01, grid, market1501, or a folder in
    Market-1501's naming."""
    home: Path | None = None
    """Folder, archive or .mat file with the raw files; None: $SIAMJAX_REID, or TFDS's folder."""
    protocol: Literal["classic", "new"] = "classic"
    """CUHK03 only: classic (20 splits, single-shot) or new (767/700)."""
    split: int = 0
    """CUHK03 classic and GRID only: number of the official split, from 0."""
    test_people: int | None = None
    """People who are reported on; None: as published (cuhk01: 100), pedestrians: 4."""
    validation_people: int | None = None
    """People who choose the checkpoint; None: as docs/reid.md says."""
    disjoint: Literal["person", "tracklet"] = "person"
    """Pedestrians only: what training and test do not share."""


@dataclass(frozen=True, kw_only=True)
class CatalogueOptions:
    """Which catalogue, and which items are held out."""

    seed: int = 0
    """Seed of the division; of a run also of examples, augmentation and initial parameters."""
    data: str = "emoji"
    """emoji, stanford_online_products, a table (.csv, .tsv), or a folder with one."""
    triplets: Path | None = None
    """File of listed triplets of the table, row numbers from 0; None: they are drawn."""
    test_items: int | None = None
    """Items that are reported on; None: emoji 200, of a table a fifth."""
    validation_items: int | None = None
    """Items that choose the checkpoint; None: emoji 100, of a table a tenth."""
    category: str | None = "category"
    """Column of the table that says what kind of thing an item is; None: there is none."""


def load_faces(options: FaceOptions) -> "FaceSplits":
    """Training, validation and test pairs: :func:`siamjax.data.faces.load_splits`.

    Where LFW lies on this machine and the embedded faces are asked for, a line says how to train
    on it.
    """
    from siamjax.data import faces, lfw

    if options.data == "orl_faces" and (found := lfw.find_any()) is not None:
        print(f"LFW ({found.alignment}) is in {found.home}; --data lfw trains on it")
    return faces.load_splits(**_asked(FaceOptions, options))


def load_reid(options: ReidOptions) -> "ReidSplits":
    """Training images and the rankings that validate and test: see ``siamjax.data.reid.splits``."""
    from siamjax.data.reid import splits

    return splits.load_splits(**_asked(ReidOptions, options))


def load_catalogue(options: CatalogueOptions) -> "CatalogueSplits":
    """Training items and the searches that validate and test: see ``siamjax.data.catalogue``."""
    from siamjax.data.catalogue import splits

    asked = _asked(CatalogueOptions, options)
    del asked["category"]  # it divides negatives, not items
    return splits.load_splits(**asked)


def _asked(kind: type, options: Any) -> dict[str, Any]:
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(kind)}
