"""What a run is tested on: pairs, a ranking or a search, and how answers to it are judged."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol

import flax.linen as nn
import numpy as np
from jaxtyping import Int

from siamjax.data.images import ImageSet, fingerprint
from siamjax.data.pairs import PairList, indices_of
from siamjax.data.reid import Ranking, ReidTesting
from siamjax.data.retrieval import Retrieval, RetrievalSplits
from siamjax.data.tasks import Task
from siamjax.data.transforms import Size
from siamjax.data.verification import VerificationSplits
from siamjax.inference.baselines import pixel_features, pixel_scores
from siamjax.inference.calibration import Calibration
from siamjax.inference.cross_input import score_pairs
from siamjax.inference.embedder import Embedder
from siamjax.inference.judging import Judgement, judge_pairs
from siamjax.inference.pairs import PairScorer
from siamjax.inference.reid import ReidEvaluation
from siamjax.inference.retrieval import evaluate_retrieval, judge_found
from siamjax.messages import warn
from siamjax.metrics.retrieval import Found, scores_quality
from siamjax.metrics.verification import auc, best_threshold, roc
from siamjax.models import comparing
from siamjax.training.finished import Finished

NETWORK = "network"
"""Name of the run's network among the methods of a judgement."""


class Answering(Protocol):
    """A network to test: a finished run, or an :class:`~siamjax.inference.embedder.Embedder`."""

    @property
    def network(self) -> nn.Module:
        """It embeds, or compares."""
        ...

    @property
    def variables(self) -> Any:
        """Of the network."""
        ...

    @property
    def size(self) -> Size:
        """Of its images."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Test:
    """What a run is tested on.

    Attributes:
        images: all images; those that the test shows are among them.
        protocol: how the splits were made, where the test is one of them.
    """

    __test__: ClassVar[bool] = False  # pytest: this is no test of its own
    task: ClassVar[Task]
    chosen: ClassVar[str]  # the measure that comes first
    asks: ClassVar[str]  # what it asks: pairs or queries

    images: ImageSet
    protocol: str = ""

    @property
    def name(self) -> str:
        """What is asked of which set, such as ``test people of orl_faces (435 pairs)``."""
        raise NotImplementedError

    @property
    def asked_for(self) -> Int[np.ndarray, "n images"]:
        """The images of each pair, or each query."""
        raise NotImplementedError

    @property
    def shown(self) -> Int[np.ndarray, " n"]:
        """Indices of the images that the test shows."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str:
        """The same for equal tests only: names, identities and what is asked, but no pixels."""
        raise NotImplementedError

    def scores(self, run: Answering) -> Any:
        """What a network answers; :meth:`judge` takes it."""
        raise NotImplementedError

    def baselines(self) -> dict[str, Any]:
        """What pixels without any training answer, by name."""
        raise NotImplementedError

    def judge(
        self, scores: Mapping[str, Any], *, thresholds: Mapping[str, float | None] | None = None
    ) -> Judgement:
        """Measures and intervals of methods by name, over the same draws of people.

        ``thresholds`` are those of the methods, on scores that rise with similarity; only
        verification asks for them.
        """
        raise NotImplementedError

    def thresholds(self, run: Finished, baselines: Mapping[str, Any]) -> dict[str, float | None]:
        """The thresholds that the methods are judged at; empty where there is nothing to decide."""
        return {}

    def measured(self, scores: Any) -> float:
        """The measure ``chosen`` of one method's :meth:`scores`, without an interval: quick."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class VerificationTest(Test):
    """Pairs of images: do they show the same? Answers are scores (pairs,) that rise with it."""

    task = "verification"
    chosen = "auc"
    asks = "pairs"
    pairs: PairList

    @property
    def name(self) -> str:
        """Such as ``test people of orl_faces (435 pairs)``."""
        return f"{self.pairs.name} of {self.images.name} ({len(self.pairs):,} pairs)"

    @property
    def asked_for(self) -> Int[np.ndarray, "n images"]:
        """Both images of each pair, (pairs, 2)."""
        return np.stack([self.pairs.first, self.pairs.second], axis=1)

    @cached_property
    def shown(self) -> Int[np.ndarray, " n"]:
        """Indices of the images of the pairs."""
        return indices_of(self.pairs)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the pairs."""
        pairs = self.pairs
        return fingerprint(self.images, pairs.first, pairs.second, pairs.same, words=[self.task])

    def measured(self, scores: np.ndarray) -> float:
        """The AUC."""
        return auc(roc(scores, self.pairs.same))

    def scores(self, run: Answering) -> np.ndarray:
        """Scores (pairs,) that rise with similarity."""
        return PairScorer(run.network, size=run.size).scores(run.variables, self.images, self.pairs)

    def baselines(self) -> dict[str, Any]:
        """Cosines of the pixels."""
        return {"raw pixels 32x32 (best threshold)": pixel_scores(self.images, self.pairs)}

    def thresholds(self, run: Finished, baselines: Mapping[str, Any]) -> dict[str, float | None]:
        """As ``verify`` decides; of a baseline the best *on these pairs*, so that it is too good.

        On the run's own test people it is the run's own, as in its report: they may be the ones
        that it was calibrated on. Without one of the run none of the baselines either.
        """
        own = run.about.threshold
        if own is None or not self.protocol:
            known = Calibration.read(run)
            own = own if known is None else known.threshold
            if known is not None and known.data == self.images.name:
                warn(f"the threshold was set on people of {known.data}: the accuracy is too good")
        if own is None:
            return dict.fromkeys((NETWORK, *baselines))
        best = {name: best_threshold(one, self.pairs.same)[0] for name, one in baselines.items()}
        return {NETWORK: own if comparing.rises(run.network) else -own, **best}

    def judge(
        self, scores: Mapping[str, Any], *, thresholds: Mapping[str, float | None] | None = None
    ) -> Judgement:
        """AUC, EER, accuracy and TAR at FARs, over people."""
        at = dict.fromkeys(scores) | dict(thresholds or {})
        judged = judge_pairs(self.images, self.pairs, scores, thresholds=at)
        if any(one is not None for one in at.values()):
            return judged
        why = "there is no threshold: the calibrate command sets one"
        return replace(judged, unknown={"accuracy": why, **judged.unknown})


