"""Train a network that embeds pictures, and say how well it finds things it has never seen."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from matplotlib.figure import Figure

from siamjax.baselines import pixel_features
from siamjax.data.catalogue.splits import CatalogueSplits, Retrieval
from siamjax.data.images import ImageSet
from siamjax.data.transforms import Size, sides
from siamjax.data.triplets import MinedTriplets, TripletStream
from siamjax.metrics import retrieval
from siamjax.metrics.catalogue import Found, search_quality
from siamjax.models.vgg16 import BLOCKS, Vgg16Features
from siamjax.pretrained import HEADS, Weights, put
from siamjax.report import figures, ranking_figures
from siamjax.report.embedding_map import embedding_map
from siamjax.report.page import search_table
from siamjax.report.writers import read_metrics
from siamjax.runs import folder as runs
from siamjax.runs.fine_tuning import frozen_maps
from siamjax.runs.finished import KINDS, Results, conclude
from siamjax.runs.mining import Miner
from siamjax.runs.train import Training, train, triplet_examples
from siamjax.search.embedding import Embedder
from siamjax.training.step import LossFunction

Features = Callable[[ImageSet, np.ndarray], np.ndarray]
"""Pictures by index -> (n, features), compared by Euclidean distance."""

BEST = KINDS["embedder"].best
PIXELS, PRETRAINED = "raw pixels 16x16", "VGG-16 (ImageNet), block 4"
_PICTURED, _MAPPED = 200, 2000  # queries of the report's ranked lists, pictures of its map


def train_embedder(
    network: nn.Module,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    splits: CatalogueSplits,
    triplets: TripletStream,
    training: Training,
    *,
    run: Path,
    config: dict[str, Any],
    weights: Weights | None = None,
    given: int = 0,
) -> Results:
    """Train (or go on with) the run in folder ``run``; returns the test results by name.

    The checkpoint with the best recall@1 on the validation items is the result. It then searches
    the test catalogue once, beside raw pixels. With ``weights`` the convolutions of ``deep``, a
    VGG-16, start as published, and their plain features are a baseline too. With ``given`` a
    :class:`Vgg16Features` is trained on the maps of that block: the blocks up to it are frozen as
    published and run once a picture. With :class:`MinedTriplets` the training items are embedded
    at every evaluation and their nearest others become negatives.
    """
    images = splits.images
    miner = None
    if isinstance(triplets, MinedTriplets) and triplets.hard:
        miner = Miner(
            triplets,
            images,
            splits.training,
            folder=run / "mined",
            workers=training.workers,
        )
        miner.take_up()

    def embedder(variables: Any) -> Embedder:
        return Embedder(network=network, variables=variables, size=training.size)

    def evaluate(variables: Any, step: int) -> dict[str, float]:
        embed = embedder(variables)
        if miner is not None and step < training.steps:
            miner.mine(step, embed)
        asked = splits.validation
        found = _quality(*_embedded(embed.embeddings, images, asked), images, asked).summary()
        return {
            BEST: float(found["recall_at_1"] or 0.0),
            "validation_map_at_r": float(found["map_at_r"] or 0.0),
        }

    rows = None
    if given and weights is not None:
        part = network.clone(depth=given, given=0)
        rows = partial(_maps, part, weights, images, splits.training, training.size)
    config = runs.as_json({**config, "data_fingerprint": splits.fingerprint()})
    best, variables = train(
        network,
        loss_fn,
        optimizer,
        images,
        triplet_examples(images, triplets, training, rows=rows),
        training,
        run=run,
        config=config,
        kind="embedder",
        evaluate=evaluate,
        start_from=None if weights is None else partial(_with_weights, network, weights),
    )
    baselines: dict[str, Features] = {
        PIXELS: lambda images, indices: pixel_features(images, indices, size=16)
    }
    if weights is not None:
        baselines = {PRETRAINED: _plain_features(weights, training.size), **baselines}
    return _conclude(run, embedder(variables), best, splits, baselines, config=config)


def _with_weights(
    network: nn.Module, weights: Weights, variables: dict[str, Any]
) -> dict[str, Any]:
    """Initial variables with the published convolutions in ``deep``; the rest keeps its start."""
    blocks = {layer.partition("_")[0] for layer in variables["params"]["deep"]}
    beyond = [f"block{n}" for n in range(1, len(BLOCKS) + 1) if f"block{n}" not in blocks]
    convolutions = weights.without(*HEADS, *beyond)
    deep = put(network, variables, convolutions, under="deep", new=HEADS)
    return {**variables, **deep}


def _plain_features(weights: Weights, size: Size) -> Features:
    """What the published network gives without any training of ours."""
    network = Vgg16Features(preprocessing=weights.preprocessing)
    variables = _plain(network, weights, size)
    return Embedder(network=network, variables=variables, size=size).embeddings


def _maps(
    part: Any, weights: Weights, images: ImageSet, shown: np.ndarray, size: Size
) -> np.ndarray:
    return frozen_maps(part, _plain(part, weights, size), images, shown, size=size)


def _plain(network: Vgg16Features, weights: Weights, size: Size) -> dict[str, Any]:
    """Its variables as published."""
    picture = jax.ShapeDtypeStruct((1, *sides(size), 3), np.uint8)
    like = jax.eval_shape(network.init, jax.random.key(0), picture)
    return _with_weights(network, weights, like)


def _embedded(
    features: Features, images: ImageSet, asked: Retrieval
) -> tuple[np.ndarray, np.ndarray]:
    """Features of the queries and of the gallery; a picture that is in both is embedded once."""
    both = np.concatenate([asked.query, asked.gallery])
    shown, place = np.unique(both, return_inverse=True)
    rows = features(images, shown)
    return rows[place[: len(asked.query)]], rows[place[len(asked.query) :]]


def _quality(query: np.ndarray, gallery: np.ndarray, images: ImageSet, asked: Retrieval) -> Found:
    shown = images.identities
    return search_quality(
        query, gallery, shown[asked.query], shown[asked.gallery], own=asked.own_places
    )


def _conclude(
    run: Path,
    embedder: Embedder,
    best: int,
    splits: CatalogueSplits,
    baselines: dict[str, Features],
    *,
    config: dict[str, Any],
) -> Results:
    """Judge a checkpoint and write manifest and report."""
    images, test = splits.images, splits.test
    query, gallery = _embedded(embedder.embeddings, images, test)
    found = {"network": _quality(query, gallery, images, test)}
    for name, features in baselines.items():
        found[name] = _quality(*_embedded(features, images, test), images, test)
    results: Results = {name: one.summary() for name, one in found.items()}
    category = splits.catalogue.attributes.get("category")
    by_category: dict[str, Results] = {}
    if category is not None:
        by_category = {name: dict(one.by(category[test.query])) for name, one in found.items()}
    own = results["network"]
    return conclude(
        run,
        kind="embedder",
        network=embedder.network,
        variables=embedder.variables,
        step=best,
        size=embedder.size,
        splits=splits,
        trained_on=sorted(set(images.identities[splits.training].tolist())),
        config=config,
        results=results,
        table=search_table(results, by_category),
        remark=(
            f"{test.name}: {own['queries']:,} queries, {own['gallery']:,} pictures in the "
            f"catalogue{', the query itself left out' if test.leave_one_out else ''}. The "
            f"checkpoint of step {best} was chosen by recall@1 on {splits.validation.name}."
        ),
        pictures=_pictures(run, splits, query, gallery, where=f"{test.name} of {images.name}"),
        facts={"by_category": by_category},
    )


def _pictures(
    run: Path, splits: CatalogueSplits, query: np.ndarray, gallery: np.ndarray, *, where: str
) -> list[tuple[str, Figure]]:
    """Of a few embedded queries and the whole embedded gallery of the test."""
    images, test = splits.images, splits.test
    some = np.linspace(0, len(test.query) - 1, min(_PICTURED, len(test.query))).round().astype(int)
    mapped = np.linspace(0, len(gallery) - 1, min(_MAPPED, len(gallery))).round().astype(int)
    asked, shown = test.query[some], images.identities
    # Differences and not products: equal pictures shall have distance 0 here.
    score = -np.stack([np.linalg.norm(gallery - row, axis=1) for row in query[some]])
    valid = None if test.own_places is None else test.gallery != asked[:, None]
    category = splits.catalogue.attributes.get("category")
    return [
        (
            "Training",
            figures.training_curves(
                read_metrics(run), data=images.name, panels=figures.EMBEDDER_PANELS
            ),
        ),
        (
            "Found",
            ranking_figures.ranked_lists(
                images,
                asked,
                test.gallery,
                score,
                retrieval.same_identity(shown[asked], shown[test.gallery]),
                data=f"{where}, minus distance",
                valid=valid,
            ),
        ),
        (
            "Map of the catalogue",
            embedding_map(
                images.take(test.gallery[mapped]),
                gallery[mapped],
                data=where,
                labels=None if category is None else category[test.gallery[mapped]],
                named="category",
            ),
        ),
    ]
