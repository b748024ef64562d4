"""Triplets depend on (seed, position), and show what they say."""

import itertools
import pickle
import tracemalloc

import numpy as np
import pytest

from siamjax.data.catalogue import Catalogue
from siamjax.data.images import ImageSet
from siamjax.data.triplets import ListedTriplets, MinedTriplets, SampledTriplets
from siamjax.errors import UsageError


def catalogue_of(rows, *, attribute="category"):
    """Rows are (item, category)."""
    items, kinds = (np.array(column) for column in zip(*rows, strict=True))
    images = ImageSet(
        name="made",
        credit="",
        keys=tuple(map(str, range(len(rows)))),
        identities=items,
        source=[b""] * len(rows),
    )
    return Catalogue(images=images, attributes={attribute: kinds})


# a and b share a category, c has one image in it, d and e another, f is alone in a third.
ROWS = [
    *[("d", "shoe")] * 3,
    *[("a", "mug")] * 2,
    *[("c", "mug")],
    *[("f", "hat")] * 2,
    *[("b", "mug")] * 4,
    *[("e", "shoe")],
]
MADE = catalogue_of([ROWS[i] for i in np.random.default_rng(3).permutation(len(ROWS))])
ALL = np.arange(len(ROWS))


def draw(stream, count):
    return [stream[position] for position in range(count)]


def test_a_triplet_shows_what_it_says():
    stream = SampledTriplets(MADE, ALL, seed=0, in_class=0.25)
    items, kinds = MADE.images.identities, MADE.attributes["category"]
    within = []
    for anchor, positive, negative in draw(stream, 800):
        assert anchor != positive
        assert items[anchor] == items[positive] != items[negative]
        within.append(kinds[anchor] == kinds[negative])
        if items[anchor] == "f":
            assert not within[-1]
    assert stream.alone == 1
    # Of every four the last, but where the anchor is f: 3/4 of 200.
    assert not any(within[i] for i in range(800) if i % 4 != 3)
    assert 130 < sum(within) < 170


def test_everything_that_qualifies_is_drawn_equally_often():
    for share, expected in ((1.0, True), (0.0, False)):
        stream = SampledTriplets(MADE, ALL, seed=1, in_class=share)
        items, kinds = MADE.images.identities, MADE.attributes["category"]
        drawn = [t for t in draw(stream, 4000) if items[t[0]] == "b"]
        assert 850 < len(drawn) < 1150  # items are drawn evenly: a, b, d, f
        couples = [t[:2] for t in drawn]
        own = np.flatnonzero(items == "b")
        assert set(couples) == set(itertools.permutations(own.tolist(), 2))
        other = np.flatnonzero((items != "b") & ((kinds == "mug") == expected))
        counts = np.bincount([t[2] for t in drawn], minlength=len(items))
        assert set(np.flatnonzero(counts)) == set(other.tolist())
        assert counts[other].min() > 0.75 * len(drawn) / len(other)


def test_depends_on_seed_and_position_alone():
    drawn = draw(SampledTriplets(MADE, ALL, seed=2), 50)
    fresh = SampledTriplets(MADE, ALL, seed=2)
    assert [fresh[position] for position in reversed(range(50))] == drawn[::-1]
    assert draw(SampledTriplets(MADE, ALL, seed=3), 50) != drawn


def test_only_training_images_are_drawn():
    chosen = np.flatnonzero(np.isin(MADE.images.identities, ["a", "d", "c"]))
    for triplet in draw(SampledTriplets(MADE, chosen, seed=0), 200):
        assert set(triplet) <= set(chosen.tolist())


def test_without_categories_any_other_item_is_a_negative():
    stream = SampledTriplets(MADE, ALL, seed=0, category=None)
    items = MADE.images.identities
    negatives = {n for a, _, n in draw(stream, 600) if items[a] == "a"}
    assert negatives == set(np.flatnonzero(items != "a").tolist())
    assert stream.alone == 0


