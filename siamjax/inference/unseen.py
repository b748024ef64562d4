"""Has a network seen these people before? By their names, and by the pixels of their images."""

import contextlib
from collections import Counter

import numpy as np

from siamjax.data.people import People
from siamjax.errors import UsageError, shown
from siamjax.inference.evaluation import own_splits
from siamjax.training.finished import Finished
from siamjax.training.seen import Seen


def check_unseen(run: Finished, people: People, *, allow_overlap: bool = False) -> list[str]:
    """Sentences on what could be checked, on people who chose the checkpoint, and on copies.

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
        checked = "only names were" if run.about.trained_on else "nothing was"
        told.append(f"which images the network was trained on is not known: {checked} checked")
        seen = Seen(trained=[], chose=[], people=[])
    elif people.pairs is not None or not run.about.trained_on:
        told.append("names are not known, so only the images' content was compared with training")
    start = run.about.config.get("start_from")
    if isinstance(start, dict) and start.get("known", 0) is None:
        where = shown(start.get("run"))
        told.append(f"the run started from {where}, which does not tell what it has seen")
    trained_on, chose = (
        run.about.known_in(images.name, names) for names in (run.about.trained_on, seen.people)
    )
    content = np.array(images.content(np.arange(len(images))))
    if both := _both(people, content, seen.trained, trained_on):
        sentence = f"{both}, are among those of the training"
        if not allow_overlap:
            raise UsageError(
                f"{images.name}: {sentence}, whom the network knows better than others; give "
                "people whom it has not seen, or --allow-overlap for numbers that are too good"
            )
        told.append(f"CONTAMINATED: {sentence}: the numbers are too good")
    if both := _both(people, content, seen.chose, chose):
        told.append(f"{both}, chose the checkpoint: the numbers may be a little too good")
    return told + _copies(people, content)


def _copies(people: People, content: np.ndarray) -> list[str]:
    """Sentences on images that are there more than once; a list may use each in many pairs."""
    if people.pairs is not None:
        return []
    names = people.images.identities
    own = {(digest, name) for digest, name in zip(content, names, strict=True) if digest}
    owners = Counter(digest for digest, _ in own)
    shared = sorted({name for digest, name in own if owners[digest] > 1})
    told = []
    if shared:
        told.append(
            f"{_some(shared)} have images in common, which count as false matches; give a person "
            "one name, and each image to one person"
        )
    if copies := np.count_nonzero(content) - len(own):
        told.append(
            f"{copies:,} images are copies of others of the same person: the false non-match rate "
            "may be too good"
        )
    return told


def _both(people: People, content: np.ndarray, digests: list[str], names: set[str]) -> str:
    """Which of the people (of a list, which images) are among others; "" if none."""
    images, listed = people.images, people.pairs is not None
    who = np.array(images.keys) if listed else images.identities
    named = sorted(names & set(people.names))
    alike = sorted(set(who[np.isin(content, digests)].tolist()))
    ways = {"by name": named, "by the pixels of their images": alike}
    told = [f"{way} {_some(some)}" for way, some in ways.items() if some]
    total = f"{len(images):,} images" if listed else f"{len(people.names):,} people"
    return f"{len({*named, *alike}):,} of {total}, {'; '.join(told)}" if told else ""


def _some(names: list[str]) -> str:
    listed = [shown(name, longest=60) for name in names[:5]]
    return ", ".join(listed) + (", ..." if len(names) > 5 else "")
