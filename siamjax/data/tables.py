"""Read a catalogue's table from a text file: a row for each image, the columns in any order."""

import contextlib
import csv
import io
import itertools
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from siamjax.data.catalogue import Catalogue, files_below, strings
from siamjax.data.decoding import IMAGE_SUFFIXES
from siamjax.data.images import ImageSet
from siamjax.data.names import on_disk
from siamjax.errors import UsageError, shown
from siamjax.files import open_regular, saying

IMAGE = ("image", "file", "path", "filename")
ITEM = ("item", "identity", "product")
HEADLESS = ("category", "colour", "id", "gender", "name")
"""The columns, in order, of a table whose first line does not name them."""

_CHUNK = 20_000  # rows that are lists of strings at a time, which bounds the memory
_PROBED = 10  # images to look for, to learn where all are
_BEGINNING = 2**16  # characters in which the line of names ends
_QUOTED = re.compile(r'(?<![^,;\t\r\n])"(?:[^"]|"")*(?:"|$)')  # a cell; may hold line breaks
_BLANK = " \t,;"


def read_table(path: Path) -> Catalogue:
    """The catalogue that a table describes; columns are separated by commas, semicolons or tabs.

    The first line names the columns, in any order, in upper or lower case:

    * the image: the first of ``image``, ``file``, ``path`` and ``filename`` that is there; its
      path, relative to the table's folder or to the sub-folder ``images`` of that;
    * ``id``, optional, unique: by default the image's path. In a table without an image column
      the id names the image: it is a path, or ID.jpg (or another suffix, the same for all);
    * ``item``, ``identity`` or ``product``, optional: what the image shows. Where it is empty
      or missing, the image is an item of its own;
    * any other column is an attribute, by its name in lower case.

    If the first line names no columns, there must be five: category, colour, id, gender and name,
    and the image of the first line must exist. Lines of blanks or of separators alone are skipped
    and not counted in the row numbers of triplets.

    Only the first few images are looked for, and none is opened: what is missing or broken is
    named when it is read.

    Raises ``UsageError`` with path and line for a table that cannot be read, is empty, or lacks a
    column, for a NUL, and for a row of another length, with an empty or repeated id, or without an
    image.
    """
    parts: list[list[np.ndarray]] = []
    table = open_table(path, read=parts.append)
    return table.catalogue([np.concatenate(column) for column in zip(*parts, strict=True)])


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table on the disk, checked; its rows are read part by part.

    Attributes:
        path: the file.
        names: of the columns.
        header: whether its first line names them.
        count: number of rows.
        below: the folder of all images.
        suffix: what is missing from their names.
    """

    path: Path
    names: tuple[str, ...]
    header: bool
    count: int = 0
    below: Path = Path()
    suffix: str = ""

    def __len__(self) -> int:
        return self.count

    @property
    def image(self) -> str | None:
        """The column of the image; None: the id names it."""
        return next((name for name in IMAGE if name in self.names), None)

    @property
    def id(self) -> str:
        """The column of the id."""
        return "id" if "id" in self.names else self.image or ""

    @property
    def item(self) -> str | None:
        """The column of what the image shows; None: each shows an item of its own."""
        return next((name for name in ITEM if name in self.names), None)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The other columns."""
        known = {"id", self.image, self.item}
        return tuple(name for name in self.names if name not in known)

    def columns(self, size: int) -> Iterator[list[np.ndarray]]:
        """The cells of so many rows at a time, column by column, without spaces around them."""
        with contextlib.closing(_rows(self.path)) as numbered:
            rows = (cells for _, cells in itertools.islice(numbered, int(self.header), None))
            while chunk := list(itertools.islice(rows, size)):
                if set(map(len, chunk)) != {len(self.names)}:
                    wrong = _line(self.path, lambda cells: len(cells) != len(self.names))
                    raise UsageError(
                        f"{self.path}, line {wrong}: not {len(self.names)} columns, as in the "
                        'first line; put cells that hold the separator in quotes ("a, b"), or mend '
                        "the line"
                    )
                yield [np.strings.strip(strings(column)) for column in zip(*chunk, strict=True)]

    def parts(self, size: int) -> Iterator[Catalogue]:
        """The catalogue, so many rows at a time; one part is in memory."""
        return map(self.catalogue, self.columns(size))

    def catalogue(self, columns: list[np.ndarray]) -> Catalogue:
        """The catalogue of rows of the table."""
        named = dict(zip(self.names, columns, strict=True))
        ids = named[self.id]
        files = named.get(self.image or "", ids)
        keys = tuple(ids.tolist())
        located = keys
        if self.suffix or files is not ids:
            added = np.strings.add(files, self.suffix) if self.suffix else files
            located = tuple(added.tolist())
        items = named[self.item] if self.item else ids
        images = ImageSet(
            name=f"table {self.path.name}",
            credit=str(self.path.absolute()),
            keys=keys,
            identities=np.where(items == "", ids, items) if self.item else ids,
            source=files_below(self.below, located),
        )
        return Catalogue(images=images, attributes={name: named[name] for name in self.attributes})


