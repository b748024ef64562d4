"""Retrieval: which items to train on, and the searches that validate and test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from siamjax.data.catalogue import Catalogue
from siamjax.data.images import ImageSet, fingerprint
from siamjax.data.triplets import ListedTriplets, SampledTriplets, TripletStream
from siamjax.errors import UsageError
from siamjax.options import Count, Options, Seed, Source, only, request_of

EMOJI_TEST, EMOJI_VALIDATION = 200, 100  # items by default
ONLINE_PRODUCTS = "stanford_online_products"


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrieval:
    """Queries, and the gallery in which to find the item of each.

    The matches of a query are the gallery's images of the same identity; there is at least one.

    Attributes:
        name: such as ``test items``, as figures show it.
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
        """The place of each query in the gallery; None if the queries are not in it."""
        if not self.leave_one_out:
            return None
        order = np.argsort(self.gallery)
        return order[np.searchsorted(self.gallery[order], self.query)]


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalSplits:
    """A catalogue, its rows to train on, and the retrievals that choose and test.

    Attributes:
        catalogue: all rows; all indices refer to it.
        training: indices of the images to train on.
        validation: chooses the checkpoint.
        test: what results are reported on. No item is in two of the three.
        protocol: a line to print with every number: how the items were divided, and counts.
        request: the arguments of :func:`load_retrieval`, which make the same splits again.
        listed: query, positive and negative of the listed triplets, without those that show a
            validation or test item; None where no list was given.
    """

    catalogue: Catalogue
    training: Int[np.ndarray, " train"]
    validation: Retrieval
    test: Retrieval
    protocol: str
    request: dict[str, Any]
    listed: Int[np.ndarray, "triplets 3"] | None = None

    @property
    def images(self) -> ImageSet:
        """The catalogue's images."""
        return self.catalogue.images

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The items that the training images show."""
        return tuple(sorted(set(self.images.identities[self.training].tolist())))

    @property
    def training_images(self) -> Int[np.ndarray, " train"]:
        """Indices of the images to train on."""
        return self.training

    @property
    def validation_images(self) -> Int[np.ndarray, " n"]:
        """Indices of the images that choose the checkpoint."""
        return np.union1d(self.validation.query, self.validation.gallery)

    def triplets(self, category: str | None) -> TripletStream:
        """Triplets to train on: the listed ones, or else ones drawn from the seed of the splits.

        Half of the negatives that are drawn are of the anchor's ``category``, a column of the
        catalogue; None: the items have no category. See
        :class:`~siamjax.data.triplets.SampledTriplets`.
        """
        seed = self.request["seed"]
        if self.listed is not None:
            return ListedTriplets(self.listed, seed=seed)
        return SampledTriplets(self.catalogue, self.training, seed=seed, category=category)

    def fingerprint(self) -> str:
        """sha256 over ids, items, attributes, all indices and triplets, but not over pixels.

        A resumed run checks it, so that it does not test on items that it was trained on.
        """
        columns = [self.training]
        for asked_for in (self.validation, self.test):
            columns += [asked_for.query, asked_for.gallery]
        if self.listed is not None:
            columns.append(self.listed)
        left_out = (str(self.validation.leave_one_out), str(self.test.leave_one_out))
        return fingerprint(self.images, *columns, words=left_out, named=self.catalogue.attributes)


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions(Options):
    """Options of the data: which catalogue, and how many items are held out."""

    seed: Seed = 0
    """Seed of the splits; in a run also of examples, augmentation and initial parameters."""
    data: Source = "emoji"
    """emoji, stanford_online_products, a table (.csv, .tsv), or a folder with one or of images."""
    home: Path | None = None
    """stanford_online_products only: its folder; None: TFDS's folder."""
    triplets: Path | None = None
    """File of triplets of row numbers to train on; None: triplets are drawn."""
    first_row: Literal[0, 1] = 0
    """Number of the first row in the file of triplets, 0 or 1."""
    test_items: Count | None = None
    """Number of test items; None: 200 of emoji, a fifth of a table."""
    validation_items: Count | None = None
    """Number of items that choose the checkpoint; None: 100 of emoji, a tenth of a table."""
    category: str | None = "category"
    """Column of the table with the category of each item; None: there is none."""
    strict: bool = False
    """Refuse a folder or triplets of which something would be left out; else that is told."""


