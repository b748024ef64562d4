"""How well embeddings find the items of a catalogue: recall@k and MAP@R."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from siamjax.data.images import ImageSet
from siamjax.data.retrieval import Retrieval
from siamjax.inference.judging import Judgement, judge_queries
from siamjax.metrics.retrieval import Found, search_quality

Features = Callable[[ImageSet, Int[np.ndarray, " n"]], Float[np.ndarray, "n features"]]
"""Features of images by index, compared by Euclidean distance: ``Embedder.embeddings``."""


def embed_split(
    features: Features, images: ImageSet, asked: Retrieval
) -> tuple[Float[np.ndarray, "queries features"], Float[np.ndarray, "gallery features"]]:
    """Features of the queries and of the gallery; an image in both is embedded once."""
    both = np.concatenate([asked.query, asked.gallery])
    shown, place = np.unique(both, return_inverse=True)
    rows = features(images, shown)
    return rows[place[: len(asked.query)]], rows[place[len(asked.query) :]]


def evaluate_retrieval(features: Features, images: ImageSet, asked: Retrieval) -> Found:
    """Recall@k and MAP@R of every query, from ``features`` of the images."""
    return search_split(*embed_split(features, images, asked), images, asked)


def search_split(
    query: Float[np.ndarray, "queries features"],
    gallery: Float[np.ndarray, "gallery features"],
    images: ImageSet,
    asked: Retrieval,
) -> Found:
    """:func:`evaluate_retrieval` of images that are embedded already."""
    shown = images.identities
    return search_quality(
        query, gallery, shown[asked.query], shown[asked.gallery], own=asked.own_places
    )


def judge_found(
    found: Mapping[str, Found],
    images: ImageSet,
    asked: Retrieval,
    *,
    chosen: Bool[np.ndarray, " queries"] | None = None,
) -> Judgement:
    """Judge what methods found over the items asked for; ``chosen`` are queries to judge alone."""
    part = slice(None) if chosen is None else chosen
    values, counts = {}, {}
    for method, one in found.items():
        values[method] = {
            name: None if rows is None else rows[part] for name, rows in one.by_query.items()
        }
        whole = one.summary(chosen)
        counts[method] = {name: whole[name] for name in whole if name not in values[method]}
    items = images.identities[asked.query][part]
    return judge_queries(values, items, counts=counts, named="items")
