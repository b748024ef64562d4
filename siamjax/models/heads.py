"""Heads: modules that compare two embeddings.

A head says what it returns: ``measure`` is ``distance`` or ``logit``, and
``rises_with_similarity`` is True for a logit and False for a distance.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from siamjax.checks import require_number
from siamjax.distances import euclidean

Embeddings = Float[Array, "*batch features"]


class ConcatenationHead(nn.Module):
    """One dense unit on both embeddings, concatenated: the logit of P(same).

    It cannot compare: the logit is ``g(first) + h(second)``, without any term of both. For
    any two images ``logit(a, a) + logit(b, b) = logit(a, b) + logit(b, a)``, so it can learn
    which faces occur in pairs of one person, but not whether two faces match. On people whom it
    has not seen, expect an AUC of 0.5. :class:`DifferenceHead` has no such limit.
    """

    rises_with_similarity: ClassVar[bool] = True
    measure: ClassVar[str] = "logit"

    @nn.compact
    def __call__(self, first: Embeddings, second: Embeddings) -> Float[Array, "*batch"]:
        """The logit; its sigmoid is P(same)."""
        both = jnp.concatenate([first, second], axis=-1)
        return nn.Dense(1, name="dense")(both)[..., 0]


class DifferenceHead(nn.Module):
    """One dense unit on ``|f1 - f2|``: the logit of P(same), symmetric in its inputs.

    Koch, Zemel, Salakhutdinov, *Siamese Neural Networks for One-shot Image Recognition*, 2015,
    section 3.1 (where the embeddings come out of sigmoids). All weights start at one negative
    value, so that training starts from a distance and not from noise.
    """

    rises_with_similarity: ClassVar[bool] = True
    measure: ClassVar[str] = "logit"

    @nn.compact
    def __call__(self, first: Embeddings, second: Embeddings) -> Float[Array, "*batch"]:
        """The logit; its sigmoid is P(same)."""
        start = nn.initializers.constant(-(first.shape[-1] ** -0.5))
        return nn.Dense(1, kernel_init=start, name="dense")(jnp.abs(first - second))[..., 0]


class EuclideanHead(nn.Module):
    """The Euclidean distance of the embeddings, in [0, inf); no parameters, no sigmoid."""

    rises_with_similarity: ClassVar[bool] = False
    measure: ClassVar[str] = "distance"

    @nn.compact
    def __call__(self, first: Embeddings, second: Embeddings) -> Float[Array, "*batch"]:
        """``||first - second||_2``."""
        return euclidean(first, second)


class DistanceLogitHead(nn.Module):
    """``b - a d``, with the Euclidean distance d and learnt a and b: the logit of P(same).

    It lets a distance be trained with the binary cross-entropy. (Squashing the distance and using
    the contrastive loss does not work: a distance that cannot exceed the margin learns nothing.)

    Attributes:
        slope: initial value of a.
        middle: distance at which P(same) = 1/2 initially; b starts as ``slope * middle``.
    """

    rises_with_similarity: ClassVar[bool] = True
    measure: ClassVar[str] = "logit"

    slope: float = 10.0
    middle: float = 0.8

    @nn.compact
    def __call__(self, first: Embeddings, second: Embeddings) -> Float[Array, "*batch"]:
        """The logit; its sigmoid is P(same). ``UsageError`` for a slope that is not positive."""
        require_number("slope", self.slope, above=0)
        require_number("middle", self.middle, at_least=0)
        constant = nn.initializers.constant
        slope = self.param("slope", constant(self.slope), (), jnp.float32)
        bias = self.param("bias", constant(self.slope * self.middle), (), jnp.float32)
        return bias - slope * euclidean(first, second)
