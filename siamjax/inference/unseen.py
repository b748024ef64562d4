"""Has a network seen these people before? By their names, and by the pixels of their images."""

import contextlib
from collections.abc import Iterable
from dataclasses import fields

import numpy as np

from siamjax.data.people import People
from siamjax.data.reid import ReidOptions, ReidSplits, load_reid
from siamjax.data.retrieval import RetrievalOptions, RetrievalSplits, load_retrieval
from siamjax.data.verification import (
    VerificationOptions,
    VerificationSplits,
    load_verification,
)
from siamjax.errors import UsageError, shown
from siamjax.options import asked_before
from siamjax.training.finished import Finished
from siamjax.training.seen import Seen

_TASKS = (
    (VerificationOptions, load_verification),
    (ReidOptions, load_reid),
    (RetrievalOptions, load_retrieval),
)


def own_splits(run: Finished) -> VerificationSplits | ReidSplits | RetrievalSplits:
    """The splits of a run, made again from its manifest; ``UsageError`` if their data is gone."""
    where = f"the data that {shown(run.folder / 'manifest.json')} names"
    for options, load in _TASKS:
        if set(run.about.splits) <= {field.name for field in fields(options)}:
            try:
                return load(asked_before(options, run.about.splits))
            except UsageError as error:
                raise UsageError(f"{where}: {error}; or give --data") from None
    raise UsageError(f"{where} cannot be made again; give --data")


def check_unseen(run: Finished, people: People, *, allow_overlap: bool = False) -> list[str]:
    """Sentences on what could be checked, and on people who chose the checkpoint.

    Raises ``UsageError`` naming people, or images where people are not known, whom the run was
    trained on, unless ``allow_overlap``: then a sentence names them. A run of an earlier version
    has no list of what it saw: its data is read again, and if that is gone a sentence says so.
    """
    told, images = [], people.images
    seen = Seen.read(run.folder)
    if seen is None:
        with contextlib.suppress(UsageError):
            seen = Seen.of(own_splits(run))
    if seen is None:
        told.append("the run does not tell which images it has seen: only names were checked")
        seen = Seen(trained=[], chose=[], people=[])
    elif people.pairs is not None or not run.about.trained_on:
        told.append("names are not known, so only the images' content was compared with training")
    content = np.array(images.content(np.arange(len(images))))
    known = people.pairs is None
    shown_by = images.identities if known else np.array(images.keys)

    def of(digests: Iterable[str], names: Iterable[str]) -> list[str]:
        found = set(shown_by[np.isin(content, list(digests))].tolist())
        return sorted(found | (set(people.names) & set(names)))

    what = "people" if known else "images"
    total = len(people.names) if known else len(images)
    if both := of(seen.trained, run.about.trained_on):
        sentence = f"{len(both):,} of {total:,} {what} are among those of the training"
        if not allow_overlap:
            raise UsageError(
                f"{images.name}: {sentence} ({_some(both)}), whom the network knows better than "
                "others; give people whom it has not seen, or --allow-overlap for numbers that "
                "are too good"
            )
        told.append(f"CONTAMINATED: {sentence} ({_some(both)}): the numbers are too good")
    if both := of(seen.chose, seen.people):
        told.append(
            f"{len(both):,} of {total:,} {what} chose the checkpoint ({_some(both)}): the numbers "
            "may be a little too good"
        )
    return told


def _some(names: list[str]) -> str:
    listed = [shown(name, longest=60) for name in names[:5]]
    return ", ".join(listed) + (", ..." if len(names) > 5 else "")
