import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.metrics.monitors import (
    collapse_message,
    labelled_monitors,
    pair_monitors,
    triplet_monitors,
)


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


@pytest.mark.parametrize("offset", [0.1, 3e3, -7e6])
def test_equal_embeddings_far_from_the_origin_have_no_spread(rng, offset):
    """The rounding of their mean is no spread: 37 times one number, divided by 37, is another."""
    row = (offset * rng.uniform(1, 2, 5)).astype(np.float32)
    values = computed(jnp.tile(row, (74, 1)), jnp.arange(37) > 9)
    assert values["embedding_spread"] == 0.0


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_monitored_distances_at_every_scale(rng, scale):
    rows = (scale * rng.normal(size=(8, 6))).astype(np.float32)
    values = computed(rows, jnp.arange(4) > 1)
    exact = rows.astype(np.float64)
    apart = np.linalg.norm(exact[:4] - exact[4:], axis=1)
    expected = {
        "distance_same": apart[2:].mean(),
        "distance_different": apart[:2].mean(),
        "embedding_norm": np.linalg.norm(exact, axis=1).mean(),
        "embedding_spread": np.linalg.norm(exact - exact.mean(0), axis=1).mean(),
    }
    assert values == pytest.approx(expected, rel=1e-6, abs=0)


def test_what_is_not_asked_for_is_not_told():
    """No margin, no active fraction; no logit, no accuracy."""
    rows, same = jnp.eye(4), jnp.array([True, False])
    plain = computed(rows, same)
    assert not {"active_fraction", "accuracy"} & plain.keys()
    assert computed(rows, same, margin=2.0).keys() - plain.keys() == {"active_fraction"}
    logit = jnp.ones(2)
    assert computed(rows, same, logit=logit).keys() - plain.keys() == {"accuracy"}


def test_active_are_the_different_pairs_within_the_margin():
    """Distances 1 (same), 1, 2 and 3 (different), margin 2.5; weights 1, 1, 3, 2: 4 of 6."""
    first, second = jnp.zeros((4, 1)), jnp.array([[1.0], [1.0], [2.0], [3.0]])
    same = jnp.array([True, False, False, False])
    weight = jnp.array([1.0, 1.0, 3.0, 2.0])
    values = computed(jnp.concatenate([first, second]), same, weight, margin=2.5)
    assert values["active_fraction"] == pytest.approx(4 / 6)


def test_accuracy_is_the_weight_of_the_logits_on_the_right_side_of_0():
    """Right, wrong, right (a different pair below 0), wrong: 1 + 3 of 1 + 2 + 3 + 4."""
    logit, same = jnp.array([0.1, -2.0, -0.1, 5.0]), jnp.array([True, True, False, False])
    weight = jnp.array([1.0, 2.0, 3.0, 4.0])
    values = computed(jnp.ones((8, 2)), same, weight, logit=logit)
    assert values["accuracy"] == pytest.approx(0.4)


def test_triplets_by_hand():
    """Two triplets at margin 1, weights 3 and 1: hinges 1 + 1 - 3 < 0 and 1 + 2 - 0.5 = 2.5."""
    rows = (jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros((2, 2)), jnp.array([[3.0, 4], [0, 0]]))
    near, far, weight = jnp.array([1.0, 2.0]), jnp.array([3.0, 0.5]), jnp.array([3.0, 1.0])

    def of(weight=None, **options):
        found = triplet_monitors(rows, near, far, weight, margin=1.0, **options)
        return {name: float(mean.compute()) for name, mean in found.items()}

    values = of(weight)
    assert values["distance_same"] == (3 * 1 + 2) / 4
    assert values["distance_different"] == (3 * 3 + 0.5) / 4
    assert values["active_fraction"] == 0.25
    assert values["embedding_norm"] == pytest.approx((3 * (1 + 0 + 5) + 2) / 12)
    assert values["embedding_sum"] == pytest.approx((3 * (1 + 0 + 7) + 2) / 12)
    assert values["embedding_nonzero"] == pytest.approx((3 * (1 + 0 + 2) + 1) / 12)
    assert "capped_fraction" not in values
    assert of()["active_fraction"] == 0.5
    # The second hinge of 2.5 is beyond a cap of 2, where the gradient is 0, and below one of 3.
    assert (of(weight, cap=2.0)["active_fraction"], of(weight, cap=2.0)["capped_fraction"]) == (
        0.0,
        0.25,
    )
    assert (of(weight, cap=3.0)["active_fraction"], of(weight, cap=3.0)["capped_fraction"]) == (
        0.25,
        0.0,
    )


def test_labelled_images_by_hand():
    """Angles of 0, 60, 90 and 180 degrees: the second is nearer to the third than to the first.

    The first and second are one identity: 1 - cos 60 = 1/2 apart, each way. The third shows another
    one, at 1, 1 - cos 30 and 1. The last, at 2, 1 - cos 120 = 3/2 and 1, is a third one.
    """
    angle = np.deg2rad([0, 60, 90, 180])
    rows = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], axis=1) * [[2], [1], [1], [1]])
    identity = jnp.array([4, 4, 0, 1])

    def of(weight=None):
        found = labelled_monitors(rows, identity, weight)
        return {name: float(mean.compute()) for name, mean in found.items()}

    near, values = 1 - np.sqrt(0.75), of()
    assert values["distance_same"] == pytest.approx(0.5, rel=1e-5)
    assert values["distance_different"] == pytest.approx((2 * (1 + 2 + near + 1.5 + 1)) / 10)
    assert values["embedding_norm"] == pytest.approx(5 / 4)
    assert values["batch_recall_at_1"] == 0.5  # of the two that have a positive
    assert "embedding_spread" in values
    # Without the third, the second is nearest to the first.
    weighted = of(jnp.array([3.0, 1.0, 0.0, 1.0]))
    assert weighted["batch_recall_at_1"] == 1.0
    assert weighted["distance_different"] == pytest.approx((3 * 2 + 1.5 + (2 + 1.5)) / 6)
    assert of(jnp.array([3.0, 1.0, 1.0, 1.0]))["batch_recall_at_1"] == 0.75


def test_metrics_of_another_loss_say_nothing():
    for values in ({}, {"loss": 1.0, "active_fraction": 0.0}, {"embedding_norm": 0.0}):
        assert collapse_message(values) is None


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
        ({"accuracy": 1.0}, "accuracy 1: every pair"),
        ({"capped_fraction": 1.0}, "every triplet is beyond the cap"),
    ],
)
def test_collapse_is_said_in_words(change, words):
    assert collapse_message(HEALTHY) is None
    assert words in collapse_message({**HEALTHY, **change})
    nothing_counted = {k: v for k, v in HEALTHY.items() if k != "active_fraction"}
    assert collapse_message(nothing_counted) is None
    assert collapse_message({**HEALTHY, "accuracy": 0.9, "capped_fraction": 0.9}) is None