def test_an_unknown_category_is_none():
    kinds = {"d": "", "e": "", "f": ""}
    made = catalogue_of([(item, kinds.get(item, kind)) for item, kind in ROWS])
    items = made.images.identities
    for sampler, options in ((SampledTriplets, {}), (MinedTriplets, {"hard": 1, "batch_size": 4})):
        stream = sampler(made, ALL, seed=0, in_class=1.0, **options)
        if sampler is MinedTriplets:
            table = stream.nearest_others(np.random.default_rng(0).normal(size=(len(ROWS), 3)))
            stream.use(table, start=0)
        assert stream.alone == 2  # d and f, as e has one image
        negatives = {item: set() for item in "abdf"}
        for anchor, _, negative in draw(stream, 2000):
            negatives[str(items[anchor])].add(str(items[negative]))
        assert negatives["a"] == set("bc")
        assert negatives["d"] == set("abcef")
        assert negatives["f"] == set("abcde")
    nothing = catalogue_of([(item, "") for item, _ in ROWS])
    draw(SampledTriplets(nothing, ALL, seed=0, in_class=0.5), 100)
    with pytest.raises(UsageError, match="alone in its category"):
        SampledTriplets(nothing, ALL, seed=0, in_class=1.0)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"in_class": 1.1}, r"in_class 1\.1 must lie in \[0, 1\]"),
        (
            ROWS,
            {"category": "kind"},
            r"no attribute 'kind'; choose category from: category, None \(neg",
        ),
        ([("a", "x"), ("b", "x")], {}, "0 of them with two"),
        ([("a", "x"), ("a", "x")], {}, "1 items to train on"),
        ([("a", "x"), ("a", "x"), ("b", "x")], {}, "all training images are of one category"),
        ([("a", "x"), ("a", "x"), ("b", "y")], {"in_class": 1}, "alone in its category"),
    ],
)
def test_refuses(rows, options, message):
    with pytest.raises(UsageError, match=message):
        SampledTriplets(catalogue_of(rows), np.arange(len(rows)), seed=0, **options)


