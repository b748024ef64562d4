import numpy as np
import pytest

from siamjax.metrics import bootstrap, verification


@pytest.fixture
def pairs(rng):
    first, second = rng.integers(0, 12, (2, 400))
    second = np.where(rng.random(400) < 0.4, first, second)
    score = np.round(rng.normal(size=400) + (first == second), 1)  # many ties
    return score, first == second, first, second


def test_weights_of_one_give_the_measures(pairs, monkeypatch):
    score, same, first, second = pairs
    monkeypatch.setattr(
        bootstrap, "_weights", lambda units, *_: iter([np.ones((units + 1, 3), np.int32)])
    )
    drawn = bootstrap.PairBootstrap(same, first, second, draws=3).measures(score, threshold=0.5)
    expected = verification.summary(score, same, threshold=0.5)
    curve = verification.roc(score, same)
    for name, values in drawn.items():
        if name.startswith("tar"):
            far = float(name.rpartition("_")[2])
            value = curve.true_accept[curve.false_accept <= far + 1e-12].max()
        else:
            value = expected[name]
        assert values == pytest.approx([value] * 3), name
