"""Embed a catalogue into an index, chunk by chunk; report the images that cannot be read."""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from siamjax.data.catalogue import Catalogue, Parts
from siamjax.data.images import Files, ImageSet
from siamjax.data.names import on_disk
from siamjax.errors import UsageError
from siamjax.inference.embedder import Embedder, check_finite
from siamjax.processes import count, exchange, on_first
from siamjax.progress import Progress
from siamjax.search.failed import write_failed
from siamjax.search.freshness import compare, sum_of
from siamjax.search.index import Index, listed, writing
from siamjax.search.index_making import Making
from siamjax.search.index_manifest import Dtype
from siamjax.search.index_segment import Item
from siamjax.search.lance_table import LanceMaking, LanceTable
from siamjax.search.stamps import Stamp, stamp_of

_KINDS: dict[str, tuple[Any, Any]] = {".lance": (LanceTable, LanceMaking)}  # by suffix
_PART = 8192  # rows of a catalogue in memory at a time, or a chunk


class Embedded(NamedTuple):
    """What :func:`embed_catalogue` did.

    Attributes:
        index: the new index or table.
        added: number of items added.
        present: number of items of the catalogue that were in the index before and still are.
        removed: number of items removed from it.
        failed: by id, why an image could not be read; these are not in the index.
        changed: ids of items embedded again, as their images have changed or moved.
        gone: ids of items that the index still has, and the catalogue or its files have not.
    """

    index: Index | LanceTable
    added: int
    present: int
    removed: int
    failed: dict[str, str]
    changed: list[str]
    gone: list[str]


def embed_catalogue(
    catalogue: Parts,
    embedder: Embedder,
    folder: Path,
    *,
    source: str,
    run: str = "",
    dtype: Dtype | None = None,
    without: Collection[str] = (),
    remove_gone: bool = False,
    on_error: Literal["report", "stop"] = "report",
    chunk: int = 512,
    progress: bool = True,
) -> Embedded:
    """Bring an index up to date with a catalogue; a call that was killed is resumed.

    Items that the index lacks are added, and those whose images have changed are embedded again.
    The other items keep their images and attributes. The index stays as it was until all is
    embedded; then items are added and removed at once.

    Args:
        catalogue: images with unique ids; one that :func:`stream_catalogue` opened need not fit
            into memory.
        embedder: the model of the index.
        folder: folder of the index, made if it does not exist; NAME.lance is a LanceDB table
            (:mod:`siamjax.search.lance_table`), into which rows come chunk by chunk.
        source: what the catalogue was opened from; stored with the items.
        run: folder of the model's run; stored with a new index.
        dtype: type of the embeddings of a new index; None: float32, or that of the index.
        without: ids to remove from the index and to leave out of the catalogue.
        remove_gone: remove the items of ``source`` that the catalogue no longer has, or whose
            files are gone; otherwise the result names them.
        on_error: ``report`` embeds the images that can be read and names the others in the
            result and in ``failed.csv``; ``stop`` raises ``UsageError`` at the first of these.
        chunk: images between two writes to the disk.
        progress: show a bar.

    With several processes each reads and embeds its part of every batch, and process 0 writes.
    One part of the catalogue is in memory, and what :func:`siamjax.search.freshness.compare` says.

    Raises ``UsageError`` for duplicate ids, an id that another catalogue's image has in the index,
    an id in ``without`` that is nowhere, an index of another model, embeddings that are not finite
    or do not fit float16, a full disk (what was done is safe), and a catalogue that changes
    meanwhile or is another one for another process.
    """
    if min(chunk, embedder.batch_size) < 1:
        raise UsageError(f"batch size {embedder.batch_size}, chunk {chunk}: each must be 1 or more")
    if isinstance(catalogue, Catalogue):
        _check_unique(catalogue.images.keys, source)
    size, out = max(chunk, _PART), set(without)
    kind, maker = _KINDS.get(folder.suffix, (Index, Making))
    for others in exchange(len(catalogue)):
        _check_same(others, len(catalogue), source)
    failed: dict[str, tuple[str, str]] = {}
    with contextlib.ExitStack() as stack:
        first: list[Any] = []  # what process 0 alone has

        def begin() -> tuple[int, int]:
            stack.enter_context(writing(folder, mark=kind.MARK))
            new = not (folder / kind.MARK).exists()
            about = {
                "fingerprint": embedder.fingerprint,
                "features": embedder.features,
                "dtype": dtype or "float32",
                "run": str(Path(run).absolute()) if run else "",
            }
            index = kind(folder=folder, **about) if new else _opened(kind, folder, embedder, dtype)
            making = maker(index, catalogue=source, attributes=tuple(catalogue.attributes))
            known = compare(
                tuple if new else index.places,
                making.written(),
                catalogue,
                where=folder,
                source=source,
                size=size,
                without=out,
            )
            _check_known(folder, known.unknown)
            if new:
                kind.create(folder, **about)
            parts = ((crc, np.flatnonzero(wanted).tolist()) for crc, wanted in known.wanted)
            first[:] = [making, known, parts]
            return sum(int(wanted.sum()) for _, wanted in known.wanted), known.held

        left, done = on_first(begin)
        with Progress(
            "embedding", unit="images", total=left + done, done=done, shown=progress
        ) as bar:
            for part in catalogue.parts(size) if left else ():
                seen, places = on_first(lambda: next(first[2], (-1, [])))
                _check_same(seen, sum_of(part.images.keys), source)
                watched = _Watched(
                    **{one.name: getattr(part.images, one.name) for one in fields(ImageSet)},
                    lenient=on_error == "report",
                )
                for now, rows in _chunks(watched, places, embedder, chunk):
                    items = [_item(part, p, source, watched.stamps.pop(p)) for p in now]

                    def append(items: list[Item] = items, rows: np.ndarray = rows) -> None:
                        making, known, _ = first
                        replaced = [one.id for one in items if one.id in known.changed]
                        making.append(items, rows, replaced=replaced)

                    on_first(append)
                    bar.update(len(now))
                for place, why in sorted(watched.failed.items()):
                    item = _item(part, place, source)
                    failed[item.id] = item.image, why

        def end() -> dict[str, Any]:
            making, known, parts = first
            if left:
                _check_same(next(parts, None), None, source)
            changed = [key for key in known.changed if key not in failed]
            removed = known.out | known.changed | (known.gone if remove_gone else {})
            first[:] = [making.commit(known.dropped, removed, replaced=changed)]
            write_failed(folder, failed, source=source)
            return {
                "added": done + left - len(failed) - len(changed),
                "present": known.present,
                "removed": len(removed) - len(known.changed),
                "failed": {key: why for key, (_, why) in failed.items()},
                "changed": changed,
                "gone": [] if remove_gone else sorted(known.gone),
            }

        found = on_first(end)
    return Embedded(index=first[0] if first else kind.open(folder), **found)


