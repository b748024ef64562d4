"""Embed a catalogue into an index, chunk by chunk; report the images that cannot be read."""

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from siamjax.data.catalogue import Catalogue
from siamjax.data.images import Files, ImageSet
from siamjax.errors import UsageError
from siamjax.files import write_text
from siamjax.inference.embedder import Embedder, check_finite
from siamjax.search.index import MANIFEST, Index, listed, writing
from siamjax.search.index_making import Making
from siamjax.search.index_segment import Dtype, Item

FAILED = "failed.csv"


class Embedded(NamedTuple):
    """What :func:`embed_catalogue` did.

    Attributes:
        index: the new index.
        added: number of items added.
        present: number of items of the catalogue that were in the index before and still are.
        removed: number of items removed from it.
        failed: by id, why an image could not be read; these are not in the index.
    """

    index: Index
    added: int
    present: int
    removed: int
    failed: dict[str, str]


def embed_catalogue(
    catalogue: Catalogue,
    embedder: Embedder,
    folder: Path,
    *,
    source: str,
    run: str = "",
    dtype: Dtype | None = None,
    without: Collection[str] = (),
    on_error: Literal["report", "stop"] = "report",
    chunk: int = 512,
    progress: bool = True,
) -> Embedded:
    """Add the items of a catalogue that the index lacks; a call that was killed is resumed.

    The index stays as it was until all is embedded; then items are added and removed at once.
    Items that are in it keep their images and attributes: to embed an item again, remove it first.

    Args:
        catalogue: images with unique ids.
        embedder: the model of the index.
        folder: folder of the index, made if it does not exist.
        source: what the catalogue was opened from; stored with the items.
        run: folder of the model's run; stored with a new index.
        dtype: type of the embeddings of a new index; None: float32, or that of the index.
        without: ids to remove from the index and to leave out of the catalogue.
        on_error: ``report`` embeds the images that can be read and names the others in the
            result and in ``failed.csv``; ``stop`` raises ``UsageError`` at the first of these.
        chunk: images between two writes to the disk.
        progress: show a bar.

    Raises ``UsageError`` for duplicate ids, an id in ``without`` that is nowhere, an index of
    another model, embeddings that are not finite or do not fit float16, a full disk (what was
    done is safe), and several hosts.
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
        before, gone, unknown = _told_apart(index, out, images.keys)
        known = before | out
        wanted = {key: place for place, key in enumerate(images.keys) if key not in known}
        index = replace(index, segments=index.thinned(gone))
        failed, added = {}, 0
        if wanted or unknown:  # these may be in an unfinished segment
            making = Making(index, catalogue=source, attributes=tuple(catalogue.attributes))
            held = set(making.ids())
            _check_known(folder, unknown - held)
            left = np.asarray([p for key, p in wanted.items() if key not in held], np.int64)
            if on_error == "report":
                images = _Lenient(
                    **{one.name: getattr(images, one.name) for one in fields(ImageSet)}
                )
            done = len(wanted) - len(left)
            with tqdm(total=len(wanted), initial=done, unit="image", disable=not progress) as bar:
                for places, rows in _chunks(images, left, embedder, chunk):
                    making.append([_item(catalogue, p, source) for p in places], rows)
                    bar.update(len(places))
            if isinstance(images, _Lenient):
                failed = {images.keys[place]: why for place, why in sorted(images.failed.items())}
            index, added = making.commit(wanted)
        elif gone:
            index = index.with_segments(index.segments)
        _write_failed(folder, catalogue, failed, source)
    present = sum(key in before for key in images.keys)
    return Embedded(index, added, present, len(gone), failed)


def _told_apart(
    index: Index, out: Collection[str], keys: Collection[str]
) -> tuple[set[str], list[int], set[str]]:
    """Ids that stay in the index, rows to remove, and ids to remove that are nowhere."""
    before, gone, unknown = set(), [], set(out).difference(keys)
    for key, row, kept in index.ids():
        unknown.discard(key)  # an id that an earlier call removed is no mistake
        if kept and key in out:
            gone.append(row)
        elif kept:
            before.add(key)
    return before, gone, unknown


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
            run=run,
        )
    index = Index.open(folder)
    index.check(embedder.fingerprint)
    if dtype not in (None, index.dtype):
        raise UsageError(
            f"{folder} stores {index.dtype}, not {dtype}; omit --dtype, or give a new folder"
        )
    return index


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lenient(ImageSet):
    """Gives a black image for one that cannot be read, and remembers why."""

    failed: dict[int, str] = field(default_factory=dict)

    def image(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        try:
            return super().image(index)
        except UsageError as error:
            self.failed[index] = str(error)
            return np.zeros((1, 1, 3), np.uint8)


def _chunks(
    images: ImageSet, left: np.ndarray, embedder: Embedder, chunk: int
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Places and embeddings of readable images, at least ``chunk`` at a time (fewer at the end)."""
    places: list[int] = []
    kept: list[np.ndarray] = []
    seen = 0
    for rows in embedder.batches(images, left) if len(left) else ():
        now = left[seen : seen + len(rows)].tolist()
        seen += len(rows)
        broken = images.failed if isinstance(images, _Lenient) else {}
        good = [number for number, place in enumerate(now) if place not in broken]
        check_finite(rows[good], images, np.array(now)[good])
        places += [now[number] for number in good]
        kept.append(rows[good])
        if places and (len(places) >= chunk or seen == len(left)):
            yield places, np.concatenate(kept)
            places, kept = [], []


def _item(catalogue: Catalogue, place: int, source: str) -> Item:
    images = catalogue.images
    files = images.source
    image = str(files.paths[place].absolute()) if isinstance(files, Files) else ""
    attributes = {name: str(column[place]) for name, column in catalogue.attributes.items()}
    return Item(images.keys[place], str(images.identities[place]), image, source, attributes)


def _write_failed(folder: Path, catalogue: Catalogue, failed: dict[str, str], source: str) -> None:
    """Replace this catalogue's lines in ``failed.csv``; those of other catalogues stay."""
    path = folder / FAILED
    lines = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in list(csv.reader(file))[1:] if line[3:] != [source]]
    places = {key: place for place, key in enumerate(catalogue.images.keys)}
    for key, why in failed.items():
        lines.append([key, _item(catalogue, places[key], source).image, why, source])
    if not lines:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["id", "picture", "why", "catalogue"], *lines])
    write_text(path, text.getvalue())
