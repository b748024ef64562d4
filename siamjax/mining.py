"""The images of a batch beside each other, and negatives chosen among them, by their embeddings.

Contract of a miner: ``distance`` (anchors, candidates) is of any kind; ``other`` of the same shape
is bool, True = the candidate shows another identity than the anchor; another type is refused
(``UsageError``). The miner returns a distance for each anchor. Shapes are fixed, so it can be
jitted; memory is that of the distances.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from siamjax.checks import require_bool, require_number
from siamjax.distances import unit
from siamjax.errors import UsageError
from siamjax.parallel import first_gathered_row, gather_over_devices

Distance = Callable[
    [Float[Array, "batch features"], Float[Array, "batch features"]], Float[Array, " batch"]
]
Miner = Callable[
    [
        Float[Array, "anchors candidates"],
        Float[Array, " anchors"],
        Bool[Array, "anchors candidates"],
    ],
    Float[Array, " anchors"],
]

_OTHER = "another identity than the anchor's"


def negatives_of_batch(
    mine: Miner,
    distance: Distance,
    embeddings: Sequence[Float[Array, "batch features"]],
    batch: Mapping[str, Array],
) -> Float[Array, " batch"]:
    """For each anchor the distance of its negative, which ``mine`` chooses in the whole batch.

    ``embeddings`` are those of ``batch["anchor"]``, ``["positive"]`` and ``["negative"]``. The
    candidates are all positives and negatives of the batch, over all devices (gradients flow back
    to each), except those of ``batch["weight"]`` 0. ``batch["identity"]`` is that of anchor and
    positive, ``batch["negative_identity"]`` that of the negative. ``distance`` is one of
    :mod:`siamjax.distances`, ``mine`` such as :func:`semi_hard_negative`.
    """
    anchor, positive, negative = embeddings
    identity, weight = batch["identity"], batch.get("weight")
    counted = jnp.ones(len(anchor), bool) if weight is None else weight > 0
    candidates, shown, counted = gather_over_devices(
        (
            jnp.concatenate([positive, negative]),
            jnp.concatenate([identity, batch["negative_identity"]]),
            jnp.tile(counted, 2),
        )
    )

    # One by one: what a distance needs of each embedding, such as its length, is computed once.
    to_all = jax.vmap(distance, (None, 0))
    every = jax.vmap(to_all, (0, None))(anchor, candidates)
    other = (identity[:, None] != shown[None]) & counted[None]
    # The positives' distances come from the same computation as the negatives': rounded another
    # way, a negative that is equal to the positive could count as further.
    own = first_gathered_row(2 * len(anchor)) + jnp.arange(len(anchor), dtype=jnp.int32)
    return mine(every, jnp.take_along_axis(every, own[:, None], axis=1)[:, 0], other)


def others_of_batch(
    embeddings: Float[Array, "batch features"],
    identity: Int[Array, " batch"],
    weight: Float[Array, " batch"] | None = None,
) -> tuple[Float[Array, "batch images"], Bool[Array, "batch images"], Bool[Array, "batch images"]]:
    """For each anchor all images of the batch, over all devices: ``(similarity, other, same)``.

    ``similarity`` is the cosine, in [-1, 1], as float32 at least; that of a zero vector is 0.
    ``other`` is True for what may be compared with the anchor: every image but itself and those of
    weight 0. ``same`` is True for those of its identity. An anchor of weight 0 has neither.
    Gradients flow back to the device of each image. Raises ``UsageError`` for an ``identity`` that
    is not one whole number for each embedding.

    Of vectors that are nearly alike a product keeps fewer digits than
    :func:`siamjax.distances.pairwise_cosine`, but is hundreds of times faster: the gradient of an
    angle is 1e-7 / angle off.
    """
    count = len(embeddings)
    if not jnp.issubdtype(identity.dtype, jnp.integer) or identity.shape != (count,):
        raise UsageError(
            f"identity: {identity.dtype} of shape {identity.shape}; give a whole number for each "
            f"of the {count} embeddings"
        )
    counted = jnp.ones(count, bool) if weight is None else weight > 0
    # What does not count may be NaN, which times 0 is NaN in the gradients of all others.
    rows = unit(jnp.where(counted[:, None], embeddings, 0))
    images, shown, known = gather_over_devices((rows, identity, counted))
    similarity = jnp.matmul(rows, images.T, precision="highest")
    own = first_gathered_row(count) + jnp.arange(count, dtype=jnp.int32)
    itself = own[:, None] == jnp.arange(len(images), dtype=jnp.int32)[None]
    other = known[None] & counted[:, None] & ~itself
    return similarity, other, other & (identity[:, None] == shown[None])


def semi_hard_negative(
    distance: Float[Array, "anchors candidates"],
    positive: Float[Array, " anchors"],
    other: Bool[Array, "anchors candidates"],
) -> Float[Array, " anchors"]:
    """For each anchor the distance of its nearest negative that is further than its positive.

    Of an anchor with no such negative, that of the furthest. Schroff, Kalenichenko, Philbin,
    *FaceNet*, CVPR 2015, section 3.2: with the hardest negatives of all, training tends to
    collapse. Infinite for an anchor without any negative, so that a hinge gives it loss 0 and
    gradient 0.
    """
    other = require_bool("other", other, true=_OTHER)
    further = other & (distance > positive[:, None])
    nearest = jnp.min(jnp.where(further, distance, jnp.inf), axis=1)
    furthest = jnp.max(jnp.where(other, distance, -jnp.inf), axis=1)
    fallback = jnp.where(other.any(axis=1), furthest, jnp.inf)
    return jnp.where(further.any(axis=1), nearest, fallback)


def soft_negative(
    distance: Float[Array, "anchors candidates"],
    positive: Float[Array, " anchors"],
    other: Bool[Array, "anchors candidates"],
    *,
    temperature: float = 0.05,
) -> Float[Array, " anchors"]:
    """For each anchor the soft minimum of its negatives' distances, so that all near ones teach.

    ``-temperature * log(sum(exp(-distance / temperature)))``: the gradient is shared by the
    negatives within a few ``temperature`` (in the distance's unit) of the nearest, where
    :func:`semi_hard_negative` gives it to one. Never above the smallest distance. The distance of
    the positive does not matter. Infinite, without a gradient, for an anchor without any negative.
    """
    other = require_bool("other", other, true=_OTHER)
    require_number("temperature", temperature, above=0)
    some = other.any(axis=1)
    scaled = jnp.where(other, -distance / temperature, -jnp.inf)
    # Zeros for an anchor without negatives: the gradient of the sum of nothing would be nan.
    least = -temperature * jax.nn.logsumexp(jnp.where(some[:, None], scaled, 0.0), axis=1)
    return jnp.where(some, least, jnp.inf)
