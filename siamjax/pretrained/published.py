"""The download of published weights: complete and verified, or not at all."""

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

from siamjax.errors import UsageError, shown
from siamjax.files import locked, open_regular, saying
from siamjax.options import Preprocessing
from siamjax.pretrained.addresses import PUBLISHED, Published
from siamjax.pretrained.reading import in_folder, read_weights
from siamjax.pretrained.weights import Weights
from siamjax.progress import Progress
from siamjax.surroundings import cache_folder, folder_of

_BLOCK = 1 << 20
_LARGEST = 2**32  # bytes; SigLIP with its text encoder has 813 million


def weights_folder() -> Path:
    """``$SIAMJAX_WEIGHTS``, or ``siamjax/weights`` in the user's cache folder."""
    if os.environ.get("SIAMJAX_WEIGHTS"):
        return folder_of("SIAMJAX_WEIGHTS", default="")
    return cache_folder() / "weights"


def place_of(name: str) -> Path:
    """Where the file of a name in :data:`PUBLISHED` is kept."""
    one = PUBLISHED[name]
    # With others beside it, it has a name that files of many networks have.
    return weights_folder() / (name if one.beside else "") / one.file


def published_as(which: Path) -> Published | None:
    """Which of :data:`PUBLISHED` weights are, by their name or the place where they are kept."""
    if str(which) in PUBLISHED:
        return PUBLISHED[str(which)]
    with contextlib.suppress(UsageError):  # a home that is not known: nothing is kept
        for name, one in PUBLISHED.items():
            if os.path.abspath(which) == os.path.abspath(place_of(name)):
                return one
    return None


def is_published(which: str) -> bool:
    """Whether that is a file of weights, a folder of one, or a name in :data:`PUBLISHED`."""
    if os.path.isdir(which):
        return not os.path.exists(Path(which) / "manifest.json") and in_folder(which) is not None
    return os.path.lexists(which) or which in PUBLISHED


