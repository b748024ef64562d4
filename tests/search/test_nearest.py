import importlib
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import oracles
import pytest

from siamjax.errors import UsageError
from siamjax.search.index import Index, writing
from siamjax.search.index_making import Making
from siamjax.search.index_segment import Item
from siamjax.search.nearest import Nearest, nearest

nearest_module = importlib.import_module("siamjax.search.nearest")  # the name is the function's too


def oracle(queries, rows, top, metric="squared_euclidean", where=None):
    """Every distance in float64, one by one."""
    order, values = [], []
    for query in np.asarray(queries, np.float64):
        distance = []
        for row in np.asarray(rows, np.float64):
            if metric == "squared_euclidean":
                distance.append(float(((row - query) ** 2).sum()))
                continue
            norms = np.linalg.norm(row) * np.linalg.norm(query)
            distance.append(1.0 if norms == 0 else 1.0 - float(row @ query) / norms)
        distance = np.asarray(distance)
        chosen = np.arange(len(rows)) if where is None else np.flatnonzero(where)
        best = chosen[np.argsort(distance[chosen], kind="stable")][:top]
        order.append(best)
        values.append(distance[best])
    return np.asarray(order), np.asarray(values)


def index_of(folder, rows, *, segments=1, dtype="float32", attributes=None):
    """An index of these rows, in so many segments of different lengths."""
    rows = np.asarray(rows)
    index = Index.create(folder, fingerprint={"network": "A"}, features=rows.shape[1], dtype=dtype)
    attributes = attributes or {}
    borders = np.linspace(0, 1, segments + 1) ** 2 * len(rows)
    for start, stop in zip(borders[:-1].astype(int), borders[1:].astype(int), strict=True):
        with writing(folder):
            making = Making(index, catalogue="noise", attributes=tuple(attributes))
            items = [
                Item(f"i{n}", "", "", "noise", {k: v[n] for k, v in attributes.items()})
                for n in range(start, stop)
            ]
            making.append(items, rows[start:stop])
            index = making.commit()
    return index


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 33)).astype("f4"), rng.normal(size=(205, 33)).astype("f4")


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
@pytest.mark.parametrize("block", [8, 40, 1000])
def test_is_the_sort_of_all_distances(noise, metric, block):
    queries, rows = noise
    found = nearest(queries, rows, top=9, metric=metric, block=block)
    order, values = oracle(queries, rows, 9, metric)
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(found.distances, values, rtol=1e-12, atol=1e-14)
    assert found.rows.dtype == np.int64
    assert found.distances.dtype == np.float64


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_from_segments_on_the_disk(noise, tmp_path, metric, dtype):
    queries, rows = noise
    index = index_of(tmp_path / "index", rows, segments=4, dtype=dtype)
    order, values = oracle(queries, rows.astype(dtype), 9, metric)
    found = nearest(queries, index, top=9, metric=metric, block=32)
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(found.distances, values, rtol=1e-12, atol=1e-14)


def test_one_device_gives_the_same(noise, monkeypatch):
    queries, rows = noise
    expected = nearest(queries, rows, top=9, block=40)
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    nearest_module._values.cache_clear()
    found = nearest(queries, rows, top=9, block=40)
    nearest_module._values.cache_clear()
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.distances, expected.distances)


def test_many_queries_go_in_groups(noise, monkeypatch):
    queries, rows = noise
    monkeypatch.setattr(nearest_module, "_GROUP", 3)
    np.testing.assert_array_equal(nearest(queries, rows, top=4).rows, oracle(queries, rows, 4)[0])


