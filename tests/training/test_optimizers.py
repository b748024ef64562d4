import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siamjax.errors import UsageError
from siamjax.training.optimizers import by_layer, dampened_sgd, from_step, warmup_cosine_decay


def test_dampened_sgd_by_hand():
    """w = 1, g = 2 throughout; lr 0.1, momentum 0.9, decay 0.5 a step, weight decay 0.25.

    step 0: g = 2.25, v = 2.25 (whole), rate 0.1, w = 0.775
    step 1: g = 2.19375, v = 2.025 + 0.219375 = 2.244375, rate 0.1 / 1.5, w = 0.775 - 0.149625
    """
    optimizer = dampened_sgd(0.1, momentum=0.9, learning_rate_decay=0.5, weight_decay=0.25)
    w = jnp.array(1.0)
    state = optimizer.init(w)
    for expected in (0.775, 0.625375):
        updates, state = optimizer.update(jnp.array(2.0), state, w)
        w = optax.apply_updates(w, updates)
        assert float(w) == pytest.approx(expected, abs=1e-6)


def test_dampened_sgd_becomes_a_tenth_of_optax_sgd(rng):
    """After the first gradient has faded it is optax.sgd(lr / 10, momentum)."""
    gradients = rng.normal(size=(300, 5)).astype(np.float32)
    ours, theirs = dampened_sgd(0.05), optax.sgd(0.005, momentum=0.9)
    start = jnp.zeros(5)
    states = [ours.init(start), theirs.init(start)]
    for number, gradient in enumerate(gradients):
        one, states[0] = ours.update(gradient, states[0], start)
        other, states[1] = theirs.update(gradient, states[1], start)
        if number == 0:
            np.testing.assert_allclose(one, 10 * other, rtol=1e-6)
    np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("dampening", [None, 0.0, 0.5])
def test_dampened_sgd_equals_torch(rng, dampening):
    torch = pytest.importorskip("torch")
    start, gradients = rng.normal(size=4), rng.normal(size=(20, 4))
    ours = dampened_sgd(0.05, dampening=dampening, learning_rate_decay=0.1, weight_decay=5e-4)
    w = jnp.asarray(start)
    state = ours.init(w)
    parameter = torch.nn.Parameter(torch.tensor(start))
    used = 0.9 if dampening is None else dampening
    theirs = torch.optim.SGD([parameter], 0.05, momentum=0.9, dampening=used, weight_decay=5e-4)
    for number, gradient in enumerate(gradients):
        updates, state = ours.update(jnp.asarray(gradient), state, w)
        w = optax.apply_updates(w, updates)
        theirs.param_groups[0]["lr"] = 0.05 / (1 + 0.1 * number)
        parameter.grad = torch.tensor(gradient)
        theirs.step()
    np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=2e-6)


def test_dampened_sgd_refuses():
    refused = [
        ("learning_rate", [0.0, -1.0, math.nan, math.inf]),
        ("momentum", [1.0, 2.0, -0.1, math.nan]),
        ("dampening", [1.1, math.nan]),
        ("learning_rate_decay", [-1e-9, math.nan, math.inf]),
        ("weight_decay", [-1e-9, math.nan, math.inf]),
    ]
    for option, values in refused:
        for value in values:
            with pytest.raises(UsageError, match=option):
                dampened_sgd(**{"learning_rate": 1.0, option: value})
    with pytest.raises(UsageError, match="step -1"):
        from_step(optax.sgd(1.0), -1)


def test_layers_by_their_path():
    params = {"deep": {f"block{n}": {"kernel": jnp.ones(2)} for n in (1, 2, 3, 4)}}
    params["last"] = {"kernel": jnp.ones(2)}
    chosen = by_layer(
        {  # the longest decides, before a shorter one and behind it
            "deep/block2": optax.sgd(0.2),
            "deep": optax.sgd(0.1),
            "deep/block1/ke": optax.sgd(0.4),
            "deep/block3/ke": optax.sgd(0.3),
        },
        default=optax.sgd(1.0),
        frozen=("deep/block1",),
    )
    updates, _ = chosen.update(params, chosen.init(params), params)
    np.testing.assert_allclose(updates["deep"]["block1"]["kernel"], 0.0)
    for layer, rate in (("block2", 0.2), ("block3", 0.3), ("block4", 0.1)):
        np.testing.assert_allclose(updates["deep"][layer]["kernel"], -rate)
    np.testing.assert_allclose(updates["last"]["kernel"], -1.0)
    for wrong in ("depe", "deep/block2/x", "last1"):
        with pytest.raises(
            UsageError, match=f"no layer begins with '{wrong}'; there are deep/block1"
        ):
            by_layer({wrong: optax.sgd(1.0)}, default=optax.sgd(1.0)).init(params)


