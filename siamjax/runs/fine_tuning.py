"""Start from published weights: what is put where, and what a frozen part gives once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from siamjax.data.faces import FaceSplits
from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.data.transforms import Size, sides
from siamjax.errors import UsageError
from siamjax.models.heads import EuclideanHead
from siamjax.models.inception_embedding import InceptionEmbedding
from siamjax.models.inception_v3 import ENDS, layers_of
from siamjax.models.siamese import Siamese
from siamjax.pretrained import Weights, put
from siamjax.runs.train import Rows
from siamjax.runs.verification import Scores
from siamjax.scoring import PairScorer
from siamjax.search.embedding import Embedder
from siamjax.training.optimizers import by_layer


def begins_of(words: Sequence[str], *, steps: int) -> dict[str, int]:
    """``NAME:STEP`` each; ``UsageError`` for other words, a name twice, a step not in the run."""
    begins: dict[str, int] = {}
    for word in words:
        name, _, step = word.rpartition(":")
        if not name or not step.isdecimal() or name in begins or not 0 < int(step) < steps:
            raise UsageError(
                f"unfreeze {word!r}: NAME:STEP is needed, such as mixed4:100, each name once and a "
                f"step after 0 and before {steps}"
            )
        begins[name] = int(step)
    return begins


def stages_of(
    frozen: str | None, unfreeze: Sequence[str], *, end: str, steps: int
) -> dict[int, str | None]:
    """The last frozen block (None: nothing is) by the step that it is frozen from, ascending.

    ``frozen`` from step 0; each ``BLOCK:STEP`` of ``unfreeze`` lets the blocks from that one on go.
    Raises ``UsageError`` for blocks that are none up to ``end``, for other words, and where a later
    stage would freeze again.
    """
    begins = begins_of(unfreeze, steps=steps)
    for block in (end, *([frozen] if frozen else []), *begins):
        if end not in ENDS or block not in ENDS[: 1 + ENDS.index(end)]:
            raise UsageError(
                f"no block {block!r} up to {end!r}: {ENDS[0]} to {ENDS[-1]}, or None to freeze none"
            )
    stages = {0: frozen}
    for block, step in begins.items():
        if step in stages:
            raise UsageError(f"unfreeze {' '.join(unfreeze)}: two blocks at step {step}")
        stages[step] = None if block == ENDS[0] else ENDS[ENDS.index(block) - 1]
    stages = dict(sorted(stages.items()))
    depths = [_depth(last) for last in stages.values()]
    if depths != sorted(depths, reverse=True):
        raise UsageError(f"unfreeze {' '.join(unfreeze)}: a later one freezes again")
    return stages


def block_by_block(
    make: Callable[..., optax.GradientTransformation],
    stages: Mapping[int, str | None],
    *,
    end: str,
    learning_rate: float,
    trunk_rate: float,
    block_decay: float,
) -> optax.GradientTransformation:
    """Discriminative rates: the smaller the further from the end; each block from its stage on.

    ``make(learning_rate=, begin=)`` gives an optimizer. Block ``end`` learns at ``trunk_rate`` of
    ``learning_rate``, each block before it at ``block_decay`` of the one after it (Howard and
    Ruder, ACL 2018, section 3.2), all else at ``learning_rate``; what no stage trains stays.
    """
    trained, frozen = {}, []
    for block in (None, *ENDS[: 1 + ENDS.index(end)]):  # None: the layers before the first
        layers = tuple(f"backbone/trunk/{layer}" for layer in layers_of(block))
        begins = [
            step for step, last in stages.items() if last is None or _depth(last) < _depth(block)
        ]
        if begins:
            share = trunk_rate * block_decay ** (_depth(end) - _depth(block))
            trained[layers] = make(learning_rate=share * learning_rate, begin=min(begins))
        else:
            frozen += layers
    return by_layer(trained, default=make(learning_rate=learning_rate), frozen=frozen)


def _depth(block: str | None) -> int:
    return -1 if block is None else ENDS.index(block)


def from_weights(network: Siamese, weights: Weights, variables: Any) -> dict[str, Any]:
    """Variables of a Siamese :class:`InceptionEmbedding` with the weights in its trunk."""
    body = network.backbone
    assert isinstance(body, InceptionEmbedding)
    return _put(network, "backbone/trunk", body.end, weights, variables)


def frozen_maps(
    part: nn.Module,
    variables: Any,
    images: ImageSet,
    shown: Int[np.ndarray, " n"],
    *,
    size: Size,
) -> Float[np.ndarray, "images rows columns channels"]:
    """``part.maps`` of the pictures ``shown``, in memory: what a frozen part gives, once.

    A row for every picture of ``images``, 0 (and no memory touched) for those not shown.
    11 MB a hundred pictures for InceptionV3's ``mixed6`` at 128x128, 89 MB at 299x299.
    """
    picture = jax.ShapeDtypeStruct((1, *sides(size), 3), np.uint8)
    shape = jax.eval_shape(lambda v, x: part.apply(v, x, method="maps"), variables, picture).shape
    inside = {collection: {"network": tree} for collection, tree in variables.items()}
    embedder = Embedder(network=_FlatMaps(network=part), variables=inside, size=size)
    rows = np.zeros((len(images), *shape[1:]), np.float32)
    done = 0
    for batch in embedder.batches(images, shown):
        rows[shown[done : done + len(batch)]] = batch.reshape(-1, *shape[1:])
        done += len(batch)
    return rows


def frozen_inception_maps(
    body: InceptionEmbedding, weights: Weights, splits: FaceSplits, *, size: Size
) -> Rows | None:
    """:func:`frozen_maps` of block ``body.given`` of those trained on, or None if none is given."""
    if body.given is None:
        return None
    part = body.clone(end=body.given, embedding=None, frozen=None, given=None)
    images = splits.images
    trained = np.isin(images.identities, splits.trained_on) | (not splits.trained_on)

    def rows() -> np.ndarray:
        picture = jax.ShapeDtypeStruct((1, *sides(size), 3), np.uint8)
        like = jax.eval_shape(part.init, jax.random.key(0), picture)
        variables = _put(part, "trunk", part.end, weights, like)
        return frozen_maps(part, variables, images, np.flatnonzero(trained), size=size)

    return rows


class _FlatMaps(nn.Module):
    """``network.maps`` as one row a picture, by the name that an :class:`Embedder` calls."""

    network: nn.Module

    def embed(self, x: Array, *, train: bool = False) -> Array:
        maps = self.network.maps(x, train=train)  # pyright: ignore[reportAttributeAccessIssue]
        return maps.reshape(maps.shape[0], -1)


def untrained_scores(body: InceptionEmbedding, weights: Weights, *, size: Size) -> Scores:
    """Scores by the distance of the published features: what there is before any training."""
    network = Siamese(
        backbone=body.clone(embedding=None, frozen=None, given=None), head=EuclideanHead()
    )

    def scores(images: ImageSet, pairs: PairList) -> np.ndarray:
        picture = jax.ShapeDtypeStruct((1, *sides(size), 3), np.uint8)
        like = jax.eval_shape(network.init, jax.random.key(0), picture, picture)
        scorer = PairScorer(network, size=size)
        return scorer.scores(scorer.values(from_weights(network, weights, like), images, pairs))

    return scores


def _put(
    network: nn.Module, under: str, end: str, weights: Weights, variables: Any
) -> dict[str, Any]:
    beyond = [layer for block in ENDS[1 + ENDS.index(end) :] for layer in layers_of(block)]
    return put(network, variables, weights, under=under, unused=beyond)
