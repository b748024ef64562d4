"""Compare an index with its catalogues: what has changed, gone and come since it was made."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from siamjax.data.catalogue import Catalogue
from siamjax.errors import UsageError, shown
from siamjax.search.failed import read_failed
from siamjax.search.index import Index, listed
from siamjax.search.index_segment import Item
from siamjax.search.stamps import as_stamped, file_as_stamped

_COMPARED = 20_000  # items of an index that a search compares with all of its files
_NAMED, _NAME = 3, 80  # ids that a line names of each kind, and their characters


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An index against a catalogue.

    Attributes:
        current: ids of items that stay as they are, of other catalogues too.
        changed: rows by id whose images the catalogue has as others now, or at another path.
        gone: rows by id that the catalogue or its files no longer have.
        out: rows that are to be removed.
        unknown: ids that are to be removed, and are in neither.
    """

    current: set[str] = field(default_factory=set)
    changed: dict[str, int] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    out: list[int] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)


def compare(
    index: Index, catalogue: Catalogue, *, source: str, without: Collection[str] = ()
) -> Comparison:
    """Tell apart the items of an index that is to be brought up to date.

    A file of the same size and time counts as the same; others are read. Items that an earlier
    version of siamjax embedded count as current, as it did not note what their files were.

    Raises ``UsageError`` for an id that in the index is another image of another catalogue.
    """
    images, out = catalogue.images, set(without)
    places = {key: place for place, key in enumerate(images.keys)}
    found, others = Comparison(unknown=out - places.keys()), []
    for one in index.places():
        if one.id in out:
            found.unknown.discard(one.id)  # an id that an earlier call removed is no mistake
            found.out.extend([one.row] if one.kept else [])
        elif one.kept:
            own, place = one.catalogue == source, places.get(one.id)
            same = place is not None and (
                one.stamp is None or as_stamped(images.source, place, one.stamp)
            )
            moved = bool(one.image) and not os.path.exists(one.image)
            if place is None or same is None:  # not there, or not to be read
                if own:
                    found.gone[one.id] = one.row
                else:
                    found.current.add(one.id)
            elif moved or (own and not same):
                found.changed[one.id] = one.row
            elif same:
                found.current.add(one.id)
            else:
                others.append(one.id)
    if others:
        raise UsageError(
            f"{source}: {len(others)} of its ids are those of other images of another catalogue in "
            f"{index.folder}: {listed(others)}; give its images ids of their own (by a table with "
            "a column id), use another index, or remove the other images first"
        )
    return found


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
