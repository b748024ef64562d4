"""The report of a retrieval run: which of a catalogue is it?"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from siamjax.errors import shown
from siamjax.exact_distances import RankedDistances
from siamjax.inference.embedder import Embedder
from siamjax.inference.judging import Judgement
from siamjax.inference.retrieval import (
    Features,
    embed_split,
    evaluate_retrieval,
    judge_found,
    search_split,
)
from siamjax.metrics import reid
from siamjax.report.page import write_report
from siamjax.report.tables import Table, cell, title
from siamjax.training.run import Results, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from siamjax.data.retrieval import RetrievalSplits

_QUERIES, _MAPPED = 200, 2000  # queries for the ranked lists, images on the map


def category_table(by_category: Mapping[str, Judgement], measure: str) -> Table:
    """A row for each category: its queries, and a measure of every method with its interval."""
    methods = list(next(iter(by_category.values())).results)
    rows = []
    for category, judged in by_category.items():
        cells = [cell(judged, name, measure) for name in methods]
        rows.append((shown(category), [f"{judged.results[methods[0]]['queries']:,}", *cells]))
    return ["queries", *(f"{title(measure)}, {shown(name)}" for name in methods)], rows


def retrieval_report(
    run: Run,
    embedder: Embedder,
    splits: "RetrievalSplits",
    *,
    baselines: Mapping[str, Features],
) -> Results:
    """Search the test catalogue by the chosen checkpoint, once, and end the run.

    ``embedder`` has the checkpoint's variables; ``baselines`` are features, also compared by the
    Euclidean distance. If the catalogue has a column ``category``, each category is reported too.
    Returns measures by name.
    """
    from siamjax.report.figures import RETRIEVAL_PANELS

    images, test = splits.images, splits.test
    query, gallery = embed_split(embedder.embeddings, images, test)
    found = {"network": search_split(query, gallery, images, test)}
    for name, features in baselines.items():
        found[name] = evaluate_retrieval(features, images, test)
    judged = judge_found(found, images, test)
    category, by_category = splits.catalogue.attributes.get("category"), {}
    if category is not None:
        masks = found["network"].groups(category[test.query])
        by_category = {
            name: judge_found(found, images, test, chosen=mask) for name, mask in masks.items()
        }
    own = judged.results["network"]
    return write_report(
        run,
        judged,
        size=embedder.size,
        task="retrieval",
        tables=[("By category", category_table(by_category, "recall_at_1"))] if by_category else (),
        remark=(
            f"{test.name}: {own['queries']:,} queries, {own['gallery']:,} images in the "
            f"catalogue{', the query itself left out' if test.leave_one_out else ''}. The "
            f"checkpoint of step {run.best_step} was chosen on {splits.validation.name}."
        ),
        panels=RETRIEVAL_PANELS,
        figures=[
            ("Ranked lists", partial(_lists, splits, query, gallery)),
            ("Map of the catalogue", partial(_map, splits, gallery)),
        ],
        facts={
            "by_category": {
                method: {name: one.results[method] for name, one in by_category.items()}
                for method in found
            },
            "intervals_by_category": {
                method: {name: one.intervals[method] for name, one in by_category.items()}
                for method in found
            },
        },
    )


def _lists(splits: "RetrievalSplits", query: np.ndarray, gallery: np.ndarray) -> "Figure":
    """Ranked lists of some queries."""
    from siamjax.report.ranking_figures import ranked_lists

    images, test = splits.images, splits.test
    some = np.linspace(0, len(test.query) - 1, min(_QUERIES, len(test.query))).round().astype(int)
    asked, shown = test.query[some], images.identities
    score = -np.sqrt(RankedDistances(gallery)(query[some]))
    return ranked_lists(
        images,
        asked,
        test.gallery,
        score,
        reid.same_identity(shown[asked], shown[test.gallery]),
        data=f"{test.name} of {images.name}, score = -distance",
        valid=None if test.own_places is None else test.gallery != asked[:, None],
    )


def _map(splits: "RetrievalSplits", gallery: np.ndarray) -> "Figure":
    """A map of the gallery."""
    from siamjax.report.embedding_map import embedding_map

    images, test = splits.images, splits.test
    mapped = np.linspace(0, len(gallery) - 1, min(_MAPPED, len(gallery))).round().astype(int)
    category = splits.catalogue.attributes.get("category")
    return embedding_map(
        images.take(test.gallery[mapped]),
        gallery[mapped],
        data=f"{test.name} of {images.name}",
        labels=None if category is None else category[test.gallery[mapped]],
        named="category",
    )
