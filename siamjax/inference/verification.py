"""Verification by a finished run: two images, or a list of pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamjax.data.images import ImageSet, of_arrays, of_files
from siamjax.data.pairs import PairList
from siamjax.errors import UsageError
from siamjax.inference.baselines import pixel_scores
from siamjax.inference.pairs import PairScorer
from siamjax.metrics import verification
from siamjax.training.finished import Finished
from siamjax.training.run import read_json


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """A finished run that has a threshold.

    Attributes:
        run: network, variables and manifest.
        scorer: the network and its images' size.
        threshold: in the unit of the network's value.
    """

    run: Finished
    scorer: PairScorer
    threshold: float

    @classmethod
    def open(cls, folder: Path) -> "Verifier":
        """Load a finished run by :meth:`Finished.open`, which see for its errors.

        Raises ``UsageError`` for a run without a threshold, too.
        """
        run = Finished.open(folder)
        if "threshold" not in run.manifest:
            raise UsageError(
                f"{folder} has no threshold between same and different: its experiment "
                f"({run.manifest['config'].get('experiment', 'of an earlier version')}) sets none"
            )
        return cls(
            run=run,
            scorer=PairScorer(run.network, size=run.size),
            threshold=float(run.manifest["threshold"]),
        )

    @property
    def measure(self) -> str:
        """What the network's value is: ``distance`` or ``logit``."""
        return self.scorer.measure

    def compare(self, first: Path | np.ndarray, second: Path | np.ndarray) -> tuple[float, bool]:
        """The network's value for two images, and whether they show the same identity.

        Each is a file or an array, uint8 (height, width, 3) or grey (height, width).
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

    def evaluate(
        self, images: ImageSet, pairs: PairList
    ) -> tuple[dict[str, dict[str, float | None]], str]:
        """Results of the network and of raw pixels by name, and a sentence on leaks.

        The network's threshold is the run's own. Raw pixels have none for these pairs, so their
        accuracy is that of the best threshold *on them*: an upper bound, and named so.
        """
        score = self.scorer.scores(self.run.variables, images, pairs)
        limit = float(self.scorer.rising(np.array([self.threshold]))[0])
        pixels = pixel_scores(images, pairs)
        best, _ = verification.best_threshold(pixels, pairs.same)
        results = {
            "network": verification.summary(score, pairs.same, threshold=limit, fold=pairs.fold),
            "raw pixels 32x32 (best threshold)": verification.summary(
                pixels, pairs.same, threshold=best, fold=pairs.fold
            ),
        }
        trained_on = self.run.manifest["trained_on"]
        if not trained_on:
            return results, "trained on lists without identities: leaks cannot be checked"
        # By name, whatever the set is called: LFW's alignments show the same people.
        known = np.isin(images.identities, list(trained_on))
        count = int((known[pairs.first] | known[pairs.second]).sum())
        sentence = (
            f"{count:,} of {len(pairs):,} pairs show someone whose name is in the training set"
        )
        return results, f"CONTAMINATED: {sentence}" if count else sentence


def across_folds(folders: Sequence[Path]) -> str:
    """One line on runs that each left one fold of LFW's View 2 out and tested on it.

    Raises ``UsageError`` unless they are of different folds, and otherwise of one config.
    """
    manifests = [read_json(folder / "manifest.json") for folder in folders]
    numbers = [manifest["splits"].get("lfw_fold") for manifest in manifests]
    if len(numbers) < 2 or None in numbers or len(set(numbers)) != len(numbers):
        raise UsageError(f"folds {numbers}: expected are at least two runs of different folds")
    ignored = ("lfw_fold", "data_fingerprint")
    configs = [{k: v for k, v in m["config"].items() if k not in ignored} for m in manifests]
    for folder, config in zip(folders, configs, strict=True):
        if config != configs[0]:
            raise UsageError(f"{folder} is a run of another config than {folders[0]}")
    accuracies = tuple(m["results"]["network"]["accuracy"] for m in manifests)
    over = verification.KFold(
        accuracies=accuracies, thresholds=tuple(m["threshold"] for m in manifests)
    )
    missing = (
        ""
        if len(numbers) == 10
        else f" (of 10: {sorted(set(range(1, 11)) - set(numbers))} missing)"
    )
    return (
        f"{manifests[0]['data']}, {len(numbers)} folds{missing}: accuracy {over.mean:.4f} ± "
        f"{over.standard_error:.4f} (standard error; standard deviation "
        f"{over.standard_deviation:.4f}), trained on eight folds each, threshold from the ninth"
    )
