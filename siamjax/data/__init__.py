"""Images, pairs, triplets and batches in NumPy, Pillow, TFDS and grain. No jax in here."""

from typing import TYPE_CHECKING

from siamjax.lazy import contents

if TYPE_CHECKING:
    from siamjax.data.batches import (
        image_batches,
        labelled_batches,
        pair_batches,
        triplet_batches,
    )
    from siamjax.data.images import ImageSet, of_arrays, of_files
    from siamjax.data.pairs import (
        ListedPairs,
        PairList,
        PositivesOfAnEpoch,
        SampledPairs,
        all_pairs,
    )
    from siamjax.data.people import People, open_people
    from siamjax.data.reid import ReidOptions, load_reid
    from siamjax.data.retrieval import RetrievalOptions, load_retrieval
    from siamjax.data.tasks import LabelledOptions, load_labelled
    from siamjax.data.transforms import Augmentation, Framing
    from siamjax.data.triplets import ListedTriplets, MinedTriplets, SampledTriplets
    from siamjax.data.verification import VerificationOptions, divide_people, load_verification

__getattr__, __dir__ = contents(__name__, __file__)

__all__ = [
    "Augmentation",
    "Framing",
    "ImageSet",
    "LabelledOptions",
    "ListedPairs",
    "ListedTriplets",
    "MinedTriplets",
    "PairList",
    "People",
    "PositivesOfAnEpoch",
    "ReidOptions",
    "RetrievalOptions",
    "SampledPairs",
    "SampledTriplets",
    "VerificationOptions",
    "all_pairs",
    "divide_people",
    "image_batches",
    "labelled_batches",
    "load_labelled",
    "load_reid",
    "load_retrieval",
    "load_verification",
    "of_arrays",
    "of_files",
    "open_people",
    "pair_batches",
    "triplet_batches",
]