def load_retrieval(options: RetrievalOptions, *, unit: str = "items") -> RetrievalSplits:
    """Splits that share no item, drawn from ``seed``.

    * ``emoji``: the queries are Google's images, the gallery is Twitter's; by default 200 items
      test and 100 validate.
    * ``stanford_online_products``, or its unpacked folder: the official split; every test image is
      a query to all others. Validation is drawn from the training items, by default a tenth.
    * any other catalogue that :func:`~siamjax.data.open_catalogue.open_catalogue` opens: of the
      items with two images or more, by default a fifth tests and a tenth validates (at least 2
      each); each of their images is a query to all others. Items of one image are trained on.

    ``triplets`` is a file with the triplets to train on, whose rows count from ``first_row``
    (:func:`~siamjax.data.triplet_lists.read_triplets`). If every image of the catalogue is an item
    of its own, then query and positive of each triplet are taken for one item, and so are images
    that a chain of triplets connects. Triplets that show an item held out, or whose negative is of
    the query's item, are left out; ``protocol`` counts them.

    Raises ``UsageError`` for a catalogue or a file that cannot be read, for too few items, if no
    triplet is left, and for ``test_items`` (named by ``unit``) of a set with an official split.
    """
    from siamjax.data.open_catalogue import NAMES, open_catalogue
    from siamjax.data.triplet_lists import joined_items, read_triplets, trainable

    options = only(RetrievalOptions, options)
    data = options.data
    if options.first_row and options.triplets is None:
        raise UsageError(
            f"first_row {options.first_row} applies to a file of triplets; give the file too"
        )
    catalogue = open_catalogue(
        data,
        home=None if options.home is None else Path(options.home),
        strict=options.strict,
        numbered=options.triplets is not None,
    )
    rows, origin = None, ""
    if options.triplets is not None:
        rows = read_triplets(
            options.triplets,
            rows=len(catalogue),
            first_row=options.first_row,
            strict=options.strict,
        )
        catalogue, origin = joined_items(catalogue, rows)
    # The number of each image's item, by the order of their names, and each item's image count.
    _, number, counts = np.unique(
        catalogue.images.identities, return_inverse=True, return_counts=True
    )
    tested, validated, how = _held_out(catalogue, number, counts, options, unit)
    parts = [np.isin(number, items) for items in (tested, validated)]
    training = np.flatnonzero(~parts[0] & ~parts[1])
    listed, left_out = None, ""
    if rows is not None:
        listed, left_out = trainable(
            rows, parts[0] | parts[1], number, source=str(options.triplets)
        )
    make = _between_vendors if data == "emoji" else _leave_one_out
    test = make(catalogue, np.flatnonzero(parts[0]), "test items")
    validation = make(catalogue, np.flatnonzero(parts[1]), "validation items")
    asking = (
        "google's images are the queries, twitter's the gallery"
        if data == "emoji"
        else "every image is a query to all others"
    )
    return RetrievalSplits(
        catalogue=catalogue,
        training=training,
        validation=validation,
        test=test,
        protocol=(
            f"{catalogue.images.name}: {origin}{how}: {len(np.unique(number[training])):,} for "
            f"training ({len(training):,} images), {len(tested):,} for test ({len(test.query):,} "
            f"queries, gallery {len(test.gallery):,}), {len(validated):,} others choose the "
            f"checkpoint; no item is in two of these; {asking}{left_out}"
            + ("; artwork, no photographs" if data == "emoji" else "")
        ),
        request=request_of(options, sets=NAMES),
        listed=listed,
    )


