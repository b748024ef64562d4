"""Train a matching network, and say how well it ranks people it has never seen."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optax

from siamjax.baselines import hsv_stripe_features, pixel_features
from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairStream
from siamjax.data.reid.rankings import Ranking, ReidSplits
from siamjax.data.transforms import resize, sides
from siamjax.errors import UsageError
from siamjax.metrics import retrieval
from siamjax.metrics.monitors import collapse_message
from siamjax.models.normxcorr_net import NormXCorrNet
from siamjax.report import figures, match_figure, ranking_figures
from siamjax.report.page import ranking_table
from siamjax.report.writers import read_metrics
from siamjax.runs import folder as runs
from siamjax.runs.finished import KINDS, Results, conclude
from siamjax.runs.train import Training, pair_examples, train
from siamjax.search.pair_scores import score_pairs
from siamjax.training.step import LossFunction

BEST = KINDS["matcher"].best


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
    """A ranking with everything that judging a score of it needs.

    Attributes:
        ranking: queries and gallery.
        match: (queries, gallery) True = same identity.
        valid: (queries, gallery) False = junk, or None.
        images: of all indices.
    """

    ranking: Ranking
    match: np.ndarray
    valid: np.ndarray | None
    images: ImageSet

    @classmethod
    def of(cls, splits: ReidSplits, ranking: Ranking) -> "Ranked":
        """With the masks of the ranking's rule."""
        query, gallery = ranking.query, ranking.gallery
        shown, cameras = splits.images.identities, splits.cameras
        valid = None
        if ranking.rule == "market":
            valid = retrieval.market_valid(
                shown[query], shown[gallery], cameras[query], cameras[gallery]
            )
        return cls(
            ranking=ranking,
            match=retrieval.same_identity(shown[query], shown[gallery]),
            valid=valid,
            images=splits.images,
        )

    def judge(
        self, score: np.ndarray, *, trials: int, seed: int
    ) -> tuple[dict[str, float | None], np.ndarray]:
        """Measures by name, and the CMC curve; single-shot as the mean over trials."""
        if self.ranking.rule == "market":
            measures = retrieval.summary(score, self.match, valid=self.valid)
            return measures, retrieval.cmc(score, self.match, valid=self.valid, ranks=20).curve
        shown = self.images.identities
        found = retrieval.single_shot(
            score,
            shown[self.ranking.query],
            shown[self.ranking.gallery],
            distractor=self.ranking.distractor,
            trials=trials,
            seed=seed,
        )
        measures: dict[str, float | None] = {
            f"rank{k}": float(found.mean[k - 1]) if k <= found.gallery else None
            for k in retrieval.RANKS
        }
        measures |= {
            "rank1_deviation": float(found.standard_deviation[0]) if trials > 1 else None,
            "queries": len(self.ranking.query),
            "gallery": found.gallery,
            "trials": trials,
        }
        return measures, found.mean


def train_matcher(
    network: NormXCorrNet,
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    splits: ReidSplits,
    pairs: PairStream,
    training: Training,
    *,
    run: Path,
    config: dict[str, Any],
    symmetric: bool,
    trials: int,
    validation_queries: int,
) -> Results:
    """Train (or go on with) the run in folder ``run``; returns the test results by name.

    The checkpoint with the best mAP on (a part of) the validation ranking is the result. It then
    ranks the test gallery once, beside raw pixels and colour histograms. ``validation_queries``
    bounds the queries of a validation: a matcher has to look at every pair.
    """
    if min(trials, validation_queries) < 1:
        raise UsageError(
            f"trials {trials}, validation_queries {validation_queries}: each must be at least 1"
        )
    validation = Ranked.of(splits, _part(splits.validation, validation_queries))

    def score(variables: Any, ranking: Ranking, output: Path | None) -> np.ndarray:
        return score_pairs(
            network,
            variables,
            splits.images,
            ranking.query,
            ranking.gallery,
            size=training.size,
            output=output,
            symmetric=symmetric,
            progress=output is not None,
        )

    def evaluate(variables: Any, step: int) -> dict[str, float]:
        measured = retrieval.summary(
            score(variables, validation.ranking, None), validation.match, valid=validation.valid
        )
        return {
            BEST: float(measured["map"] or 0.0),
            "validation_rank1": float(measured["rank1"] or 0.0),
        }

    config = runs.as_json({**config, "data_fingerprint": splits.fingerprint()})
    best, variables = train(
        network,
        loss_fn,
        optimizer,
        splits.images,
        pair_examples(splits.images, pairs, training),
        training,
        run=run,
        config=config,
        kind="matcher",
        evaluate=evaluate,
        diagnose=_diagnose,
    )
    scores = score(variables, splits.test, run / f"test_scores_{best}.npy")
    return _conclude(
        run,
        network,
        best,
        variables,
        splits,
        scores,
        config=config,
        size=sides(training.size),
        trials=trials,
        seed=training.seed,
    )


