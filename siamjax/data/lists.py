"""Images of one's own: a folder of identity folders, or list files ``path1 path2 label``."""

import itertools
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from siamjax.data.folders import no_images, read_folder
from siamjax.data.images import Files, ImageSet
from siamjax.data.left_out import LeftOut, tell
from siamjax.data.lines import read_lines
from siamjax.data.names import on_disk
from siamjax.data.pairs import ListedPairs, PairList
from siamjax.data.verification import VerificationSplits
from siamjax.errors import UsageError, shown
from siamjax.files import open_regular

_TREE = "FOLDER/anna/1.jpg, FOLDER/anna/2.jpg, FOLDER/bert/1.jpg, ..."
_BEGINNING = 2**16  # bytes in which the first pair of a list stands
_BLANKS = " \t"  # what separates words; other blanks, such as U+2028, may stand in a name


def folder_images(folder: Path, *, strict: bool = False) -> ImageSet:
    """A folder with one sub-folder for each identity, named after it.

    Prints how many images of how many people there are, and what is left out: see
    :mod:`siamjax.data.folders`. Raises ``UsageError`` if there is no image, and with ``strict`` if
    anything is left out.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"{shown(folder)}: no such folder; expected {_TREE}")
    keys, left_out = read_folder(folder, form="FOLDER/PERSON/IMAGE")
    if not keys:
        raise no_images(folder, left_out, remedy=f"expected {_TREE}")
    identities = np.array([key.split("/")[0] for key in keys])
    people = len(set(identities.tolist()))
    tell(folder, f"{len(keys):,} images of {people:,} people", left_out, strict=strict)
    return ImageSet(
        name=f"folder {folder.resolve().name}",
        credit=str(folder.absolute()),
        keys=tuple(keys),
        identities=identities,
        source=Files(tuple(folder / key for key in keys)),
    )


def listed_images(*lists: Path, strict: bool = False) -> tuple[ImageSet, list[PairList]]:
    """The images of list files, as one set, and the pairs of each list.

    A line is ``path1 path2 label``, separated by tabs (then paths may hold spaces) or by spaces.
    Label 1 means same, 0 different; paths are relative to the list's folder. Empty lines and those
    that begin with ``#`` are skipped. A list does not tell identities: each image counts as an
    identity of its own, and nothing is known of other pairs.

    A pair that is there before, in either order, and a pair of an image with itself are left out;
    a sentence printed for each list counts them. Raises ``UsageError`` with path and line for a
    line of another form, a label other than 0 and 1, an image that does not exist, a pair with
    both labels, and a list without pairs; with ``strict`` if anything is left out.
    """
    index: dict[str, int] = {}
    parsed = []
    for path in lists:
        rows, left_out = _distinct(path, _pairs(path, index))
        if not rows:
            raise UsageError(f"{shown(path)}: no pair in it; expected lines 'path1 path2 label'")
        tell(path, f"{len(rows):,} pairs", left_out, strict=strict)
        parsed.append((path, np.array(rows)))
    names = ", ".join(path.name for path in lists)
    images = ImageSet(
        name=f"list {names}",
        credit=", ".join(str(path.absolute()) for path in lists),
        keys=tuple(index),
        identities=np.array(list(index)),
        source=Files(tuple(map(Path, index))),
    )
    return images, [
        PairList(name=path.name, first=rows[:, 0], second=rows[:, 1], same=rows[:, 2] == 1)
        for path, rows in parsed
    ]


def _pairs(path: Path, index: dict[str, int]) -> list[tuple[int, int, int, int]]:
    """(first, second, label, line) of every pair; ``index`` numbers the images of all lists."""
    pairs, places = [], {}
    for number, line in enumerate(read_lines(path, remedy="give the path of a list file"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = _words(line)
        where = f"{shown(path)}, line {number}"
        if len(words) != 3:
            raise UsageError(
                f"{where}: {len(words)} words, expected three: path1 path2 label "
                f"({shown(line.strip(), longest=80)!r})"
            )
        if words[2] not in ("0", "1"):
            label = shown(words[2], longest=80)
            raise UsageError(f"{where}: label {label!r} must be 1 (same) or 0 (different)")
        for word in words[:2]:
            if word not in places:
                image = on_disk(path.parent / word)
                if not os.path.isfile(image):
                    raise UsageError(f"{where}: {shown(image)}: no such image; check the path")
                places[word] = index.setdefault(os.path.realpath(image), len(index))
        pairs.append((places[words[0]], places[words[1]], int(words[2]), number))
    return pairs


def _words(line: str) -> list[str]:
    words = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
    return [word.strip(_BLANKS) for word in words]


def lists_pairs(path: Path) -> bool:
    """Whether a file with the name of a table begins as a list: two paths, and 0 or 1."""
    try:
        with open_regular(path) as file:
            text = file.read(_BEGINNING).decode("utf-8-sig", errors="replace")
    except (OSError, UsageError):  # who opens it says so
        return False
    lines = re.split("[\r\n]+", text)  # U+2028 may stand in a name
    words = _words(next((one for one in lines if one.strip() and not one.startswith("#")), ""))
    return len(words) == 3 and words[2] in ("0", "1") and "," not in words[0]


def _distinct(
    path: Path, pairs: list[tuple[int, int, int, int]]
) -> tuple[list[tuple[int, int, int]], list[LeftOut]]:
    """Each pair once: (first, second, label); and the lines of the others."""
    seen: dict[tuple[int, int], tuple[int, int]] = {}
    kept, left_out = [], []
    for first, second, label, line in pairs:
        before = seen.setdefault((min(first, second), max(first, second)), (label, line))
        if first == second:
            left_out.append(LeftOut(f"line {line}", "pair of an image with itself"))
        elif before[1] == line:
            kept.append((first, second, label))
        elif before[0] == label:
            left_out.append(LeftOut(f"line {line}", "repeated pair"))
        else:
            raise UsageError(
                f"{shown(path)}: lines {before[1]} and {line} are the same pair with the labels "
                f"{before[0]} and {label}; remove the wrong one"
            )
    return kept, left_out


def list_splits(
    lists: tuple[Path, ...], *, seed: int, strict: bool = False, request: dict[str, Any]
) -> VerificationSplits:
    """Splits from three lists, for training, validation and test, that share no image."""
    images, parts = listed_images(*lists, strict=strict)
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
