"""The splits of a set by keywords: what an experiment's options ask for."""

from siamjax.data import (
    ReidOptions,
    RetrievalOptions,
    VerificationOptions,
    load_reid,
    load_retrieval,
    load_verification,
)


def verification_splits(data, **options):
    return load_verification(VerificationOptions(data=data, **options))


def reid_splits(data, **options):
    return load_reid(ReidOptions(data=data, **options))


def retrieval_splits(data, **options):
    return load_retrieval(RetrievalOptions(data=data, **options))
