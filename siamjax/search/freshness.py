"""Compare an index with its catalogues: what has changed, gone and come since it was made."""

import hashlib
import itertools
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool

from siamjax.data.catalogue import Parts
from siamjax.data.names import as_bytes
from siamjax.errors import UsageError, shown
from siamjax.search.failed import read_failed
from siamjax.search.index import Index, Place, listed
from siamjax.search.index_segment import Item
from siamjax.search.stamps import Stamp, as_stamped, file_as_stamped

_COMPARED = 20_000  # items of an index that a search compares with all of its files
_BLOCK = 8192  # rows that are Python's objects at a time
_NONE = Stamp(-1, -1, -1)
_NAMED, _NAME = 3, 80  # ids that a line names of each kind, and their characters


@dataclass(kw_only=True)
class Comparison:
    """An index and its unfinished segment against a catalogue.

    Attributes:
        wanted: for each part of the catalogue, :func:`sum_of` its ids, and which of its images
            are to be embedded: bool (n,).
        present: number of images of the catalogue that the index has as they are.
        changed: rows by id whose images the catalogue has as others now, or at another path.
        gone: rows by id that the catalogue or its files no longer have.
        out: rows by id that are to be removed.
        unknown: ids that are to be removed, and are nowhere.
        held: number of rows of the unfinished segment that stay.
        dropped: its other rows: another row has the id, or the catalogue has not.
    """

    wanted: list[tuple[int, Bool[np.ndarray, " n"]]] = field(default_factory=list)
    present: int = 0
    changed: dict[str, int] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    out: dict[str, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    held: int = 0
    dropped: list[int] = field(default_factory=list)


def compare(
    places: Callable[[], Iterable[Place]],
    unfinished: Iterable[tuple[str, Stamp | None]],
    catalogue: Parts,
    *,
    where: Path,
    source: str,
    size: int,
    without: Collection[str] = (),
) -> Comparison:
    """Tell apart the items of an index that is to be brought up to date.

    A file of the same size and time counts as the same; others are read. Items that an earlier
    version of siamjax embedded count as current, as it did not note what their files were.

    In memory are ``size`` rows of the catalogue, a byte for each of its rows, 58 for each row of
    the index and the unfinished segment, and the ids of what has changed or is gone.

    Raises ``UsageError`` for an id that in the index is another image of another catalogue.
    """
    out = set(without)
    found, others = Comparison(unknown=set(out)), []

    def known() -> Iterator[tuple[str, int, bool, bool, Stamp | None]]:
        for one in places():
            if one.id in out:
                found.unknown.discard(one.id)  # an id that an earlier call removed is no mistake
                found.out.update({one.id: one.row} if one.kept else {})
            elif one.kept:
                moved = bool(one.image) and not os.path.exists(one.image)
                yield one.id, one.row, one.catalogue == source, moved, one.stamp

    def begun() -> Iterator[tuple[str, int, bool, bool, Stamp | None]]:
        for row, (key, stamp) in enumerate(unfinished):
            found.unknown.discard(key)
            yield key, row, True, False, stamp

    there, written = _Rows(known()), _Rows(begun())
    met, kept = np.zeros(len(there), bool), np.zeros(len(written), bool)
    for part in catalogue.parts(size):
        keys, files = part.images.keys, part.images.source
        found.unknown.difference_update(keys)
        wanted = np.array([key not in out for key in keys])
        for place, at, stamp in there.among(keys):
            met[at] = True
            key, (row, own, moved, _) = keys[place], there.table[at].tolist()
            same = stamp is None or as_stamped(files, place, stamp)
            if same is None and own:  # not to be read
                found.gone[key] = row
            elif same is not None and (moved or (own and not same)):
                found.changed[key] = row
                continue
            elif same is None or same:
                found.present += 1
            else:
                others.append(key)
            wanted[place] = False
        for place, at, stamp in written.among(keys):
            if wanted[place] and (stamp is None or as_stamped(files, place, stamp) is not False):
                wanted[place], kept[at] = False, True
        found.wanted.append((sum_of(keys), wanted))
    if others:
        raise UsageError(
            f"{source}: {len(others)} of its ids are those of other images of another catalogue in "
            f"{where}: {listed(others)}; give its images ids of their own (by a table with "
            "a column id), use another index, or remove the other images first"
        )
    missing = set(there.table["row"][there.table["own"] & ~met].tolist())
    if missing:
        found.gone.update({one.id: one.row for one in places() if one.row in missing})
    found.held, found.dropped = int(kept.sum()), np.flatnonzero(~kept).tolist()
    return found


def sum_of(keys: Sequence[str]) -> int:
    """CRC-32 of ids, to see whether others or other processes find the same ones."""
    return zlib.crc32(as_bytes("\0".join(keys)))


class _Rows:
    """Rows by id, which is known by 16 bytes of its BLAKE2 digest: 58 bytes a row.

    Attributes:
        table: what is known of each row, in the order in which they came.
    """

    _KIND: ClassVar = np.dtype([("row", "i8"), ("own", "?"), ("moved", "?"), ("stamp", "i8", 3)])

    def __init__(self, rows: Iterator[tuple[str, int, bool, bool, Stamp | None]]) -> None:
        self.table, ids = np.empty(0, self._KIND), np.empty(0, "S16")
        while block := list(itertools.islice(rows, _BLOCK)):
            keys, *columns, stamps = zip(*block, strict=True)
            lines = zip(*columns, (one or _NONE for one in stamps), strict=True)
            for array, more in ((ids, _digests(keys)), (self.table, list(lines))):
                before = len(array)
                array.resize(before + len(more), refcheck=False)  # in place: nothing is twice there
                array[before:] = more
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]

    def __len__(self) -> int:
        return len(self.table)

    def among(self, keys: Sequence[str]) -> Iterator[tuple[int, int, Stamp | None]]:
        """Of each key that is here: its place among the keys, its last row's place, its stamp."""
        if not len(self):
            return
        asked = np.array(_digests(keys), "S16")
        # Of rows with one id the last one: the order is stable.
        after = np.searchsorted(self._ids, asked, side="right")
        sorted_places = np.maximum(after, 1) - 1
        for place in np.flatnonzero(self._ids[sorted_places] == asked).tolist():
            at = int(self._order[sorted_places[place]])
            stamp = self.table["stamp"][at].tolist()
            yield place, at, None if stamp[0] < 0 else Stamp(*stamp)


