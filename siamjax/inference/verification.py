"""Verification by a finished run: two images, or a list of pairs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from siamjax.data.images import ImageSet, of_arrays, of_files
from siamjax.data.pairs import PairList
from siamjax.data.verification import leaked
from siamjax.errors import UsageError, shown
from siamjax.files import Finite, typed
from siamjax.inference.baselines import pixel_scores
from siamjax.inference.judging import Judgement, judge_pairs
from siamjax.inference.pairs import PairScorer
from siamjax.metrics import verification
from siamjax.training.finished import Finished
from siamjax.training.manifest import read_manifest


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """A finished run that decides "same" or "different" by its threshold.

    Attributes:
        run: network, variables and manifest.
        scorer: compares pairs by the network.
        threshold: a distance or a logit, as ``measure`` says.
    """

    run: Finished
    scorer: PairScorer
    threshold: float

    @classmethod
    def open(cls, folder: Path | str, *, trust: Collection[str] = ()) -> "Verifier":
        """Load a finished run; ``UsageError`` as of :meth:`Finished.open`, or without threshold."""
        run = Finished.open(folder, trust=trust)
        if run.about.threshold is None:
            raise UsageError(
                f"{folder} has no threshold between same and different: its experiment "
                f"({run.about.config.get('experiment', 'of an earlier version')}) sets none; "
                "use a run of a verification experiment"
            )
        return cls(
            run=run,
            scorer=PairScorer(run.network, size=run.size),
            threshold=run.about.threshold,
        )

    @property
    def measure(self) -> str:
        """What the network's value is: ``distance`` or ``logit``."""
        return self.scorer.measure

    def compare(self, first: Path | np.ndarray, second: Path | np.ndarray) -> tuple[float, bool]:
        """The network's value for two images, and whether they show the same identity.

        Each image is a file or a uint8 array, (height, width, 3) or grey (height, width).
        """
        one, other = (
            of_arrays([image]) if isinstance(image, np.ndarray) else of_files([image], name="files")
            for image in (first, second)
        )
        images = one.joined(other, name="images")
        pair = PairList(
            name="images", first=np.array([0]), second=np.array([1]), same=np.array([True])
        )
        values = self.scorer.values(self.run.variables, images, pair)
        limit = np.array([self.threshold])
        accepted = self.scorer.rising(values) >= self.scorer.rising(limit)
        return float(values[0]), bool(accepted[0])

    def evaluate(self, images: ImageSet, pairs: PairList) -> tuple[Judgement, str]:
        """The network and raw pixels, judged, and a sentence on leaks.

        The network uses the run's own threshold. Raw pixels use the best threshold *on these
        pairs*: their accuracy is an upper bound, and their name says so.
        """
        score = self.scorer.scores(self.run.variables, images, pairs)
        limit = float(self.scorer.rising(np.array([self.threshold]))[0])
        pixels, by_pixels = pixel_scores(images, pairs), "raw pixels 32x32 (best threshold)"
        best, _ = verification.best_threshold(pixels, pairs.same)
        results = judge_pairs(
            images,
            pairs,
            {"network": score, by_pixels: pixels},
            thresholds={"network": limit, by_pixels: best},
        )
        trained_on = self.run.about.trained_on
        if not trained_on:
            return results, "the run does not name its training identities: leaks cannot be checked"
        # By name, whatever the set is called: alignments of LFW show the same people.
        count = int(leaked(images, pairs, trained_on).sum())
        sentence = (
            f"{count:,} of {len(pairs):,} pairs show someone whose name is in the training set"
        )
        return results, f"CONTAMINATED: {sentence}" if count else sentence


class _Splits(msgspec.Struct):
    lfw_fold: Annotated[int, msgspec.Meta(ge=1, le=10)] | None = None


class _Measures(msgspec.Struct):
    accuracy: Finite


class _Results(msgspec.Struct):
    network: _Measures


class _Fold(msgspec.Struct):
    """What the average needs of the manifest of a run of one fold."""

    data: str
    splits: _Splits
    config: dict[str, Any]
    threshold: Finite
    results: _Results


def across_folds(folders: Sequence[Path]) -> tuple[str, dict[str, Any]]:
    """One line, and its numbers by name, on runs each tested on another fold of LFW's View 2.

    Raises ``UsageError`` unless the folds differ and all else in the config is equal.
    """
    runs = [
        typed(read_manifest(folder)[1], _Fold, where=shown(folder / "manifest.json"))
        for folder in folders
    ]
    numbers = [run.splits.lfw_fold for run in runs]
    if len(numbers) < 2 or None in numbers or len(set(numbers)) != len(numbers):
        raise UsageError(f"folds {numbers}: give at least two runs, each of another fold")
    ignored = ("lfw_fold", "data_fingerprint")
    configs = [{k: v for k, v in run.config.items() if k not in ignored} for run in runs]
    for folder, config in zip(folders, configs, strict=True):
        if config != configs[0]:
            raise UsageError(
                f"{folder} has another config than {folders[0]}; only the fold may differ"
            )
    over = verification.KFold(
        accuracies=tuple(run.results.network.accuracy for run in runs),
        thresholds=tuple(run.threshold for run in runs),
    )
    absent = sorted(set(range(1, 11)) - set(numbers))
    missing = f" (of 10: {absent} missing)" if absent else ""
    said = (
        f"{runs[0].data}, {len(numbers)} folds{missing}: accuracy {over.mean:.4f} ± "
        f"{over.standard_error:.4f} (standard error; standard deviation "
        f"{over.standard_deviation:.4f}), trained on eight folds each, threshold from the ninth"
    )
    return said, {
        "data": runs[0].data,
        "folds": numbers,
        "missing": absent,
        "accuracy": over.mean,
        "standard_error": over.standard_error,
        "standard_deviation": over.standard_deviation,
    }
