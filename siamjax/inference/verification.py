"""Verification by a finished run: two images, or a list of pairs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from siamjax.data.images import of_arrays, of_files
from siamjax.data.transforms import resize
from siamjax.errors import UsageError, shown
from siamjax.files import Finite, typed
from siamjax.inference.calibration import Calibration
from siamjax.inference.embedder import check_finite
from siamjax.inference.pairs import PairScorer
from siamjax.metrics import verification
from siamjax.models.comparing import compare
from siamjax.training.finished import Finished
from siamjax.training.manifest import read_manifest


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """A finished run that compares two images, and decides if it has a threshold.

    Attributes:
        run: network, variables and manifest.
        scorer: compares pairs by the network.
        threshold: between same and different, a distance or a logit as ``measure`` says: that of
            the calibration, or else the one that the run's experiment chose; None: it sets none.
            A logit's 0 is none: nobody measured who errs there.
        calibration: how often a threshold errs; None: the run is not calibrated.
    """

    run: Finished
    scorer: PairScorer
    threshold: float | None
    calibration: Calibration | None = None

    @classmethod
    def open(cls, folder: Path | str, *, trust: Collection[str] = ()) -> "Verifier":
        """Load a finished run; errors of :meth:`Finished.open` and :meth:`Calibration.read`."""
        run = Finished.open(folder, trust=trust)
        calibration = Calibration.read(run)
        if calibration is not None:
            calibration.warn()
        return cls(
            run=run,
            scorer=PairScorer(run.network, size=run.size),
            threshold=run.about.threshold if calibration is None else calibration.threshold,
            calibration=calibration,
        )

    @property
    def measure(self) -> str:
        """What the network's value is: ``distance`` or ``logit``."""
        return self.scorer.measure

    def compare(
        self, first: Path | np.ndarray, second: Path | np.ndarray
    ) -> tuple[float, bool | None]:
        """The network's value for two images, and whether they show the same; None: no threshold.

        Each image is a file or a uint8 array, (height, width, 3) or grey (height, width).
        """
        one, other = (
            of_arrays([image]) if isinstance(image, np.ndarray) else of_files([image], name="files")
            for image in (first, second)
        )
        images = one.joined(other, name="images")
        batch = np.stack([resize(images.image(number), self.run.size) for number in range(2)])
        variables = self.run.variables
        features, values = self.run.of_two(variables, batch)
        check_finite(np.asarray(features), images, np.arange(2))
        if values is None:  # compare says why
            values = compare(self.run.network, variables, features[:1], features[1:])
        values = np.asarray(values)
        if self.threshold is None:
            return float(values[0]), None
        limit = np.array([self.threshold])
        accepted = self.scorer.rising(values) >= self.scorer.rising(limit)
        return float(values[0]), bool(accepted[0])


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
