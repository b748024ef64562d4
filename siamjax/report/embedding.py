"""The report of an embedding network on splits of any task."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList, indices_of
from siamjax.data.reid import ReidSplits
from siamjax.data.retrieval import RetrievalSplits
from siamjax.data.verification import VerificationSplits
from siamjax.inference.embedder import Embedder
from siamjax.inference.pairs import PairScorer
from siamjax.inference.retrieval import Features
from siamjax.report.reid import reid_report
from siamjax.report.retrieval import retrieval_report
from siamjax.report.verification import verification_report
from siamjax.training.run import Results, Run


def embedding_report(
    run: Run,
    embedder: Embedder,
    splits: VerificationSplits | ReidSplits | RetrievalSplits,
    *,
    baselines: Mapping[str, Features],
) -> Results:
    """The report of the splits' task on the chosen checkpoint, once; ends the run.

    ``embedder`` has the checkpoint's variables. ``baselines`` are features by name, compared as
    the task does it. Returns measures by name.
    """
    network, variables = embedder.network, embedder.variables
    if isinstance(splits, RetrievalSplits):
        return retrieval_report(run, embedder, splits, baselines=baselines)
    if isinstance(splits, ReidSplits):
        return reid_report(run, network, variables, splits, size=embedder.size, baselines=baselines)
    scores = {name: partial(_scores, features) for name, features in baselines.items()}
    scorer = PairScorer(network, embedder.size)
    return verification_report(run, scorer, variables, splits, baselines=scores)


def _scores(features: Features, images: ImageSet, pairs: PairList) -> np.ndarray:
    """Euclidean distances of the features of pairs, negated: they rise with similarity."""
    shown = indices_of(pairs)
    rows = features(images, shown)
    first, second = (rows[np.searchsorted(shown, own)] for own in (pairs.first, pairs.second))
    return -np.linalg.norm(first - second, axis=1)