def test_equal_distances_stand_in_the_order_of_rows(rng):
    rows = rng.integers(0, 2, (120, 3)).astype("f4")  # 8 different ones
    found = nearest(rows[:5], rows, top=30, block=16)
    order, values = oracle(rows[:5], rows, 30)
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_array_equal(found.distances, values)
    assert (np.diff(values) == 0).any()


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_duplicates_and_near_ones_far_from_the_origin(rng, metric):
    """Offset 1000, differences 1e-3: float32's |x|^2 + |y|^2 - 2 x y errs by more than these."""
    rows = (1000 + 1e-3 * rng.normal(size=(300, 64))).astype("f4")
    rows[211] = rows[17]
    queries = rows[[17, 40, 299]]
    plain = np.square(rows).sum(1) - 2 * queries @ rows.T
    right = oracle(queries, rows, 5)[0]
    assert (np.argsort(plain, axis=1, kind="stable")[:, :5] != right).any()
    found = nearest(queries, rows, top=5, metric=metric, block=64)
    np.testing.assert_array_equal(found.distances[:, 0], 0)
    np.testing.assert_array_equal(found.rows[:, 0], [17, 40, 299])
    assert found.rows[0, 1] == 211
    assert found.distances[0, 1] == 0
    if metric == "squared_euclidean":
        np.testing.assert_array_equal(found.rows, right)


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_equal_rows_are_equally_far(rng, metric):
    few = rng.normal(size=(5, 37)).astype("f4")
    rows = few[rng.integers(0, 5, 90)]
    queries = rng.normal(size=(3, 37)).astype("f4")
    found = nearest(queries, rows, top=60, metric=metric, block=16)
    assert [len(np.unique(row)) for row in found.distances] == [
        len(np.unique(rows[row], axis=0)) for row in found.rows
    ]
    np.testing.assert_array_equal(found.rows, oracle(queries, rows, 60, metric)[0])


def difficult():
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(300, 24))
    apart = np.where(np.arange(300)[:, None] % 2, 1.0, -1.0)
    return {
        "offset": rows + 3e4,
        "groups": rows + 1e4 * apart,
        "far groups": rows + 1e7 * apart,
        "tiny": 1e-30 * rows,
        "huge": 1e30 * rows,
        "one far": np.where(np.arange(300)[:, None] == 5, 1e25, rows),
        "one near 0": np.where(np.arange(300)[:, None] == 5, 1e-30, rows),
        "all scales": rows * 10.0 ** np.linspace(-30, 30, 300)[:, None],
        "constant": np.tile(rng.uniform(0.1, 1, (300, 1)), 24),
        "copies": np.tile(rows[:6], (50, 1)),
    }


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", difficult())
def test_nothing_is_lost_at_any_offset_and_scale(name, dtype, metric):
    rows = difficult()[name].astype(dtype)
    queries, wide = rows[::60], rows.astype(np.float64)
    if metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    right = oracles.squared_distances(wide[::60], wide) / (2 if metric == "cosine" else 1)
    order = np.argsort(right, axis=1, kind="stable")[:, :7]
    found = nearest(queries, rows, top=7, metric=metric, block=104)
    np.testing.assert_allclose(
        found.distances, np.take_along_axis(right, order, axis=1), rtol=1e-9, atol=1e-28
    )
    if metric == "squared_euclidean":
        np.testing.assert_array_equal(found.rows, order)
    assert (found.distances >= 0).all()
    where = np.arange(300) % 3 > 0
    right = np.where(where, right, np.inf)
    some = nearest(queries, rows, top=250, metric=metric, block=104, where=where)
    assert some.rows.shape == (5, 200)
    np.testing.assert_allclose(some.distances, np.sort(right)[:, :200], rtol=1e-9, atol=1e-28)
    assert where[some.rows].all()


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_few_rows_are_compared_again_in_tight_groups(metric, monkeypatch):
    """Float32 products cannot tell the 1,000 rows of a group apart; float64 products can."""
    rng = np.random.default_rng(0)
    rows = (1e-3 * rng.normal(size=(2000, 16)) + 1 + np.arange(2000)[:, None] % 2).astype("f4")
    rows[:, 0] *= np.where(np.arange(2000) % 2, -1, 1)
    compared, exact = [], nearest_module.distances_to
    monkeypatch.setattr(
        nearest_module,
        "distances_to",
        lambda q, rows, **o: compared.append(len(rows)) or exact(q, rows, **o),
    )
    nearest(rows[:4], rows, top=5, metric=metric, block=400)
    assert sum(compared) < 4 * 5 * 20