def test_a_name_may_have_a_slash_within_it():
    params = {"a": {"b/c": jnp.ones(1), "b": jnp.ones(1)}, "d": jnp.ones(1)}
    chosen = by_layer({"a/b/c": optax.sgd(0.1)}, default=optax.sgd(1.0), frozen=("d",))
    updates, _ = chosen.update(params, chosen.init(params), params)
    assert jax.tree.map(float, jax.tree.map(jnp.squeeze, updates)) == {
        "a": {"b/c": pytest.approx(-0.1), "b": -1.0},
        "d": 0.0,
    }


def test_numbers_of_layers_are_whole():
    """blocks_1 is not blocks_10; of names that are no number a part is enough."""
    params = {f"blocks_{n}": {"kernel": jnp.ones(1)} for n in (1, 2, 10, 12)}
    frozen = by_layer({}, default=optax.sgd(1.0), frozen=("blocks_1",))
    updates, _ = frozen.update(params, frozen.init(params), params)
    moved = {name for name, update in updates.items() if update["kernel"].item()}
    assert moved == {"blocks_2", "blocks_10", "blocks_12"}
    for beginnings in (("blocks_",), ("",), ("blocks_1", "blocks_2", "blocks_10/", "blocks_12/k")):
        with pytest.raises(UsageError, match=r"frozen: .* leaves nothing to train; leave a layer"):
            by_layer({}, default=optax.sgd(1.0), frozen=beginnings).init(params)
    with pytest.raises(
        UsageError, match="frozen: no layer begins with 'blocks_0'; there are blocks_1, blocks_10"
    ):
        by_layer({}, default=optax.sgd(1.0), frozen=("blocks_0",)).init(params)


def test_from_step():
    """No change and no count before; then as a fresh optimizer."""
    optimizer, fresh = from_step(optax.adam(0.1), 3), optax.adam(0.1)
    params = jnp.ones(2)
    state, fresh_state = optimizer.init(params), fresh.init(params)
    for step in range(6):
        gradient = jnp.array([1.0 + step, -2.0])
        update, state = optimizer.update(gradient, state, params)
        expected = jnp.zeros(2)
        if step >= 3:
            expected, fresh_state = fresh.update(gradient, fresh_state, params)
        np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_one_optimizer_for_several_beginnings():
    params = {"a": {"kernel": jnp.ones(1)}, "b": {"kernel": jnp.ones(1)}, "c": jnp.ones(1)}
    optimizer = by_layer({("a/", "b/"): optax.sgd(1.0)}, default=optax.sgd(0.5))
    state = optimizer.init(params)
    updates, _ = optimizer.update(params, state, params)
    assert [float(x.item()) for x in jax.tree.leaves(updates)] == [-1.0, -1.0, -0.5]


def test_warm_up_within_the_run():
    """Half way up after 5 of 10 steps; half way down after 45 of the other 90."""
    rate = warmup_cosine_decay(0.2, warmup=10, steps=100)
    values = [float(rate(step)) for step in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(values, [0, 0.1, 0.2, 0.1, 0], atol=1e-7)
    assert float(warmup_cosine_decay(0.2, warmup=0, steps=3)(0)) == pytest.approx(0.2)
    with pytest.raises(UsageError, match="warmup 100: must be shorter than the run, which has 100"):
        warmup_cosine_decay(0.2, warmup=100, steps=100)
    for wrong in ({"peak": math.nan}, {"peak": 0.0}, {"warmup": -1}, {"steps": 0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            warmup_cosine_decay(**{"peak": 0.2, "warmup": 1, "steps": 9, **wrong})
