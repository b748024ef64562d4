"""Measures of training and of evaluation.

``verification``: ROC, AUC, equal error rate, accuracy over folds. ``reid``: CMC, mAP, mINP.
``intervals``, ``bootstrap``: how sure they are, over people. ``calibration``, ``open_set``:
thresholds for a wanted error rate, likelihood ratios.
``retrieval``: recall@k and MAP@R of embeddings. ``reranking``: k-reciprocal re-ranking. Training
watches :class:`Mean` values, such as those of the monitors.
"""

from typing import TYPE_CHECKING

from siamjax.lazy import contents

if TYPE_CHECKING:
    from siamjax.metrics import (
        bootstrap,
        calibration,
        intervals,
        open_set,
        reid,
        reranking,
        retrieval,
        verification,
    )
    from siamjax.metrics.mean import Mean
    from siamjax.metrics.monitors import (
        collapse_message,
        labelled_monitors,
        pair_monitors,
        triplet_monitors,
    )
    from siamjax.metrics.retrieval import map_at_r, recall_at_k

__getattr__, __dir__ = contents(__name__, __file__)

__all__ = [
    "Mean",
    "bootstrap",
    "calibration",
    "collapse_message",
    "intervals",
    "labelled_monitors",
    "map_at_r",
    "open_set",
    "pair_monitors",
    "recall_at_k",
    "reid",
    "reranking",
    "retrieval",
    "triplet_monitors",
    "verification",
]
