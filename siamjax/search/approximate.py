"""Approximate nearest neighbours of an index, by FAISS (``pip install faiss-cpu``).

FAISS keeps a byte for each number of an embedding (``IVF,SQ8``): rows are sorted into lists by
their nearest of some centres, and a query looks into the lists of its nearest centres only. What
is found so is compared again with the index's own embeddings, so that distances are exact; only
which items are found is approximate.
"""

import fcntl
import hashlib
import importlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from siamjax.errors import UsageError
from siamjax.search.exact_distances import Metric, distances_to, row_squares
from siamjax.search.index import Index
from siamjax.search.nearest import Nearest, check_undamaged, checked_gallery, checked_queries

_BLOCK = 8192  # rows that are given to FAISS at a time
_EACH = 50  # rows of the sample that a centre is made of
_WIDER = 4  # times as many are found as are returned, to be compared again


def approximate(
    queries: Float[np.ndarray, "queries features"],
    index: Index,
    *,
    top: int = 10,
    metric: Metric = "squared_euclidean",
    where: Bool[np.ndarray, " rows"] | None = None,
    probes: int = 32,
) -> Nearest:
    """As :func:`siamjax.search.nearest.nearest`, but some of the nearest may be missed.

    FAISS's own file is made at the first call, in the index's folder ``approximate``, and again
    when segments were added; another search that needs it meanwhile waits for it. It is read into
    memory: a byte for each number of an embedding.

    Args:
        queries: as there.
        index: that is searched.
        top: as there; where too few are found the last rows are -1, at distance infinity.
        metric: as there.
        where: as there.
        probes: lists that are looked into; more find more and take longer.

    Raises ``UsageError`` as there (damage is seen in what is compared again, and when FAISS's file
    is made), if FAISS is not installed, and for numbers below 1.
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
    """The share of the exact nearest that were found, in [0, 1]."""
    hits = [len(np.intersect1d(*pair)) for pair in zip(found.rows, exact.rows, strict=True)]
    return sum(hits) / max(1, exact.rows.size)


def _faiss() -> Any:
    try:
        with warnings.catch_warnings():  # of its SWIG types
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module("faiss")
    except ImportError:
        raise UsageError(
            "approximate search needs FAISS: pip install faiss-cpu; or leave --approximate out"
        ) from None


def _prepared(rows: np.ndarray, metric: Metric) -> np.ndarray:
    """Contiguous float32; for the cosine of length 1, where the Euclidean order is the same."""
    rows = np.ascontiguousarray(rows, np.float32)
    if metric == "cosine":
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(lengths == 0, 1.0, lengths)
    return rows


def _gather(index: Index, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n features"]:
    """These rows, which rise; ``UsageError`` if they are damaged."""
    gathered, base = np.empty((len(rows), index.features), index.dtype), 0
    for segment in index.segments:
        inside = np.flatnonzero((rows >= base) & (rows < base + len(segment)))
        if len(inside):
            places = rows[inside] - base
            gathered[inside] = now = segment.rows(0, len(segment))[places]
            first, stop = int(places[0]), int(places[-1]) + 1
            written = segment.squares(first, stop)[places - first]
            check_undamaged(segment.name, places, row_squares(now), written)
        base += len(segment)
    return gathered


def _open(faiss: Any, index: Index, metric: Metric) -> Any:
    """FAISS's index of all rows (removed ones too), from its file if that is of these segments."""
    about = [metric, *(f"{one.folder.name} {len(one)}" for one in index.segments)]
    digest = hashlib.sha256("\0".join(about).encode()).hexdigest()[:16]
    folder = index.folder / "approximate"
    path = folder / f"{metric}-{digest}.faiss"
    if path.exists():
        try:
            return faiss.read_index(str(path))
        except RuntimeError as error:
            raise UsageError(f"{path} cannot be read ({error}); remove it") from None
    try:
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():  # made by another search while this one waited
                return _open(faiss, index, metric)
            made = _make(faiss, index, metric)
            _write(faiss, made, path)
            _forget(folder, metric, path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error}); mend that, or leave --approximate out"
        ) from None
    return made


def _write(faiss: Any, made: Any, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        faiss.write_index(made, str(temporary))
    except RuntimeError as error:  # FAISS's word for one of the disk
        raise OSError(str(error)) from None
    os.replace(temporary, path)


def _forget(folder: Path, metric: Metric, current: Path) -> None:
    for path in folder.glob(f"{metric}-*.faiss"):
        if path != current:
            path.unlink(missing_ok=True)


def _make(faiss: Any, index: Index, metric: Metric) -> Any:
    count = len(index.kept)
    centres = max(1, min(int(np.sqrt(count)), count // 39))
    quantizer = faiss.IndexFlatL2(index.features)
    made = faiss.IndexIVFScalarQuantizer(
        quantizer, index.features, centres, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )
    sample = np.random.default_rng(0).choice(count, min(count, _EACH * centres), replace=False)
    made.train(_prepared(_gather(index, np.sort(sample)), metric))
    for segment in index.segments:
        for start in range(0, len(segment), _BLOCK):
            rows = segment.rows(start, start + _BLOCK)
            places, written = start + np.arange(len(rows)), segment.squares(start, start + _BLOCK)
            check_undamaged(segment.name, places, row_squares(rows), written)
            made.add(_prepared(rows, metric))
    return made
