"""Use a finished run: verify two pictures, or evaluate it on other pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from siamjax.data.faces import leaked
from siamjax.data.images import ImageSet, of_files
from siamjax.data.pairs import PairList
from siamjax.errors import UsageError
from siamjax.metrics import verification
from siamjax.models.siamese import Siamese
from siamjax.runs import folder as runs
from siamjax.runs.finished import Finished
from siamjax.scoring import PairScorer, pixel_scores


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """A trained network with everything that belongs to it: size, threshold, training people.

    Attributes:
        scorer: the network and its preprocessing.
        variables: parameters and batch statistics.
        manifest: the run's manifest.
    """

    scorer: PairScorer
    variables: Any
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Verifier":
        """Load a finished run by :meth:`Finished.open`, which see for its errors."""
        run = Finished.open(folder, kind="verifier")
        scorer = PairScorer(cast(Siamese, run.network), size=run.size)
        return cls(scorer=scorer, variables=run.variables, manifest=run.manifest)

    @property
    def threshold(self) -> float:
        """In the unit of the head's value."""
        return self.manifest["threshold"]

    @property
    def measure(self) -> str:
        """What the head's value is: ``distance`` or ``logit``."""
        return self.scorer.network.head.measure

    def compare(self, first: Path, second: Path) -> tuple[float, bool]:
        """The head's value for two picture files, and whether they show the same identity."""
        images = of_files((first, second), name="files")
        pair = PairList(
            name="files", first=np.array([0]), second=np.array([1]), same=np.array([True])
        )
        values = self.scorer.values(self.variables, images, pair)
        limit = np.array([self.threshold])
        accepted = self.scorer.scores(values) >= self.scorer.scores(limit)
        return float(values[0]), bool(accepted[0])

    def evaluate(
        self, images: ImageSet, pairs: PairList
    ) -> tuple[dict[str, dict[str, float | None]], str]:
        """Results of the network and of raw pixels by name, and a sentence on leaks.

        The network's threshold is the run's own. Raw pixels have none for these pairs, so their
        accuracy is that of the best threshold *on them*: an upper bound, and named so.
        """
        score = self.scorer.scores(self.scorer.values(self.variables, images, pairs))
        limit = float(self.scorer.scores(np.array([self.threshold]))[0])
        pixels = pixel_scores(images, pairs)
        best, _ = verification.best_threshold(pixels, pairs.same)
        results = {
            "network": verification.summary(score, pairs.same, threshold=limit, fold=pairs.fold),
            "raw pixels 32x32 (best threshold)": verification.summary(
                pixels, pairs.same, threshold=best, fold=pairs.fold
            ),
        }
        # By name, whatever the set is called: LFW's alignments show the same people.
        count = int(leaked(images, pairs, self.manifest["trained_on"]).sum())
        if not self.manifest["trained_on"]:
            return results, "trained on lists without identities: leaks cannot be checked"
        sentence = (
            f"{count:,} of {len(pairs):,} pairs show someone whose name is in the training set"
        )
        return results, f"CONTAMINATED: {sentence}" if count else sentence


def across_folds(folders: Sequence[Path]) -> str:
    """One line on runs that each left one fold of LFW's View 2 out and tested on it.

    Raises ``UsageError`` unless they are of different folds, and otherwise of one config.
    """
    manifests = [runs.read_json(folder / "manifest.json") for folder in folders]
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