def _diagnose(values: dict[str, float]) -> str | None:
    """A matcher's features need not lie nearer for one person: their distances say nothing."""
    return collapse_message({k: v for k, v in values.items() if not k.startswith("distance")})


def _part(ranking: Ranking, most: int) -> Ranking:
    """At most so many queries, evenly spaced; the gallery whole."""
    if len(ranking.query) <= most:
        return ranking
    chosen = np.linspace(0, len(ranking.query) - 1, most).round().astype(int)
    return Ranking(
        name=f"{ranking.name} ({most} queries)",
        query=ranking.query[chosen],
        gallery=ranking.gallery,
        rule=ranking.rule,
        distractor=ranking.distractor,
    )


def _baselines(images: ImageSet, ranking: Ranking) -> dict[str, np.ndarray]:
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "HSV histograms of stripes": lambda indices: hsv_stripe_features(images, indices),
        "raw pixels 64x24": lambda indices: pixel_features(images, indices, size=(64, 24)),
    }
    return {name: way(ranking.query) @ way(ranking.gallery).T for name, way in ways.items()}


def _conclude(
    run: Path,
    network: NormXCorrNet,
    best: int,
    variables: Any,
    splits: ReidSplits,
    scores: np.ndarray,
    *,
    config: dict[str, Any],
    size: tuple[int, int],
    trials: int,
    seed: int,
) -> Results:
    """Judge the test scores and write manifest and report."""
    test = Ranked.of(splits, splits.test)
    results: Results = {}
    curves = {}
    for name, score in {"network": scores, **_baselines(splits.images, splits.test)}.items():
        results[name], curves[name] = test.judge(score, trials=trials, seed=seed)
    rule = {
        "market": "same person by the same camera dropped, the rest of the gallery ranked",
        "single_shot": f"one gallery picture a person, {trials} trials",
    }[splits.test.rule]
    where = f"{splits.test.name} of {splits.images.name}"
    pictures = [
        (
            "Training",
            figures.training_curves(
                read_metrics(run), data=splits.images.name, panels=figures.MATCHER_PANELS
            ),
        ),
        ("CMC", ranking_figures.cmc_curves(curves, data=where)),
        (
            "Ranked lists",
            ranking_figures.ranked_lists(
                test.images,
                test.ranking.query,
                test.ranking.gallery,
                scores,
                test.match,
                data=where,
                valid=test.valid,
            ),
        ),
        ("What matched what", _matches(network, variables, test, scores, size)),
    ]
    return conclude(
        run,
        kind="matcher",
        network=network,
        variables=variables,
        step=best,
        size=size,
        splits=splits,
        trained_on=sorted(set(splits.images.identities[splits.training].tolist())),
        config=config,
        results=results,
        table=ranking_table(results),
        remark=(
            f"{splits.test.name}: {len(splits.test.query):,} queries, {len(splits.test.gallery):,} "
            f"gallery pictures; {rule}. The checkpoint of step {best} was chosen by mAP on "
            f"{splits.validation.name}."
        ),
        pictures=pictures,
        facts={"trials": trials},
    )


def _matches(
    network: NormXCorrNet, variables: Any, test: Ranked, scores: np.ndarray, size: tuple[int, int]
) -> Any:
    """The right pair that the network is surest of, by what it matched."""
    right = test.match if test.valid is None else test.match & test.valid
    query, gallery = np.unravel_index(np.argmax(np.where(right, scores, -np.inf)), scores.shape)
    pair = [int(test.ranking.query[query]), int(test.ranking.gallery[gallery])]
    pictures = np.stack([resize(test.images.image(index), size) for index in pair])
    features = np.asarray(network.apply(variables, pictures, method="embed"), np.float32)
    return match_figure.match_figure(
        *pictures,
        *features,
        data=f"{test.ranking.name} of {test.images.name}",
        names=(test.images.keys[pair[0]], test.images.keys[pair[1]]),
        column_search=network.column_search,
    )
