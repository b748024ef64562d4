import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siamjax.errors import UsageError
from siamjax.training.optimizers import make_optimizer


def walk(optimizer, gradients, start=1.0):
    parameter = jnp.asarray(start)
    state, path = optimizer.init(parameter), []
    for gradient in gradients:
        update, state = optimizer.update(jnp.asarray(gradient), state, parameter)
        parameter = optax.apply_updates(parameter, update)
        path.append(float(parameter))
    return path


def test_sgd_with_momentum_and_l2_by_hand():
    optimizer = make_optimizer("sgd", learning_rate=0.1, steps=9, momentum=0.5, weight_decay=0.2)
    # velocity 1 + .2*1 = 1.2 -> .88; then .5*1.2 + 1 + .2*.88 = 1.776 -> .7024
    np.testing.assert_allclose(walk(optimizer, [1.0, 1.0]), [0.88, 0.7024], rtol=1e-6)


def test_accumulation_averages():
    optimizer = make_optimizer("sgd", learning_rate=1.0, steps=4, momentum=0.0, accumulate=2)
    np.testing.assert_allclose(walk(optimizer, [1.0, 3.0, 0.0, 1.0]), [1.0, -1.0, -1.0, -1.5])


def test_cosine_ends_at_zero_and_warmup_starts_there():
    optimizer = make_optimizer(
        "sgd", learning_rate=1.0, steps=4, schedule="cosine", warmup_steps=2, momentum=0.0
    )
    # rates 0, .5, 1, then half a cosine over 2 updates: .5
    np.testing.assert_allclose(
        np.diff([0.0, *walk(optimizer, [1.0] * 5, start=0.0)]), [0, -0.5, -1, -0.5, 0], atol=1e-6
    )


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_each_goes_downhill(name):
    optimizer = make_optimizer(name, learning_rate=0.1, steps=10)
    parameter, state = jnp.asarray(1.0), optimizer.init(jnp.asarray(1.0))
    for _ in range(5):
        update, state = optimizer.update(2 * parameter, state, parameter)
        parameter = optax.apply_updates(parameter, update)
    assert parameter < 1.0


def test_nonsense_is_refused():
    with pytest.raises(UsageError, match="learning_rate=-1"):
        make_optimizer("sgd", learning_rate=-1, steps=1)
