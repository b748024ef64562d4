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
from siamjax.data.transforms import Augmentation, Size, sides
from siamjax.data.triplets import MinedTriplets, TripletStream
from siamjax.metrics import retrieval
from siamjax.metrics.catalogue import Found, search_quality
from siamjax.models.vgg16 import BLOCKS, Vgg16Features
from siamjax.pretrained import Weights, put
from siamjax.report import figures, ranking_figures
from siamjax.report.embedding_map import embedding_map
from siamjax.report.page import search_table
from siamjax.report.writers import read_metrics
from siamjax.runs import folder as runs
from siamjax.runs.finished import KINDS, Results, conclude
from siamjax.runs.mining import Miner
from siamjax.runs.train import train, triplet_examples
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
    *,
    run: Path,
    config: dict[str, Any],
    size: Size,
    batch_size: int,
    steps: int,
    seed: int,
    augmentation: Augmentation | None,
    evaluate_every: int,
    log_every: int,
    workers: int = 0,
    weights: Weights | None = None,
) -> Results:
    """Train (or go on with) the run in folder ``run``; returns the test results by name.

    The checkpoint with the best recall@1 on the validation items is the result. It then searches
    the test catalogue once, beside raw pixels. With ``weights`` the convolutions of ``deep``, a
    VGG-16, start as published, and their plain features are a baseline too. With
    :class:`MinedTriplets` the training items are embedded at every evaluation and their nearest
    others become negatives.
    """
    images = splits.images
    miner = None
    if isinstance(triplets, MinedTriplets) and triplets.hard:
        miner = Miner(triplets, images, splits.training, folder=run / "mined", workers=workers)
        miner.take_up()

    def embedder(variables: Any) -> Embedder:
        return Embedder(network=network, variables=variables, size=size)

    def evaluate(variables: Any, step: int) -> dict[str, float]:
        embed = embedder(variables)
        if miner is not None and step < steps:
            miner.mine(step, embed)
        found = _search(embed.embeddings, images, splits.validation).summary()
        return {
            BEST: float(found["recall_at_1"] or 0.0),
            "validation_map_at_r": float(found["map_at_r"] or 0.0),
        }

    config = runs.as_json({**config, "data_fingerprint": splits.fingerprint()})
    best, variables = train(
        network,
        loss_fn,
        optimizer,
        images,
        triplet_examples(
            images,
            triplets,
            batch_size=batch_size,
            steps=steps,
            size=size,
            augmentation=augmentation,
            seed=seed,
            workers=workers,
        ),
        run=run,
        config=config,
        kind="embedder",
        evaluate=evaluate,
        size=size,
        batch_size=batch_size,
        steps=steps,
        seed=seed,
        evaluate_every=evaluate_every,
        log_every=log_every,
        start_from=None if weights is None else partial(_with_weights, weights),
    )
    ways: dict[str, Features] = {
        "network": embedder(variables).embeddings,
        **({} if weights is None else {PRETRAINED: _plain_features(weights, size)}),
        PIXELS: lambda images, indices: pixel_features(images, indices, size=16),
    }
    return _conclude(run, network, best, variables, splits, ways, config=config, size=size)


def _with_weights(weights: Weights, variables: dict[str, Any]) -> dict[str, Any]:
    """Initial variables with the published convolutions in ``deep``; the rest keeps its start."""
    blocks = {layer.partition("_")[0] for layer in variables["params"]["deep"]}
    beyond = [f"block{n}" for n in range(1, len(BLOCKS) + 1) if f"block{n}" not in blocks]
    params = put(variables["params"], weights, under="deep", new=("fc",), unused=beyond)
    return {**variables, "params": params}


def _plain_features(weights: Weights, size: Size) -> Features:
    """What the published network gives without any training of ours."""
    network = Vgg16Features(preprocessing=weights.preprocessing)
    picture = jax.ShapeDtypeStruct((1, *sides(size), 3), np.uint8)
    like = jax.eval_shape(network.init, jax.random.key(0), picture)["params"]
    params = put(like, weights, under="deep", unused=("block5",))
    return Embedder(network=network, variables={"params": params}, size=size).embeddings


def _search(features: Features, images: ImageSet, asked: Retrieval) -> Found:
    parts = features(images, asked.query), features(images, asked.gallery)
    return _quality(*parts, images, asked)


def _quality(query: np.ndarray, gallery: np.ndarray, images: ImageSet, asked: Retrieval) -> Found:
    shown = images.identities
    return search_quality(
        query, gallery, shown[asked.query], shown[asked.gallery], own=asked.own_places
    )


def _conclude(
    run: Path,
    network: nn.Module,
    best: int,
    variables: Any,
    splits: CatalogueSplits,
    ways: dict[str, Features],
    *,
    config: dict[str, Any],
    size: Size,
) -> Results:
    """Judge a checkpoint and write manifest and report."""
    images, test = splits.images, splits.test
    category = splits.catalogue.attributes.get("category")
    results: Results = {}
    by_category: dict[str, Results] = {}
    network_s: dict[str, np.ndarray] = {}
    for name, features in ways.items():
        parts = features(images, test.query), features(images, test.gallery)
        if not network_s:
            network_s = dict(zip(("query", "gallery"), parts, strict=True))
        found = _quality(*parts, images, test)
        results[name] = found.summary()
        if category is not None:
            by_category[name] = dict(found.by(category[test.query]))
    where = f"{test.name} of {images.name}"
    found = results["network"]
    return conclude(
        run,
        kind="embedder",
        network=network,
        variables=variables,
        step=best,
        size=size,
        splits=splits,
        trained_on=sorted(set(images.identities[splits.training].tolist())),
        config=config,
        results=results,
        table=search_table(results, by_category),
        remark=(
            f"{test.name}: {found['queries']:,} queries, {found['gallery']:,} pictures in the "
            f"catalogue{', the query itself left out' if test.leave_one_out else ''}. The "
            f"checkpoint of step {best} was chosen by recall@1 on {splits.validation.name}."
        ),
        pictures=_pictures(run, splits, **network_s, where=where),
        facts={"by_category": by_category},
    )


def _pictures(
    run: Path, splits: CatalogueSplits, *, query: np.ndarray, gallery: np.ndarray, where: str
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
