"""Labeled Faces in the Wild: images and official pair lists; found on this machine, or fetched."""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, cast

import numpy as np
import tensorflow_datasets as tfds

from siamjax import messages
from siamjax.data.archives import collect, content_of, manual_folder
from siamjax.data.images import ImageSet
from siamjax.data.lines import read_lines
from siamjax.data.names import whole_number
from siamjax.data.pairs import ListedPairs, PairList
from siamjax.data.prepared import ImageBuilder, RawImage, prepared_images
from siamjax.data.verification import VerificationSplits, assert_disjoint, leaked, people_of
from siamjax.errors import UsageError, shown
from siamjax.files import read_bytes
from siamjax.surroundings import folder_of

Alignment = Literal["original", "funneled", "deepfunneled"]

CREDIT = "LFW (Huang, Ramesh, Berg, Learned-Miller 2007)"
IMAGES, PEOPLE = 13_233, 5_749
LISTS = ("pairsDevTrain.txt", "pairsDevTest.txt", "pairs.txt")

# The folders that the published archives unpack to, and the archives themselves.
_FOLDERS = {
    "original": ("lfw", "lfw_original"),
    "funneled": ("lfw_funneled", "lfw-funneled"),
    "deepfunneled": ("lfw-deepfunneled", "lfw_deepfunneled"),
}
_ARCHIVES = {
    "original": ("lfw.tgz", "lfw.zip"),
    "funneled": ("lfw-funneled.tgz", "lfw_funneled.tgz", "lfw-funneled.zip"),
    "deepfunneled": ("lfw-deepfunneled.tgz", "lfw-deepfunneled.zip"),
}
_MIRROR = "https://ndownloader.figshare.com/files/"
_MIRRORED = {  # name: (number on the mirror, sha256)
    "lfw.tgz": (5976018, "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0"),
    "lfw-funneled.tgz": (
        5976015,
        "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
    ),
    "pairsDevTrain.txt": (
        5976012,
        "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa",
    ),
    "pairsDevTest.txt": (
        5976009,
        "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c",
    ),
    "pairs.txt": (5976006, "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592"),
}


def expected_tree(alignment: Alignment) -> str:
    """A description of a folder with LFW, for messages."""
    return (
        f"DIR/{_FOLDERS[alignment][0]}/Aaron_Eckhart/Aaron_Eckhart_0001.jpg ... (or "
        f"DIR/{_ARCHIVES[alignment][0]}), and DIR/{', DIR/'.join(LISTS)}"
    )


def search_path() -> list[Path]:
    """Folders to look for LFW in: $SIAMJAX_LFW alone if set, else TFDS's and scikit-learn's."""
    if os.environ.get("SIAMJAX_LFW"):
        return [folder_of("SIAMJAX_LFW", default="")]
    scikit_learn = folder_of("SCIKIT_LEARN_DATA", default="~/scikit_learn_data")
    return [manual_folder(), scikit_learn / "lfw_home"]


@dataclass(frozen=True, kw_only=True)
class LocalLfw:
    """LFW on this machine: its images, a folder of people or an archive, and the lists' folder."""

    alignment: Alignment
    images: Path
    home: Path


def find(alignment: Alignment, folders: list[Path] | None = None) -> LocalLfw | None:
    """LFW in one of ``folders`` (default :func:`search_path`), or None; folders before archives."""
    for home in search_path() if folders is None else folders:
        for name in _FOLDERS[alignment]:
            for folder in (home / name, home / name / name, home):
                held = folder.name in _FOLDERS[alignment] and os.path.isdir(folder)
                if held and any(folder.glob("*/*_0001.jpg")):
                    lists = home.parent if folder == home else home
                    return LocalLfw(alignment=alignment, images=folder, home=lists)
        for name in _ARCHIVES[alignment]:
            if os.path.isfile(home / name):
                return LocalLfw(alignment=alignment, images=home / name, home=home)
    if os.environ.get("SIAMJAX_LFW") and folders is None and find_any() is None:
        raise UsageError(
            f"SIAMJAX_LFW is {os.environ['SIAMJAX_LFW']}, but LFW is not there; expected "
            f"{expected_tree(alignment)}, with DIR that folder"
        )
    return None


def find_any() -> LocalLfw | None:
    """LFW of any alignment in :func:`search_path`, funneled if possible; None: not found."""
    order: tuple[Alignment, ...] = ("funneled", "deepfunneled", "original")
    return next((found for a in order if (found := find(a, search_path())) is not None), None)


