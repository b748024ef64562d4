"""Images drawn for batches of P identities with K images each."""

import numpy as np
from jaxtyping import Int

from siamjax.data.images import ImageSet
from siamjax.data.pairs import EpochOrder, by_identity, generator
from siamjax.errors import UsageError

# Streams of random numbers, other than those of pairs, triplets and augmentation (0 to 6).
_IDENTITIES, _IMAGES = 7, 8


class SampledIdentities:
    """Images so that each batch shows P identities, K times each, one identity after the other.

    The image at a position depends only on the seed and the position. Identities come in an order
    drawn anew for each epoch, which leaves out those at its end that do not fill a batch. Of an
    identity with K images or more, K different ones are drawn; of one with fewer, each is taken as
    often as the others, or once more. Identities with a single image have no positive and are left
    out; ``left_out`` is their number.

    Hermans, Beyer, Leibe, *In Defense of the Triplet Loss for Person Re-Identification*, 2017,
    section 2, where P = 18 and K = 4.
    """

    def __init__(
        self,
        images: ImageSet,
        indices: Int[np.ndarray, " n"],
        *,
        seed: int,
        batch_size: int,
        per_identity: int,
    ) -> None:
        """``indices`` are the training images, ``batch_size`` is P x K, ``per_identity`` K.

        Raises ``UsageError`` if the images cannot make such batches.
        """
        if per_identity < 2:
            raise UsageError(f"per_identity {per_identity} must be at least 2: a positive for each")
        self._per_batch = batch_size // per_identity
        if batch_size % per_identity or self._per_batch < 2:
            raise UsageError(
                f"batch of {batch_size} images cannot show two identities or more with "
                f"{per_identity} images each; use a multiple of {per_identity} from "
                f"{2 * per_identity}"
            )
        groups = by_identity(images, indices)
        self._groups = [group for group in groups if len(group) >= 2]
        self.left_out = len(groups) - len(self._groups)
        if len(self._groups) < self._per_batch:
            raise UsageError(
                f"{images.name}: {len(self._groups)} of {len(groups)} identities to train on have "
                f"two images or more, and a batch of {batch_size} shows {self._per_batch}; use a "
                f"batch of at most {len(self._groups) * per_identity}, or add images"
            )
        self._seed, self._per_identity = seed, per_identity
        self._order = EpochOrder(len(self._groups), seed=seed, stream=_IDENTITIES)

    def __getitem__(self, position: int) -> int:
        """The index of the image at a position >= 0."""
        drawn, image = divmod(position, self._per_identity)
        batch, place = divmod(drawn, self._per_batch)
        epoch, within = divmod(batch, len(self._groups) // self._per_batch)
        turn = epoch * len(self._groups) + within * self._per_batch + place
        group = self._groups[self._order[turn]]
        order = generator(self._seed, drawn, stream=_IMAGES).permutation(group)
        return int(order[image % len(order)])
