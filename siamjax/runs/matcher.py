"""Use a finished run of a matching network: rank a folder of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamjax.data.images import ImageSet, of_files, pictures_in
from siamjax.errors import UsageError
from siamjax.runs.finished import Finished
from siamjax.search.pair_scores import score_pairs


@dataclass(frozen=True, kw_only=True)
class RankedGallery:
    """Pictures of a gallery, best first for each query.

    Attributes:
        images: of queries and gallery.
        query: (queries,) indices into them.
        found: (queries, top) indices into them.
        probability: (queries, top) P(same) of those.
    """

    images: ImageSet
    query: np.ndarray
    found: np.ndarray
    probability: np.ndarray


def rank_gallery(
    run: Finished, queries: Sequence[Path], gallery: Path, *, top: int, symmetric: bool = False
) -> RankedGallery:
    """The ``top`` pictures of a folder that a matcher holds likeliest to show what a query does.

    Equal scores stand in the order of the paths. Raises ``UsageError`` for no query, ``top``
    below 1, a folder without pictures, and a broken picture (naming it).
    """
    if top < 1 or not queries:
        raise UsageError(f"{len(queries)} queries, top {top}: at least 1 of each is needed")
    paths = pictures_in(gallery)
    images = of_files([*queries, *paths], name=str(gallery))
    query = np.arange(len(queries))
    logits = score_pairs(
        run.network,
        run.variables,
        images,
        query,
        len(queries) + np.arange(len(paths)),
        size=run.size,
        symmetric=symmetric,
    )
    best = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    probability = 1.0 / (1.0 + np.exp(-np.take_along_axis(logits, best, 1).astype(np.float64)))
    return RankedGallery(
        images=images, query=query, found=len(queries) + best, probability=probability
    )
