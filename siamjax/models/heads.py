"""What compares two embeddings.

A head says what its value is: ``rises_with_similarity`` (a logit does, a distance does not) and
``measure``, the word for it.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from siamjax.distances import euclidean


class ConcatenationHead(nn.Module):
    """Concatenate both embeddings, dense 1: the logit of P(same), as in the LFW recipe.

    Know what it can say: the logit is ``g(first) + h(second)``, a sum with no term of both. For
    any two images ``logit(a, a) + logit(b, b) = logit(a, b) + logit(b, a)``, so it can learn
    which faces occur in matching pairs, but not whether two faces match: on people it has not
    seen, expect an AUC of 0.5. :class:`DifferenceHead` has no such bound.
    """

    rises_with_similarity: ClassVar[bool] = True
    measure: ClassVar[str] = "logit"

    @nn.compact
    def __call__(
        self, first: Float[Array, "*batch features"], second: Float[Array, "*batch features"]
    ) -> Float[Array, "*batch"]:
        """The logit; its sigmoid is P(same)."""
        both = jnp.concatenate([first, second], axis=-1)
        return nn.Dense(1, name="dense")(both)[..., 0]


class DifferenceHead(nn.Module):
    """Dense 1 on ``|f1 - f2|``: the logit of P(same), symmetric in its inputs.

    Koch, Zemel, Salakhutdinov, *Siamese Neural Networks for One-shot Image Recognition*, 2015,
    section 3.1 (there the sum is over the sigmoid units of the last layer). The weights start
    equal and negative, so that training starts from a distance and not from noise.
    """

    rises_with_similarity: ClassVar[bool] = True
    measure: ClassVar[str] = "logit"

    @nn.compact
    def __call__(
        self, first: Float[Array, "*batch features"], second: Float[Array, "*batch features"]
    ) -> Float[Array, "*batch"]:
        """The logit; its sigmoid is P(same)."""
        start = nn.initializers.constant(-(first.shape[-1] ** -0.5))
        return nn.Dense(1, kernel_init=start, name="dense")(jnp.abs(first - second))[..., 0]


class EuclideanHead(nn.Module):
    """The Euclidean distance of the embeddings, in [0, inf); no parameters, no sigmoid."""

    rises_with_similarity: ClassVar[bool] = False
    measure: ClassVar[str] = "distance"

    @nn.compact
    def __call__(
        self, first: Float[Array, "*batch features"], second: Float[Array, "*batch features"]
    ) -> Float[Array, "*batch"]:
        """The distance."""
        return euclidean(first, second)


class DistanceLogitHead(nn.Module):
    """``b - a d`` of the Euclidean distance d: the logit of P(same), a and b learnt.

    For the binary cross-entropy. Never squash a distance for the contrastive loss instead: one that
    cannot exceed its margin learns nothing.

    Attributes:
        slope: start of a.
        middle: distance that means P(same) = 1/2 at the start; b starts as ``slope * middle``.
    """

    rises_with_similarity: ClassVar[bool] = True
    measure: ClassVar[str] = "logit"

    slope: float = 10.0
    middle: float = 0.8

    @nn.compact
    def __call__(
        self, first: Float[Array, "*batch features"], second: Float[Array, "*batch features"]
    ) -> Float[Array, "*batch"]:
        """The logit; its sigmoid is P(same)."""
        constant = nn.initializers.constant
        slope = self.param("slope", constant(self.slope), ())
        bias = self.param("bias", constant(self.slope * self.middle), ())
        return bias - slope * euclidean(first, second)
