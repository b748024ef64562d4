"""Measures of training and of evaluation.

``verification`` has ROC, AUC, EER and k-fold accuracy, ``retrieval`` CMC and mAP, ``catalogue``
recall@k and MAP@R, ``reranking`` k-reciprocal re-ranking.
"""

from siamjax.metrics import verification
from siamjax.metrics.mean import Mean
from siamjax.metrics.monitors import collapse_message, pair_monitors, triplet_monitors

__all__ = ["Mean", "collapse_message", "pair_monitors", "triplet_monitors", "verification"]
