"""Search an index by images, embedded by the run that made it."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from siamjax.data.images import ImageSet, of_files
from siamjax.errors import UsageError
from siamjax.exact_distances import Metric
from siamjax.inference.calibration import fingerprint
from siamjax.inference.embedder import Embedder
from siamjax.search.approximate import approximate as find_approximately
from siamjax.search.approximate import recall
from siamjax.search.index import Index
from siamjax.search.nearest import Nearest, nearest
from siamjax.training.finished import Finished


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What was found for each query.

    Attributes:
        found: rows of the index and distances, nearest first.
        shown: (rows,) True = this row was searched.
        run: the run that embedded the queries.
        recall: the share of the exact result that an approximate search found; None: not measured.
    """

    found: Nearest
    shown: Bool[np.ndarray, " rows"]
    run: Finished
    recall: float | None = None


def search_index(
    index: Index,
    queries: Sequence[Path] | ImageSet,
    *,
    run: Path | None = None,
    top: int = 10,
    metric: Metric = "squared_euclidean",
    where: Sequence[tuple[str, str]] = (),
    approximate: bool = False,
    probes: int = 32,
    measure_recall: bool = False,
    trust: Collection[str] = (),
) -> Answers:
    """The ``top`` items of an index nearest to each query.

    ``queries`` are files or an image set (``of_arrays`` makes one from arrays). They are embedded
    by ``run``, which must be the run that made the index (None: the run that the index names).
    ``where`` admits only items with all these (attribute, value). ``approximate`` searches by
    FAISS, in ``probes`` of its lists; only with ``measure_recall`` is the exact search run too.
    ``trust`` are modules to import the run's network from, as of :meth:`Finished.open`.
    Raises ``UsageError`` for an empty index, no query, conditions that no item meets, another run,
    and ``measure_recall`` of an exact search.
    """
    if top < 1 or not len(queries):
        raise UsageError(f"{len(queries)} queries, top {top}: give at least 1 of each")
    if probes < 1:
        raise UsageError(f"probes {probes}: give 1 or more")
    if measure_recall and not approximate:
        raise UsageError("the recall of an exact search is 1; measure that of an approximate one")
    if not len(index):
        raise UsageError(f"{index.folder} has no items; embed a catalogue into it")
    shown = index.where(list(where)) if where else index.kept
    if not shown.any():
        asked = " and ".join(f"{name}={value}" for name, value in where)
        raise UsageError(f"no item of {index.folder} has {asked} at once; give fewer conditions")
    if run is None and not index.run:
        raise UsageError(f"{index.folder} does not name the run that made it; give --run")
    images = queries if isinstance(queries, ImageSet) else of_files(queries, name="queries")
    try:
        finished = Finished.open(run or Path(index.run), trust=trust)
    except UsageError:
        if run is not None or os.path.exists(index.run):
            raise
        raise UsageError(
            f"{index.folder} was made by the run {index.run}, which is not there; give --run"
        ) from None
    embedder = Embedder(
        network=finished.network,
        variables=finished.variables,
        size=finished.size,
        batch_size=min(64, len(images)),
    )
    index.check(fingerprint(finished))
    embeddings = embedder.embeddings(images, np.arange(len(images)))
    if not approximate:
        found = nearest(embeddings, index, top=top, metric=metric, where=shown)
        return Answers(found=found, shown=shown, run=finished)
    found = find_approximately(
        embeddings, index, top=top, metric=metric, where=shown, probes=probes
    )
    if not measure_recall:
        return Answers(found=found, shown=shown, run=finished)
    exact = nearest(embeddings, index, top=top, metric=metric, where=shown)
    return Answers(found=found, shown=shown, run=finished, recall=recall(found, exact))
