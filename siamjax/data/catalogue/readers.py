"""From a word or a path to a catalogue; triplets of its rows."""

import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Int

from siamjax.data.catalogue import online_products
from siamjax.data.catalogue.delimited import read_table, undecodable_line
from siamjax.data.catalogue.examples import prepared_examples, quiet
from siamjax.data.catalogue.table import Catalogue, files_below, strings
from siamjax.data.emoji import ATTRIBUTES, CREDIT, Emoji
from siamjax.data.images import IMAGE_SUFFIXES, ImageSet
from siamjax.data.prepared import FORMAT
from siamjax.errors import UsageError

NAMES = ("emoji", online_products.NAME)
_TABLES = (".csv", ".tsv")


def open_catalogue(source: str | Path, *, home: Path | None = None) -> Catalogue:
    """The catalogue that a word or a path names.

    * ``emoji``: the embedded set, one item as two vendors draw it.
    * ``stanford_online_products``: see :func:`siamjax.data.catalogue.online_products.
      open_products`, to which ``home`` goes; it applies to nothing else.
    * a table: see :func:`siamjax.data.catalogue.delimited.read_table`.
    * a folder with ``items.csv``, or with one other .csv or .tsv: that table.
    * another folder: the pictures in it. Those in a sub-folder show one item, the sub-folder's;
      those in the folder itself show an item each. Hidden files are left alone.

    Opening reads no picture. Raises ``UsageError`` for what cannot be opened.
    """
    if home is not None and source != online_products.NAME:
        raise UsageError(f"home {home} does not apply to {source}; leave it out")
    if source == "emoji":
        return _emoji()
    if source == online_products.NAME:
        return online_products.open_products(home)
    path = Path(source)
    if path.is_dir():
        table = _table_in(path)
        return _folder(path) if table is None else read_table(table)
    if not path.exists():
        raise UsageError(
            f"{path}: no such table or folder, nor one of the words {', '.join(NAMES)}"
        )
    return read_table(path)


def _emoji() -> Catalogue:
    quiet()
    builder = Emoji(file_format=FORMAT)
    builder.download_and_prepare(file_format=FORMAT)
    source, read = prepared_examples(builder, ["pictures"], ["file", "identity", *ATTRIBUTES])
    columns = {name: [value.decode() for value in values] for name, values in read.items()}
    images = ImageSet(
        name="emoji",
        credit=CREDIT,
        keys=tuple(columns["file"]),
        identities=strings(columns["identity"]),
        source=source,
    )
    return Catalogue(
        images=images, attributes={name: strings(columns[name]) for name in ATTRIBUTES}
    )


def _table_in(folder: Path) -> Path | None:
    if (folder / "items.csv").is_file():
        return folder / "items.csv"
    tables = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _TABLES and not path.name.startswith(".")
    )
    if len(tables) > 1:
        raise UsageError(
            f"{folder} holds {len(tables)} tables ({', '.join(p.name for p in tables[:5])}); name "
            "the one of the pictures, or call it items.csv"
        )
    return tables[0] if tables else None


def _folder(folder: Path) -> Catalogue:
    names: list[str] = []
    for below, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = os.path.relpath(below, folder).replace(os.sep, "/")
        names += [
            name if relative == "." else f"{relative}/{name}"
            for name in files
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
    if not names:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"{folder} holds neither a table nor a picture ({known})")
    names.sort()
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
    """Triplets of a catalogue's rows: query, positive and negative of each line.

    The three row numbers are separated by commas, tabs or blanks. A first line of words is
    skipped; so are empty lines and what follows a ``#``.

    Args:
        path: of the file.
        rows: how many the catalogue has.
        first_row: the number of its first row in the file, 0 or 1.

    Returns numbers from 0. Raises ``UsageError`` with path and line for a line of another form,
    a row that the catalogue does not have, and a triplet of fewer than three different rows.
    """
    path = Path(path)
    if first_row not in (0, 1):
        raise UsageError(f"first_row {first_row} must be 0 or 1")
    try:
        with path.open(encoding="utf-8-sig") as stream:
            first = stream.readline()
            comma = "," in first or "," in stream.readline()
        titled = bool(first.strip()) and not any(map(_is_number, _words(first)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            warnings.simplefilter("error", DeprecationWarning)  # NumPy 2.0 takes 1.5 for 1
            triplets = np.loadtxt(
                path,
                np.int64,
                delimiter="," if comma else None,
                skiprows=int(titled),
                ndmin=2,
                encoding="utf-8-sig",
            )
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file of triplets; check the path") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}, line {undecodable_line(path)}: not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, DeprecationWarning) as error:
        for number, words in _triplet_lines(path, titled):
            if len(words) != 3 or not all(map(_is_number, words)):
                raise _malformed(path, number, words) from None
        raise UsageError(f"{path}: cannot be read as triplets ({error})") from None
    if not triplets.size:
        raise UsageError(f"{path}: no triplet in it; expected are lines 'query positive negative'")
    if triplets.shape[1] != 3:
        raise _malformed(path, *next(_triplet_lines(path, titled)))
    triplets -= first_row
    outside = (triplets.min(axis=1) < 0) | (triplets.max(axis=1) >= rows)
    query, positive, negative = triplets.T
    wrong = outside | (query == positive) | (query == negative) | (positive == negative)
    if wrong.any():
        row = int(wrong.argmax())
        line, words = next(x for i, x in enumerate(_triplet_lines(path, titled)) if i == row)
        remedy = (
            f"rows are {first_row} to {rows - 1 + first_row}; is first_row {first_row} right?"
            if outside[row]
            else "query, positive and negative must differ; remove the line"
        )
        raise UsageError(f"{path}, line {line}: {' '.join(words)}: {remedy}")
    return triplets


def _malformed(path: Path, line: int, words: list[str]) -> UsageError:
    return UsageError(
        f"{path}, line {line}: expected are three row numbers, query positive negative "
        f"({' '.join(words)[:80]!r})"
    )


def _triplet_lines(path: Path, titled: bool):
    """(line, words) of every triplet; slow, for messages."""
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            words = _words(line.split("#")[0])
            if words and not (titled and number == 1):
                yield number, words


def _words(line: str) -> list[str]:
    return [w.strip() for w in line.split(",")] if "," in line else line.split()


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdecimal()