def download(alignment: Alignment) -> LocalLfw:
    """Fetch archive and lists from the mirror into TFDS's manual folder, checked by sha256."""
    name = _ARCHIVES[alignment][0]
    home = manual_folder()
    if name not in _MIRRORED:
        raise UsageError(
            f"lfw/{alignment} has no mirror; get it by other means and put it into DIR, one of "
            f"{', '.join(map(str, search_path()))}: {expected_tree(alignment)}"
        )
    for wanted in (name, *LISTS):
        _fetch(wanted, alignment)
    return LocalLfw(alignment=alignment, images=home / name, home=home)


def _fetch(name: str, alignment: Alignment) -> Path:
    """A file of the mirror, fetched once into TFDS's manual folder and checked by sha256."""
    number, sha256 = _MIRRORED[name]
    import pooch

    home, address = manual_folder(), f"{_MIRROR}{number}"
    shown = messages.telling() and sys.stderr.isatty()
    pooch.get_logger().setLevel("INFO" if messages.telling() else "WARNING")
    try:
        return Path(
            pooch.retrieve(address, f"sha256:{sha256}", fname=name, path=home, progressbar=shown)
        )
    except Exception as error:  # of the network, the mirror or the disk
        raise UsageError(
            f"{name} is not on this machine and could not be fetched from {address} "
            f"({type(error).__name__}); get it by other means (sha256 {sha256}) and put it into "
            f"{home}; expected {expected_tree(alignment)}"
        ) from None


class Lfw(ImageBuilder, skip_registration=True):
    """TFDS builder of LFW's images, JPEG bytes untouched; split ``faces``."""

    name = "lfw"
    split: ClassVar[str] = "faces"
    columns: ClassVar = {}
    about: ClassVar[str] = "13,233 images of 5,749 people."
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="original", description="as detected, 250x250"),
        tfds.core.BuilderConfig(name="funneled", description="aligned by funneling"),
        tfds.core.BuilderConfig(name="deepfunneled", description="aligned by deep funneling"),
    ]

    def __init__(self, *, local: LocalLfw, data_dir: Path | None = None) -> None:
        """``local``: what :func:`find` or :func:`download` returned."""
        super().__init__(home=local.images, config=local.alignment, data_dir=data_dir)

    def _images(self) -> Iterator[RawImage]:
        images = _images(self._home)
        people = {name.split("/")[0] for name in images}
        if (len(images), len(people)) != (IMAGES, PEOPLE):  # before anything is written
            raise UsageError(
                f"{self._home}: {len(images):,} images of {len(people):,} people, but LFW has "
                f"{IMAGES:,} of {PEOPLE:,}; the folder or archive is not complete"
            )
        for file, found in images.items():
            yield file, file.split("/")[0], content_of(found), {}


def _images(source: Path) -> dict[str, bytes | Path]:
    """By name, ``Name/Name_0001.jpg``: bytes from an archive, or a path in a folder."""

    def key(path: PurePosixPath) -> str | None:
        return f"{path.parent.name}/{path.name}" if path.suffix == ".jpg" else None

    return collect(source, key)


def is_official(path: Path) -> bool:
    """Whether a pair list is byte for byte the published one."""
    return hashlib.sha256(read_bytes(path, limit=2**30)).hexdigest() == _MIRRORED[path.name][1]


