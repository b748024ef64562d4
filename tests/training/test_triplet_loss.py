"""Triplets: the loss, its monitors and penalty, and one device = many."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from siamjax import losses
from siamjax.distances import euclidean, squared_euclidean
from siamjax.errors import UsageError
from siamjax.metrics import Mean, collapse_message, triplet_monitors
from siamjax.mining import negatives_of_batch, semi_hard_negative, soft_negative
from siamjax.parallel import data_parallel, data_parallel_map, replicate, shard
from siamjax.training import create_state, forward_triplets, make_train_step


class Linear(nn.Module):
    """Images as they are, times a matrix; with dropout."""

    dropout: float = 0.0

    @nn.compact
    def embed(self, x, *, train=False, weight=None):
        x = nn.Dense(3, name="last")(x.reshape(x.shape[0], -1).astype(jnp.float32) / 255)
        return nn.Dropout(self.dropout, deterministic=not train)(x)

    def __call__(self, x, *, train=False):
        return self.embed(x, train=train)


def triplet_loss(network, distance, *, margin, cap=None, mine=None, penalty=None):
    """A loss function of triplets, put together as the experiments do it."""

    def loss_fn(params, model_state, batch, key):
        weight = batch.get("weight")
        rows, model_state = forward_triplets(network, params, model_state, batch, key)
        near, far = distance(rows[0], rows[1]), distance(rows[0], rows[2])
        if mine is not None:
            far = negatives_of_batch(mine, distance, rows, batch)
        metrics = triplet_monitors(rows, near, far, weight, margin=margin, cap=cap)
        loss = Mean.of(losses.triplet(near, far, margin=margin, cap=cap), weight)
        if penalty is not None:
            value = losses.l2_penalty(params, penalty)
            metrics["penalty"] = Mean(value * loss.count, loss.count)
            loss = Mean(loss.total + value * loss.count, loss.count)
        return loss, (model_state, metrics)

    return loss_fn


@pytest.fixture
def batch(rng):
    names = ("anchor", "positive", "negative")
    images = rng.integers(0, 256, (3, 8, 2, 2, 3), np.uint8)
    return {
        **dict(zip(names, images, strict=True)),
        "identity": np.array([0, 0, 1, 2, 3, 4, 5, 6]),
        "negative_identity": np.array([1, 2, 0, 0, 0, 5, 0, 0]),
    }


@pytest.fixture
def params(batch):
    return Linear().init(jax.random.key(0), batch["anchor"])["params"]


@pytest.mark.parametrize("measure", [euclidean, squared_euclidean])
@pytest.mark.parametrize("cap", [None, 0.5])
def test_against_loops(batch, params, measure, cap):
    weight = np.array([1, 0, 2, 1, 1, 1, 0.5, 1], np.float32)
    loss_fn = triplet_loss(Linear(), measure, margin=0.3, cap=cap, penalty={"last": 0.1})
    loss, (_, metrics) = loss_fn(params, {}, {**batch, "weight": weight}, jax.random.key(0))
    kernel, bias = (np.asarray(params["last"][k], np.float64) for k in ("kernel", "bias"))
    a, p, n = (
        batch[k].reshape(8, -1) / 255 @ kernel + bias for k in ("anchor", "positive", "negative")
    )
    power = 1 if measure is euclidean else 2
    near, far = (np.linalg.norm(a - other, axis=1) ** power for other in (p, n))
    hinge = 0.3 + near - far
    values = np.clip(hinge, 0, cap)
    penalty = 0.1 * (kernel**2).sum()
    assert float(loss.compute()) == pytest.approx(
        np.average(values, weights=weight) + penalty, rel=1e-5
    )
    got = {name: float(mean.compute()) for name, mean in metrics.items()}
    assert got["distance_same"] == pytest.approx(np.average(near, weights=weight), rel=1e-5)
    assert got["distance_different"] == pytest.approx(np.average(far, weights=weight), rel=1e-5)
    active = (hinge > 0) & (hinge < (np.inf if cap is None else cap))
    assert 0 < np.average(active, weights=weight) < 1
    assert got["active_fraction"] == pytest.approx(np.average(active, weights=weight))
    assert got["penalty"] == pytest.approx(penalty, rel=1e-5)
    assert got["embedding_nonzero"] == 3
    sums = np.concatenate([a, p, n]).sum(axis=1)
    assert got["embedding_sum"] == pytest.approx(
        np.average(sums, weights=np.tile(weight, 3)), rel=1e-4
    )
    if cap is not None:
        assert got["capped_fraction"] == pytest.approx(np.average(hinge >= cap, weights=weight))


def test_mined_negatives_against_loops(batch, params):
    """The nearest negative beyond the positive, of all positives and negatives of the batch."""
    loss_fn = triplet_loss(Linear(), euclidean, margin=0.3, mine=semi_hard_negative)
    loss, (_, metrics) = loss_fn(params, {}, batch, jax.random.key(0))
    kernel = np.asarray(params["last"]["kernel"], np.float64)
    a, p, n = (batch[k].reshape(8, -1) / 255 @ kernel for k in ("anchor", "positive", "negative"))
    candidates = np.concatenate([p, n])
    shown = [*batch["identity"], *batch["negative_identity"]]
    values = []
    for i in range(8):
        near = np.linalg.norm(a[i] - p[i])
        others = [
            np.linalg.norm(a[i] - c)
            for c, s in zip(candidates, shown, strict=True)
            if s != batch["identity"][i]
        ]
        beyond = [d for d in others if d > near]
        values.append(max(0, 0.3 + near - (min(beyond) if beyond else max(others))))
    assert 0 < np.mean(values) < 0.3
    assert float(loss.compute()) == pytest.approx(np.mean(values), rel=1e-5)
    assert float(metrics["active_fraction"].compute()) == np.mean(np.array(values) > 0)


def test_padding_is_not_mined(batch, params):
    """A padded triplet changes nothing, whatever its images show."""
    loss_fn = triplet_loss(Linear(), euclidean, margin=0.3, mine=semi_hard_negative)
    part = {name: values[:5] for name, values in batch.items()}
    weight = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    expected, _ = loss_fn(params, {}, part, jax.random.key(0))
    whole, _ = loss_fn(params, {}, batch, jax.random.key(0))
    got, _ = loss_fn(params, {}, {**batch, "weight": weight}, jax.random.key(0))
    assert float(got.compute()) == pytest.approx(float(expected.compute()), rel=1e-6)
    assert float(got.compute()) != pytest.approx(float(whole.compute()), rel=1e-3)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_negative_equal_to_the_positive_is_not_further(rng, devices):
    """A tie to the last bit: the copy of the positive is skipped, the next further one is mined."""
    features, on = 33, jax.devices()[:devices]
    anchor, positive = rng.normal(size=(2, 8, features)).astype(np.float32)
    rows = {"anchor": anchor, "positive": positive, "negative": positive}
    rows |= {"identity": np.arange(8), "negative_identity": np.arange(8) + 8}

    def of_batch(_, batch):
        embeddings = [batch[name] for name in ("anchor", "positive", "negative")]
        return negatives_of_batch(semi_hard_negative, euclidean, embeddings, batch)

    mined = data_parallel_map(of_batch, devices=on)({}, shard(rows, devices=on)).reshape(-1)
    every = np.linalg.norm(anchor[:, None].astype(np.float64) - positive, axis=-1)
    own = np.diag(every)
    further = np.where(every > own[:, None] * (1 + 1e-5), every, np.inf).min(axis=1)
    others = np.where(np.eye(8, dtype=bool), -np.inf, every).max(axis=1)
    expected = np.where(np.isfinite(further), further, np.maximum(others, own))
    np.testing.assert_allclose(mined, expected, rtol=1e-6)


def test_soft_negative_is_a_smooth_minimum(rng):
    distance = rng.uniform(0, 2, (5, 7))
    other = rng.random((5, 7)) < 0.6
    other[0], other[1:, 0] = False, True
    expected = [
        -0.1 * np.log(np.exp(-row[mask] / 0.1).sum()) if mask.any() else np.inf
        for row, mask in zip(distance, other, strict=True)
    ]
    got = soft_negative(jnp.array(distance), jnp.zeros(5), jnp.array(other), temperature=0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("mine", [semi_hard_negative, soft_negative])
def test_mined_without_any_negative_is_finite(batch, params, mine):
    alike = {**batch, "identity": np.zeros(8, int), "negative_identity": np.zeros(8, int)}
    loss_fn = triplet_loss(Linear(), euclidean, margin=0.3, mine=mine)
    gradient = jax.grad(lambda p: loss_fn(p, {}, alike, jax.random.key(0))[0].total)(params)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("mine", [None, semi_hard_negative, soft_negative])
@pytest.mark.parametrize("devices", [2, 8])
def test_one_device_is_many(batch, params, devices, mine):
    optimizer = optax.sgd(0.1)
    weight = np.array([1, 0, 2, 1, 0, 0, 0.5, 1], np.float32)
    state = create_state({"params": params}, optimizer, key=jax.random.key(1))
    loss_fn = triplet_loss(Linear(), euclidean, margin=1.0, mine=mine, penalty={"last": 0.1})
    step = make_train_step(loss_fn, optimizer)
    whole = {**batch, "weight": weight}
    expected, values = jax.jit(step)(state, whole)
    some = jax.local_devices()[:devices]
    pmapped = data_parallel(step, devices=some)
    got, metrics = pmapped(replicate(state, devices=some), shard(whole, devices=some))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        got.params,
        expected.params,
    )
    assert metrics.keys() == values.keys() >= {"loss", "penalty", "active_fraction"}
    for name, mean in metrics.items():
        assert float(mean.compute()) == pytest.approx(float(values[name].compute()), rel=1e-5), name


def test_an_image_with_itself_has_finite_gradients(batch, params):
    batch = {**batch, "positive": batch["anchor"], "negative": batch["anchor"]}
    loss_fn = triplet_loss(Linear(), euclidean, margin=1.0)
    gradient = jax.grad(lambda p: loss_fn(p, {}, batch, jax.random.key(0))[0].total)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_no_triplet_counts(batch, params):
    loss_fn = triplet_loss(Linear(), euclidean, margin=1.0)
    step = make_train_step(loss_fn, optax.sgd(1.0))
    state = create_state({"params": params}, optax.sgd(1.0), key=jax.random.key(0))
    after, _ = step(state, {**batch, "weight": np.zeros(8, np.float32)})
    jax.tree.map(np.testing.assert_array_equal, after.params, params)


def test_a_cap_below_all_hinges_leaves_no_gradient_and_it_is_said(batch, params):
    """Margin 20, cap 5: distances of a random network differ by less than 15."""
    loss_fn = triplet_loss(Linear(), euclidean, margin=20.0, cap=5.0)
    gradient, (_, metrics) = jax.grad(
        lambda p: (lambda loss, rest: (loss.total, rest))(
            *loss_fn(p, {}, batch, jax.random.key(0))
        ),
        has_aux=True,
    )(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
    values = {name: float(mean.compute()) for name, mean in metrics.items()}
    assert "beyond the cap" in collapse_message(values)


def test_dropout_draws_from_the_key(batch, params):
    loss_fn = triplet_loss(Linear(dropout=0.5), euclidean, margin=1.0)
    one, other = (float(loss_fn(params, {}, batch, jax.random.key(k))[0].total) for k in (0, 1))
    assert one != other


def test_penalty_of_a_layer_that_is_not_there(params):
    with pytest.raises(UsageError, match=r"no layer fc1 .*last"):
        losses.l2_penalty(params, {"fc1": 0.1})
