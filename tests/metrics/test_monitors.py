import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.metrics.monitors import collapse_message, pair_monitors


def computed(*args, **options):
    return {name: float(mean.compute()) for name, mean in pair_monitors(*args, **options).items()}


def test_by_hand():
    first, second = jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 1.0]])
    values = computed(jnp.concatenate([first, second]), jnp.array([True, False]))
    assert values["distance_same"] == 5.0
    assert values["distance_different"] == 1.0
    assert values["embedding_norm"] == pytest.approx((5 + 0 + 0 + 1) / 4)
    centre = np.array([0.75, 1.25])
    spread = [np.linalg.norm(e - centre) for e in ([3, 4], [0, 0], [0, 0], [0, 1])]
    assert values["embedding_spread"] == pytest.approx(np.mean(spread), rel=1e-6)


def test_weight_0_does_not_count():
    embeddings = jnp.array([[3.0, 4.0], [jnp.nan, 0.0], [0.0, 0.0], [0.0, 1.0]])
    values = computed(embeddings, jnp.array([True, False]), weight=jnp.array([1.0, 0.0]))
    assert values["distance_same"] == 5.0
    assert values["embedding_spread"] == 2.5
    assert np.isnan(values["distance_different"])


HEALTHY = {
    "distance_same": 0.3,
    "distance_different": 1.0,
    "embedding_norm": 1.0,
    "embedding_spread": 0.7,
    "active_fraction": 0.4,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embedding_spread": 1e-6}, "collapsed"),
        ({"distance_same": 0.999}, "all distances are alike"),
        ({"active_fraction": 0.0}, "active fraction 0"),
        ({"active_fraction": 1.0}, "active fraction 1"),
    ],
)
def test_collapse_is_said_in_words(change, words):
    assert collapse_message(HEALTHY) is None
    assert words in collapse_message({**HEALTHY, **change})
    nothing_counted = {k: v for k, v in HEALTHY.items() if k != "active_fraction"}
    assert collapse_message(nothing_counted) is None