def _digests(ids: Iterable[str]) -> list[bytes]:
    return [hashlib.blake2b(as_bytes(one), digest_size=16).digest() for one in ids]


class OutOfDate(NamedTuple):
    """Ids of items whose images have changed, are gone, or are not in the index yet."""

    changed: list[str]
    gone: list[str]
    new: list[str]

    def __str__(self) -> str:
        """A line with the counts and the first names: ``1 changed (a.png); 2 new (b.png, ...)``."""
        told = []
        for what, ids in zip(("changed", "gone", "new"), self, strict=True):
            names = [shown(one, longest=_NAME) for one in sorted(ids)[:_NAMED]]
            names += ["..."] if len(ids) > _NAMED else []
            told += [f"{len(ids):,} {what} ({', '.join(names)})"] if ids else []
        return "; ".join(told)


def out_of_date(index: Index, on_show: Iterable[Item]) -> OutOfDate:
    """What an index should be brought up to date for, as far as files tell.

    All items are compared with their files, and with the catalogues that can be opened, in an
    index of at most 20,000 items; in a larger one only those ``on_show``, as this costs
    some microseconds each. Embedded sets do not change.
    """
    from siamjax.data.open_catalogue import NAMES, open_catalogue

    found = OutOfDate([], [], [])
    if len(index) > _COMPARED:
        known = {item.id: item for item in on_show}
    else:
        known = {one.id: one for one in index.places() if one.kept}
    for key, one in known.items():
        if one.image:
            same = file_as_stamped(one.image, one.stamp)
            if same is not True:
                (found.gone if same is None else found.changed).append(key)
    if len(index) <= _COMPARED:
        failed = {(one.catalogue, one.id) for one in read_failed(index.folder)}
        for source in sorted({one.catalogue for one in known.values()} - {*NAMES}):
            there = os.path.exists(source)
            try:
                keys = open_catalogue(source, quiet=True).images.keys if there else ()
            except UsageError:
                continue
            own = {key for key, one in known.items() if one.catalogue == source}
            missing = own - set(keys) - {*found.gone} if keys else ()
            found.gone.extend(sorted(missing))
            found.new.extend(k for k in keys if k not in known and (source, k) not in failed)
    return found
