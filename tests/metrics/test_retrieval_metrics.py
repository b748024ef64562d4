import itertools

import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.metrics.retrieval import map_at_r, recall_at_k, search_quality


def slow(query, gallery, same_as, shown, own=None):
    """Query by query: recall@1, 3, 5, 10, 20 and MAP@R, as Musgrave et al. 2020 define it."""
    rows = []
    for q, row in enumerate(query):
        kept = [g for g in range(len(gallery)) if own is None or g != own[q]]
        order = sorted(kept, key=lambda g: ((row - gallery[g]) ** 2).sum())
        hit = [shown[g] == same_as[q] for g in order]
        r = sum(hit)
        if not r:
            rows.append([np.nan] * 6)
            continue
        at_r = sum(sum(hit[: i + 1]) / (i + 1) for i in range(r) if hit[i]) / r
        rows.append([*(float(any(hit[:k])) for k in (1, 3, 5, 10, 20)), at_r])
    return np.array(rows)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_against_loops(rng, leave_one_out):
    shown = rng.integers(0, 6, 30).astype(str)
    gallery = rng.normal(size=(30, 4)) + 100  # far from 0: products alone would cancel
    gallery += 0.7 * np.array([[int(s)] * 4 for s in shown])
    if leave_one_out:
        own = rng.permutation(30)[:20]
        query, asked = gallery[own], shown[own]
    else:
        own, query = None, rng.normal(size=(20, 4)) + 101
        asked = rng.integers(0, 8, 20).astype(str)  # 6 and 7 have no match
    expected = slow(query, gallery, asked, shown, own)
    got = search_quality(
        query.astype(np.float32), gallery.astype(np.float32), asked, shown, own=own, block=7
    )
    np.testing.assert_allclose(got.recall, expected[:, :5], atol=1e-6)
    np.testing.assert_allclose(got.map_at_r, expected[:, 5], atol=1e-6)
    summary = got.summary()
    assert summary["recall_at_3"] == pytest.approx(np.nanmean(expected[:, 1]))
    assert summary["queries"] == (~np.isnan(expected[:, 0])).sum()
    groups = np.where(np.arange(20) < 9, "a", "b")
    assert got.by(groups)["a"]["map_at_r"] == pytest.approx(np.nanmean(expected[:9, 5]))
    groups[3:] = ""  # not known
    assert list(got.by(groups)) == ["a"]
    assert got.by(groups)["a"]["map_at_r"] == pytest.approx(np.nanmean(expected[:3, 5]))


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_one_number_against_every_order_of_ties(rng, leave_one_out):
    """Points of a small grid tie in groups; the mean over all orders of equal distances counts."""
    gallery = rng.integers(0, 2, (7, 2)).astype(float)
    shown = rng.integers(0, 3, 7)
    own = np.array([4, 0, 2]) if leave_one_out else None
    query = gallery[own] if leave_one_out else rng.integers(0, 2, (5, 2)).astype(float)
    asked = shown[own] if leave_one_out else np.array([0, 1, 2, 3, 1])  # 3 has no match
    # A strict order of the gallery's indices breaks every tie: 7! orders give all of them.
    recall, precision = [], []
    for order in itertools.permutations(range(7)):
        order = list(order)
        place = None if own is None else np.argsort(order)[own]
        rows = slow(query, gallery[order], asked, shown[order], place)
        recall.append(rows[:, [0, 1, 2]])
        precision.append(rows[:, 5])
    arguments = (query, gallery, asked, shown)
    for column, k in enumerate((1, 3, 5)):
        got = recall_at_k(*arguments, k=k, own=own, block=2)
        assert got == pytest.approx(np.nanmean(np.mean(recall, axis=0)[:, column]))
    got = map_at_r(*arguments, own=own, block=2)
    assert got == pytest.approx(np.nanmean(np.mean(precision, axis=0)))
    assert isinstance(got, float)


def test_one_number_by_hand():
    """On a line: query 0 finds a match at place 2, query 1 at places 1 and 3 (R = 2)."""
    query, gallery = np.array([[0.0], [10.0]]), np.array([[1.0], [2.0], [9.0], [7.0], [6.5]])
    asked, shown = np.array(["a", "b"]), np.array(["c", "a", "b", "c", "b"])
    arguments = (query, gallery, asked, shown)
    assert recall_at_k(*arguments) == 0.5
    assert recall_at_k(*arguments, k=2) == 1.0
    assert map_at_r(*arguments) == (0 / 1 + 1 / 2) / 2  # the third place of query 1 is beyond R
    assert recall_at_k(*(list(one) for one in arguments), k=1) == 0.5


def test_a_constant_network_scores_chance():
    shown = np.repeat(["a", "b", "c", "d"], 2)
    got = search_quality(np.ones((4, 3)), np.ones((8, 3)), shown[::2], shown).summary()
    assert got["recall_at_1"] == pytest.approx(2 / 8)
    # MAP@R, R = 2: 1/2 (P(first right) + P(second right) * E[precision there])
    assert got["map_at_r"] == pytest.approx(0.5 * (2 / 8 + 2 / 8 * (1 + 1 / 7) / 2))
    assert got["recall_at_10"] is None


def test_nothing_to_find_and_not_finite():
    one = np.ones((1, 2))
    with pytest.raises(UsageError, match="none of the 1 queries"):
        search_quality(one, one, np.array(["a"]), np.array(["b"])).summary()
    with pytest.raises(UsageError, match="not finite"):
        search_quality(one * np.nan, one, np.array(["a"]), np.array(["a"]))
    for k in (0, 2):
        with pytest.raises(UsageError, match=f"k is {k}: choose 1 to 1, the number of images"):
            recall_at_k(one, one, np.array(["a"]), np.array(["a"]), k=k)
    for measure in (recall_at_k, map_at_r):
        with pytest.raises(UsageError, match="none of the 1 queries has a match"):
            measure(one, one, np.array(["a"]), np.array(["b"]))
