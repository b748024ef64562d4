"""Approximate nearest neighbours in an index, by FAISS (``pip install faiss-cpu``).

FAISS keeps one byte for each number of an embedding (``IVF,SQ8``). Rows are sorted into lists, each
row into that of the nearest centre; a query looks only into the lists of the centres nearest to it.
What it finds is compared again with the index's own embeddings: distances are exact, but some of
the nearest items may be missed.
"""

import hashlib
import importlib
import shutil
import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from siamjax import messages
from siamjax.errors import UsageError, shown
from siamjax.exact_distances import Metric, distances_to, row_squares, unit_rows
from siamjax.files import locked
from siamjax.search.approximate_files import empty_lists, read_lists, write_lists
from siamjax.search.gallery import check_undamaged, checked_gallery, checked_queries
from siamjax.search.index import Index
from siamjax.search.nearest import Nearest

_BLOCK = 8192  # rows given to FAISS at a time
_EACH = 50  # sampled rows a centre
_WIDER = 4  # FAISS finds so many times ``top`` rows, to be compared again


def approximate(
    queries: Float[np.ndarray, "queries features"],
    index: Index,
    *,
    top: int = 10,
    metric: Metric = "squared_euclidean",
    where: Bool[np.ndarray, " rows"] | None = None,
    probes: int = 32,
) -> Nearest:
    """The ``top`` rows nearest to each query, some of which may be missed; faster than ``nearest``.

    The first call writes FAISS's lists into the index's folder ``approximate``, and so does the
    first after segments were added; another search that needs them waits. They are read into
    memory: one byte for each number of an embedding. Where they cannot be written, a line says so
    and each call makes them.

    Args:
        queries: finite embeddings.
        index: the index to search.
        top: how many; where fewer are found, the last rows are -1 at distance infinity.
        metric: a cosine distance is 1 if either vector is zero.
        where: True = this row may be found; None: all rows.
        probes: lists that a query looks into; more find more and take longer.

    Raises ``UsageError`` as :func:`siamjax.search.nearest.nearest` does (damage is seen in the rows
    compared again, and when FAISS's lists are made), and if FAISS is not installed.
    """
    if min(top, probes) < 1:
        raise UsageError(f"top {top}, probes {probes}: each must be 1 or more")
    parts, allowed = checked_gallery(index, where)
    queries = checked_queries(queries, parts)
    faiss = _faiss()
    top = min(top, int(allowed.sum()))
    rows = np.full((len(queries), top), -1, np.int64)
    distances = np.full((len(queries), top), np.inf)
    if not top:
        return Nearest(rows, distances)
    searched = _open(faiss, index, metric)
    bits = np.packbits(allowed, bitorder="little")
    options = faiss.SearchParametersIVF(
        sel=faiss.IDSelectorBitmap(bits), nprobe=min(probes, searched.nlist)
    )
    wide = min(_WIDER * top, int(allowed.sum()))
    _, found = searched.search(_prepared(queries, metric), wide, params=options)
    for query, candidates in enumerate(found):
        candidates = np.unique(candidates[candidates >= 0])
        distance, _ = distances_to(queries[query], _gather(index, candidates), metric=metric)
        order = np.argsort(distance, kind="stable")[:top]
        rows[query, : len(order)] = candidates[order]
        distances[query, : len(order)] = distance[order]
    return Nearest(rows, distances)


def recall(found: Nearest, exact: Nearest) -> float:
    """The share of the exact nearest rows that were found, in [0, 1]."""
    hits = [len(np.intersect1d(*pair)) for pair in zip(found.rows, exact.rows, strict=True)]
    return sum(hits) / max(1, exact.rows.size)


def _faiss() -> Any:
    try:
        with warnings.catch_warnings():  # about FAISS's SWIG types
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module("faiss")
    except ImportError:
        raise UsageError(
            "approximate search needs FAISS: pip install faiss-cpu, or search without --approximate"
        ) from None


def _prepared(rows: np.ndarray, metric: Metric) -> np.ndarray:
    """Contiguous float32; for the cosine of length 1, where the Euclidean order is the same."""
    return np.ascontiguousarray(unit_rows(rows) if metric == "cosine" else rows, np.float32)


def _gather(index: Index, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n features"]:
    """Embeddings of these rows, given in ascending order; ``UsageError`` if they are damaged."""
    gathered = np.empty((len(rows), index.features), index.dtype)
    for base, segment in index.bases():
        inside = np.flatnonzero((rows >= base) & (rows < base + len(segment)))
        if len(inside):
            places = rows[inside] - base
            gathered[inside] = now = segment.take(places)
            first, stop = int(places[0]), int(places[-1]) + 1
            written = segment.squares(first, stop)[places - first]
            check_undamaged(segment.name, places, row_squares(now), written)
    return gathered


def _open(faiss: Any, index: Index, metric: Metric) -> Any:
    """FAISS's index of all rows, removed ones too, from its files if they have these segments."""
    about = [metric, index.dtype, *(f"{k} {v}" for k, v in sorted(index.fingerprint.items()))]
    about += [f"{one.folder.name} {len(one)} {one.items_crc}" for one in index.segments]
    content = "\0".join(about).encode(errors="surrogatepass")
    folder = index.folder / "approximate"
    path = folder / f"{metric}-{hashlib.sha256(content).hexdigest()[:16]}"
    shape = {"rows": len(index.kept), "features": index.features}
    if path.exists():
        return read_lists(path, faiss, **shape)
    made = None
    try:
        folder.mkdir(exist_ok=True)
        with locked(folder / "lock"):
            if path.exists():  # another search made it while this one waited
                return read_lists(path, faiss, **shape)
            made = _make(faiss, index, metric)
            write_lists(path, made, faiss)
            for other in set(folder.glob(f"{metric}-*")) - {path}:
                if other.is_dir():
                    shutil.rmtree(other, ignore_errors=True)
                else:  # FAISS's own file, of an earlier version
                    other.unlink(missing_ok=True)
    except OSError as error:
        messages.note(
            f"note: {shown(path)} cannot be written ({error.strerror or error}): FAISS's lists are "
            "made again at the next approximate search"
        )
        made = made or _make(faiss, index, metric)
    return made


def _make(faiss: Any, index: Index, metric: Metric) -> Any:
    count = len(index.kept)
    centres = max(1, min(int(np.sqrt(count)), count // 39))
    made = empty_lists(faiss, index.features, centres)
    sample = np.random.default_rng(0).choice(count, min(count, _EACH * centres), replace=False)
    made.train(_prepared(_gather(index, np.sort(sample)), metric))
    for segment in index.segments:
        for start in range(0, len(segment), _BLOCK):
            rows = segment.rows(start, start + _BLOCK)
            places, written = start + np.arange(len(rows)), segment.squares(start, start + _BLOCK)
            check_undamaged(segment.name, places, row_squares(rows), written)
            made.add(_prepared(rows, metric))
    return made
