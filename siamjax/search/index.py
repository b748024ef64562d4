"""A catalogue's embeddings in a folder; searched from the disk, items are added and removed.

::

    index/
      manifest.json      the fingerprint, the segments, the removed rows
      segment-0001/      never changed once the manifest names it
        embeddings.npy   (rows, features) float32 or float16
        squares.npy      (rows,) float64: the sum of squares of each row
        checks.npy       (rows,) uint64: a checksum of each row and its sum of squares
        stamps.npy       (rows, 3) int64: size, time and CRC-32 of each image's file
        items.csv        a line for each row: id, item, image, and the attributes
      failed.csv         images that could not be read: id, image, why, catalogue

The manifest is replaced at once or not at all, and only after all that it names is on the disk:
whenever the process is killed, the index is the old one or the new one. Rows are numbered over all
segments in order, removed ones too, so that a row keeps its number.
"""

import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Bool

from siamjax.errors import UsageError
from siamjax.files import locked
from siamjax.inference.digests import differing
from siamjax.search.index_manifest import (
    MANIFEST,
    Dtype,
    Manifest,
    SegmentNote,
    read_manifest,
    write_manifest,
)
from siamjax.search.index_segment import Item, Segment
from siamjax.search.stamps import Stamp

_SHOWN = 20  # values that a message lists at most


class Place(NamedTuple):
    """A row of an index.

    Attributes:
        id: of the item.
        image: absolute path of its file; "" if the catalogue is not a folder of files.
        stamp: what the image was when it was embedded; None: not known.
        catalogue: what was embedded.
        row: its number over all segments.
        kept: whether it can be found; False: removed.
    """

    id: str
    image: str
    stamp: Stamp | None
    catalogue: str
    row: int
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Index:
    """A folder of embeddings to search; :meth:`open` one, or :meth:`create` it.

    An index is a value: methods that change the folder return the new index.

    Attributes:
        folder: the folder.
        fingerprint: model, weights and preprocessing; see ``Embedder``.
        features: length of an embedding.
        dtype: type of the stored embeddings.
        run: folder of the model's run, "" if there is none.
        segments: the parts of the index, in order.
    """

    MARK: ClassVar = MANIFEST

    folder: Path
    fingerprint: dict[str, str]
    features: int
    dtype: Dtype
    run: str
    segments: tuple[Segment, ...] = ()

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        fingerprint: dict[str, str],
        features: int,
        dtype: Dtype = "float32",
        run: str = "",
    ) -> "Index":
        """Make an empty index; ``UsageError`` if the folder is not empty."""
        if dtype not in ("float32", "float16"):
            raise UsageError(f"dtype {dtype}: choose float32 or float16")
        _check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        index = cls(folder=folder, fingerprint=fingerprint, features=features, dtype=dtype, run=run)
        index._write()
        return index

    @classmethod
    def open(cls, folder: Path) -> "Index":
        """Open the index in a folder.

        Raises ``UsageError`` if there is none, if another version of siamjax wrote it, and if one
        of its files is missing or has another size, shape or type than the manifest says. What
        else is damaged is found when it is read.
        """
        manifest = read_manifest(folder)
        whole = {"features": manifest.features, "dtype": manifest.dtype}
        segments = tuple(
            Segment(**{**msgspec.structs.asdict(one), **whole, "folder": folder / one.folder})
            for one in manifest.segments
        )
        index = cls(
            folder=folder,
            fingerprint=manifest.fingerprint,
            features=manifest.features,
            dtype=manifest.dtype,
            run=manifest.run,
            segments=segments,
        )
        for segment in index.segments:
            segment.check()
        return index

    def __len__(self) -> int:
        """Number of items that can be found."""
        return int(self.kept.sum())

    @property
    def kept(self) -> Bool[np.ndarray, " rows"]:
        """Whether each row can be found: False if it was removed."""
        kept = np.ones(sum(map(len, self.segments)), bool)
        for base, segment in self.bases():
            kept[base + np.asarray(segment.removed, np.int64)] = False
        return kept

    @property
    def checked(self) -> bool:
        """Whether all segments have checksums; those of earlier versions of siamjax have none."""
        return all(segment.checked for segment in self.segments)

    def check(self, fingerprint: dict[str, str]) -> None:
        """Raise ``UsageError`` unless embeddings of this fingerprint fit the index."""
        check_model(self.folder, self.fingerprint, fingerprint, run=self.run)

    def items(self) -> Iterator[tuple[int, Item]]:
        """Rows that are not removed and their items, read lazily."""
        kept = self.kept
        for base, segment in self.bases():
            for row, item in enumerate(segment.items(), start=base):
                if kept[row]:
                    yield row, item

    def places(self) -> Iterator[Place]:
        """All rows, removed ones too; then ``UsageError`` for two that can be found of one id."""
        kept, hashes = self.kept, array("q")
        for base, segment in self.bases():
            for row, (key, image, stamp) in enumerate(segment.places(), start=base):
                if kept[row]:
                    hashes.append(hash(key))
                yield Place(key, image, stamp, segment.catalogue, row, bool(kept[row]))
        ordered = np.sort(hashes)
        twice, seen = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist()), set[str]()
        for _, item in self.items() if twice else ():
            if hash(item.id) in twice and item.id in seen:
                raise UsageError(
                    f"{self.folder}: two items have the id {item.id}: the index is damaged; embed "
                    "the catalogue into another folder"
                )
            seen.update([item.id] if hash(item.id) in twice else [])

    def lookup(self, rows: Iterable[int]) -> dict[int, Item]:
        """The items of these rows, in one pass over the tables."""
        wanted = set(map(int, rows))
        return {row: item for row, item in self.items() if row in wanted}

    def where(self, conditions: Sequence[tuple[str, str]]) -> Bool[np.ndarray, " rows"]:
        """Rows whose attributes have all these values, given as (name, value).

        Values that differ only in Unicode's form (an accent as a sign of its own) are equal.
        Raises ``UsageError`` for a name or value that no item has, and lists those that exist.
        """
        names = sorted({name for segment in self.segments for name in segment.attributes})
        for name, value in conditions:
            if name not in names:
                known = ", ".join(names) or "none"
                raise UsageError(f"no attribute {name} (of {name}={value}); choose from: {known}")
        wanted = [_composed(value) for _, value in conditions]
        found = np.zeros(len(self.kept), bool)
        values: list[set[str]] = [set() for _ in conditions]
        for row, item in self.items():
            own = [_composed(item.attributes.get(name, "")) for name, _ in conditions]
            for known, value in zip(values, own, strict=True):
                known.add(value)
            found[row] = own == wanted
        for (name, value), known in zip(conditions, values, strict=True):
            if _composed(value) not in known:
                shown = listed(known - {""})
                raise UsageError(f"no item has {name}={value}; choose from: {shown}")
        return found

    def remove(self, ids: Sequence[str]) -> "Index":
        """Remove these items: only the manifest is written, the embeddings stay in their files.

        Raises ``UsageError``, and removes nothing, for an unknown id and for a full disk.
        """
        wanted = set(ids)
        with writing(self.folder):
            now = Index.open(self.folder)
            rows = {one.id: one.row for one in now.places() if one.kept and one.id in wanted}
            unknown = wanted - rows.keys()
            if unknown:
                raise UsageError(
                    f"{self.folder} has no item {listed(unknown)}; nothing was removed"
                )
            return now.with_segments(now.thinned(rows.values()))

    def thinned(self, rows: Iterable[int]) -> tuple[Segment, ...]:
        """The segments with these rows marked as removed, too; nothing is written."""
        gone, segments = np.asarray(sorted(rows), np.int64), []
        for base, segment in self.bases():
            inside = gone[(gone >= base) & (gone < base + len(segment))] - base
            removed = tuple(sorted({*segment.removed, *inside.tolist()}))
            segments.append(replace(segment, removed=removed))
        return tuple(segments)

    def with_segments(self, segments: Sequence[Segment]) -> "Index":
        """Write the index with these segments; the caller holds :func:`writing`."""
        index = replace(self, segments=tuple(segments))
        index._write()
        return index

    def bases(self) -> Iterator[tuple[int, Segment]]:
        """Each segment with the number of its first row."""
        base = 0
        for segment in self.segments:
            yield base, segment
            base += len(segment)

    def _write(self) -> None:
        notes = []
        for one in self.segments:
            fields: dict[str, Any] = {n: getattr(one, n) for n in SegmentNote.__struct_fields__}
            fields["folder"] = one.folder.name
            notes.append(SegmentNote(**fields))
        write_manifest(
            self.folder,
            Manifest(
                fingerprint=self.fingerprint,
                features=self.features,
                dtype=self.dtype,
                run=self.run,
                segments=tuple(notes),
            ),
        )


