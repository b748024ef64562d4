"""Embed a catalogue into an index, chunk by chunk; report the images that cannot be read."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from siamjax.data.catalogue import Catalogue
from siamjax.data.images import Files, ImageSet
from siamjax.data.names import on_disk
from siamjax.errors import UsageError
from siamjax.inference.embedder import Embedder, check_finite
from siamjax.progress import Progress
from siamjax.search.failed import write_failed
from siamjax.search.freshness import compare
from siamjax.search.index import Index, listed, writing
from siamjax.search.index_making import Making
from siamjax.search.index_manifest import MANIFEST, Dtype
from siamjax.search.index_segment import Item
from siamjax.search.stamps import Stamp, as_stamped, stamp_of


class Embedded(NamedTuple):
    """What :func:`embed_catalogue` did.

    Attributes:
        index: the new index.
        added: number of items added.
        present: number of items of the catalogue that were in the index before and still are.
        removed: number of items removed from it.
        failed: by id, why an image could not be read; these are not in the index.
        changed: ids of items embedded again, as their images have changed or moved.
        gone: ids of items that the index still has, and the catalogue or its files have not.
    """

    index: Index
    added: int
    present: int
    removed: int
    failed: dict[str, str]
    changed: list[str]
    gone: list[str]


def embed_catalogue(
    catalogue: Catalogue,
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
        catalogue: images with unique ids.
        embedder: the model of the index.
        folder: folder of the index, made if it does not exist.
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

    Raises ``UsageError`` for duplicate ids, an id that another catalogue's image has in the index,
    an id in ``without`` that is nowhere, an index of another model, embeddings that are not finite
    or do not fit float16, a full disk (what was done is safe), and several hosts.
    """
    if jax.process_count() > 1:
        raise UsageError(
            "embedding on several hosts is not supported; use one host with several devices"
        )
    if min(chunk, embedder.batch_size) < 1:
        raise UsageError(f"batch size {embedder.batch_size}, chunk {chunk}: each must be 1 or more")
    images = catalogue.images
    twice = [key for key, count in Counter(images.keys).items() if count > 1]
    if twice:
        raise UsageError(f"{source}: the id {twice[0]} is there twice; give every image its own id")
    out = set(without)
    with writing(folder):
        index = _opened(folder, embedder, run, dtype, out - set(images.keys))
        known = compare(index, catalogue, source=source, without=out)
        stay = known.current | out | known.gone.keys()
        places = {key: place for place, key in enumerate(images.keys)}
        wanted = {key: place for key, place in places.items() if key not in stay}
        rows = [*known.out, *known.changed.values(), *(known.gone.values() if remove_gone else ())]
        index = replace(index, segments=index.thinned(rows))
        failed, added = {}, 0
        if wanted or known.unknown:  # these may be in an unfinished segment
            making = Making(index, catalogue=source, attributes=tuple(catalogue.attributes))
            held, again = _held(making, images, wanted)
            _check_known(folder, known.unknown - held)
            left = np.asarray([p for key, p in wanted.items() if key not in held], np.int64)
            watched = _Watched(
                **{one.name: getattr(images, one.name) for one in fields(ImageSet)},
                lenient=on_error == "report",
            )
            done = len(wanted) - len(left)
            with Progress(
                "embedding", unit="images", total=len(wanted), done=done, shown=progress
            ) as bar:
                for now, embedded in _chunks(watched, left, embedder, chunk):
                    items = [_item(catalogue, p, source, watched.stamps.pop(p)) for p in now]
                    making.append(items, embedded)
                    bar.update(len(now))
            failed = {images.keys[place]: why for place, why in sorted(watched.failed.items())}
            index, added = making.commit(wanted.keys() - failed.keys(), again=again)
        elif rows:
            index = index.with_segments(index.segments)
        write_failed(
            folder,
            {
                key: (_item(catalogue, places[key], source).image, why)
                for key, why in failed.items()
            },
            source=source,
        )
    changed = [key for key in known.changed if key not in failed]
    return Embedded(
        index=index,
        added=added - len(changed),
        present=sum(key in known.current for key in images.keys),
        removed=len(rows) - len(known.changed),
        failed=failed,
        changed=changed,
        gone=[] if remove_gone else sorted(known.gone),
    )


def _held(making: Making, images: ImageSet, wanted: Mapping[str, int]) -> tuple[set[str], set[str]]:
    """Ids that an unfinished segment has as they are now, and those whose images have changed."""
    held, again = set(), set()
    for key, stamp in making.written():
        place = wanted.get(key)
        if place is None or stamp is None or as_stamped(images.source, place, stamp) is not False:
            held.add(key)
            again.discard(key)
        else:
            held.discard(key)
            again.add(key)
    return held, again


def _check_known(folder: Path, unknown: Collection[str]) -> None:
    if unknown:
        raise UsageError(
            f"{listed(unknown)}: to be removed, but neither in {folder} nor in the catalogue; "
            "nothing was changed"
        )


def _opened(
    folder: Path, embedder: Embedder, run: str, dtype: Dtype | None, outside: Collection[str]
) -> Index:
    """The index, or a new one; ``outside`` are ids that a new one cannot have."""
    if not (folder / MANIFEST).exists():
        _check_known(folder, outside)
        return Index.create(
            folder,
            fingerprint=embedder.fingerprint,
            features=embedder.features,
            dtype=dtype or "float32",
            run=str(Path(run).absolute()) if run else "",
        )
    index = Index.open(folder)
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


def _chunks(
    images: _Watched, left: np.ndarray, embedder: Embedder, chunk: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Places and embeddings of readable images, at least ``chunk`` at a time (fewer at the end)."""
    places: list[int] = []
    kept: list[np.ndarray] = []
    seen = 0
    for rows in embedder.batches(images, left) if len(left) else ():
        now = left[seen : seen + len(rows)].tolist()
        seen += len(rows)
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
