"""Mined negatives are the nearest whatever the embeddings' offset, scale and ties."""

import numpy as np
import oracles
import pytest

from siamjax.data import nearest_others as module
from siamjax.data.catalogue import Catalogue
from siamjax.data.images import ImageSet
from siamjax.data.triplets import MinedTriplets
from siamjax.errors import UsageError

COUNT, ITEMS = 3, np.repeat(np.arange(12), 5)
KINDS = np.array([f"kind {item % 3}" for item in ITEMS])


def miner(**options):
    names = np.array([f"{item:02d}" for item in ITEMS])
    images = ImageSet(
        name="made",
        credit="",
        keys=tuple(map(str, range(len(ITEMS)))),
        identities=names,
        source=[b""] * len(ITEMS),
    )
    catalogue = Catalogue(images=images, attributes={"category": KINDS})
    every = np.arange(len(ITEMS))
    return MinedTriplets(catalogue, every, seed=0, batch_size=4, neighbours=COUNT, **options)


def oracle(embeddings):
    """Distances of each item's images to its own mean, and those of all others, exactly."""
    wide = embeddings.astype(np.float64)
    table, order = [], sorted(range(12), key=lambda item: (item % 3, item))
    for item in order:
        mean = wide[item == ITEMS].mean(axis=0)
        distance = oracles.squared_distances([mean], wide)[0]
        table.append([])
        for within in (False, True):
            allowed = (item != ITEMS) & ((f"kind {item % 3}" == KINDS) == within)
            table[-1].append(np.sort(distance[allowed])[:COUNT])
    return np.array(table), order


def found(embeddings, table, order):
    wide = embeddings.astype(np.float64)
    means = np.array([wide[item == ITEMS].mean(axis=0) for item in order])
    return np.square(wide[table] - means[:, None, None]).sum(axis=3)


def embeddings_of(kind):
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(12, 8))[ITEMS] + 0.3 * rng.normal(size=(60, 8))
    rows += {"offset": 3000.0, "far": -1e6}.get(kind, 0.0)
    if kind == "groups":
        rows += np.where(ITEMS % 2, 3e4, -3e4)[:, None]
    if kind == "copies":
        rows[ITEMS > 2] = rows[-1]
    if kind == "equal":
        rows[:] = rows[0]
    if kind == "outlier":
        rows[7] = 1e7
    return rows * {"tiny": 1e-30, "huge": 1e30}.get(kind, 1.0)


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "kind",
    ["usual", "offset", "far", "groups", "copies", "equal", "outlier", "tiny", "huge"],
)
def test_the_nearest_are_those_of_float64_differences(kind, dtype, block):
    embeddings = embeddings_of(kind).astype(dtype)
    right, order = oracle(embeddings)
    table = miner().nearest_others(embeddings, block=block)
    got = found(embeddings, table, order)
    np.testing.assert_allclose(got, right, rtol=1e-12, atol=1e-300)
    np.testing.assert_array_equal(table, miner().nearest_others(embeddings, block=13))


def test_float32_suffices_where_nothing_is_close(monkeypatch):
    """Else mining would be slow: no item is compared with all images in float64."""
    monkeypatch.setattr(module, "RankedDistances", None)
    for kind in ("usual", "offset"):
        miner().nearest_others(embeddings_of(kind).astype(np.float32))
    with pytest.raises(TypeError):
        miner().nearest_others(embeddings_of("groups").astype(np.float32))


def test_what_cannot_be_mined_is_refused():
    with pytest.raises(UsageError, match=r"\(59, 8\) embeddings of 60 images"):
        miner().nearest_others(np.zeros((59, 8)))
    bad = np.zeros((60, 8))
    bad[3, 1] = bad[9, 2] = np.inf
    with pytest.raises(UsageError, match=r"embeddings: 2 of 480 .* at \(3, 1\)"):
        miner().nearest_others(bad)
