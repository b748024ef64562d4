import jax.numpy as jnp
import numpy as np

from siamjax.metrics.mean import Mean


def test_sums_of_batches_are_the_whole():
    """(1 + 2 + 3) / 3 and not the mean of (1.5, 3)."""
    whole = Mean.of(jnp.array([1.0, 2.0])) + Mean.of(jnp.array([3.0]))
    assert float(whole.compute()) == 2.0


def test_weight_zero_does_not_count_whatever_its_value():
    mean = Mean.of(jnp.array([1.0, jnp.nan, jnp.inf]), jnp.array([2.0, 0.0, 0.0]))
    assert float(mean.compute()) == 1.0
    assert float(mean.count) == 2.0


def test_mean_of_nothing_is_nan():
    assert np.isnan(Mean.of(jnp.array([1.0]), jnp.array([0.0])).compute())


def test_bool_values():
    assert float(Mean.of(jnp.array([True, False, True, True])).compute()) == 0.75
