"""Search a gallery: every pair by a matching network, or the nearest by embeddings first.

Contract: pictures are indices into one ``ImageSet``; scores are (queries, gallery) float32 and
rise with similarity, as ``siamjax.metrics.retrieval`` takes them.
"""

from siamjax.inference.cross_input import score_candidates, score_pairs
from siamjax.search.two_stage import two_stage

__all__ = ["score_candidates", "score_pairs", "two_stage"]
