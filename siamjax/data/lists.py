"""Images of one's own: a folder of identity folders, or list files ``path1 path2 label``."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from siamjax.data.folders import is_image, walk
from siamjax.data.images import IMAGE_SUFFIXES, Files, ImageSet
from siamjax.data.pairs import ListedPairs, PairList
from siamjax.data.verification import VerificationSplits
from siamjax.errors import UsageError

_TREE = "FOLDER/anna/1.jpg, FOLDER/anna/2.jpg, FOLDER/bert/1.jpg, ..."


def folder_images(folder: Path) -> ImageSet:
    """A folder with one sub-folder for each identity, named after it.

    A file without an image's suffix in an identity's folder is an error, so that none is dropped
    in silence; beside the identities' folders it may be a README or a list.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; expected {_TREE}")
    found = walk(folder)
    for place, names in found.items():
        if "/" in place:
            raise UsageError(
                f"{folder / place}: a folder within the folder of an identity; move its images up "
                "or move it away"
            )
        for name in names:
            if place and not is_image(name):
                raise UsageError(
                    f"{folder / place / name}: not an image by its suffix "
                    f"({', '.join(sorted(IMAGE_SUFFIXES))}); move it out of the identity's folder"
                )
            if not place and is_image(name):
                raise UsageError(f"{folder / name}: in no identity's folder; expected {_TREE}")
    del found[""]
    if empty := [place for place, names in found.items() if not names]:
        raise UsageError(
            f"{folder / empty[0]}: an identity without images; add some or remove the folder"
        )
    if not found:
        raise UsageError(f"{folder}: no images in its sub-folders; expected {_TREE}")
    keys = [f"{person}/{name}" for person, names in found.items() for name in names]
    return ImageSet(
        name=f"folder {folder.resolve().name}",
        credit=str(folder.absolute()),
        keys=tuple(keys),
        identities=np.array([key.split("/")[0] for key in keys]),
        source=Files(tuple(folder / key for key in keys)),
    )


def listed_images(*lists: Path) -> tuple[ImageSet, list[PairList]]:
    """The images of list files, as one set, and the pairs of each list.

    A line is ``path1 path2 label``, separated by tabs (then paths may hold spaces) or by spaces.
    Label 1 means same, 0 different; paths are relative to the list's folder. Empty lines and those
    that begin with ``#`` are skipped. A list does not tell identities: each image counts as an
    identity of its own, and nothing is known of other pairs.

    Raises ``UsageError`` with path and line for a line of another form, a label other than 0 and
    1, an image that does not exist, and a list without pairs.
    """
    index: dict[Path, int] = {}
    parsed = []
    for path in lists:
        rows = []
        for number, line in enumerate(_read_lines(path), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            words = [word.strip() for word in line.split("\t" if "\t" in line else None)]
            where = f"{path}, line {number}"
            if len(words) != 3:
                raise UsageError(
                    f"{where}: {len(words)} words, expected three: path1 path2 label "
                    f"({line.strip()[:80]!r})"
                )
            if words[2] not in ("0", "1"):
                raise UsageError(f"{where}: label {words[2]!r} must be 1 (same) or 0 (different)")
            pair = [path.parent / word for word in words[:2]]
            for image in pair:
                if not image.is_file():
                    raise UsageError(f"{where}: {image}: no such image; check the path")
            first, second = (index.setdefault(p.resolve(), len(index)) for p in pair)
            rows.append((first, second, words[2] == "1"))
        if not rows:
            raise UsageError(f"{path}: no pair in it; expected lines 'path1 path2 label'")
        parsed.append((path, rows))
    paths = tuple(index)
    names = ", ".join(path.name for path in lists)
    images = ImageSet(
        name=f"list {names}",
        credit=", ".join(str(path.absolute()) for path in lists),
        keys=tuple(str(path) for path in paths),
        identities=np.array([str(path) for path in paths]),
        source=Files(paths),
    )
    return images, [
        PairList(
            name=path.name,
            first=np.array([row[0] for row in rows]),
            second=np.array([row[1] for row in rows]),
            same=np.array([row[2] for row in rows]),
        )
        for path, rows in parsed
    ]


def list_splits(
    lists: tuple[Path, ...], *, seed: int, request: dict[str, Any]
) -> VerificationSplits:
    """Splits from three lists, for training, validation and test, that share no image."""
    images, parts = listed_images(*lists)
    for pairs in parts:
        if pairs.same.all() or not pairs.same.any():
            kind = "different" if pairs.same.all() else "same"
            raise UsageError(f"{pairs.name}: no pair is labelled '{kind}'; both kinds are needed")
    shown = [set(np.concatenate([pairs.first, pairs.second]).tolist()) for pairs in parts]
    for one, other in itertools.combinations(range(3), 2):
        if both := shown[one] & shown[other]:
            raise UsageError(
                f"{images.keys[min(both)]} is in {lists[one]} and in {lists[other]}; the lists for "
                "training, validation and test must share no image: remove it from one"
            )
    training, validating, testing = parts
    names = ", ".join(path.name for path in lists)
    return VerificationSplits(
        images=images,
        training=ListedPairs(training, seed=seed),
        trained_on=(),
        validation=validating,
        test=testing,
        protocol=f"lists {names}: no image is in two; identities are unknown, so people may be",
        request=request,
    )


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such list file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a list file ({error})") from None
