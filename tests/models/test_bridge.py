"""Flax NNX networks and plain functions: equal to what they are made of, trained, reopened."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run
from flax import nnx

from siamjax.errors import UsageError
from siamjax.metrics import Mean
from siamjax.models import FunctionNetwork, NnxNetwork
from siamjax.models.applying import evaluate
from siamjax.parallel import data_parallel
from siamjax.report import write_report
from siamjax.training import Finished, create_state, fit, forward, initialize, make_train_step


class Net(nnx.Module):
    """Everything that the bridge must carry: a list, statistics, dropout; NNX's own modes."""

    def __init__(self, width, *, rngs):
        self.layers = nnx.List(
            [nnx.Linear(3, width, use_bias=False, rngs=rngs), nnx.Linear(width, 4, rngs=rngs)]
        )
        self.norm = nnx.BatchNorm(width, momentum=0.75, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.layers[0](x.mean(axis=(1, 2)))))
        return self.layers[1](self.dropout(x))


class Told(nnx.Module):
    """Its ``__call__`` is told what it is for, and takes weights."""

    def __init__(self, *, rngs):
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x, train, *, weight=None):
        rows = x.mean(axis=(1, 2)) * self.scale + (100.0 if train else 0.0)
        return rows if weight is None else rows * weight[:, None]


NETWORK = NnxNetwork(make=partial(Net, 8))


def images_of(rng, count=6):
    return rng.integers(0, 256, (count, 8, 8, 3), np.uint8)


def features(params, images):
    first, second = params["layers"]
    return jax.nn.relu(images.mean(axis=(1, 2)) @ first) @ second[0] + params["bias/0"]


def initial(key):
    keys = jax.random.split(key)
    layers = [jax.random.normal(keys[0], (3, 5)), (jax.random.normal(keys[1], (5, 4)),)]
    return {"layers": layers, "bias/0": jnp.full((4,), 0.5)[None]}


FUNCTION = FunctionNetwork(function=features, initial=initial)


def test_nnx_gives_what_the_network_gives_alone(rng):
    """In evaluation, and in training: output and new statistics, by NNX's own calls."""
    alone, x = Net(8, rngs=nnx.Rngs(0)), images_of(rng)
    alone.norm.mean.set_value(jnp.asarray(rng.normal(size=8), jnp.float32))
    alone.dropout.rate = 0.0
    variables = NETWORK.variables_of(alone)
    params = {"params": variables["params"]}
    assert set(params["params"]["network"]["layers"]) == {"0", "1"}
    alone.eval()
    expected = alone(x / np.float32(255))
    np.testing.assert_allclose(NETWORK.apply(variables, x), expected, rtol=1e-5)
    np.testing.assert_allclose(NETWORK.apply(variables, x, method="embed"), expected, rtol=1e-5)
    alone.train()
    alone(x / np.float32(255))
    _, state = forward(
        NETWORK,
        variables["params"],
        {"batch_stats": variables["batch_stats"]},
        jax.random.key(0),
        x,
    )
    after = state["batch_stats"]["network"]["norm"]
    np.testing.assert_allclose(after["mean"], alone.norm.mean.get_value(), rtol=1e-5)
    np.testing.assert_allclose(after["var"], alone.norm.var.get_value(), rtol=1e-5)
    before = variables["batch_stats"]["network"]["norm"]["mean"]
    assert np.abs(after["mean"] - before).max() > 0.1


def test_nnx_dropout_is_that_of_the_step_and_of_training_alone(rng):
    variables, _ = initialize(NETWORK, 8, 0)
    params, state, x = (
        variables["params"],
        {"batch_stats": variables["batch_stats"]},
        images_of(rng),
    )
    one, again, other = (
        forward(NETWORK, params, state, jax.random.key(key), x)[0] for key in (0, 0, 1)
    )
    assert one.tolist() == again.tolist() != other.tolist()
    whole = evaluate(NETWORK, variables, x)
    np.testing.assert_allclose(evaluate(NETWORK, variables, x[:1]), whole[:1], rtol=1e-5)


def test_nnx_statistics_are_never_lost_silently(rng):
    """What Flax's bridge alone does where the collection is immutable."""
    variables, _ = initialize(NETWORK, 8, 0)
    with pytest.raises(UsageError, match=r"has batch_stats, and training would lose .* mutable"):
        NETWORK.apply(variables, images_of(rng), train=True, rngs={"dropout": jax.random.key(0)})


