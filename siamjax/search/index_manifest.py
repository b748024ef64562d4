"""The manifest of an index, read as what may be anything."""

import itertools
import json
import os
import shlex
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from siamjax.errors import UsageError, shown
from siamjax.files import Natural, decode_json, dump_json, read_bytes, write_text

MANIFEST = "manifest.json"
_FORMAT, _VERSION = "siamjax catalogue index", 1
_LIMIT = 64 * 2**20  # bytes: five million removed rows

Dtype = Literal["float32", "float16"]
Crc = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
Features = Annotated[int, msgspec.Meta(ge=1, le=2**31)]


class ModelNote(msgspec.Struct, kw_only=True):
    """What embeddings are of; see ``siamjax.search.index.Index``."""

    fingerprint: dict[str, str]
    features: Features
    dtype: Dtype
    run: str


class SegmentNote(msgspec.Struct, kw_only=True):
    """A segment in the manifest; see ``siamjax.search.index_segment.Segment``."""

    folder: Annotated[str, msgspec.Meta(pattern=r"^segment-[0-9]{4,9}\Z")]
    count: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    catalogue: str
    attributes: tuple[str, ...]
    bytes: dict[str, Natural]
    removed: tuple[Natural, ...]
    items_crc: Crc | None = None


class Manifest(ModelNote, kw_only=True):
    """What the manifest holds beside format and version.

    ``crc`` is its own checksum; None: written by an earlier version of siamjax.
    """

    segments: tuple[SegmentNote, ...]
    crc: Crc | None = None

    def checksum(self) -> int:
        """CRC-32 of all fields but ``crc``."""
        fields = msgspec.to_builtins(self)
        del fields["crc"]
        return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


class _About(msgspec.Struct):
    format: Literal["siamjax catalogue index"]
    version: int


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder; its counts have not been compared with the files yet.

    Raises ``UsageError`` with the path if there is none, for one of another version, and for a key
    that is missing or has another type or range.
    """
    path = folder / MANIFEST
    if os.path.isdir(folder / "checkpoints"):
        raise UsageError(
            f"{shown(folder)} is a run and not an index; make one by: python -m siamjax embed "
            f"CATALOGUE --run {shlex.quote(shown(folder))} --out INDEX"
        )
    if is_missing(path):
        raise UsageError(
            f"{shown(folder)} is not an index (it has no {MANIFEST}); make one by: python -m "
            f"siamjax embed CATALOGUE --run RUN --out {shlex.quote(shown(folder))}"
        )
    content = read_bytes(path, limit=_LIMIT)
    try:
        where = f"{shown(path)}: not the manifest of an index"
        version = decode_json(content, _About, where=where).version
        if version == _VERSION:
            manifest = decode_json(content, Manifest, where=where)
            if problem := _problem(manifest):
                raise UsageError(f"{where}: {problem}")
            return manifest
    except UsageError as error:
        raise UsageError(f"{error}; restore it, or embed the catalogue into a new folder") from None
    raise UsageError(
        f"{shown(folder)} is an index of version {version}, this siamjax reads version "
        f"{_VERSION}: embed the catalogue into a new folder"
    )


def is_missing(path: Path) -> bool:
    """Whether there is no such file; one that cannot be looked at is left to who opens it."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest, at once or not at all; ``UsageError`` if it would be too large."""
    content: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
    fields = msgspec.to_builtins(manifest) | {"crc": manifest.checksum()}
    text = dump_json(content | fields, indent=2) + "\n"
    if len(text) > _LIMIT:
        raise UsageError(
            f"{shown(folder)}: its manifest would have {len(text):,} bytes, as so many rows are "
            "removed; embed what is left into a new folder"
        )
    write_text(folder / MANIFEST, text)


def _problem(manifest: Manifest) -> str | None:
    """What types do not say."""
    folders = [one.folder for one in manifest.segments]
    if len(set(folders)) < len(folders):
        return "it names a segment twice"
    for one in manifest.segments:
        removed, names = one.removed, one.attributes
        if any(later <= row for row, later in itertools.pairwise(removed)):
            return f"the removed rows of {one.folder} are not in ascending order"
        if removed and removed[-1] >= one.count:
            return f"{one.folder} has {one.count} rows, and row {removed[-1]} is removed"
        if len(set(names)) < len(names):
            return f"{one.folder} has two attributes of one name"
    if manifest.crc not in (None, manifest.checksum()):
        return "it is not as it was written"
    return None
