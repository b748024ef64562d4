"""Re-identification: evaluate a ranking, or rank a folder of images by a finished run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from siamjax.data.folders import image_files
from siamjax.data.images import ImageSet, of_files
from siamjax.data.reid import Ranking, ReidTesting
from siamjax.errors import UsageError
from siamjax.exact_distances import RankedDistances
from siamjax.inference.cross_input import score_pairs
from siamjax.inference.judging import Judgement, judge_queries
from siamjax.metrics import reid
from siamjax.models import comparing
from siamjax.training.finished import Finished

Features = Callable[[ImageSet, np.ndarray], np.ndarray]
"""Features of images by index, (n, features), whose products are similarities."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReidEvaluation:
    """Queries and a gallery with the masks that evaluating scores needs.

    Attributes:
        ranking: queries and gallery.
        match: (queries, gallery) True = same identity.
        valid: (queries, gallery) False = junk; None: there is no junk.
        images: the images that the ranking's indices refer to.
    """

    ranking: Ranking
    match: np.ndarray
    valid: np.ndarray | None
    images: ImageSet

    @classmethod
    def of(
        cls, splits: ReidTesting, ranking: Ranking, *, most_queries: int | None = None
    ) -> "ReidEvaluation":
        """Make the masks by the ranking's rule; use ``most_queries`` evenly spaced queries.

        A cross-input network scores every pair, so that a validation with all queries can take
        longer than the training between two validations.
        """
        if most_queries is not None:
            ranking = ranking.part(most_queries)
        query, gallery = ranking.query, ranking.gallery
        shown, cameras = splits.images.identities, splits.cameras
        valid = None
        if ranking.rule == "market":
            valid = reid.market_valid(
                shown[query], shown[gallery], cameras[query], cameras[gallery]
            )
        return cls(
            ranking=ranking,
            match=reid.same_identity(shown[query], shown[gallery]),
            valid=valid,
            images=splits.images,
        )

    def cosines(self, features: Features) -> Float[np.ndarray, "queries gallery"]:
        """Scores of features that are not learned: the baselines."""
        ranked = RankedDistances(features(self.images, self.ranking.gallery), metric="cosine")
        return 1.0 - ranked(features(self.images, self.ranking.query))

    def summary(self, score: np.ndarray) -> dict[str, float | None]:
        """mAP, rank-k and mINP of (queries, gallery) scores that rise with similarity."""
        return reid.summary(score, self.match, valid=self.valid)

    def judge(
        self, scores: Mapping[str, np.ndarray], *, trials: int = 10, seed: int = 0
    ) -> tuple[Judgement, dict[str, np.ndarray]]:
        """Judge the scores of methods as the ranking's rule defines it; and their CMC curves.

        Single-shot measures are means over ``trials`` random galleries, drawn with ``seed``.
        Intervals are over the people asked for, with all their queries.
        """
        asked = self.images.identities[self.ranking.query]
        values, counts, curves = {}, {}, {}
        for name, score in scores.items():
            if self.ranking.rule == "market":
                found = reid.by_query(score, self.match, valid=self.valid)
                curves[name] = reid.cmc(score, self.match, valid=self.valid, ranks=20).curve
                queries = int(reid.has_match(self.match, self.valid).sum())
                counts[name] = {
                    "queries": queries,
                    "queries_without_match": len(asked) - queries,
                    "gallery": reid.valid_images(score, self.valid),
                }
            else:
                shot = reid.single_shot(
                    score,
                    asked,
                    self.images.identities[self.ranking.gallery],
                    distractor=self.ranking.distractor,
                    trials=trials,
                    seed=seed,
                )
                curves[name] = shot.mean
                found = {
                    f"rank{k}": shot.hits[:, k - 1] if k <= shot.gallery else None
                    for k in reid.RANKS
                }
                counts[name] = {
                    "rank1_deviation": float(shot.standard_deviation[0]) if trials > 1 else None,
                    "queries": len(asked),
                    "gallery": shot.gallery,
                    "trials": trials,
                }
            values[name] = found
        return judge_queries(values, asked, counts=counts), curves


@dataclass(frozen=True, kw_only=True)
class RankedGallery:
    """The best images of a gallery for each query, best first.

    Attributes:
        images: queries and gallery.
        query: (queries,) indices into ``images``.
        found: (queries, top) indices into ``images``.
        measure: what the network's value is, ``distance`` or ``logit``.
        value: (queries, top) the network's value for the images found.
    """

    images: ImageSet
    query: np.ndarray
    found: np.ndarray
    measure: str
    value: np.ndarray

    def said(self, value: float) -> str:
        """A value as it is printed: a distance, or P(same) at training's share of same pairs."""
        if self.measure == "logit":  # scipy.special takes long to import
            return f"P(same) {np.exp(-np.logaddexp(0, -np.float64(value))):.4f}"
        return f"{self.measure} {value:.4f}"


def rank_gallery(
    run: Finished,
    queries: Sequence[Path] | ImageSet,
    gallery: Path | ImageSet,
    *,
    top: int = 10,
    symmetric: bool = False,
    strict: bool = False,
) -> RankedGallery:
    """The ``top`` images of a gallery that a network takes for the most similar to each query.

    By its own ``compare`` (a logit or a distance), or by the distance of its embeddings.
    ``queries`` are files or an image set, ``gallery`` is a folder or an image set (``of_arrays``
    makes one from arrays). Equal scores keep the gallery's order. With ``strict`` a folder of which
    something would be left out is refused; else that is printed. Raises ``UsageError`` for no
    query, ``top`` below 1, a folder without images, and an image that cannot be read (naming it).
    """
    if top < 1 or not len(queries):
        raise UsageError(f"{len(queries)} queries, top {top}: give at least 1 of each")
    asked = queries if isinstance(queries, ImageSet) else of_files(queries, name="queries")
    name = gallery.name if isinstance(gallery, ImageSet) else str(gallery)
    if not isinstance(gallery, ImageSet):
        gallery = of_files(image_files(gallery, strict=strict), name=name)
    images = asked.joined(gallery, name=name)
    query = np.arange(len(asked))
    scores = score_pairs(
        run.network,
        run.variables,
        images,
        query,
        len(asked) + np.arange(len(gallery)),
        size=run.size,
        symmetric=symmetric,
    )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    value = np.take_along_axis(scores, best, 1)
    return RankedGallery(
        images=images,
        query=query,
        found=len(asked) + best,
        measure=comparing.measure(run.network),
        value=value if comparing.rises(run.network) else -value,
    )
