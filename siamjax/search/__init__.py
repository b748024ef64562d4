"""A catalogue's index and what is nearest in it; two stages, of which a cross-input network is one.

Contract: images are indices into one ``ImageSet``; scores are (queries, gallery) float32 and rise
with similarity, as ``siamjax.metrics.reid`` takes them.
"""

from siamjax.search.index import Index
from siamjax.search.query import search_index
from siamjax.search.two_stage import two_stage

__all__ = ["Index", "search_index", "two_stage"]
