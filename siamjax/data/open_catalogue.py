"""Open a catalogue by a word or a path, and read triplets of its rows."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int

from siamjax.data.catalogue import Catalogue, files_below, strings
from siamjax.data.datasets import emoji, online_products
from siamjax.data.folders import entries, files_in, is_image
from siamjax.data.images import IMAGE_SUFFIXES, ImageSet
from siamjax.data.tables import read_table, undecodable_line
from siamjax.errors import UsageError

NAMES = ("emoji", online_products.NAME)
_TABLES = (".csv", ".tsv")


def open_catalogue(source: str | Path, *, home: Path | None = None) -> Catalogue:
    """The catalogue that a word or a path names.

    * ``emoji``: the embedded set, every item as two vendors draw it.
    * ``stanford_online_products``, or its unpacked folder (with Ebay_train.txt): see
      :func:`siamjax.data.datasets.online_products.open_products`. Only this set takes a ``home``.
    * a table: see :func:`siamjax.data.tables.read_table`.
    * a folder with ``items.csv``, or with one other .csv or .tsv: that table.
    * any other folder: the images in it (:mod:`siamjax.data.folders`). Those in one sub-folder
      show one item, named after it; each of those in the folder itself shows an item of its own.

    Opening reads no image. Raises ``UsageError`` for what cannot be opened.
    """
    if home is not None and source != online_products.NAME:
        raise UsageError(f"home {home} does not apply to {source}; leave it out")
    if source == "emoji":
        return emoji.open_emoji()
    if source == online_products.NAME:
        return online_products.open_products(home)
    path = Path(source)
    if path.is_dir():
        if online_products.is_unpacked(path):
            return online_products.open_products(path)
        table = _table_in(path)
        return _folder(path) if table is None else read_table(table)
    if not path.exists():
        raise UsageError(
            f"{path}: no such table or folder; give a path or one of {', '.join(NAMES)}"
        )
    return read_table(path)


def _table_in(folder: Path) -> Path | None:
    if (folder / "items.csv").is_file():
        return folder / "items.csv"
    tables = [e.name for e in entries(folder) if os.path.splitext(e.name)[1].lower() in _TABLES]
    if len(tables) > 1:
        raise UsageError(
            f"{folder} holds {len(tables)} tables ({', '.join(tables[:5])}); give the path of the "
            "one that lists the images, or rename it to items.csv"
        )
    return folder / tables[0] if tables else None


def _folder(folder: Path) -> Catalogue:
    # Broken links are kept: whoever reads the images reports those that cannot be read. The
    # order must stay, as files of triplets number the rows by it.
    names = sorted(name for name in files_in(folder, keep_broken=True) if is_image(name))
    if not names:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(
            f"{folder} holds neither a table nor an image ({known}); give the folder that does"
        )
    images = ImageSet(
        name=f"folder {folder.resolve().name}",
        credit=str(folder.absolute()),
        keys=tuple(names),
        identities=strings([name.rpartition("/")[0] or name for name in names]),
        source=files_below(folder, tuple(names)),
    )
    return Catalogue(images=images, attributes={})


def read_triplets(
    path: str | Path, *, rows: int, first_row: int = 0
) -> Int[np.ndarray, "triplets 3"]:
    """Read triplets of a catalogue's rows; a line names query, positive and negative.

    The three row numbers are separated by commas, semicolons, tabs or spaces; the first triplet
    tells which. A title line above it is skipped, and so are empty lines and what follows a ``#``.

    Args:
        path: the file.
        rows: number of rows of the catalogue.
        first_row: how the file numbers the first row, 0 or 1.

    Returns row numbers from 0. Raises ``UsageError`` with path and line for a line of another
    form, a row that the catalogue does not have, and a triplet without three different rows.
    """
    path = Path(path)
    if first_row not in (0, 1):
        raise UsageError(f"first_row {first_row} must be 0 or 1")
    numbers = array("q")
    try:
        for line, words in _triplet_lines(path):
            try:
                numbers.extend(_triplet(words, rows, first_row))
            except ValueError as error:
                text = " ".join(words)[:80]
                raise UsageError(f"{path}, line {line}: {text!r}: {error}") from None
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file of triplets; check the path") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}, line {undecodable_line(path)}: not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if not numbers:
        raise UsageError(f"{path}: no triplet; expected lines 'query positive negative'")
    return np.array(numbers, np.int64).reshape(-1, 3)


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
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            if not begun:
                separator = next((mark for mark in ",;" if mark in text), None)
                if not titled and not any(map(_is_number, text.split(separator))):
                    titled = True
                    continue
                begun = True
            yield number, text.split(separator)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
