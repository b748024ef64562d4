"""Losses of pairs, triplets and labelled images: one value for each example, never reduced here.

Contract: ``same`` is bool, True = the two images show the same identity; another type is refused
(``UsageError``), under ``jax.jit`` too. So are margins, caps and weights that cannot be.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from siamjax.checks import require_bool, require_number
from siamjax.errors import UsageError
from siamjax.mining import others_of_batch

_SAME = "the same identity"


def contrastive(
    distance: Float[Array, "*batch"], same: Bool[Array, "*batch"], *, margin: float = 1.0
) -> Float[Array, "*batch"]:
    """``d^2`` for pairs of one identity, ``max(0, margin - d)^2`` for the others.

    Hadsell, Chopra, LeCun, *Dimensionality Reduction by Learning an Invariant Mapping*, CVPR
    2006, equation 4, without its factor 1/2 (and there Y = 1 means different). ``distance >= 0``,
    such as :func:`siamjax.distances.euclidean` returns; ``margin`` is in its unit.
    """
    same = require_bool("same", same, true=_SAME)
    require_number("margin", margin, above=0)
    apart = jnp.maximum(margin - distance, 0.0)
    return jnp.where(same, jnp.square(distance), jnp.square(apart))


def binary_cross_entropy(
    logit: Float[Array, "*batch"], same: Bool[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """``-log P`` of the label, with ``P(same) = sigmoid(logit)``; finite for every finite logit."""
    same = require_bool("same", same, true=_SAME)
    return optax.sigmoid_binary_cross_entropy(logit, same.astype(logit.dtype))


def triplet(
    positive: Float[Array, "*batch"],
    negative: Float[Array, "*batch"],
    *,
    margin: float,
    cap: float | None = None,
) -> Float[Array, "*batch"]:
    """``max(0, margin + positive - negative)``, at most ``cap``.

    ``positive`` and ``negative`` are the anchor's distances (>= 0, of any kind; the margin is in
    their unit) to an image of the same identity and to one of another. Schroff, Kalenichenko,
    Philbin, *FaceNet*, CVPR 2015, equation 3, with squared Euclidean distances; VisNet (Shankar et
    al., arXiv 1703.02344, 2017) with these and a margin of 9e-4.

    **Where the cap applies, the gradient is 0.** With a margin of 20 and a cap of 5 nothing is
    learnt while negatives are less than ``margin - cap`` = 15 further away than positives, as they
    are initially (distances of random embeddings differ by less). Watch ``capped_fraction``.
    """
    require_number("margin", margin, above=0)
    if cap is not None:
        require_number("cap", cap, above=0)
    loss = jnp.maximum(margin + positive - negative, 0.0)
    return loss if cap is None else jnp.minimum(loss, cap)


def info_nce(
    embeddings: Float[Array, "batch features"],
    identity: Int[Array, " batch"],
    weight: Float[Array, " batch"] | None = None,
    *,
    temperature: float = 0.1,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """``(loss, weight)`` of each image i as anchor; average them by ``Mean.of(loss, weight)``.

    ``-1/|P| sum_{p in P} log(exp(s_ip / temperature) / sum_{a in A} exp(s_ia / temperature))``

    s is the cosine similarity, A all other images of the batch, over all devices, and P those of
    them that show the anchor's identity. Lengths of embeddings do not matter; ``identity`` is a
    number for each image. Khosla et al., *Supervised Contrastive Learning*, NeurIPS 2020, equation
    2 ("out"), and its temperature. Where each anchor has one positive it is InfoNCE (van den Oord,
    Li, Vinyals, arXiv 1807.03748, 2018, equation 4), as NT-Xent has it (Chen et al., *SimCLR*,
    ICML 2020, equation 1). Never below ``log |P|``.

    Images of ``weight`` 0 are no anchors and no others. The weights returned are those given (1
    if none are), but 0, with a loss of 0, for an anchor without a positive in the batch.
    """
    require_number("temperature", temperature, above=0)
    similarity, other, same = others_of_batch(embeddings, identity, weight)
    # Finite, so that an anchor without others has no NaN in its gradient.
    excluded = jnp.finfo(similarity.dtype).min
    share = jax.nn.log_softmax(jnp.where(other, similarity / temperature, excluded), axis=1)
    positives = jnp.sum(same, axis=1, dtype=share.dtype)
    loss = jnp.sum(jnp.where(same, -share, 0.0), axis=1) / jnp.maximum(positives, 1.0)
    given = jnp.ones_like(loss) if weight is None else weight.astype(loss.dtype)
    return loss, jnp.where(positives > 0, given, 0.0)


def l2_penalty(params: Any, weights: Mapping[str, float]) -> Float[Array, ""]:
    """Sum over layers of ``weight * sum(kernel^2)``, as Keras' ``l2(weight)`` adds it.

    ``weights`` are by the layer's path in ``params``, such as ``{"deep/fc1": 0.005}``; biases do
    not count. Raises ``UsageError`` for a layer that the parameters lack.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    total = jnp.zeros((), jnp.float32)
    for layer, weight in weights.items():
        require_number(f"L2 weight of {layer}", weight, at_least=0)
        kernel = flat.get(f"{layer}/kernel")
        if kernel is None:
            layers = sorted(name[: -len("/kernel")] for name in flat if name.endswith("/kernel"))
            raise UsageError(f"no layer {layer} for an L2 penalty; choose from {layers}")
        total += weight * jnp.sum(jnp.square(kernel.astype(jnp.float32)))
    return total