def read_pairs(path: Path, images: ImageSet) -> PairList:
    """Read an official pair list: ``pairs.txt`` (View 2, folds) or a View 1 list (no folds).

    The first line is ``folds<TAB>pairs`` or ``pairs``; for each fold there follow that many lines
    ``name n1 n2`` and as many ``nameA n1 nameB n2``. A missing line or image raises ``UsageError``
    with path and line, as without it the folds would not be official.
    """
    lines = read_lines(path, remedy="get the list again")
    header = [whole_number(word) for word in lines[0].split()]
    if not header or len(header) > 2 or None in header:
        first = shown(lines[0], longest=80)
        raise UsageError(f"{path}, line 1: expected 'folds pairs' or 'pairs', not {first!r}")
    folds, each = cast(list[int], header) if len(header) == 2 else (1, cast(int, header[0]))
    body = [(number, line) for number, line in enumerate(lines, 1) if number > 1 and line.strip()]
    if not body or len(body) != folds * 2 * each:
        raise UsageError(
            f"{path}: {len(body):,} pairs, but line 1 promises {folds} x 2 x {each:,} = "
            f"{folds * 2 * each:,}; the list is not complete, so get it again"
        )
    index = {key: place for place, key in enumerate(images.keys)}

    def place(name: str, number: str, line: int) -> int:
        numbered = whole_number(number)
        key = f"{name} {number}" if numbered is None else f"{name}/{name}_{numbered:04d}.jpg"
        if key not in index:
            raise UsageError(
                f"{path}, line {line}: {shown(key)} is not among the images of {images.name}"
            )
        return index[key]

    first, second, same = [], [], []
    for place_in_list, (number, line) in enumerate(body):
        words = line.split()
        matched = place_in_list % (2 * each) < each
        if len(words) != (3 if matched else 4):
            form = "name n1 n2" if matched else "nameA n1 nameB n2"
            raise UsageError(f"{path}, line {number}: expected '{form}', not {shown(line)!r}")
        first.append(place(words[0], words[1], number))
        second.append(place(words[0] if matched else words[2], words[-1], number))
        same.append(matched)
        if (images.identities[first[-1]] == images.identities[second[-1]]) != matched:
            raise UsageError(
                f"{path}, line {number}: {shown(line)!r} is among the "
                f"{'matched' if matched else 'mismatched'} pairs; get the list again"
            )
    fold = np.repeat(np.arange(1, folds + 1), 2 * each) if folds > 1 else None
    return PairList(
        name=path.name,
        first=np.array(first),
        second=np.array(second),
        same=np.array(same, np.bool_),
        fold=fold,
    )


def find_list(name: str, local: LocalLfw) -> Path:
    """The path of an official list: beside the images, in their folder, or from the mirror."""
    for path in (local.home / name, local.images / name):
        if os.path.isfile(path):
            return path
    return _fetch(name, local.alignment)


def open_images(data: str) -> ImageSet:
    """The images of ``lfw`` or ``lfw/ALIGNMENT``, fetched if they are not on this machine."""
    return prepared_images(Lfw(local=_local(data)), credit=CREDIT)


def _local(data: str) -> LocalLfw:
    alignment = cast(Alignment, data.partition("/")[2] or "funneled")
    return find(alignment) or download(alignment)


def read_lists(data: str, *names: str) -> tuple[ImageSet, list[PairList], str]:
    """Images, official lists, and a remark if one is not the published file."""
    local = _local(data)
    images = prepared_images(Lfw(local=local), credit=CREDIT)
    paths = [find_list(name, local) for name in names]
    changed = [path.name for path in paths if not is_official(path)]
    remark = f"; NOT the published {', '.join(changed)}" if changed else ""
    return images, [read_pairs(path, images) for path in paths], remark


def splits(
    data: str, *, seed: int, fold: int | None, request: dict[str, Any]
) -> VerificationSplits:
    """Train and validate on View 1 and test on View 2, or use View 2 alone with a test ``fold``.

    See :func:`siamjax.data.verification.load_verification`.
    """
    if fold is None:
        images, (train, validation, view2), remark = read_lists(data, *LISTS)
        people = people_of(images, train)
        assert_disjoint(people, people_of(images, validation))
        count = int(leaked(images, view2, tuple(people)).sum())
        test = view2
        protocol = (
            f"{images.name}: trained on View 1 (pairsDevTrain, image-restricted), tested on "
            f"View 2; CONTAMINATED: {count:,} of its {len(view2):,} pairs show people seen in "
            "training. --lfw-fold K trains without the fold's people"
        )
    else:
        images, (view2,), remark = read_lists(data, "pairs.txt")
        if view2.fold is None or fold not in range(1, 11):
            raise UsageError(f"fold {fold} must be 1 to 10")
        before = 10 if fold == 1 else fold - 1
        test = view2.take(view2.fold == fold, name=f"pairs.txt, fold {fold}")
        validation = view2.take(view2.fold == before, name=f"pairs.txt, fold {before}")
        others = ~np.isin(view2.fold, [fold, before])
        train = view2.take(others, name=f"pairs.txt, without folds {fold} and {before}")
        people = people_of(images, train)
        assert_disjoint(people, people_of(images, validation), people_of(images, test))
        protocol = (
            f"{images.name}: View 2, trained on eight folds (image-restricted), threshold from "
            f"fold {before}, tested on fold {fold}; no person is in two of these"
        )
    return VerificationSplits(
        images=images,
        training=ListedPairs(train, seed=seed),
        trained_on=tuple(sorted(people)),
        validation=validation,
        test=test,
        protocol=protocol + remark,
        request=request,
    )
