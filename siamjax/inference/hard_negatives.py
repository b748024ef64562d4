"""Hard negatives, mined at a run's evaluations and kept in its folder."""

import re
from pathlib import Path

import numpy as np

from siamjax import processes
from siamjax.array_files import read_npy
from siamjax.data.images import ImageSet
from siamjax.data.triplets import MinedTriplets
from siamjax.errors import UsageError, shown
from siamjax.inference.embedder import Embedder

LAG = 32
"""Steps from an evaluation to the first batch that uses its negatives.

Batches are prepared ahead of the step; the lag keeps them independent of how far ahead."""


class Miner:
    """Finds each training image's nearest negatives at an evaluation, for the triplets to come.

    Negatives mined after step s are used from step s + ``LAG`` on. They are kept in
    ``folder/s.npy``, so that a resumed run sees the same triplets. In an experiment::

        miner = Miner(triplets, images, training, folder=run.folder / "mined")

        def evaluate(variables):
            embedder = Embedder(network=network, variables=variables, size=config.size)
            if run.step < config.steps:
                miner.mine(run.step, embedder)
    """

    def __init__(
        self,
        triplets: MinedTriplets,
        images: ImageSet,
        training: np.ndarray,
        *,
        folder: Path,
        workers: int = 0,
    ) -> None:
        """Load what ``folder`` has of an earlier start of the run.

        ``training`` are indices of the images of ``triplets``, ``workers`` those of the run.
        """
        if workers:
            raise UsageError(
                f"workers {workers}: mined negatives cannot reach worker processes; use 0 (threads)"
            )
        self._triplets, self._images, self._training = triplets, images, training
        self._folder = folder
        for path in folder.glob("*.npy"):
            if not re.fullmatch("[0-9]{1,15}", path.stem):
                raise UsageError(f"{shown(path)}: expected STEP.npy; move it out of the folder")
        for path in sorted(folder.glob("*.npy"), key=lambda path: int(path.stem)):
            try:
                table = read_npy(path, kinds="iu")
            except UsageError as error:
                raise UsageError(
                    f"{error}; the run cannot be resumed without it: start a new run"
                ) from None
            self._triplets.use(table, start=int(path.stem) + LAG)

    def mine(self, step: int, embedder: Embedder) -> None:
        """Embed the training images and store the nearest images of other items for each."""
        table = self._triplets.nearest_others(embedder.embeddings(self._images, self._training))
        if processes.is_first():
            self._folder.mkdir(exist_ok=True)
            temporary = self._folder / f"{step}.tmp"
            with temporary.open("wb") as file:
                np.save(file, table)
            temporary.replace(self._folder / f"{step}.npy")
        self._triplets.use(table, start=step + LAG)
