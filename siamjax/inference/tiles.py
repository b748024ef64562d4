"""A network that compares: the scores of a tile of pairs, from the features of their images.

Compiled once for a network and shape, however often a gallery is ranked.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from siamjax.models import comparing
from siamjax.parallel import data_parallel_map, device_count, own_rows, replicate, shard


def symmetric_logit(
    first: Float[np.ndarray, "*pairs"], second: Float[np.ndarray, "*pairs"]
) -> Float[np.ndarray, "*pairs"]:
    """Logit of the mean of two probabilities, given their logits; float32, for any range.

    With p = (sigmoid(a) + sigmoid(b)) / 2 it is log p - log(1 - p), where 1 - sigmoid(a) is
    sigmoid(-a) and the factor 1/2 cancels. In logarithms, which do not underflow::

        logaddexp(ls(a), ls(b)) - logaddexp(ls(-a), ls(-b)),   ls(a) = log sigmoid(a)

    Probabilities that round to 1 keep their order. Computed in float64, because the two terms
    cancel near 0. Exactly symmetric; ``symmetric_logit(a, a)`` is a, to rounding.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)

    def log_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.logaddexp(-np.logaddexp(0.0, -a), -np.logaddexp(0.0, -b))

    return (log_sum(a, b) - log_sum(-a, -b)).astype(np.float32)


class TileScorer:
    """Scores tiles of query x gallery features; the gallery is split over all devices."""

    def __init__(
        self, network: nn.Module, variables: Any, *, dtype: np.dtype, symmetric: bool
    ) -> None:
        self._variables = replicate(variables)
        self._score = _tile_function(network, np.dtype(dtype).name, symmetric)
        self._symmetric = symmetric

    def __call__(
        self,
        queries: Float[np.ndarray, "queries ..."],
        gallery: Float[np.ndarray, "columns lists ..."],
    ) -> Float[np.ndarray, "queries columns"]:
        """Scores of every query with its gallery images, which rise with similarity.

        The second axis of ``gallery`` has a list for each query, or one list for all queries.
        """
        columns, devices = len(gallery), device_count()
        each = -(-columns // devices)
        # normxcorr works on a few pairs at a time, a divisor of their number: with a prime number
        # it would take one pair at a time, which is 15 % slower on a CPU.
        each = -(-each // 4) * 4 if each > 4 else each
        # Padded with features of real images, which cannot cause a warning or a NaN.
        whole = np.arange(each * devices) % columns
        whole = own_rows(whole)
        split = shard({"gallery": gallery if len(whole) == columns else gallery[whole]})
        state = self._variables, replicate(queries)
        found = np.asarray(self._score(state, split))  # devices, rows, directions, columns
        found = np.moveaxis(found, (2, 1), (0, 1)).reshape(found.shape[2], len(queries), -1)
        scores = found[..., :columns]
        return symmetric_logit(*scores) if self._symmetric else scores[0]


@lru_cache(maxsize=16)
def _tile_function(network: nn.Module, dtype: str, symmetric: bool) -> Callable[..., Array]:
    """Pmapped ``((variables, queries), {gallery}) -> (rows, directions, columns)``."""

    def score(state: Any, batch: dict[str, Array]) -> Array:
        variables, queries = state
        gallery = jnp.moveaxis(batch["gallery"], 1, 0).astype(dtype)

        def compare(first: Array, second: Array) -> Array:
            values = comparing.compare(network, variables, first, second)
            return values if comparing.rises(network) else -values

        def one_query(row: tuple[Array, Array]) -> Array:
            query, others = row
            # One query at a time is repeated, so that memory is that of a row of the tile.
            others = gallery[0] if len(gallery) == 1 else others
            repeated = jnp.broadcast_to(query, others.shape)
            directions = [compare(repeated, others)]
            if symmetric:
                directions.append(compare(others, repeated))
            return jnp.stack(directions).astype(jnp.float32)

        rows = jnp.arange(len(queries))
        own = rows if len(gallery) == 1 else gallery
        return lax.map(one_query, (queries.astype(dtype), own))

    return data_parallel_map(score)
