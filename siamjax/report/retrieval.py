"""The report of a retrieval run: which of a catalogue is it?"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from siamjax.exact_distances import RankedDistances
from siamjax.inference.embedder import Embedder
from siamjax.inference.retrieval import Features, embed_split, evaluate_retrieval, judge
from siamjax.metrics import reid
from siamjax.report.page import Table, table_of, write_report
from siamjax.training.run import Results, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from siamjax.data.retrieval import RetrievalSplits

_QUERIES, _MAPPED = 200, 2000  # queries for the ranked lists, images on the map

_SEARCH_COLUMNS = {
    "queries": "queries",
    **{f"recall_at_{k}": f"recall@{k}" for k in (1, 3, 5, 10, 20)},
    "map_at_r": "MAP@R",
}


def search_table(results: Results, by_category: Mapping[str, Results]) -> Table:
    """Search measures of methods by name: over all queries, then category by category."""
    categories = sorted({category for found in by_category.values() for category in found})
    listed = results | {
        f"{category}: {name}": found[category]
        for category in categories
        for name, found in by_category.items()
    }
    return table_of(listed, columns=_SEARCH_COLUMNS, missing="gallery too small")


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
    found = {"network": judge(query, gallery, images, test)}
    for name, features in baselines.items():
        found[name] = evaluate_retrieval(features, images, test)
    results: Results = {name: one.summary() for name, one in found.items()}
    category = splits.catalogue.attributes.get("category")
    by_category: dict[str, Results] = {}
    if category is not None:
        by_category = {name: dict(one.by(category[test.query])) for name, one in found.items()}
    own = results["network"]
    return write_report(
        run,
        results,
        size=embedder.size,
        table=search_table(results, by_category),
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
        facts={"task": "retrieval", "by_category": by_category},
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