def _check_unique(keys: Sequence[str], source: str) -> None:
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        raise UsageError(f"{source}: the id {twice} is there twice; give every image its own id")


def _check_same(seen: object, now: object, source: str) -> None:
    if seen != now:
        raise UsageError(
            f"{source}: its images are not those that were there at the start, or that process 0 "
            "sees; change nothing in it meanwhile, and run the same command again"
        )


def _check_known(folder: Path, unknown: Collection[str]) -> None:
    if unknown:
        raise UsageError(
            f"{listed(unknown)}: to be removed, but neither in {folder} nor in the catalogue; "
            "nothing was changed"
        )


def _opened(kind: Any, folder: Path, embedder: Embedder, dtype: Dtype | None) -> Any:
    index = kind.open(folder)
    index.check(embedder.fingerprint)
    if dtype not in (None, index.dtype):
        raise UsageError(
            f"{folder} stores {index.dtype}, not {dtype}; omit --dtype, or give a new folder"
        )
    return index


@dataclass(frozen=True, kw_only=True, eq=False)
class _Watched(ImageSet):
    """Notes what each image is when it is read.

    ``lenient`` gives a black image for one that cannot be read, and notes why.
    """

    lenient: bool
    stamps: dict[int, Stamp] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def image(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        try:
            # Before the image is read: a file that changes meanwhile is seen as changed later.
            self.stamps[index] = stamp_of(self.source, index)
            return super().image(index)
        except UsageError as error:
            if not self.lenient:
                raise
            self.failed[index] = str(error)
            return np.zeros((1, 1, 3), np.uint8)

    def share(self, places: list[int]) -> None:
        """Tell the other processes what these images are, and hear from them."""
        if count() == 1:
            return
        notes: list[dict[int, Any]] = [self.stamps, self.failed]
        mine = [[(place, one[place]) for place in places if place in one] for one in notes]
        for stamps, failed in exchange(mine):
            self.stamps.update((place, Stamp(*stamp)) for place, stamp in stamps)
            self.failed.update(failed)


def _chunks(
    images: _Watched, left: list[int], embedder: Embedder, chunk: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Places and embeddings of readable images, at least ``chunk`` at a time (fewer at the end)."""
    places: list[int] = []
    kept: list[np.ndarray] = []
    seen = 0
    for rows in embedder.batches(images, np.asarray(left, np.int64)) if left else ():
        now = left[seen : seen + len(rows)]
        seen += len(rows)
        images.share(now)
        good = [number for number, place in enumerate(now) if place not in images.failed]
        check_finite(rows[good], images, np.array(now)[good])
        places += [now[number] for number in good]
        kept.append(rows[good])
        if places and (len(places) >= chunk or seen == len(left)):
            yield places, np.concatenate(kept)
            places, kept = [], []


def _item(catalogue: Catalogue, place: int, source: str, stamp: Stamp | None = None) -> Item:
    images = catalogue.images
    files = images.source
    image = str(on_disk(files.paths[place]).absolute()) if isinstance(files, Files) else ""
    attributes = {name: str(column[place]) for name, column in catalogue.attributes.items()}
    item = str(images.identities[place])
    return Item(images.keys[place], item, image, source, attributes, stamp)
