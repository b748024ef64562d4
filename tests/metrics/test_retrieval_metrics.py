import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.metrics.retrieval import search_quality


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
