"""Scores of every query with every gallery image, by any network.

A cross-input network has no embedding that could be looked up: it has to compare every query with
every gallery image. Its trunk, however, runs once an image and not once a pair.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Float, Int

from siamjax import processes
from siamjax.array_files import map_npy
from siamjax.data.images import ImageSet
from siamjax.data.transforms import Size, sides
from siamjax.errors import UsageError
from siamjax.inference.digests import describe, images_digest, list_digest
from siamjax.inference.embedder import Embedder, check_finite
from siamjax.inference.record import DiskRecord, Place, Record
from siamjax.inference.tiles import TileScorer
from siamjax.models import comparing
from siamjax.progress import Progress
from siamjax.training.fingerprint import weights_digest

TILE, CANDIDATE_TILE = (16, 256), (8, 256)  # of one gallery, and of candidates of each query


def score_pairs(
    network: nn.Module,
    variables: Any,
    images: ImageSet,
    queries: Int[np.ndarray, " queries"],
    gallery: Int[np.ndarray, " gallery"] | Int[np.ndarray, "queries gallery"],
    *,
    size: Size,
    output: Path | None = None,
    tile: tuple[int, int] | None = None,
    symmetric: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> Float[np.ndarray, "queries gallery"]:
    """Scores of every query with every gallery image, or with candidates of its own.

    A score rises with similarity: the logit of P(same), or the negated distance
    (:mod:`siamjax.models.comparing`). Each image goes through ``network.embed`` once, however
    often it is listed. Then ``compare(query, gallery image)`` runs tile by tile; the gallery images
    of a tile are split over all devices. Equal to the network on each pair, to rounding.

    With ``output``, memory is that of a tile, whatever the gallery: features lie in a file beside
    the scores until all is done (44 kB an image for ``NormXCorrNet``), and each tile's scores are
    written at once. If the process is killed, the same call resumes at the tile it was at, on any
    number of devices; when all is done it returns at once. Of several processes the first writes
    the file, and the others keep the features in memory meanwhile.

    Args:
        network: has ``embed`` (images -> features), and may have ``compare`` (features, features
            -> values); its fields must be hashable.
        variables: the network's variables.
        images: the image set that the indices refer to.
        queries: indices of the first images of the pairs.
        gallery: indices of the second images: one list for all queries, or a row for each.
        size: image size of the network.
        output: .npy file to write, or to resume; NaN = not scored yet. None: memory only.
        tile: the most queries x gallery images at a time: what a kill loses, and what memory
            grows with, by the features of a tile's images and by the network's work on one query.
            None: 16 x 256, and 8 x 256 with a row for each query.
        symmetric: the logit of the mean of P(query, image) and P(image, query), at twice the
            time, for a network to which the order of a pair matters.
        batch_size: images a call of ``embed``, over all devices.
        progress: show progress bars.

    Returns: the scores, (queries, gallery); with ``output`` a read-only map of that file.

    Raises ``UsageError`` for indices out of range, a network that does not embed, ``symmetric``
    for one that compares by a distance, features or scores that are not finite (naming the images),
    and an ``output`` that cannot be written, is damaged, or has scores of another network, weights,
    images, lists or options.
    """
    if symmetric and (kind := comparing.measure(network)) != "logit":
        raise UsageError(
            f"{type(network).__name__} compares by a {kind} and not by the logit of P(same), of "
            "which both orders of a pair have a mean; leave out symmetric"
        )
    queries = _indices("queries", queries, len(images), axes=1)
    own = np.ndim(gallery) == 2  # each query has candidates of its own
    others = np.atleast_2d(_indices("gallery", gallery, len(images), axes=2 if own else 1))
    if own and len(others) != len(queries):
        raise UsageError(
            f"gallery: {len(others)} rows for {len(queries)} queries; give one list, or a row each"
        )
    tile = tile or (CANDIDATE_TILE if own else TILE)
    if min(*tile, batch_size) < 1:
        raise UsageError(f"tile {tile}, batch_size {batch_size}: each must be 1 or more")
    shown, place = np.unique(np.concatenate([queries, others.ravel()]), return_inverse=True)
    embedder = Embedder(
        network=network, variables=variables, size=size, batch_size=min(batch_size, len(shown))
    )
    feature = embedder.feature
    tiles = list(_tiles(len(queries), others.shape[1], tile))
    shapes = {
        "scores": (len(queries), others.shape[1]),
        "features": (len(shown), *feature.shape),
    }
    if output is None or not processes.is_first():  # of several, the first one writes
        record = Record(**shapes)
    else:
        about = {
            "network": describe(network),
            "weights": weights_digest(variables),
            "pictures": images_digest(images, shown),
            "size": sides(size),
            "queries": list_digest(queries),
            "gallery": list_digest(others),
            "symmetric": bool(symmetric),
            "tile": [int(side) for side in tile],
        }
        record = DiskRecord(output, about=about, total=len(tiles), **shapes)
    record.tiles = processes.exchange(record.tiles)[0]
    if record.tiles < len(tiles):
        _embed(record, embedder, images, shown, progress=progress)
        scorer = TileScorer(network, variables, dtype=feature.dtype, symmetric=symmetric)
        places = place[: len(queries)], place[len(queries) :].reshape(others.shape)
        names = [images.keys[index] for index in shown]
        _fill(record, scorer, tiles, *places, names=names, progress=progress)
    scores = record.finish()
    if output is not None and processes.count() > 1:
        processes.exchange(None)  # until the first one has finished the file
        scores = map_npy(output, kinds="f")
    return scores


def _embed(
    record: Record, embedder: Embedder, images: ImageSet, shown: np.ndarray, *, progress: bool
) -> None:
    """Embed the images that the record of any process lacks, batch by batch."""
    done = min(processes.exchange(record.embedded))
    left = shown[done:]
    with Progress("maps", unit="images", total=len(shown), done=done, shown=progress) as bar:
        for rows in embedder.batches(images, left) if len(left) else ():
            check_finite(rows, images, shown[done:])
            if len(new := rows[max(0, record.embedded - done) :]):
                record.put_features(new)
            done += len(rows)
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
    """Score the tiles that the record lacks; ``queries`` and ``others`` are rows of features."""
    pairs = [(q.stop - q.start) * (c.stop - c.start) for q, c in tiles]
    done = sum(pairs[: record.tiles])
    # All tiles have one shape: the last of a row or column repeats images to fill it.
    rows, columns = tiles[0][0].stop, tiles[0][1].stop
    with Progress("scoring", unit="pairs", total=sum(pairs), done=done, shown=progress) as bar:
        for number in range(record.tiles, len(tiles)):
            down, across = tiles[number]
            high, wide = down.stop - down.start, across.stop - across.start
            row = down.start + np.arange(rows) % high
            first = queries[row]
            lists = row if len(others) > 1 else np.zeros(1, np.int64)
            second = others[np.ix_(lists, across.start + np.arange(columns) % wide)]
            scores = scorer(record.take_features(first), record.take_features(second.T))
            scores = scores[:high, :wide]
            if not np.isfinite(scores).all():
                y, x = np.argwhere(~np.isfinite(scores))[0]
                raise UsageError(
                    f"the score of {names[first[y]]} and {names[second[y % len(second), x]]} is "
                    f"{scores[y, x]}: the network has diverged; use an earlier checkpoint"
                )
            record.put_scores((down, across), scores)
            bar.update(pairs[number])


def _tiles(rows: int, columns: int, most: tuple[int, int]) -> Iterator[Place]:
    """Tiles row by row, about equally large, the first the largest."""
    height, width = (-(-n // -(-n // side)) for n, side in zip((rows, columns), most, strict=True))
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            down = slice(row, min(row + height, rows))
            yield down, slice(column, min(column + width, columns))


def _indices(name: str, values: np.ndarray, total: int, *, axes: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != axes or values.size == 0 or values.dtype.kind not in "iu":
        raise UsageError(
            f"{name}: {values.dtype} of shape {values.shape}; give indices of images, whole "
            f"numbers in {axes} axes, at least one"
        )
    if values.min() < 0 or values.max() >= total:
        worst = values.min() if values.min() < 0 else values.max()
        raise UsageError(f"{name}: {worst} is not an index of {total} images, counted from 0")
    return values.astype(np.int64)