def open_weights(
    which: Path | str,
    *,
    architecture: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Weights:
    """Weights from a file, or by a name in :data:`PUBLISHED`, downloaded at the first use.

    Raises ``UsageError`` as :func:`siamjax.pretrained.read_weights` and :func:`fetch` do, for what
    is neither, for another ``architecture``, and for another ``preprocessing`` than the published
    one.
    """
    name = str(which)
    if name in PUBLISHED and not os.path.exists(which):
        stated = PUBLISHED[name].preprocessing
        if preprocessing not in (None, stated):
            raise UsageError(
                f"the images of {name} are preprocessed by {stated!r}, not {preprocessing!r}; "
                "leave the option out"
            )
        weights = read_weights(fetch(name), preprocessing=stated)
    else:
        if not os.path.lexists(which):
            raise UsageError(
                f"{shown(which)}: no such file, nor a name that python -m siamjax weights list "
                "shows; check it"
            )
        weights = read_weights(which, preprocessing=preprocessing)
    if architecture not in (None, weights.architecture):
        raise UsageError(f"{shown(which)} holds {weights.architecture}, expected {architecture}")
    return weights


def fetch(name: str) -> Path:
    """The file of a name in :data:`PUBLISHED`, downloaded to :func:`weights_folder` if missing.

    Its digest is checked in every call. After a broken connection the part that came stays in
    NAME.part, and the next call continues it, unless the publisher's file is another by then (by
    the ETag or date in NAME.part.version; without them it begins anew). Under its own name the file
    is always complete.
    Raises ``UsageError`` for an unknown name, if the file cannot be downloaded (with its address,
    and where to put it), and for a file with another digest.
    """
    if name not in PUBLISHED:
        known = ", ".join(PUBLISHED)
        raise UsageError(f"no published weights {shown(name)!r}; choose one of {known}")
    wanted, folder = PUBLISHED[name], place_of(name).parent
    for place in wanted.beside:
        address = f"{wanted.address.rpartition('/')[0]}/{place}"
        _fetched(replace(wanted, address=address, digest=""), folder)
    return _fetched(wanted, folder)


def _fetched(wanted: Published, folder: Path) -> Path:
    path = folder / wanted.file
    part = path.with_name(path.name + ".part")
    with saying(
        f"{shown(folder)}: {wanted.file} cannot be kept there",
        remedy="set SIAMJAX_WEIGHTS to a folder that you may write, on a disk with space",
    ):
        if not path.exists():  # a cache may be on a disk that is only read
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock"):
                if not path.exists():  # another process may have fetched it meanwhile
                    _download(wanted, part)
                    os.replace(part, path)
                    _version(part).unlink(missing_ok=True)
    _check(path, wanted, "remove it, so that it is downloaded again")
    return path


def _check(path: Path, wanted: Published, remedy: str) -> None:
    if not wanted.digest:
        return
    algorithm, _, digits = wanted.digest.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if not digest.hexdigest().startswith(digits):
        found = f"{algorithm} {digest.hexdigest()}"
        raise UsageError(
            f"{shown(path)} has {found}, but the publisher states {digits} for {wanted.address}; "
            f"{remedy}"
        )


def _download(wanted: Published, part: Path) -> None:
    """Make ``part`` the whole file; ``UsageError`` if that fails, ``OSError`` of the own disk."""
    try:
        _receive(wanted.address, part)
    except (urllib.error.HTTPError, http.client.HTTPException, _Stopped, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"{wanted.file} could not be downloaded from {wanted.address} ({reason}); run the same "
            "command to continue the download, or get the file by other means and put it into "
            f"{part.parent} ({wanted.digest or 'no digest is stated'})"
        ) from None
    try:
        _check(part, wanted, "it was removed; try again, or get it by other means")
    except UsageError:
        part.unlink()
        _version(part).unlink(missing_ok=True)
        raise


def _version(part: Path) -> Path:
    """The file that says of which version ``part`` is, in the server's words."""
    return part.with_name(f"{part.name}.version")


class _Stopped(Exception):
    """The connection ended, or stalled, before the end of the file."""


def _receive(address: str, part: Path) -> None:
    """Append what is missing to ``part``."""
    version = _version(part)
    had = part.stat().st_size if part.exists() and version.exists() else 0
    headers = {"Range": f"bytes={had}-", "If-Range": version.read_text("utf-8")} if had else {}
    request = urllib.request.Request(address, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the range is empty: all of it is there
            return
        raise
    except OSError as error:  # no network, an unknown name, no answer in time
        cause = getattr(error, "reason", error)
        raise _Stopped(getattr(cause, "strerror", None) or str(cause)) from None
    with response:
        if had and response.status != 206:  # cannot continue, or another version: the whole file
            had = 0
        left = response.headers.get("Content-Length")
        total = None if left is None else had + int(left)
        bar = Progress(part.name, unit="bytes", total=total, done=had)
        with part.open("ab" if had else "wb") as file, bar:
            if not had:  # after the old part has gone
                _keep_version(response.headers, version)
            while block := _block(response):
                if file.tell() > _LARGEST:
                    raise _Stopped(f"more than {_LARGEST:,} bytes came")
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and part.stat().st_size != total:
        raise _Stopped(f"{part.stat().st_size:,} of {total:,} bytes came")


def _keep_version(headers: http.client.HTTPMessage, version: Path) -> None:
    """What ``If-Range`` takes (RFC 9110, 13.1.5): an ETag that is not weak, else a date."""
    tag = headers.get("ETag", "")
    words = tag if tag.startswith('"') else headers.get("Last-Modified")
    if words is None:
        version.unlink(missing_ok=True)
    else:
        version.write_text(words, "utf-8")


def _block(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_BLOCK)
    except OSError as error:  # of the network, not of the disk that the file is written to
        raise _Stopped(error.strerror or str(error)) from None
