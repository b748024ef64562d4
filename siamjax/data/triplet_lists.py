"""Lists of triplets of a catalogue's rows, and what they tell of its items."""

import dataclasses
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from siamjax.data.catalogue import Catalogue
from siamjax.data.left_out import LeftOut, tell
from siamjax.data.lines import read_lines
from siamjax.errors import UsageError, shown


def read_triplets(
    path: str | Path, *, rows: int, first_row: int = 0, strict: bool = False
) -> Int[np.ndarray, "triplets 3"]:
    """Read triplets of a catalogue's rows; a line names query, positive and negative.

    The three row numbers are separated by commas, semicolons, tabs or spaces; the first triplet
    tells which. A title line above it is skipped, and so are empty lines and what follows a ``#``.
    A triplet that is there before is left out; a sentence printed counts these.

    Args:
        path: the file.
        rows: number of rows of the catalogue.
        first_row: how the file numbers the first row, 0 or 1.
        strict: refuse a list of which something would be left out.

    Returns row numbers from 0. Raises ``UsageError`` with path and line for a line of another
    form, a row that the catalogue does not have, a triplet without three different rows, and one
    whose positive and negative are the other way round in another line.
    """
    path = Path(path)
    if first_row not in (0, 1):
        raise UsageError(f"first_row {first_row} must be 0 or 1")
    numbers, lines = array("q"), array("q")
    for line, words in _triplet_lines(path):
        try:
            numbers.extend(_triplet(words, rows, first_row))
        except ValueError as error:
            text = shown(" ".join(words), longest=80)
            raise UsageError(f"{shown(path)}, line {line}: {text!r}: {error}") from None
        lines.append(line)
    if not numbers:
        raise UsageError(f"{shown(path)}: no triplet; expected lines 'query positive negative'")
    triplets = np.array(numbers, np.int64).reshape(-1, 3)
    repeated = _repeated(path, triplets, np.array(lines))
    left_out = [LeftOut(f"line {lines[place]}", "repeated triplet") for place in repeated]
    kept = np.delete(triplets, repeated, axis=0)
    tell(path, f"{len(kept):,} triplets", left_out, strict=strict)
    return kept


def _repeated(
    path: Path, triplets: Int[np.ndarray, "triplets 3"], lines: Int[np.ndarray, " triplets"]
) -> list[int]:
    """Places of triplets that are there before; raises ``UsageError`` for one that contradicts."""
    query, positive, negative = triplets.T
    less, greater = np.minimum(positive, negative), np.maximum(positive, negative)
    reverse = positive > negative
    order = np.lexsort((reverse, greater, less, query))  # stable: equal ones by their lines
    same = np.ones(len(order) - 1, np.bool_)
    for column in (query, less, greater):
        same &= column[order][1:] == column[order][:-1]
    turned = np.flatnonzero(same & (reverse[order][1:] != reverse[order][:-1]))
    if len(turned):
        one, other = sorted(lines[order[turned[0] : turned[0] + 2]].tolist())
        raise UsageError(
            f"{shown(path)}: lines {one} and {other} have the same query, and what is positive in "
            "one is negative in the other; remove the wrong one"
        )
    return np.sort(order[1:][same]).tolist()


def _triplet(words: list[str], rows: int, first_row: int) -> list[int]:
    """Three row numbers from 0; raises ``ValueError`` that says what is wrong."""
    try:
        query, positive, negative = triplet = [int(word) - first_row for word in words]
    except ValueError:
        raise ValueError(
            "expected three row numbers, query positive negative, separated as in the first line"
        ) from None
    if min(triplet) < 0 or max(triplet) >= rows:
        raise ValueError(
            f"expected rows {first_row} to {rows - 1 + first_row}; is first_row {first_row} right?"
        )
    if query in (positive, negative) or positive == negative:
        raise ValueError("query, positive and negative must be different rows; remove the line")
    return triplet


def _triplet_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, words) of every line but the title, empty lines and comments."""
    titled = begun = False
    separator = None  # any white space
    for number, line in enumerate(read_lines(path, remedy="give a file of triplets"), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if not begun:
            separator = next((mark for mark in ",;" if mark in text), None)
            if not titled and not any(map(_is_number, text.split(separator))):
                titled = True
                continue
            begun = True
        # Python also reads 1_0 as a number.
        yield number, [text] if "_" in text else text.split(separator)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def joined_items(
    catalogue: Catalogue, rows: Int[np.ndarray, "triplets 3"]
) -> tuple[Catalogue, str]:
    """The catalogue, with items that the triplets join if it has none, and a remark on that."""
    images = catalogue.images
    if len(np.unique(images.identities)) < len(images):
        return catalogue, ""
    links = coo_array((np.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=(len(images),) * 2)
    _, item = connected_components(links, directed=False)
    _, first, item = np.unique(item, return_index=True, return_inverse=True)
    images = dataclasses.replace(images, identities=images.identities[first][item])
    joined = "items are images that triplets join as query and positive, "
    return dataclasses.replace(catalogue, images=images), joined


def trainable(
    rows: Int[np.ndarray, "triplets 3"],
    held_out: Bool[np.ndarray, " n"],
    number: Int[np.ndarray, " n"],
    *,
    source: str,
) -> tuple[Int[np.ndarray, "triplets 3"], str]:
    """The triplets to train on, and a remark on how many are left out."""
    held = held_out[rows].any(axis=1)
    wrong = ~held & (number[rows[:, 0]] == number[rows[:, 2]])
    listed = rows[~held & ~wrong]
    said = (
        f"{held.sum():,} show a validation or test item, {wrong.sum():,} have a negative of the "
        "query's item"
    )
    if not len(listed):
        raise UsageError(
            f"{source}: none of {len(rows):,} triplets is left to train on ({said}); give more, or "
            "hold out fewer items"
        )
    return listed, f"; {len(listed):,} of {len(rows):,} listed triplets are trained on: {said}"
