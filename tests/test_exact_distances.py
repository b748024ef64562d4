"""Distances that rank a gallery: to the last digit where it matters, at any scale and offset."""

import numpy as np
import oracles
import pytest

from siamjax import exact_distances
from siamjax.errors import UsageError
from siamjax.exact_distances import (
    RankedDistances,
    distances_to,
    nearest_places,
    product_error,
    require_embeddings,
)


def clouds():
    """Queries and rows on which products lose what differences keep."""
    rng = np.random.default_rng(5)
    rows, queries = rng.normal(size=(60, 7)), rng.normal(size=(4, 7))
    apart = np.where(np.arange(60)[:, None] % 2, 1.0, -1.0)
    yield "noise", queries, rows
    yield "offset", queries + 4e4, rows + 4e4
    for far in (1e3, 1e6, 1e9):
        groups = rows + far * apart
        yield f"groups {far:g}", groups[:4], groups
    for scale in (1e-30, 1e30):
        yield f"scale {scale:g}", scale * queries, scale * rows
    yield "copies", rows[:4], np.tile(rows[:20], (3, 1))
    yield "codes", rng.integers(0, 2, (4, 7)), rng.integers(0, 2, (60, 7))
    yield "shifted codes", rng.integers(0, 2, (4, 7)) + 0.1, rng.integers(0, 2, (60, 7)) + 0.1
    yield "one row", queries, rows[:1]
    yield "one feature", queries[:, :1], rows[:, :1]


CLOUDS = {name: (queries, rows) for name, queries, rows in clouds()}


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ranked_distances_rank_as_differences_do(name, dtype):
    queries, rows = (part.astype(dtype) for part in CLOUDS[name])
    right = oracles.squared_distances(queries, rows)
    got = RankedDistances(rows)(queries)
    assert (got >= 0).all()
    np.testing.assert_allclose(got, right, rtol=1e-6)
    for one, other in zip(got, right, strict=True):
        order = np.argsort(other, kind="stable")
        ascending = one[order]
        assert (np.diff(ascending) >= 0).all()
        # Ties are ties; what is a rounding apart may be either way.
        gaps = np.diff(other[order]) / np.maximum(other[order][1:], 1e-300)
        assert ((np.diff(ascending) > 0) == (gaps > 0))[(gaps == 0) | (gaps > 1e-14)].all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_cosine_keeps_its_digits_at_small_angles(scale):
    """(1, a) and (1, 0): 1 - cos = 1 - 1 / sqrt(1 + a^2) = a^2 / 2 - 3 a^4 / 8 + ..."""
    angles = np.array([1e-7, 1e-5, 1e-3])
    rows = scale * np.stack([np.ones(3), angles], axis=1)
    right = angles**2 / 2 - 3 * angles**4 / 8
    query = scale * np.array([[1.0, 0.0]])
    found = distances_to(query[0], rows, metric="cosine")[0]
    np.testing.assert_allclose(found, right, rtol=1e-8)
    np.testing.assert_allclose(RankedDistances(rows, metric="cosine")(query)[0], right, rtol=1e-6)


def test_cosine_of_zero_vectors_is_1():
    rows = np.array([[0.0, 0.0], [3.0, 0.0], [-2.0, 0.0]])
    got = RankedDistances(rows, metric="cosine")(np.array([[1.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(got, [[1, 0, 2], [1, 1, 1]])


def test_cosine_of_opposite_vectors_is_at_most_2():
    rows = np.random.default_rng(0).normal(size=(300, 11))
    for row in rows:
        assert distances_to(row, -row[None], metric="cosine")[0] <= 2
    assert RankedDistances(-rows, metric="cosine")(rows).max() <= 2


def test_equal_rows_are_computed_once_and_few_by_differences(monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 16))
    rows[:, 0] += np.where(np.arange(3000) % 2, 1e4, -1e4)
    compared, exact = [], distances_to
    monkeypatch.setattr(
        exact_distances,
        "distances_to",
        lambda query, rows, **options: compared.append(len(rows)) or exact(query, rows, **options),
    )
    RankedDistances(rows)(rows[:10])
    assert sum(compared) < 10 * 30
    compared.clear()
    RankedDistances(np.tile(rows[:1], (3000, 1)))(rows[:10])
    assert sum(compared) <= 10


@pytest.mark.parametrize("features", [5, 300, 4096])
def test_the_bound_holds_for_products_that_round_one_way(features):
    """Equal addends: each partial sum rounds in the same direction, as random ones never do."""
    rng = np.random.default_rng(features)
    for value in rng.uniform(0.1, 1, 40).astype(np.float32):
        x = np.full((1, features), value)
        y = np.concatenate([x + np.float32(1e-3), x, -x, rng.normal(size=x.shape).astype("f4")])
        total = np.float32(0)
        for term in x[0] * y[0]:  # the worst order: one after the other
            total += term
        products = np.append(x @ y.T, total)
        right = np.append(x.astype(float) @ y.astype(float).T, x[0].astype(float) @ y[0])
        lengths = np.append(np.linalg.norm(y.astype(float), axis=1), np.linalg.norm(y[0]))
        bound = product_error(features, np.float32)
        assert (2 * np.abs(products - right) <= bound * (np.linalg.norm(x) + lengths) ** 2).all()


def test_of_equal_distances_the_smaller_place_comes_first():
    distances = np.array([3.0, 1.0, 2.0, 1.0, 2.0, 2.0])
    for top, right in ((1, [1]), (2, [1, 3]), (4, [1, 3, 2, 4]), (6, [1, 3, 2, 4, 5, 0])):
        assert nearest_places(distances, top).tolist() == right
    assert nearest_places(distances, 99).tolist() == [1, 3, 2, 4, 5, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros(3), r"x of shape \(3,\); give an array of 2 axes"),
        (np.zeros((0, 3)), "at least one row"),
        (np.zeros((3, 0)), "one feature"),
        (np.array([["a"]]), "x: <U1; give real numbers"),
        (np.array([[1j]]), "real numbers"),
        (np.array([[0, np.inf], [np.nan, 1]]), r"x: 2 of 4 .* the first is inf at \(0, 1\)"),
        (np.array([[1e200]]), r"up to 1e\+200; scale"),
    ],
)
def test_embeddings_that_cannot_be_compared_are_refused(rows, message):
    with pytest.raises(UsageError, match=message):
        require_embeddings("x", rows)