@dataclass(frozen=True, kw_only=True, eq=False)
class ReidTest(Test):
    """A gallery to rank for each query. Answers are scores (queries, gallery) that rise."""

    task = "reid"
    chosen = "map"
    asks = "queries"
    asked: ReidEvaluation
    trials: int = 10
    seed: int = 0
    symmetric: bool = False

    @property
    def name(self) -> str:
        """Queries, gallery and rule of which set."""
        ranking = self.asked.ranking
        return (
            f"{ranking.name} of {self.images.name} ({len(ranking.query):,} queries, "
            f"{len(ranking.gallery):,} gallery images; {ranking.rule} rule)"
        )

    @property
    def asked_for(self) -> Int[np.ndarray, "n images"]:
        """The image of each query, (queries, 1)."""
        return self.asked.ranking.query[:, None]

    @cached_property
    def shown(self) -> Int[np.ndarray, " n"]:
        """Indices of the queries and of the gallery."""
        return np.union1d(self.asked.ranking.query, self.asked.ranking.gallery)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over queries, gallery, what is left out for each query, and the trials."""
        ranking = self.asked.ranking
        columns = [ranking.query, ranking.gallery, ranking.distractor]
        if self.asked.valid is not None:
            columns += list(self.asked.valid)
        words = [self.task, ranking.rule]
        if ranking.rule == "single_shot":
            words += [str(self.trials), str(self.seed)]
        return fingerprint(self.images, *columns, words=words)

    def measured(self, scores: np.ndarray) -> float:
        """The mAP."""
        found = self.asked.summary(scores)["map"]
        return math.nan if found is None else found

    def scores(self, run: Answering) -> np.ndarray:
        """Scores (queries, gallery) that rise with similarity."""
        return score_pairs(
            run.network,
            run.variables,
            self.images,
            self.asked.ranking.query,
            self.asked.ranking.gallery,
            size=run.size,
            symmetric=self.symmetric,
        )

    def baselines(self) -> dict[str, Any]:
        """Cosines of the pixels."""
        return {"raw pixels 64x24": self.asked.cosines(partial(pixel_features, size=(64, 24)))}

    def judge(
        self, scores: Mapping[str, Any], *, thresholds: Mapping[str, float | None] | None = None
    ) -> Judgement:
        """CMC and, by Market's rule, mAP and mINP, over the people who are asked for."""
        return self.asked.judge(scores, trials=self.trials, seed=self.seed)[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalTest(Test):
    """A catalogue to search for each query; answers are what is found.

    A network whose embeddings are vectors is judged by their Euclidean distance, as ``embed`` and
    ``search`` use it, and any other by its own ``compare``.
    """

    task = "retrieval"
    chosen = "recall_at_1"
    asks = "queries"
    asked: Retrieval

    @property
    def name(self) -> str:
        """Queries and catalogue of which set."""
        asked = self.asked
        return (
            f"{asked.name} of {self.images.name} ({len(asked.query):,} queries, "
            f"{len(asked.gallery):,} images in the catalogue)"
        )

    @property
    def asked_for(self) -> Int[np.ndarray, "n images"]:
        """The image of each query, (queries, 1)."""
        return self.asked.query[:, None]

    @cached_property
    def shown(self) -> Int[np.ndarray, " n"]:
        """Indices of the queries and of the catalogue."""
        return np.union1d(self.asked.query, self.asked.gallery)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over queries and catalogue."""
        words = [self.task, str(self.asked.leave_one_out)]
        return fingerprint(self.images, self.asked.query, self.asked.gallery, words=words)

    def measured(self, scores: Found) -> float:
        """Recall@1."""
        found = scores.summary()["recall_at_1"]
        return math.nan if found is None else found

    def scores(self, run: Answering) -> Found:
        """How well each query is answered."""
        embedder = Embedder(network=run.network, variables=run.variables, size=run.size)
        if len(embedder.feature.shape) == 1:
            return evaluate_retrieval(embedder.embeddings, self.images, self.asked)
        asked, identities = self.asked, self.images.identities
        score = score_pairs(
            run.network, run.variables, self.images, asked.query, asked.gallery, size=run.size
        )
        names = identities[asked.query], identities[asked.gallery]
        return scores_quality(score, *names, own=asked.own_places)

    def baselines(self) -> dict[str, Any]:
        """What is found by the pixels."""
        pixels = partial(pixel_features, size=16)
        return {"raw pixels 16x16": evaluate_retrieval(pixels, self.images, self.asked)}

    def judge(
        self, scores: Mapping[str, Any], *, thresholds: Mapping[str, float | None] | None = None
    ) -> Judgement:
        """Recall@k and MAP@R, over the items that are asked for."""
        return judge_found(scores, self.images, self.asked)


def as_test(
    splits: VerificationSplits | ReidTesting | RetrievalSplits,
    asked: PairList | Ranking | Retrieval,
    *,
    trials: int = 10,
    symmetric: bool = False,
) -> Test:
    """The test of a split, such as ``splits.test`` or ``splits.validation``.

    ``trials`` and ``symmetric`` are those of :class:`ReidTest`.
    """
    about = {"images": splits.images, "protocol": splits.protocol}
    if isinstance(asked, PairList):
        return VerificationTest(pairs=asked, **about)
    if isinstance(asked, Retrieval):
        return RetrievalTest(asked=asked, **about)
    assert isinstance(splits, ReidTesting)
    return ReidTest(
        asked=ReidEvaluation.of(splits, asked),
        trials=trials,
        seed=splits.request["seed"],
        symmetric=symmetric,
        **about,
    )
