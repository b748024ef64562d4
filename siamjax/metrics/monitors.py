"""What shows that a Siamese network learns, or that it has collapsed."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from siamjax.checks import require_bool, require_number
from siamjax.distances import euclidean, norm
from siamjax.metrics.mean import Mean
from siamjax.mining import others_of_batch
from siamjax.parallel import sum_over_devices


def pair_monitors(
    embeddings: Float[Array, "2*batch features"],
    same: Bool[Array, " batch"],
    weight: Float[Array, " batch"] | None = None,
    *,
    margin: float | None = None,
    logit: Float[Array, " batch"] | None = None,
) -> dict[str, Mean]:
    """Means to watch: distances of both kinds of pairs, norm and spread of the embeddings.

    ``embeddings`` holds those of all first images, then those of all second ones.
    ``embedding_spread`` is the mean distance to the batch's mean embedding, over all devices:
    0 = all images look alike to the network. With the ``margin`` up to which the loss pushes
    different pairs apart, ``active_fraction`` is the share of different pairs within it. With the
    ``logit`` of P(same), ``accuracy`` is the share of pairs whose logit has the right sign.
    Raises ``UsageError`` for a ``same`` that is not bool, and a margin that is not positive.
    """
    same = require_bool("same", same, true="the same identity")
    first, second = jnp.split(embeddings.astype(jnp.float32), 2)
    weight = _float32(weight, same.shape)
    of_same, of_different = jnp.where(same, weight, 0.0), jnp.where(same, 0.0, weight)
    distance = euclidean(first, second)
    metrics = {
        "distance_same": Mean.of(distance, of_same),
        "distance_different": Mean.of(distance, of_different),
        **_cloud(jnp.concatenate([first, second]), jnp.tile(weight, 2)),
    }
    if margin is not None:
        require_number("margin", margin, above=0)
        metrics["active_fraction"] = Mean.of(distance < margin, of_different)
    if logit is not None:
        metrics["accuracy"] = Mean.of((logit > 0) == same, weight)
    return metrics


def triplet_monitors(
    embeddings: Sequence[Float[Array, "batch features"]],
    positive: Float[Array, " batch"],
    negative: Float[Array, " batch"],
    weight: Float[Array, " batch"] | None = None,
    *,
    margin: float,
    cap: float | None = None,
) -> dict[str, Mean]:
    """Means to watch while training on triplets.

    ``embeddings`` are those of the anchors, the positives and the negatives; ``positive`` and
    ``negative`` are the distances that the loss gets, ``margin`` and ``cap`` its options
    (:func:`siamjax.losses.triplet`). The names are those of :func:`pair_monitors`, and
    ``active_fraction`` (triplets that the loss still pushes), ``capped_fraction`` (triplets at
    the cap), ``embedding_sum`` and ``embedding_nonzero`` (entries that are not 0).
    """
    require_number("margin", margin, above=0)
    if cap is not None:
        require_number("cap", cap, above=0)
    rows = jnp.concatenate(embeddings).astype(jnp.float32)
    weight = _float32(weight, positive.shape)
    thrice = jnp.tile(weight, 3)
    hinge = margin + positive - negative
    active = (hinge > 0) if cap is None else (hinge > 0) & (hinge < cap)
    metrics = {
        "distance_same": Mean.of(positive, weight),
        "distance_different": Mean.of(negative, weight),
        **_cloud(rows, thrice),
        "embedding_sum": Mean.of(jnp.sum(rows, axis=-1), thrice),
        "embedding_nonzero": Mean.of(jnp.sum(rows != 0, axis=-1), thrice),
        "active_fraction": Mean.of(active, weight),
    }
    if cap is not None:
        metrics["capped_fraction"] = Mean.of(hinge >= cap, weight)
    return metrics


def labelled_monitors(
    embeddings: Float[Array, "batch features"],
    identity: Int[Array, " batch"],
    weight: Float[Array, " batch"] | None = None,
) -> dict[str, Mean]:
    """Means to watch while training on labelled images, such as by InfoNCE.

    The names are those of :func:`pair_monitors`, of all pairs of the batch over all devices and
    with cosine distances, and ``batch_recall_at_1``: the share of images whose nearest other image
    of the batch shows the same identity, among those for which there is one.
    """
    similarity, other, same = others_of_batch(embeddings, identity, weight)
    weight = _float32(weight, identity.shape)
    nearest = jnp.argmax(jnp.where(other, similarity, -jnp.inf), axis=1)
    right = jnp.take_along_axis(same, nearest[:, None], axis=1)[:, 0]
    return {
        "distance_same": Mean.of(1 - similarity, jnp.where(same, weight[:, None], 0.0)),
        "distance_different": Mean.of(1 - similarity, jnp.where(other & ~same, weight[:, None], 0)),
        **_cloud(embeddings.astype(jnp.float32), weight),
        "batch_recall_at_1": Mean.of(right, jnp.where(same.any(axis=1), weight, 0.0)),
    }


def _cloud(embeddings: Float[Array, "n features"], weight: Float[Array, " n"]) -> dict[str, Mean]:
    """Norm and spread of embeddings."""
    # The mean of the rest corrects the mean: far from the origin its rounding would look like a
    # spread, of a network whose embeddings are all alike.
    rough = _mean_row(embeddings, weight)
    centre = rough + _mean_row(embeddings - rough, weight)
    return {
        "embedding_norm": Mean.of(norm(embeddings), weight),
        "embedding_spread": Mean.of(euclidean(embeddings, centre), weight),
    }


def _float32(weight: Array | None, shape: tuple[int, ...]) -> Array:
    return jnp.ones(shape, jnp.float32) if weight is None else weight.astype(jnp.float32)


def _mean_row(rows: Float[Array, "n features"], weight: Float[Array, " n"]) -> Array:
    """The weighted mean (1, features) over all devices; 0 when nothing counts."""
    weight = weight[:, None]
    counted = jnp.where(weight > 0, rows, 0.0) * weight  # what does not count may be NaN
    total, count = sum_over_devices((jnp.sum(counted, axis=0, keepdims=True), jnp.sum(weight)))
    return total / jnp.where(count > 0, count, 1.0)


def collapse_message(values: dict[str, float]) -> str | None:
    """What is wrong with a training, in words; None if it looks healthy.

    ``values`` are the computed means of one of the monitors above. Without
    ``embedding_norm`` and ``embedding_spread`` among them nothing can be said.
    """
    if not {"embedding_norm", "embedding_spread"} <= values.keys():
        return None
    if values.get("capped_fraction") == 1.0:
        return (
            "every triplet is beyond the cap, where the gradient is 0: the network learns nothing; "
            "lower the margin, or raise or drop the cap"
        )
    same, different = values.get("distance_same"), values.get("distance_different")
    norm, spread = values["embedding_norm"], values["embedding_spread"]
    if spread < 1e-3 * max(norm, 1e-3):
        return (
            "the network has collapsed: all images have nearly the same embedding (spread "
            f"{spread:.2g} at a norm of {norm:.2g}); lower the learning rate or the margin"
        )
    if same is not None and different is not None and abs(same - different) < 0.02 * different:
        return (
            f"all distances are alike: {same:.3g} for the same identity, {different:.3g} for "
            "different ones; if this lasts, the network learns nothing: check the labels and lower "
            "the learning rate"
        )
    active = values.get("active_fraction")
    if active == 0.0:
        return (
            "active fraction 0: all negatives are beyond the margin, so they teach nothing any "
            "more; use harder negatives"
        )
    if values.get("accuracy") == 1.0:
        return (
            "accuracy 1: every pair of these steps is classified correctly; if this lasts, use "
            "harder pairs"
        )
    if active == 1.0:
        return (
            "active fraction 1: every negative is still within the margin; if this lasts, the "
            "network is stuck: lower the margin or the learning rate"
        )
    return None
