"""Measures of verification where every pair has a weight, for many sets of weights at once.

With weights of one they are those of :mod:`siamjax.metrics.verification`.
"""

from typing import Any

import numpy as np
from jaxtyping import Int

from siamjax.metrics.intervals import FARS


def sums(weight: np.ndarray, one: np.ndarray, other: np.ndarray) -> Int[np.ndarray, "n+1 draws"]:
    """Weights of pairs, summed from the first: row k is that of the first k pairs."""
    total = np.zeros((len(one) + 1, weight.shape[1]), np.int32)
    np.multiply(weight[one], weight[other], out=total[1:])
    return np.cumsum(total, axis=0, out=total)


class Ordered:
    """A score sorted once: which pairs stand above which threshold."""

    def __init__(self, score: np.ndarray, same: np.ndarray, threshold: float | None) -> None:
        order = np.argsort(-score, kind="stable")
        self.genuine, self.impostor = order[same[order]], order[~same[order]]
        falling = -score[self.genuine], -score[self.impostor]
        points = np.unique(-score)
        # Row 0: nothing is accepted; row k: all down to the k-th distinct score, ties together.
        self._accepted = [np.append(0, np.searchsorted(x, points, "right")) for x in falling]
        self._ahead = [np.searchsorted(falling[1], falling[0], side) for side in ("left", "right")]
        self._share = float(same.mean())
        self._at = None
        if threshold is not None:
            self._at = [int(np.searchsorted(x, -float(threshold), "right")) for x in falling]

    def measures(self, genuine: np.ndarray, impostor: np.ndarray) -> dict[str, np.ndarray]:
        """Measures of each draw that has pairs of both kinds, from sums of weights."""
        kept = np.flatnonzero((genuine[-1] > 0) & (impostor[-1] > 0))
        if len(kept) < genuine.shape[1]:
            genuine, impostor = genuine[:, kept], impostor[:, kept]
        draws = np.arange(len(kept))
        same, other = genuine[-1].astype(np.float64), impostor[-1].astype(np.float64)

        def at(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """True and false accept rate of each draw at a point of its own."""
            accepted, ahead = self._accepted
            return genuine[accepted[point], draws] / same, impostor[ahead[point], draws] / other

        def first(holds: Any) -> np.ndarray:
            """The first point of each draw where a condition holds that then stays true."""
            low = np.zeros(len(draws), int)
            high = np.full(len(draws), len(self._accepted[0]))
            while (low < high).any():
                middle = np.minimum((low + high) // 2, len(self._accepted[0]) - 1)
                true = holds(*at(middle)) | (low >= high)
                low, high = (
                    np.where(true, low, middle + 1),
                    np.where(true, np.minimum(high, middle), high),
                )
            return low

        ahead = impostor[self._ahead[0]] + impostor[self._ahead[1]]
        wins = np.einsum("gd,gd->d", np.diff(genuine, axis=0), ahead, dtype=np.float64)
        values = {"auc": 1 - wins / (2 * same * other)}
        after = first(lambda tar, far: far >= 1 - tar)
        (tar_before, far_before), (tar, far) = at(after - 1), at(after)
        before, behind = 1 - tar_before - far_before, far - (1 - tar)
        values["eer"] = far_before + before / (before + behind) * (far - far_before)
        if self._at is not None:
            right = genuine[self._at[0]] / same, 1 - impostor[self._at[1]] / other
            values["accuracy"] = self._share * right[0] + (1 - self._share) * right[1]
        for limit in FARS:
            last = first(lambda tar, far, limit=limit: far > limit + 1e-12) - 1
            values[f"tar_at_far_{limit:g}"] = at(last)[0]
        return values
