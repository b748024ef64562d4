"""Which items are trained on, which choose the checkpoint and which are searched for."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from siamjax.data.catalogue import online_products
from siamjax.data.catalogue.readers import open_catalogue
from siamjax.data.catalogue.table import Catalogue
from siamjax.data.images import ImageSet
from siamjax.errors import UsageError

EMOJI_TEST, EMOJI_VALIDATION = 200, 100  # items, unless told


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrieval:
    """Queries and the gallery in which each one's item is looked for.

    A query's matches are the gallery's pictures of the same identity; it has one at least.

    Attributes:
        name: such as ``test items``; what a figure calls it.
        query: (queries,) indices into the catalogue.
        gallery: (gallery,) indices into the catalogue.
        leave_one_out: the queries are in the gallery too; each is left out of its own ranking.
    """

    name: str
    query: Int[np.ndarray, " queries"]
    gallery: Int[np.ndarray, " gallery"]
    leave_one_out: bool

    @property
    def own_places(self) -> Int[np.ndarray, " queries"] | None:
        """Where each query stands in the gallery; None where it does not."""
        if not self.leave_one_out:
            return None
        order = np.argsort(self.gallery)
        return order[np.searchsorted(self.gallery[order], self.query)]


@dataclass(frozen=True, kw_only=True, eq=False)
class CatalogueSplits:
    """A catalogue, its rows to train on, and the retrievals that choose and test.

    Attributes:
        catalogue: all rows; every index is into it.
        training: indices of the pictures to train on.
        validation: chooses the checkpoint.
        test: what the result is about. No item is in two of the three.
        protocol: one line for every number: how the items were divided, and counts.
        request: what :func:`load_splits` was asked for; asking again gives the same splits.
    """

    catalogue: Catalogue
    training: Int[np.ndarray, " train"]
    validation: Retrieval
    test: Retrieval
    protocol: str
    request: dict[str, Any]

    @property
    def images(self) -> ImageSet:
        """The catalogue's pictures."""
        return self.catalogue.images

    def fingerprint(self) -> str:
        """sha256 over ids, items, attributes and all indices, but not over pixels.

        A run that goes on checks it, so that no item that was trained on comes to be tested on.
        """
        digest = hashlib.sha256(repr(self.images.keys).encode())
        named = {"": self.images.identities, **self.catalogue.attributes}
        for name, column in sorted(named.items()):
            digest.update(f"\1{name}\1".encode() + "\0".join(column.tolist()).encode())
        indices = [self.training]
        for retrieval in (self.validation, self.test):
            digest.update(f"\1{retrieval.leave_one_out}".encode())
            indices += [retrieval.query, retrieval.gallery]
        for column in indices:
            digest.update(f"\1{len(column)}\1".encode())  # else [1][2] would equal [1, 2][]
            digest.update(np.ascontiguousarray(column, np.int64).tobytes())
        return digest.hexdigest()


