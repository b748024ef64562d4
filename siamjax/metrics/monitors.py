"""What shows that a Siamese network learns, or that it has collapsed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from siamjax.distances import euclidean, safe_sqrt
from siamjax.metrics.mean import Mean


def pair_monitors(
    embeddings: Float[Array, "2*batch features"],
    same: Bool[Array, " batch"],
    *,
    weight: Float[Array, " batch"] | None = None,
    axis_name: str | None = None,
) -> dict[str, Mean]:
    """Means to watch: distances of both kinds, norm and spread of the embeddings.

    ``embeddings`` holds the first pictures' and then the second ones'. ``embedding_spread`` is
    the mean distance to the batch's mean embedding, over all devices of ``axis_name``: 0 = all
    pictures look alike to the network.
    """
    first, second = jnp.split(embeddings.astype(jnp.float32), 2)
    weight = jnp.ones(same.shape, jnp.float32) if weight is None else weight
    distance = euclidean(first, second)
    return {
        "distance_same": Mean.of(distance, weight * same),
        "distance_different": Mean.of(distance, weight * ~same),
        **_cloud(jnp.concatenate([first, second]), jnp.tile(weight, 2), axis_name),
    }


def triplet_monitors(
    embeddings: Float[Array, "3*batch features"],
    positive: Float[Array, " batch"],
    negative: Float[Array, " batch"],
    *,
    weight: Float[Array, " batch"],
    axis_name: str | None = None,
) -> dict[str, Mean]:
    """Means to watch while triplets are trained on.

    ``embeddings`` holds the anchors', the positives' and the negatives'; ``positive`` and
    ``negative`` are the distances that the loss sees. Besides those of :func:`pair_monitors` (as
    ``distance_same`` and ``distance_different``) the sum of an embedding and the number of its
    entries that are not 0: what the visual search recipe watches.
    """
    embeddings, thrice = embeddings.astype(jnp.float32), jnp.tile(weight, 3)
    return {
        "distance_same": Mean.of(positive, weight),
        "distance_different": Mean.of(negative, weight),
        **_cloud(embeddings, thrice, axis_name),
        "embedding_sum": Mean.of(jnp.sum(embeddings, axis=-1), thrice),
        "embedding_nonzero": Mean.of(jnp.sum(embeddings != 0, axis=-1), thrice),
    }


def _cloud(
    embeddings: Float[Array, "n features"], weight: Float[Array, " n"], axis_name: str | None
) -> dict[str, Mean]:
    """Norm and spread of embeddings."""
    norm = safe_sqrt(jnp.sum(embeddings * embeddings, axis=-1))
    counted = jnp.where(weight[:, None] > 0, embeddings * weight[:, None], 0.0)
    total, count = jnp.sum(counted, axis=0), jnp.sum(weight)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    centre = total / jnp.where(count > 0, count, 1.0)
    return {
        "embedding_norm": Mean.of(norm, weight),
        "embedding_spread": Mean.of(euclidean(embeddings, centre), weight),
    }


def collapse_message(values: dict[str, float]) -> str | None:
    """A collapse in words; None = healthy.

    ``values`` are the computed means of :func:`pair_monitors` or :func:`triplet_monitors` and
    ``active_fraction``, the share of pairs (of the different ones, for a margin loss) or triplets
    that the loss still pushes; with ``capped_fraction``, the share of triplets beyond the cap.
    """
    if values.get("capped_fraction") == 1.0:
        return (
            "every triplet is beyond the cap, where the gradient is 0: nothing is learnt; lower "
            "the margin, or raise or drop the cap"
        )
    same, different = values.get("distance_same"), values.get("distance_different")
    norm, spread = values["embedding_norm"], values["embedding_spread"]
    if spread < 1e-3 * max(norm, 1e-3):
        return (
            "the network has collapsed: all pictures have nearly the same embedding (spread "
            f"{spread:.2g} at a norm of {norm:.2g}); lower the learning rate or the margin"
        )
    if same is not None and different is not None and abs(same - different) < 0.02 * different:
        return (
            f"all distances are alike: {same:.3g} for the same identity, {different:.3g} for "
            "different ones; if this lasts, the network learns nothing: check the labels, lower "
            "the learning rate"
        )
    active = values.get("active_fraction")
    if active == 0.0:
        return (
            "active fraction 0: none of the pairs that could teach does any more (no different one "
            "is within the margin, or none is on the wrong side); harder pairs are needed"
        )
    if active == 1.0:
        return (
            "active fraction 1: the loss pushes every pair and none has come to rest; if this "
            "lasts, the network is stuck: lower the margin or the learning rate"
        )
    return None
