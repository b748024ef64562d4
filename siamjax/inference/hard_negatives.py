"""Hard negatives while a run trains: mined at its evaluations, kept in its folder."""

from pathlib import Path

import numpy as np

from siamjax.data.images import ImageSet
from siamjax.data.triplets import MinedTriplets
from siamjax.errors import UsageError
from siamjax.inference.embedder import Embedder

LAG = 32
"""Steps from an evaluation to the first batch with what it mined: batches are read ahead, and
what they hold must not depend on how far."""


class Miner:
    """Gives a stream of triplets the training images' nearest others, evaluation by evaluation.

    What was mined after step s is used from step s + ``LAG`` on, and lies in ``folder/s.npy``, so
    that a resumed run has the triplets of a straight one. In an experiment::

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
        """``training`` are indices of the images of ``triplets``, ``workers`` those of the run.

        What an earlier session of the run mined is taken up from ``folder``.
        """
        if workers:
            raise UsageError(
                f"workers {workers}: mined negatives cannot reach worker processes; use 0 (threads)"
            )
        self._triplets, self._images, self._training = triplets, images, training
        self._folder = folder
        for path in sorted(folder.glob("*.npy"), key=lambda path: int(path.stem)):
            try:
                table = np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise UsageError(
                    f"{path}: cannot be read ({error}); without it the run cannot be resumed as it "
                    "was: start a new one"
                ) from None
            self._triplets.use(table, start=int(path.stem) + LAG)

    def mine(self, step: int, embedder: Embedder) -> None:
        """Embed the training images and keep each one's nearest images of other items."""
        table = self._triplets.nearest_others(embedder.embeddings(self._images, self._training))
        self._folder.mkdir(exist_ok=True)
        temporary = self._folder / f"{step}.tmp"
        with temporary.open("wb") as file:
            np.save(file, table)
        temporary.replace(self._folder / f"{step}.npy")
        self._triplets.use(table, start=step + LAG)