def evaluation_search(data: str, *, strict: bool = False) -> tuple[ImageSet, Retrieval]:
    """Images and a search to evaluate a run on.

    Google's emoji are searched for among Twitter's; of ``stanford_online_products`` the official
    test images ask, and of any other set all images of an item that has two or more: each is a
    query to all others. ``strict``: what would be left out of a folder is an error.
    """
    from siamjax.data.open_catalogue import open_catalogue
    from siamjax.data.verification import NAMES as OF_PAIRS
    from siamjax.data.verification import load_images

    if data in OF_PAIRS:
        catalogue = Catalogue(images=load_images(data, strict=strict), attributes={})
    else:
        catalogue = open_catalogue(data, strict=strict)
    whole = np.arange(len(catalogue))
    if data == "emoji":
        return catalogue.images, _between_vendors(catalogue, whole, "all items")
    name = "all items"
    if catalogue.images.name == ONLINE_PRODUCTS:
        whole, name = np.flatnonzero(catalogue.attributes["split"] == "test"), "test items"
    asked = _leave_one_out(catalogue, whole, name)
    if not len(asked.query):
        raise _nothing_to_find(catalogue)
    return catalogue.images, asked


def _nothing_to_find(catalogue: Catalogue) -> UsageError:
    return UsageError(
        f"{catalogue.images.name}: no item has two images, so that none can be searched for; "
        "tell which images show one item by a column 'item', or by a sub-folder for each"
    )


def _held_out(
    catalogue: Catalogue,
    number: Int[np.ndarray, " n"],
    counts: Int[np.ndarray, " items"],
    options: RetrievalOptions,
    unit: str,
) -> tuple[Int[np.ndarray, " test"], Int[np.ndarray, " validation"], str]:
    """The numbers of the items to test and to validate on, and a remark on their choice."""
    test_items, validation_items = options.test_items, options.validation_items
    name = catalogue.images.name
    repeated = np.flatnonzero(counts >= 2)
    if name == ONLINE_PRODUCTS:
        if test_items is not None:
            raise UsageError(f"test_{unit} {test_items} does not apply to {name}; leave it out")
        tested = np.unique(number[catalogue.attributes["split"] == "test"])
        drawn = repeated[~np.isin(repeated, tested)]
        tenth = max(2, len(drawn) // 10)
        asked = [tenth if validation_items is None else validation_items]
        (validated,) = _draw(catalogue, drawn, asked, seed=options.seed)
        return tested, validated, "official split"
    if name == "emoji":
        usual = (EMOJI_TEST, EMOJI_VALIDATION)
    else:
        usual = (max(2, len(repeated) // 5), max(2, len(repeated) // 10))
    asked = [usual[0] if test_items is None else test_items]
    asked.append(usual[1] if validation_items is None else validation_items)
    tested, validated = _draw(catalogue, repeated, asked, seed=options.seed)
    return tested, validated, f"items divided at random (seed {options.seed})"


def _draw(
    catalogue: Catalogue, items: Int[np.ndarray, " items"], counts: list[int], *, seed: int
) -> list[np.ndarray]:
    """For each count that many of the items, at random; two must be left to train on."""
    if not len(items):
        raise _nothing_to_find(catalogue)
    if min(counts) < 2 or sum(counts) + 2 > len(items):
        raise UsageError(
            f"{catalogue.images.name}: {' + '.join(map(str, counts))} items to hold out of "
            f"{len(items)} that have two images or more, but each split needs at least 2, and "
            "training 2; ask for others, add images, or, where triplets join images to too few "
            "items, give the table a column 'item'"
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
    """All images are the gallery; those that share their item with another are the queries."""
    _, number, counts = np.unique(
        catalogue.images.identities[chosen], return_inverse=True, return_counts=True
    )
    query = chosen[counts[number] >= 2]
    return Retrieval(name=name, query=query, gallery=chosen, leave_one_out=True)
