"""Hard negatives while a run trains: mined at its evaluations, kept in its folder."""

from pathlib import Path

import numpy as np

from siamjax.data.images import ImageSet
from siamjax.data.triplets import MinedTriplets
from siamjax.errors import UsageError
from siamjax.search.embedding import Embedder

LAG = 32
"""Steps from an evaluation to the first batch with what it mined: batches are read ahead, and
what they hold must not depend on how far."""


class Miner:
    """Gives a stream of triplets the training pictures' nearest others, evaluation by evaluation.

    What was mined after step s is used from step s + ``LAG`` on, and lies in ``folder/s.npy``, so
    that a run that was stopped goes on with the triplets of a straight one.
    """

    def __init__(
        self,
        triplets: MinedTriplets,
        images: ImageSet,
        training: np.ndarray,
        *,
        folder: Path,
        workers: int,
    ) -> None:
        if workers:
            raise UsageError(
                f"workers {workers}: mined negatives cannot reach worker processes; use 0 (threads)"
            )
        self._triplets, self._images, self._training = triplets, images, training
        self._folder = folder

    def take_up(self) -> None:
        """Read what an earlier session mined."""
        for path in sorted(self._folder.glob("*.npy"), key=lambda path: int(path.stem)):
            try:
                table = np.load(path, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise UsageError(
                    f"{path}: cannot be read ({error}); without it the run cannot go on as it "
                    "was: start a new one"
                ) from None
            self._triplets.use(table, start=int(path.stem) + LAG)

    def mine(self, step: int, embedder: Embedder) -> None:
        """Embed the training pictures and keep each one's nearest pictures of other items."""
        table = self._triplets.nearest_others(embedder.embeddings(self._images, self._training))
        self._folder.mkdir(exist_ok=True)
        temporary = self._folder / f"{step}.tmp"
        with temporary.open("wb") as file:
            np.save(file, table)
        temporary.replace(self._folder / f"{step}.npy")
        self._triplets.use(table, start=step + LAG)
