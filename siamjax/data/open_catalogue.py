"""Open a catalogue by a word or a path."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamjax.data.catalogue import Catalogue, Parts, files_below, strings
from siamjax.data.folders import is_image, no_images, read_folder, walk
from siamjax.data.images import ImageSet
from siamjax.data.left_out import tell
from siamjax.data.retrieval import ONLINE_PRODUCTS
from siamjax.data.tables import open_table, read_table
from siamjax.errors import UsageError

NAMES = ("emoji", ONLINE_PRODUCTS)
TABLES = (".csv", ".tsv")


def open_catalogue(
    source: str | Path,
    *,
    home: Path | None = None,
    strict: bool = False,
    numbered: bool = False,
    quiet: bool = False,
) -> Catalogue:
    """The catalogue that a word or a path names.

    * ``emoji``: the embedded set, every item as two vendors draw it.
    * ``stanford_online_products``, or its unpacked folder (with Ebay_train.txt): see
      :func:`siamjax.data.datasets.online_products.open_products`. Only this set takes a ``home``.
    * a table: see :func:`siamjax.data.tables.read_table`.
    * a folder with ``items.csv``, or with one other .csv or .tsv: that table.
    * any other folder: the images in it (:mod:`siamjax.data.folders`). Those in one sub-folder
      show one item, named after it; each of those in the folder itself shows an item of its own.
      A sentence printed says how many there are, and what is left out, unless ``quiet``.

    ``strict``: what would be left out of a folder is an error. ``numbered``: so is an image that
    would be left out, as the rows of the catalogue are meant by their numbers.

    Opening reads no image. Raises ``UsageError`` for what cannot be opened.
    """
    if home is not None and source != ONLINE_PRODUCTS:
        raise UsageError(f"home {home} does not apply to {source}; leave it out")
    path = Path(source)
    if source == "emoji":
        from siamjax.data.datasets import emoji  # TFDS, which takes long to import

        return emoji.open_emoji()
    if source == ONLINE_PRODUCTS or is_unpacked(path):
        from siamjax.data.datasets import online_products

        return online_products.open_products(home if source == ONLINE_PRODUCTS else path)
    table = _table_of(path)
    if table is None:
        return _folder(path, strict=strict, numbered=numbered, quiet=quiet).catalogue()
    return read_table(table)


def stream_catalogue(source: str | Path, *, strict: bool = False) -> Parts:
    """:func:`open_catalogue` for one that may be larger than memory.

    A table is read part by part, and of a folder only the names are in memory. The sets that have
    a word are opened as there.
    """
    path = Path(source)
    if source in NAMES or is_unpacked(path):
        return open_catalogue(source)
    table = _table_of(path)
    if table is None:
        return _folder(path, strict=strict, numbered=False, quiet=False)
    return open_table(table)


def _table_of(path: Path) -> Path | None:
    """The table that a path means; None: it is a folder without one."""
    if os.path.isdir(path):
        return table_in(path)
    if not os.path.exists(path):
        raise UsageError(
            f"{path}: no such table or folder; give a path or one of {', '.join(NAMES)}"
        )
    return path


def table_in(folder: Path) -> Path | None:
    """The table that lists a folder's images; None: there is none. ``UsageError`` for several."""
    if os.path.isfile(folder / "items.csv"):
        return folder / "items.csv"
    names = walk(folder, depth=1).files[""]
    tables = [name for name in names if os.path.splitext(name)[1].lower() in TABLES]
    if len(tables) > 1:
        raise UsageError(
            f"{folder} holds {len(tables)} tables ({', '.join(tables[:5])}); give the path of the "
            "one that lists the images, or rename it to items.csv"
        )
    return folder / tables[0] if tables else None


def is_unpacked(folder: Path) -> bool:
    """Whether a folder is Stanford Online Products, unpacked: it holds the official lists."""
    return any(os.path.isfile(folder / f"Ebay_{split}.txt") for split in ("train", "test"))


@dataclass(frozen=True)
class _Folder:
    """The images of a folder, by their names."""

    folder: Path
    names: Sequence[str]
    attributes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def parts(self, size: int) -> Iterator[Catalogue]:
        """The catalogue, so many images at a time."""
        return (self.catalogue(slice(n, n + size)) for n in range(0, len(self), size))

    def catalogue(self, rows: slice = slice(None)) -> Catalogue:
        """The catalogue of some of the images."""
        names = tuple(self.names[rows])
        images = ImageSet(
            name=f"folder {self.folder.resolve().name}",
            credit=str(self.folder.absolute()),
            keys=names,
            identities=strings(list(map(_item, names))),
            source=files_below(self.folder, names),
        )
        return Catalogue(images=images, attributes={})


def _item(name: str) -> str:
    """What an image shows: its folder, or itself outside folders."""
    return name.rpartition("/")[0] or name


def _folder(folder: Path, *, strict: bool, numbered: bool, quiet: bool) -> _Folder:
    found, left_out = read_folder(folder)
    if not found:
        raise no_images(folder, left_out, remedy="give a folder that holds a table or images")
    if numbered and (absent := [one for one in left_out if is_image(one.name)]):
        raise UsageError(
            f"{folder / absent[0].name}: {absent[0].why}; triplets number the rows, so mend or "
            "remove the image"
        )
    found.sort()  # this order must stay, as files of triplets number the rows by it
    if strict or not quiet:
        items = len(set(map(_item, found)))
        tell(folder, f"{len(found):,} images of {items:,} items", left_out, strict=strict)
    return _Folder(folder, found)
