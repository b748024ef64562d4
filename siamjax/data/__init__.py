"""Images, pairs, triplets and batches in NumPy, Pillow, TFDS and grain. No jax in here."""

from siamjax.data.images import ImageSet, of_arrays, of_files
from siamjax.data import (
    RetrievalOptions,
    VerificationOptions,
    ReidOptions,
    load_retrieval,
    load_verification,
    load_reid,
)
from siamjax.data.pairs import (
    ListedPairs,
    PairList,
    PositivesOfAnEpoch,
    SampledPairs,
    all_pairs,
)
from siamjax.data.batches import image_batches, pair_batches, triplet_batches
from siamjax.data.transforms import Augmentation
from siamjax.data.triplets import ListedTriplets, MinedTriplets, SampledTriplets

__all__ = [
    "Augmentation",
    "RetrievalOptions",
    "VerificationOptions",
    "ImageSet",
    "ListedPairs",
    "ListedTriplets",
    "MinedTriplets",
    "PairList",
    "PositivesOfAnEpoch",
    "ReidOptions",
    "SampledPairs",
    "SampledTriplets",
    "all_pairs",
    "image_batches",
    "load_retrieval",
    "load_verification",
    "load_reid",
    "of_arrays",
    "of_files",
    "pair_batches",
    "triplet_batches",
]
