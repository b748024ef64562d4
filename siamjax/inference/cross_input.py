"""Scores of every query with every gallery image by a cross-input network.

A cross-input network has no embedding of an image that could be looked up: every query meets every
gallery image. What can be shared is the trunk, which is run once an image and not once a pair.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from siamjax.data.images import ImageSet
from siamjax.data.transforms import Size, sides
from siamjax.errors import UsageError
from siamjax.inference.digests import describe, list_digest, pictures_digest, weights_digest
from siamjax.inference.embedder import Embedder, check_finite
from siamjax.inference.record import DiskRecord, MemoryRecord, Place, Record
from siamjax.inference.tiles import TileScorer, check_matcher

TILE, CANDIDATE_TILE = (16, 256), (8, 256)


def score_pairs(
    network: nn.Module,
    variables: Any,
    images: ImageSet,
    queries: Int[np.ndarray, " queries"],
    gallery: Int[np.ndarray, " gallery"],
    *,
    size: Size,
    output: Path | None = None,
    tile: tuple[int, int] = TILE,
    symmetric: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> Float[np.ndarray, "queries gallery"]:
    """The logit of P(same) of every query with every gallery image.

    Each image goes through ``network.embed`` once, in whatever lists and however often it is;
    then ``network.compare(query, gallery image)`` runs tile by tile, each tile's gallery split
    over the local devices. Equal to the network on each pair to rounding.

    With ``output`` memory is that of a tile, whatever the gallery: features lie in a file beside
    it until all is done (44 kB an image for ``NormXCorrNet``), and scores come to it as they are
    made. A process that is killed loses the tile it was at; the same call goes on from there, on
    any number of devices, and returns at once when all is done.

    Args:
        network: has ``embed`` (images -> features) and ``compare`` (features, features ->
            logits); its fields must be hashable.
        variables: of the network.
        images: the images.
        queries: indices into them, as first of the pair.
        gallery: likewise, as second.
        size: of the network's images.
        output: .npy file to write and to go on with; NaN in it is not done yet. None: memory.
        tile: at most so many queries x gallery images at a time: what a kill loses, and
            what memory grows with: features of all these images, and the network's work on one
            query with a tile's gallery images.
        symmetric: the logit of the mean of P(query, image) and P(image, query), at twice the
            time, for a network to which the order of a pair matters.
        batch_size: images a call of ``embed``, over all devices.
        progress: show progress bars.

    Returns: the scores, and with ``output`` a read-only map of that file.

    Raises ``UsageError`` for indices out of range, a network that compares by a distance,
    features or scores that are not finite (naming the images), an ``output`` of another
    network, weights, images, lists or options (naming what differs), or one that cannot be
    written or is damaged.
    """
    gallery = _indices("gallery", gallery, len(images), axes=1)
    return _score(
        network,
        variables,
        images,
        _indices("queries", queries, len(images), axes=1),
        gallery[None],
        size=size,
        output=output,
        tile=tile,
        symmetric=symmetric,
        batch_size=batch_size,
        progress=progress,
    )


def score_candidates(
    network: nn.Module,
    variables: Any,
    images: ImageSet,
    queries: Int[np.ndarray, " queries"],
    candidates: Int[np.ndarray, "queries k"],
    *,
    size: Size,
    output: Path | None = None,
    tile: tuple[int, int] = CANDIDATE_TILE,
    symmetric: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> Float[np.ndarray, "queries k"]:
    """:func:`score_pairs` of each query with images of its own, ``candidates`` (indices too).

    A tile holds the features of all its pairs' second images.
    """
    queries = _indices("queries", queries, len(images), axes=1)
    candidates = _indices("candidates", candidates, len(images), axes=2)
    if len(candidates) != len(queries):
        raise UsageError(f"{len(candidates)} rows of candidates for {len(queries)} queries")
    return _score(
        network,
        variables,
        images,
        queries,
        candidates,
        size=size,
        output=output,
        tile=tile,
        symmetric=symmetric,
        batch_size=batch_size,
        progress=progress,
    )


def _score(
    network: nn.Module,
    variables: Any,
    images: ImageSet,
    queries: np.ndarray,
    others: np.ndarray,  # (queries, columns), or (1, columns): for every query the same
    *,
    size: Size,
    output: Path | None,
    tile: tuple[int, int],
    symmetric: bool,
    batch_size: int,
    progress: bool,
) -> np.ndarray:
    check_matcher(network)
    if min(*tile, batch_size) < 1:
        raise UsageError(f"tile {tile}, batch_size {batch_size}: each must be 1 or more")
    shown, place = np.unique(np.concatenate([queries, others.ravel()]), return_inverse=True)
    embedder = Embedder(
        network=network,
        variables=variables,
        size=size,
        batch_size=min(batch_size, len(shown)),
    )
    feature = embedder.feature
    tiles = list(_tiles(len(queries), others.shape[1], tile))
    shapes = {
        "scores": (len(queries), others.shape[1]),
        "features": (len(shown), *feature.shape),
    }
    if output is None:
        record: Record = MemoryRecord(**shapes)
    else:
        about = {
            "network": describe(network),
            "weights": weights_digest(variables),
            "pictures": pictures_digest(images, shown),
            "size": sides(size),
            "queries": list_digest(queries),
            "gallery": list_digest(others),
            "symmetric": bool(symmetric),
            "tile": [int(side) for side in tile],
        }
        record = DiskRecord(output, about=about, total=len(tiles), **shapes)
    if record.tiles < len(tiles):
        _embed(record, embedder, images, shown, progress=progress)
        scorer = TileScorer(network, variables, dtype=feature.dtype, symmetric=symmetric)
        places = place[: len(queries)], place[len(queries) :].reshape(others.shape)
        names = [images.keys[index] for index in shown]
        _fill(record, scorer, tiles, *places, names=names, progress=progress)
    return record.finish()


def _embed(
    record: Record, embedder: Embedder, images: ImageSet, shown: np.ndarray, *, progress: bool
) -> None:
    """The features that are missing, batch by batch."""
    left = shown[record.embedded :]
    bar = tqdm(total=len(shown), initial=record.embedded, unit="image", disable=not progress)
    with bar:
        for rows in embedder.batches(images, left) if len(left) else ():
            check_finite(rows, images, shown[record.embedded :])
            record.put_features(rows)
            bar.update(len(rows))


def _fill(
    record: Record,
    scorer: TileScorer,
    tiles: list[Place],
    queries: np.ndarray,
    others: np.ndarray,
    *,
    names: list[str],
    progress: bool,
) -> None:
    """The tiles that are missing; ``queries`` and ``others`` are places among the features."""
    pairs = [(q.stop - q.start) * (c.stop - c.start) for q, c in tiles]
    done = sum(pairs[: record.tiles])
    # One shape for all: the last tile of a row or column repeats images to fill it.
    rows, columns = tiles[0][0].stop, tiles[0][1].stop
    bar = tqdm(total=sum(pairs), initial=done, unit="pair", unit_scale=True, disable=not progress)
    with bar:
        for number in range(record.tiles, len(tiles)):
            down, across = tiles[number]
            first = _filled(queries[down], rows, 0)
            second = others[:, across] if len(others) == 1 else others[down, across]
            second = _filled(second, columns, 1)
            if len(others) > 1:
                second = _filled(second, rows, 0)
            scores = scorer(record.take_features(first), record.take_features(second.T))
            scores = scores[: down.stop - down.start, : across.stop - across.start]
            if not np.isfinite(scores).all():
                row, column = np.argwhere(~np.isfinite(scores))[0]
                pair = names[first[row]], names[second[row % len(second), column]]
                raise UsageError(
                    f"the score of {' and '.join(pair)} is {scores[row, column]}: the network "
                    "has diverged; take an earlier checkpoint"
                )
            record.put_scores((down, across), scores)
            bar.update(pairs[number])


def _filled(array: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Repeated along an axis up to a length."""
    return np.take(array, np.arange(length) % array.shape[axis], axis=axis)


def _tiles(rows: int, columns: int, most: tuple[int, int]) -> Iterator[Place]:
    """Tiles row by row, the first of them the largest; even, so that the rest is little."""
    height, width = (_even(total, side) for total, side in ((rows, most[0]), (columns, most[1])))
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            down = slice(row, min(row + height, rows))
            yield down, slice(column, min(column + width, columns))


def _even(total: int, most: int) -> int:
    return -(-total // -(-total // most))


def _indices(name: str, values: np.ndarray, total: int, *, axes: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != axes or values.size == 0 or values.dtype.kind not in "iu":
        raise UsageError(
            f"{name}: {values.dtype} of shape {values.shape}; indices of images are needed, "
            f"whole numbers in {axes} axes, at least one"
        )
    if values.min() < 0 or values.max() >= total:
        worst = values.min() if values.min() < 0 else values.max()
        raise UsageError(f"{name}: {worst} is no index of {total} images, counted from 0")
    return values.astype(np.int64)