@contextmanager
def writing(folder: Path, *, mark: str = MANIFEST) -> Iterator[None]:
    """Lock an index while it is changed; a folder that holds ``mark`` is one.

    Raises ``UsageError`` if another process changes it, and for errors of the disk meanwhile.
    """
    try:
        if not (folder / mark).exists():
            _check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", wait=False):
            yield
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror or error}). The index is as it was, and "
            "what was embedded so far is safe: fix that and run the same command again"
        ) from None


def check_model(
    folder: Path, own: dict[str, str], fingerprint: dict[str, str], *, run: str
) -> None:
    """Raise ``UsageError`` unless embeddings of this fingerprint fit those in a folder."""
    if different := differing(own, fingerprint):
        raise UsageError(
            f"{folder} was embedded by another model or preprocessing: {'; '.join(different)}. Use "
            f"the run that made it ({run or 'not known'}), or embed the catalogue into a new folder"
        )


def listed(names: Iterable[str]) -> str:
    """The first names in order, for a message."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _check_free(folder: Path) -> None:
    # A process stopped in its first write leaves a lock and an unfinished manifest behind.
    begun = {"lock", MANIFEST + ".tmp"}
    if folder.is_dir() and not {path.name for path in folder.iterdir()} - begun:
        return
    if folder.exists():
        raise UsageError(
            f"{folder} exists and is not an index (it has no {MANIFEST}); give a new folder"
        )