def load_splits(
    data: str,
    *,
    home: Path | None = None,
    seed: int = 0,
    test_items: int | None = None,
    validation_items: int | None = None,
) -> CatalogueSplits:
    """Splits that share no item, drawn from ``seed``.

    * ``emoji``: Google's pictures ask, Twitter's are the gallery; 200 items test and 100 validate
      unless told.
    * ``stanford_online_products``: the official split; every test picture asks all others.
      Validation is drawn from the training items, a tenth of them unless told.
    * any other catalogue that :func:`~siamjax.data.catalogue.readers.open_catalogue` opens: of the
      items with two pictures or more, a fifth tests and a tenth validates unless told (2 at
      least); every picture of these asks all others. Items of one picture are trained on.

    Raises ``UsageError`` for a catalogue that cannot be opened or has too few such items, and
    for ``test_items`` of a set with an official split.
    """
    if seed < 0:
        raise UsageError(f"seed {seed} must be 0 or greater")
    request: dict[str, Any] = {
        "data": data,
        "home": None if home is None else str(home),
        "seed": seed,
        "test_items": test_items,
        "validation_items": validation_items,
    }
    catalogue = open_catalogue(data, home=home)
    number, counts = _numbered(catalogue)
    repeated = np.flatnonzero(counts >= 2)
    official = data == online_products.NAME
    if official:
        if test_items is not None:
            raise UsageError(f"test_items {test_items} does not apply to {data}; leave it out")
        tested = np.unique(number[catalogue.attributes["split"] == "test"])
        drawn = repeated[~np.isin(repeated, tested)]
        tenth = max(2, len(drawn) // 10)
        asked = [tenth if validation_items is None else validation_items]
        (validated,) = _draw(catalogue, drawn, asked, seed=seed)
        how = "official split"
    else:
        if data == "emoji":
            usual = (EMOJI_TEST, EMOJI_VALIDATION)
        else:
            usual = (max(2, len(repeated) // 5), max(2, len(repeated) // 10))
        asked = [usual[0] if test_items is None else test_items]
        asked.append(usual[1] if validation_items is None else validation_items)
        tested, validated = _draw(catalogue, repeated, asked, seed=seed)
        how = f"items divided at random (seed {seed})"
    parts = [np.isin(number, items) for items in (tested, validated)]
    training = np.flatnonzero(~parts[0] & ~parts[1])
    make = _between_vendors if data == "emoji" else _leave_one_out
    test = make(catalogue, np.flatnonzero(parts[0]), "test items")
    validation = make(catalogue, np.flatnonzero(parts[1]), "validation items")
    asking = (
        "google pictures ask, twitter's are the gallery"
        if data == "emoji"
        else ("every picture asks all others")
    )
    return CatalogueSplits(
        catalogue=catalogue,
        training=training,
        validation=validation,
        test=test,
        protocol=(
            f"{catalogue.images.name}: {how}: {len(np.unique(number[training])):,} trained on "
            f"({len(training):,} pictures), {len(tested):,} tested ({len(test.query):,} queries, "
            f"gallery {len(test.gallery):,}), {len(validated):,} others choose the checkpoint; no "
            f"item is in two of these; {asking}"
            + ("; artwork, no photographs" if data == "emoji" else "")
        ),
        request=request,
    )


def _numbered(
    catalogue: Catalogue,
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " items"]]:
    """The number of each picture's item, in order of their names, and each item's pictures."""
    _, number, counts = np.unique(
        catalogue.images.identities, return_inverse=True, return_counts=True
    )
    return number, counts


def _draw(
    catalogue: Catalogue, items: Int[np.ndarray, " items"], counts: list[int], *, seed: int
) -> list[np.ndarray]:
    """So many different ones of the items for each count; two must be left to train on."""
    if not len(items):
        raise UsageError(
            f"{catalogue.images.name}: no item has two pictures, so that none can be searched for; "
            "tell which pictures show the same by a column item, or by a sub-folder for each"
        )
    if min(counts) < 2 or sum(counts) + 2 > len(items):
        raise UsageError(
            f"{catalogue.images.name}: {' + '.join(map(str, counts))} items to hold out of "
            f"{len(items)} that have two pictures or more; at least 2 for each split and 2 to "
            "train on are needed: ask for others, or add pictures"
        )
    shuffled = np.random.default_rng(seed).permutation(items)
    return [np.sort(part) for part in np.split(shuffled, np.cumsum(counts))[: len(counts)]]


def _between_vendors(catalogue: Catalogue, chosen: np.ndarray, name: str) -> Retrieval:
    vendor = catalogue.attributes["vendor"][chosen]
    return Retrieval(
        name=name,
        query=chosen[vendor == "google"],
        gallery=chosen[vendor == "twitter"],
        leave_one_out=False,
    )


def _leave_one_out(catalogue: Catalogue, chosen: np.ndarray, name: str) -> Retrieval:
    """All are the gallery, and those that share their item with another ask."""
    _, number, counts = np.unique(
        catalogue.images.identities[chosen], return_inverse=True, return_counts=True
    )
    query = chosen[counts[number] >= 2]
    return Retrieval(name=name, query=query, gallery=chosen, leave_one_out=True)
