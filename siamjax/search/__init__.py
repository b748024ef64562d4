"""The index of a catalogue, the items nearest to a query, and two-stage search."""

from siamjax.search.approximate import approximate
from siamjax.search.embed_catalogue import embed_catalogue
from siamjax.search.index import Index
from siamjax.search.nearest import nearest
from siamjax.search.query import search_index
from siamjax.search.two_stage import two_stage

__all__ = ["Index", "approximate", "embed_catalogue", "nearest", "search_index", "two_stage"]