def test_nnx_is_told_what_it_asks_for(rng):
    network, x = NnxNetwork(make=Told), images_of(rng, 2)
    with pytest.raises(TypeError, match="train"):  # Flax's bridge tells it nothing
        nnx.bridge.to_linen(Told).init(jax.random.key(0), jnp.float32(x))
    variables, _ = initialize(network, 8, 0)
    means = x.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(network.apply(variables, x), means, rtol=1e-5)
    np.testing.assert_allclose(network.apply(variables, x, train=True), means + 100, rtol=1e-5)
    weighted = network.apply(variables, x, weight=jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(weighted, means * [[1], [0]], rtol=1e-5)


def test_function_gives_what_the_function_gives(rng):
    x, params = images_of(rng), initial(jax.random.key(3))
    variables = FUNCTION.variables_of(params)
    expected = features(params, x / np.float32(255))
    np.testing.assert_allclose(FUNCTION.apply(variables, x, train=True), expected, rtol=1e-5)
    assert set(variables["params"]["function"]) == {"layers", "bias"}
    fresh, _ = initialize(FUNCTION, 8, 0)
    assert jax.tree.structure(fresh) == jax.tree.structure(variables)
    bare = FunctionNetwork(function=lambda p, x: x.mean((1, 2)) @ p, initial=lambda key: np.eye(3))
    got, _ = bare.init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(got, x.mean(axis=(1, 2)) / 255, rtol=1e-5)


@pytest.mark.parametrize("network", [NETWORK, FUNCTION], ids=["nnx", "function"])
def test_trained_saved_and_reopened(tmp_path, rng, network):
    """All of it changes in training, statistics too; what is opened is what was kept."""
    x = images_of(rng, 32)  # four on each device: NNX normalises by those of its own
    target = jnp.asarray(rng.normal(size=(32, 4)), jnp.float32)

    def loss_fn(params, model_state, batch, key):
        rows, model_state = forward(network, params, model_state, key, batch["x"])
        return Mean.of(jnp.square(rows - batch["y"]).sum(axis=1)), (model_state, {})

    optimizer = optax.adam(0.05)
    variables, key = initialize(network, 8, 0)
    before = jax.tree.map(np.array, variables)  # the step reuses their memory
    run = tiny_run.open_run(tmp_path / "run", network, steps=3, evaluate_every=3)
    fit(
        run,
        create_state(variables, optimizer, key=key),
        data_parallel(make_train_step(loss_fn, optimizer)),
        lambda start: iter([{"x": x, "y": np.asarray(target)}] * (3 - start)),
        evaluate=lambda variables: {"score": 1.0},
    )
    kept = run.best_variables()
    write_report(run, {"network": {"score": 1.0}}, size=8)
    opened = Finished.open(tmp_path / "run", trust=("test_bridge",))
    assert jax.tree.structure(opened.variables) == jax.tree.structure(before)
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(opened.variables), strict=True
    ):
        assert np.abs(old - new).max() > 1e-5, path
    expected = evaluate(network, kept, x, method="embed")
    got = evaluate(opened.network, opened.variables, x, method="embed")
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_refused_before_training(tmp_path):
    """By Flax's bridge alone; an instance; functions that no file can name."""
    bridged = nnx.bridge.to_linen(Net, 8)
    with pytest.raises(UsageError, match=r"ToLinen.kwargs = .* cannot be saved with a run"):
        tiny_run.open_run(tmp_path / "run", bridged)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = bridged.init(keys, jnp.ones((2, 8, 8, 3)))
    with pytest.raises(UsageError, match=r"layers/0/kernel has a number .*NnxNetwork"):
        create_state(variables, optax.sgd(0.1), key=jax.random.key(0))
    for network, why in (
        (NnxNetwork(make=Net(8, rngs=nnx.Rngs(0))), "NnxNetwork.make = .* cannot be saved"),
        (FUNCTION.clone(function=lambda p, x: x), "FunctionNetwork.function: .*a lambda"),
    ):
        with pytest.raises(UsageError, match=why) as caught:
            tiny_run.open_run(tmp_path / "run", network)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="make is an instance of Net; give the class, or a funct"):
        initialize(NnxNetwork(make=Net(8, rngs=nnx.Rngs(0))), 8, seed=0)


class Other(nnx.Module):
    """What a class may have become since its variables were made."""

    def __init__(self, change, *, rngs):
        width = 5 if change == "width" else 4
        self.first = nnx.Linear(3, width, use_bias=change != "no bias", rngs=rngs)
        if change == "more":
            self.gain = nnx.Param(jnp.full((), 3.0))

    def __call__(self, x):
        return self.first(x.mean((1, 2))) * (self.gain[...] if hasattr(self, "gain") else 1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("more", r"params/network/gain is missing among them, and \(\) in the network"),
        ("width", r"params/network/first/bias is \(4,\) among them, and \(5,\) in the network"),
        ("no bias", r"params/network/first/bias is \(4,\) among them, and missing in the network"),
    ],
)
def test_code_of_another_nnx_network_is_refused(change, said, rng):
    """Flax's bridge would draw what is missing, and drop what is left over."""
    x = images_of(rng, 2)
    variables = NnxNetwork.variables_of(Other("none", rngs=nnx.Rngs(0)))
    evaluate(NnxNetwork(make=partial(Other, "none")), variables, x)
    with pytest.raises(UsageError, match=said):
        evaluate(NnxNetwork(make=partial(Other, change)), variables, x)