def open_table(path: Path, *, read: Callable[[list[np.ndarray]], object] | None = None) -> Table:
    """A table that is read once, to check it; rules and errors are those of :func:`read_table`.

    ``read`` is given the columns of some rows at a time. Of each row 8 bytes are in memory
    meanwhile, 16 in a table with a column for the item.
    """
    _check_text(path)
    names, header = _header(path)
    table = Table(path=path, names=tuple(names), header=header)
    ids, items, alone = array("q"), array("q"), array("q")  # hashes; equal ones are read again
    below, suffix = path.parent, ""
    for columns in table.columns(_CHUNK):
        named = dict(zip(names, columns, strict=True))
        for what in (table.id, table.image or table.id):
            if (named[what] == "").any():
                place = names.index(what)
                line = _line(path, lambda cells, place=place: not cells[place].strip())
                raise UsageError(f"{path}, line {line}: no {what}; fill it in or remove the line")
        if not ids:
            below, suffix = _place(path.parent, named[table.image or table.id])
        keys = list(map(hash, named[table.id].tolist()))
        if table.item:
            shown_items = named[table.item].tolist()
            items.extend(hash(item) for item in shown_items if item)
            alone.extend(key for key, item in zip(keys, shown_items, strict=True) if not item)
        ids.extend(keys)
        if read is not None:
            read(columns)
    if not ids:
        raise UsageError(f"{path}: a table without rows; expected one for each image")
    hashes = np.frombuffer(ids, np.int64)
    hashes.sort()
    _check_unique(table, set(hashes[1:][hashes[1:] == hashes[:-1]].tolist()))
    if alone:
        _check_items(table, set(np.intersect1d(alone, items).tolist()))
    return replace(table, count=len(ids), below=below, suffix=suffix)


def _check_text(path: Path) -> None:
    """Raise ``UsageError`` for a NUL: NumPy's strings would end there, so that two ids were one."""
    line = 1
    with open_regular(path, remedy="give the path of a table") as file:
        while block := file.read(2**20):
            if b"\0" in block:
                line += block.count(b"\n", 0, block.index(b"\0"))
                raise UsageError(
                    f"{path}, line {line}: not text (a NUL); save the table as UTF-8, or give a "
                    "folder if these are images"
                )
            line += block.count(b"\n")


