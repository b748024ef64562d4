"""Queries, and the gallery in which their items are looked for."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrieval:
    """Queries and the gallery in which each one's item is looked for.

    A query's matches are the gallery's pictures of the same identity; it has one at least.

    Attributes:
        name: such as ``test items``; what a figure calls it.
        query: (queries,) indices into the catalogue.
        gallery: (gallery,) indices into the catalogue.
        leave_one_out: the queries are in the gallery too; each is left out of its own ranking.
    """

    name: str
    query: Int[np.ndarray, " queries"]
    gallery: Int[np.ndarray, " gallery"]
    leave_one_out: bool

    @property
    def own_places(self) -> Int[np.ndarray, " queries"] | None:
        """Where each query stands in the gallery; None where it does not."""
        if not self.leave_one_out:
            return None
        order = np.argsort(self.gallery)
        return order[np.searchsorted(self.gallery[order], self.query)]