def test_zero_vectors_by_cosine():
    rows = np.asarray([[0, 0], [0, 2], [-3, 0]], "f4")
    found = nearest(np.asarray([[1, 0], [0, 0]], "f4"), rows, top=3, metric="cosine")
    np.testing.assert_array_equal(found.distances, [[1, 1, 2], [1, 1, 1]])
    np.testing.assert_array_equal(found.rows, [[0, 1, 2], [0, 1, 2]])


def test_only_where(noise, rng):
    queries, rows = noise
    where = rng.random(len(rows)) < 0.2
    where[40:120] = False  # blocks with nothing in them
    found = nearest(queries, rows, top=9, where=where, block=24)
    order, values = oracle(queries, rows, 9, where=where)
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(found.distances, values, rtol=1e-12)
    none = nearest(queries, rows, where=np.zeros(len(rows), bool))
    assert none.rows.shape == none.distances.shape == (7, 0)


def test_more_than_there_are_gives_all(noise):
    queries, rows = noise
    found = nearest(queries, rows[:6], top=50)
    np.testing.assert_array_equal(found.rows, oracle(queries, rows[:6], 6)[0])


def test_only_blocks_are_read_and_few_are_compared_again(noise, tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(4000, 16)).astype("f4")
    index = index_of(tmp_path / "index", rows)
    widths, compared = [], []
    read, exact = type(index.segments[0]).rows, nearest_module.distances_to
    monkeypatch.setattr(
        type(index.segments[0]), "rows", lambda s, a, b: widths.append(b - a) or read(s, a, b)
    )
    monkeypatch.setattr(
        nearest_module,
        "distances_to",
        lambda q, rows, **o: compared.append(len(rows)) or exact(q, rows, **o),
    )
    found = nearest(rows[:3], index, top=5, block=400)
    np.testing.assert_array_equal(found.rows, oracle(rows[:3], rows, 5)[0])
    assert max(widths) == 400
    assert sum(compared) < 3 * 5 * 10


def test_refuses(noise, tmp_path):
    queries, rows = noise
    with pytest.raises(UsageError, match="queries of 32 features, the gallery has 33"):
        nearest(queries[:, :32], rows)
    with pytest.raises(UsageError, match=r"queries of shape \(33,\)"):
        nearest(queries[0], rows)
    with pytest.raises(UsageError, match=r"queries: 33 of 231 .* nan at \(1, 0\)"):
        nearest(np.where(np.arange(7)[:, None] == 1, np.nan, queries), rows)
    with pytest.raises(UsageError, match="top 0"):
        nearest(queries, rows, top=0)
    with pytest.raises(UsageError, match="a bool for each of 205 rows"):
        nearest(queries, rows, where=np.ones(3, bool))


@pytest.mark.parametrize("factor", [np.nan, 10.0])
def test_damaged_rows_are_told(noise, tmp_path, factor):
    queries, rows = noise
    index = index_of(tmp_path / "index", rows)
    path = tmp_path / "index" / "segment-0001" / "embeddings.npy"
    array = np.lib.format.open_memmap(path, "r+")
    array[100] = factor * queries[0]
    array.flush()
    with pytest.raises(UsageError, match=r"embeddings.npy is damaged: of rows 100 to 100, 1 are"):
        nearest(queries, Index.open(index.folder), top=3)


def test_approximate_without_faiss_says_what_to_install(noise, tmp_path, monkeypatch):
    from siamjax.search.approximate import approximate

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    index = index_of(tmp_path / "index", noise[1])
    with pytest.raises(UsageError, match="pip install faiss-cpu"):
        approximate(noise[0], index)