def test_a_list_whole_each_epoch_in_another_order():
    rows = np.arange(21).reshape(7, 3)
    stream = ListedTriplets(rows, seed=0)
    assert stream.epoch == 7
    epochs = [[stream[7 * e + i] for i in range(7)] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == [tuple(row) for row in rows.tolist()]
    assert epochs[0] != epochs[1] != epochs[2]
    assert ListedTriplets(rows, seed=0)[16] == epochs[2][2]
    with pytest.raises(UsageError, match="without triplets"):
        ListedTriplets(rows[:0], seed=0)


def nearest(embeddings, indices, anchor_item, *, within, count):
    """The slow way: all distances to the item's mean, sorted."""
    items, kinds = MADE.images.identities, MADE.attributes["category"]
    own = [e for e, i in zip(embeddings, indices, strict=True) if items[i] == anchor_item]
    kind = kinds[items == anchor_item][0]
    centre = np.mean(np.float64(own), axis=0)
    found = [
        (np.linalg.norm(np.float64(e) - centre), int(i))
        for e, i in zip(embeddings, indices, strict=True)
        if items[i] != anchor_item and (kinds[i] == kind) == within
    ]
    return [index for _, index in sorted(found)[:count]]


@pytest.mark.parametrize("block", [1, 3, 1024])
def test_mined_table_is_the_nearest(rng, block):
    indices = rng.permutation(ALL)
    stream = MinedTriplets(MADE, indices, seed=0, batch_size=4, neighbours=3)
    embeddings = rng.normal(size=(len(ROWS), 5)).astype(np.float32)
    table = stream.nearest_others(embeddings, block=block)
    assert table.dtype == np.int32
    # Rows of the table are the items by category, then by name.
    for row, item in enumerate(("f", "a", "b", "c", "d", "e")):
        for within in (False, True):
            expected = nearest(embeddings, indices, item, within=within, count=3)
            got = table[row, int(within)].tolist()
            assert got == expected + [-1] * (3 - len(expected)), (item, within)


def test_mining_copies_no_embeddings():
    rows = [(str(number // 4), "ab"[number % 2]) for number in range(2000)]
    indices = np.random.default_rng(0).permutation(2000)
    stream = MinedTriplets(catalogue_of(rows), indices, seed=0, batch_size=4)
    embeddings = np.random.default_rng(0).normal(size=(2000, 1024)).astype(np.float32)
    tracemalloc.start()
    stream.nearest_others(embeddings, block=64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The means of 500 items are a quarter; a copy of all would be the whole.
    assert peak < 0.6 * embeddings.nbytes


def test_mining_knows_training_images_only(rng):
    chosen = np.flatnonzero(np.isin(MADE.images.identities, ["a", "d", "c"]))
    stream = MinedTriplets(MADE, chosen, seed=0, batch_size=4, hard=1.0)
    stream.use(stream.nearest_others(rng.normal(size=(len(chosen), 4))), start=0)
    for triplet in draw(stream, 200):
        assert set(triplet) <= set(chosen.tolist())


def test_hard_negatives_come_from_the_table(rng):
    options = {"seed": 4, "in_class": 0.5}
    plain = draw(SampledTriplets(MADE, ALL, **options), 20)
    stream = MinedTriplets(MADE, ALL, hard=1.0, neighbours=2, batch_size=4, **options)
    assert all(t[:2] == p[:2] for t, p in zip(draw(stream, 20), plain, strict=True))
    embeddings = rng.normal(size=(len(ROWS), 5))
    stream.use(stream.nearest_others(embeddings), start=0)
    items, kinds = MADE.images.identities, MADE.attributes["category"]
    seen = set()
    for position, (anchor, _, negative) in enumerate(draw(stream, 400)):
        within = position % 2 == 1 and items[anchor] != "f"
        assert (kinds[anchor] == kinds[negative]) == within
        near = nearest(embeddings, ALL, items[anchor], within=within, count=2)
        assert negative in near
        seen.add((str(items[anchor]), within, near.index(negative)))
    assert {(item, w, n) for item in "ab" for w in (False, True) for n in (0, 1)} <= seen
    assert draw(pickle.loads(pickle.dumps(stream)), 50) == draw(stream, 50)


def test_a_table_holds_from_its_step_to_the_next(rng):
    def made(*starts):
        stream = MinedTriplets(MADE, ALL, seed=4, hard=1.0, neighbours=1, batch_size=4)
        for start in starts:
            stream.use(tables[start], start=start)
        return draw(stream, 200)

    miner = MinedTriplets(MADE, ALL, seed=0, neighbours=1, batch_size=1)
    tables = {s: miner.nearest_others(rng.normal(size=(len(ROWS), 5))) for s in (0, 10, 25)}
    whole = made(25, 0, 10)
    assert whole == made(0, 10, 25)
    never, first, second, third = made(), made(0), made(10), made(25)
    assert whole[:40] == first[:40] != second[:40]
    assert whole[40:100] == second[40:100] != first[40:100]
    assert whole[100:] == third[100:] != second[100:]
    assert second[:40] == never[:40] != first[:40]


def test_share_of_hard_negatives(rng):
    stream = MinedTriplets(MADE, ALL, seed=0, hard=0.5, neighbours=1, batch_size=4)
    embeddings = rng.normal(size=(len(ROWS), 5))
    stream.use(stream.nearest_others(embeddings), start=0)
    items = MADE.images.identities
    hard = {True: [], False: []}
    for position, (anchor, _, negative) in enumerate(draw(stream, 2000)):
        if items[anchor] == "b":
            within = position % 2 == 1
            near = nearest(embeddings, ALL, "b", within=within, count=1)
            hard[within].append(negative in near)
    # Half, and of the random half those that hit the nearest: 1 of 3 within, 1 of 6 outside.
    assert abs(np.mean(hard[True]) - (0.5 + 0.5 / 3)) < 0.09
    assert abs(np.mean(hard[False]) - (0.5 + 0.5 / 6)) < 0.09


def test_an_item_without_neighbours_gets_any_other():
    stream = MinedTriplets(MADE, ALL, seed=0, in_class=0.0, hard=1.0, batch_size=4)
    stream.use(np.full((6, 2, 10), -1, np.int32), start=0)
    items = MADE.images.identities
    assert {items[n] for a, _, n in draw(stream, 400) if items[a] == "f"} == set("abcde")


def test_mining_refuses():
    stream = MinedTriplets(MADE, ALL[:-1], seed=0, batch_size=4, neighbours=2)
    count = len(ALL) - 1
    with pytest.raises(UsageError, match="not finite"):
        stream.nearest_others(np.full((count, 3), np.nan))
    with pytest.raises(ValueError, match="embeddings of"):
        stream.nearest_others(np.zeros((count + 1, 3)))
    table = stream.nearest_others(np.zeros((count, 3)))
    for wrong in (table[1:], table[..., :1], np.full_like(table, ALL[-1])):
        with pytest.raises(UsageError, match="made for other data"):
            stream.use(wrong, start=0)
    for options, message in (({"hard": 2}, "hard 2"), ({"neighbours": 0}, "neighbours 0")):
        with pytest.raises(UsageError, match=message):
            MinedTriplets(MADE, ALL, seed=0, batch_size=4, **options)