def _header(path: Path) -> tuple[list[str], bool]:
    """The columns' names, and whether they are those of the first line."""
    with contextlib.closing(_rows(path)) as rows:
        line, cells = next(rows, (0, []))
    if not cells:
        raise UsageError(f"{path}: an empty table; expected a line of names, and one an image")
    names = [cell.strip().lower() for cell in cells]
    known = {*IMAGE, *ITEM, *HEADLESS} & set(names)
    nameless = len(names) == len(HEADLESS) and len(known) < 2 and not known & {*IMAGE, "id"}
    first = cells[HEADLESS.index("id")].strip() if nameless else ""
    if nameless and _found(path.parent, first):
        return list(HEADLESS), False
    names = [name or f"column {place}" for place, name in enumerate(names, start=1)]
    where = f"{path}, line {line}"
    if not {*IMAGE, "id"} & set(names):
        raise UsageError(
            f"{where}: no column for the image ({', '.join(IMAGE)} or id), only "
            f"{', '.join(names)[:200]}; name one in the first line"
            + (f" (or, if these are not names, add the image {first[:80]!r})" if first else "")
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UsageError(f"{where}: two columns are called {shown(min(twice))}; rename one")
    return names, True


def _rows(path: Path) -> Generator[tuple[int, list[str]], None, None]:
    """(line number, cells) of every row in which something stands."""
    remedy = "give the path of a table"
    try:
        with (
            saying(f"{path}: cannot be read"),
            open_regular(path, remedy=remedy) as file,
            io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as stream,
        ):
            separator = _separator(stream.read(_BEGINNING))
            stream.seek(0)
            rows = csv.reader(stream, delimiter=separator, strict=True)
            try:
                for cells in rows:
                    if any(map(str.strip, cells)):
                        yield rows.line_num, cells
            except csv.Error as error:
                raise UsageError(
                    f"{path}, line {rows.line_num}: {error}; mend its quotes"
                ) from None
    except UnicodeDecodeError:
        raise UsageError(
            f"{path}, line {undecodable_line(path)}: not UTF-8; save the table as UTF-8"
        ) from None


def _separator(beginning: str) -> str:
    """What separates the cells of the first line that is not blank, outside quotes."""
    lines = re.split("[\r\n]", _QUOTED.sub('""', beginning))
    first = next((line for line in lines if line.strip(_BLANK)), "")
    return max(",;\t", key=first.count)


def undecodable_line(path: Path) -> int:
    """The number, from 1, of the first line that is not UTF-8."""
    with open_regular(path) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _line(path: Path, wrong: Callable[[list[str]], bool]) -> int:
    """The line of the first row that is ``wrong``; reads the file again, as rows keep no line."""
    return next(line for line, cells in _rows(path) if wrong(cells))


def _check_unique(table: Table, hashes: set[int]) -> None:
    """``UsageError`` for an id that is there twice, among those of these hashes."""
    if not hashes:
        return
    column, lines = table.names.index(table.id), dict[str, int]()
    for line, cells in itertools.islice(_rows(table.path), int(table.header), None):
        key = cells[column].strip()
        if hash(key) not in hashes:
            continue
        if key in lines:
            raise UsageError(
                f"{table.path}: {table.id} {key!r} is in lines {lines[key]} and {line}, but must "
                "be unique; remove one, or give the table a column 'id'"
            )
        lines[key] = line


def _check_items(table: Table, hashes: set[int]) -> None:
    """``UsageError`` for an item that one row names, and another is by its id; of these hashes."""
    if not hashes:
        return
    named, alone = set[str](), list[str]()
    place = table.names.index(table.item or ""), table.names.index(table.id)
    for _, cells in itertools.islice(_rows(table.path), int(table.header), None):
        item, key = (cells[at].strip() for at in place)
        named.update([item] if hash(item) in hashes else [])
        alone += [key] if not item and hash(key) in hashes else []
    for one in alone:
        if one in named:
            raise UsageError(
                f"{table.path}: the row of id {one!r} has an empty {table.item}, which makes it an "
                "item of that name, but other rows use the same name for theirs; fill it in"
            )


def _place(folder: Path, files: np.ndarray) -> tuple[Path, str]:
    """The folder of all images and the suffix missing from their names, judged by the first few."""
    for name in files[:_PROBED].tolist():
        if found := _found(folder, name):
            return found
    known = Path(str(files[0])).suffix.lower() in IMAGE_SUFFIXES
    return folder, "" if known else ".jpg"


def _found(folder: Path, name: str) -> tuple[Path, str] | None:
    """The folder of an image and the suffix missing from its name; None if it does not exist."""
    suffixes = ("", ".jpg", *sorted(IMAGE_SUFFIXES - {".jpg"}))
    for below, suffix in itertools.product((folder, folder / "images"), suffixes):
        if os.path.isfile(on_disk(below / (name + suffix))):
            return below, suffix
    return None