def test_recall():
    from siamjax.search.approximate import recall

    exact = Nearest(np.asarray([[1, 2], [3, 4]]), np.zeros((2, 2)))
    found = Nearest(np.asarray([[2, 9], [4, -1]]), np.zeros((2, 2)))
    assert recall(found, exact) == 0.5
    assert recall(exact, exact) == 1.0


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_approximate_finds_most_and_tells_exact_distances(tmp_path, metric):
    pytest.importorskip("faiss", exc_type=ImportError)
    from siamjax.search.approximate import approximate, recall

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 16))
    rows = (centres[rng.integers(0, 20, 3000)] + 0.3 * rng.normal(size=(3000, 16))).astype("f4")
    queries = rows[::300] + 0.1 * rng.normal(size=(10, 16)).astype("f4")
    index = index_of(tmp_path / "index", rows, segments=2)
    index = index.remove([f"i{n}" for n in nearest(queries, index, metric=metric).rows[:, 0]])
    where = np.arange(3000) % 2 == 0
    exact = nearest(queries, index, metric=metric, where=where)
    found = approximate(queries, index, metric=metric, where=where)
    assert recall(found, exact) > 0.95
    assert recall(approximate(queries, index, metric=metric, where=where, probes=1), exact) > 0.1
    assert (index.kept & where)[found.rows].all()
    same = found.rows == exact.rows
    np.testing.assert_array_equal(found.distances[same], exact.distances[same])
    (made,) = (tmp_path / "index" / "approximate").glob(f"{metric}-*")
    written = made.stat().st_mtime_ns
    again = approximate(queries, index, metric=metric, where=where)
    np.testing.assert_array_equal(again.rows, found.rows)
    assert made.stat().st_mtime_ns == written
    few = approximate(queries[:2], index, metric=metric, top=5000)
    assert few.rows.shape == (2, len(index))


def test_approximate_refuses_what_exact_refuses(noise, tmp_path):
    from siamjax.search.approximate import approximate

    queries, rows = noise
    index = index_of(tmp_path / "index", rows)
    with pytest.raises(UsageError, match=r"queries of 32 features, .* has 33"):
        approximate(queries[:, :32], index)
    with pytest.raises(UsageError, match=r"queries: 33 of 231 .* nan at \(1, 0\)"):
        approximate(np.where(np.arange(7)[:, None] == 1, np.nan, queries), index)
    with pytest.raises(UsageError, match="a bool for each of 205 rows"):
        approximate(queries, index, where=np.ones(3, bool))


@pytest.mark.parametrize("before", [True, False])
def test_approximate_tells_of_damaged_rows(noise, tmp_path, before):
    """Before FAISS's file is made, and after."""
    pytest.importorskip("faiss", exc_type=ImportError)
    from siamjax.search.approximate import approximate

    index = index_of(tmp_path / "index", noise[1], segments=2)
    queries = noise[1][100:101] + np.float32(1e-3)
    if not before:
        approximate(queries, index)
    path = tmp_path / "index" / "segment-0002" / "embeddings.npy"
    array = np.lib.format.open_memmap(path, "r+")
    array[100 - len(index.segments[0])] = np.nan
    array.flush()
    with pytest.raises(UsageError, match=r"segment-0002/embeddings.npy is damaged: of rows 49 to"):
        approximate(queries, index)


def test_first_approximate_searches_at_once(noise, tmp_path, monkeypatch):
    pytest.importorskip("faiss", exc_type=ImportError)
    module = importlib.import_module("siamjax.search.approximate")
    approximate, write = module.approximate, module.write_lists
    index, written = index_of(tmp_path / "index", noise[1]), []

    def slow(path, *made):
        written.append(path)
        write(path, *made)
        time.sleep(0.3)

    monkeypatch.setattr(module, "write_lists", slow)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: approximate(noise[0], index).rows, range(2)))
    np.testing.assert_array_equal(*found)
    assert len(written) == 1