class Tree(nnx.Module):
    def __init__(self, *, rngs):
        self.both = nnx.Param({"gain": jnp.ones(3), "offset": jnp.ones(3)})

    def __call__(self, x):
        return x.mean((1, 2)) * self.both.get_value()["gain"] + self.both.get_value()["offset"]


class Seen(nnx.Variable):
    """A type of the user's own."""


class Counting(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = self.again = nnx.Linear(3, 2, rngs=rngs)
        self.seen = Seen(jnp.full((), 2.0))

    def __call__(self, x):
        return self.again(x.mean((1, 2))) + self.seen[...]


def test_nnx_variables_of_ones_own_type_and_shared_layers(rng):
    """A type that Flax has not seen in a bridge before, as in a notebook that opens weights."""
    trained, x = Counting(rngs=nnx.Rngs(3)), images_of(rng, 2)
    variables = NnxNetwork.variables_of(trained)
    got = evaluate(NnxNetwork(make=Counting), variables, x)
    np.testing.assert_allclose(got, trained(x / np.float32(255)), rtol=1e-5)


def test_a_parameter_that_is_a_tree_is_refused():
    with pytest.raises(UsageError, match=r"params/network/both holds a tree of arrays; make an"):
        initialize(NnxNetwork(make=Tree), 8, 0)


def test_two_parameters_by_one_path_are_refused():
    with pytest.raises(UsageError, match="two parameters have the same path"):
        FUNCTION.variables_of({"a/b": jnp.ones(2), "a": {"b": jnp.zeros(2)}})


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"a": np.eye(3)}, r"params/function/b is missing among them, and \(3,\) in the network"),
        ({"a": np.eye(3), "c": np.ones(3)}, "params/function/b is missing"),
        (
            {"a": np.eye(3), "b": np.ones(3), "c": 1.0},
            r"params/function/c is \(\) among them, and m",
        ),
        ({"a": np.eye(3), "b": np.ones(4)}, r"params/function/b is \(4,\) among them, and \(3,\)"),
    ],
)
def test_parameters_of_another_function_are_refused(params, said, rng):
    network = FunctionNetwork(
        function=lambda p, x: x.mean((1, 2)) @ p["a"] + p["b"],
        initial=lambda key: {"a": jnp.eye(3), "b": jnp.ones(3)},
    )
    with pytest.raises(UsageError, match=said):
        network.apply(network.variables_of(params), images_of(rng, 2))


class Normalised(nn.Module):
    """Batch normalisation that listens to ``train``, or always or never uses the batch."""

    use: str = "train"
    freeze_statistics: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        running = {"train": not train, "always": False, "never": True}[self.use]
        norm = nn.remat(nn.BatchNorm) if self.remat else nn.BatchNorm
        return nn.Dense(2)(norm(use_running_average=running)(x))


class Around(nn.Module):
    inside: nn.Module

    def __call__(self, x, *, train=False):
        return self.inside(x, train=train)


@pytest.mark.parametrize("remat", [False, True])
def test_normalising_by_the_batch_in_evaluation_is_refused(remat):
    x = jnp.arange(12.0).reshape(4, 3)
    right, wrong = Normalised(remat=remat), Normalised(use="always", remat=remat)
    variables = right.init(jax.random.key(0), x)
    assert evaluate(right, variables, x).shape == (4, 2)
    assert jax.jit(partial(evaluate, right))(variables, x).shape == (4, 2)
    for call in (evaluate, lambda *given: jax.jit(partial(evaluate, given[0]))(*given[1:])):
        with pytest.raises(UsageError, match="Normalised normalises by the batch in evaluation"):
            call(wrong, variables, x)


def test_statistics_that_never_change_are_told(capsys):
    x = jnp.arange(12.0).reshape(4, 3)

    def said(network):
        variables = network.init(jax.random.key(0), x)
        state = {"batch_stats": variables["batch_stats"]}
        jax.jit(partial(forward, network))(variables["params"], state, jax.random.key(0), x)
        return capsys.readouterr().err

    assert "Normalised has batch_stats that training does not update" in said(Normalised("never"))
    assert said(Normalised("train")) == ""
    meant = Normalised("never", freeze_statistics=True)
    assert said(meant) == said(Around(meant)) == ""
    assert "Around has batch_stats" in said(Around(Normalised("never")))
