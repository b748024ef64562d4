"""The report of a re-identification run: who of the gallery is it, over cameras?"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import numpy as np

from siamjax.data.reid import ReidSplits
from siamjax.data.transforms import Size, resize
from siamjax.inference.cross_input import score_pairs
from siamjax.inference.embedder import Embedder
from siamjax.inference.reid import Features, ReidEvaluation
from siamjax.models.applying import evaluate
from siamjax.report.page import write_report
from siamjax.training.run import Results, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reid_report(
    run: Run,
    network: nn.Module,
    variables: Any,
    splits: ReidSplits,
    *,
    size: Size,
    baselines: Mapping[str, Features],
    symmetric: bool = False,
    trials: int = 10,
) -> Results:
    """Rank the test gallery by the chosen checkpoint, once, and end the run.

    ``network`` compares, or embeds. Its scores are kept in the run's folder, from which a
    report that was stopped resumes. ``symmetric`` scores by the mean of both orders of a pair;
    ``trials`` is the number of random galleries of a single-shot protocol. Returns measures by
    name.
    """
    from siamjax.report.figures import REID_PANELS
    from siamjax.report.ranking_figures import cmc_curves, ranked_lists

    images, test = splits.images, ReidEvaluation.of(splits, splits.test)
    query, gallery = splits.test.query, splits.test.gallery
    scores = {
        "network": score_pairs(
            network,
            variables,
            images,
            query,
            gallery,
            size=size,
            output=run.folder / f"test_scores_{run.best_step}.npy",
            symmetric=symmetric,
        )
    }
    scores |= {name: test.cosines(features) for name, features in baselines.items()}
    judged, curves = test.judge(scores, trials=trials, seed=run.config.seed)
    rule = {
        "market": "images of the same person by the same camera are left out",
        "single_shot": f"one gallery image a person, {trials} trials",
    }[splits.test.rule]
    where = f"{splits.test.name} of {images.name}"
    matches = []
    if len(Embedder(network=network, variables=variables, size=size).feature.shape) == 3:
        figure = partial(_matches, network, variables, test, scores["network"], size)
        matches = [("Best matches", figure)]  # maps have places to show
    return write_report(
        run,
        judged,
        size=size,
        task="reid",
        remark=(
            f"{splits.test.name}: {len(query):,} queries, {len(gallery):,} gallery images; {rule}. "
            f"The checkpoint of step {run.best_step} was chosen on {splits.validation.name}."
        ),
        panels=REID_PANELS,
        figures=[
            ("CMC", partial(cmc_curves, curves, data=where)),
            (
                "Ranked lists",
                partial(
                    ranked_lists,
                    images,
                    query,
                    gallery,
                    scores["network"],
                    test.match,
                    data=where,
                    valid=test.valid,
                ),
            ),
            *matches,
        ],
        facts={"trials": trials},
    )


def _matches(
    network: nn.Module, variables: Any, test: ReidEvaluation, scores: np.ndarray, size: Size
) -> "Figure":
    """The best matches within the correct pair that has the highest score."""
    from siamjax.report.match_figure import match_figure

    right = test.match if test.valid is None else test.match & test.valid
    query, gallery = np.unravel_index(np.argmax(np.where(right, scores, -np.inf)), scores.shape)
    pair = [int(test.ranking.query[query]), int(test.ranking.gallery[gallery])]
    shown = np.stack([resize(test.images.image(index), size) for index in pair])
    features = np.asarray(evaluate(network, variables, shown, method="embed"), np.float32)
    return match_figure(
        *shown,
        *features,
        data=f"{test.ranking.name} of {test.images.name}",
        names=(test.images.keys[pair[0]], test.images.keys[pair[1]]),
        column_search=getattr(network, "column_search", None),
    )
