"""On the accelerator itself: values against float64 on the host, steps, devices, export.

    pytest -o addopts= -m accelerator

Skipped where JAX has nothing but a CPU, unless SIAMJAX_ON_CPU=1 asks for the code to be tried
there, as ``python -m benchmarks.accelerator --dry`` does.
"""

import os

import device_cases
import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from device_cases import CASES, EXPERIMENTS, floating, step_of
from safetensors.numpy import load_file

from siamjax.inference.export import export_run
from siamjax.models import EuclideanHead, LfwNet, Siamese
from siamjax.parallel import data_parallel, replicate, shard
from siamjax.training import Finished

ON_CPU = jax.default_backend() == "cpu"
pytestmark = [
    pytest.mark.accelerator,
    pytest.mark.skipif(
        ON_CPU and os.environ.get("SIAMJAX_ON_CPU") != "1",
        reason="JAX found no accelerator (SIAMJAX_ON_CPU=1 tries the code on the CPU)",
    ),
]

# Of the largest absolute value that is expected. bfloat16 has 8 bits: 2^-8 = 0.004 a rounding, of
# which a loss has a few; what is summed is float32.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
# The definition is read and not trained with: it computes in the type that it is given.
DEFINITION = {"float32": 1e-5, "bfloat16": 5e-2}
GRADIENT = 2e-4  # of the sum of the absolute terms


@pytest.fixture
def full_precision():
    """The formulas are tested here, not the 10 bits to which TF32 rounds the products."""
    with jax.default_matmul_precision("highest"):
        yield


def given(tree, dtype):
    """The arguments as the device gets them, and exactly these in float64."""

    def rounded(u):
        return u.astype(dtype) if np.issubdtype(u.dtype, np.floating) else u

    def wide(u):
        return u.astype(np.float64) if u.dtype in (np.float32, ml_dtypes.bfloat16) else u

    device = jax.tree.map(rounded, tree)
    return device, jax.tree.map(wide, device)


def largest(values):
    values = np.abs(values[np.isfinite(values)])
    return values.max() if values.size else 0.0


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_a_public_function_is_its_float64_value(name, dtype):
    case = CASES[name]
    arguments, exact = given(case.arguments, jnp.dtype(dtype))
    expected = case.expected(*exact)
    got = jax.jit(case.function)(*arguments)
    tolerance = (DEFINITION if "definition" in name else TOLERANCE)[dtype]
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for value, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        value, wanted = np.asarray(value, np.float64), np.asarray(wanted, np.float64)
        assert value.shape == wanted.shape
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance * largest(wanted))


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("monitors.")])
def test_its_gradient_is_the_difference_quotient_of_float64(name):
    """Along one random direction, by central differences of the slow NumPy value."""
    case, rng = CASES[name], np.random.default_rng(1)
    arguments, exact = given(case.arguments, np.float32)
    direction = jax.tree.map(lambda u: rng.normal(size=u.shape) if floating(u) else None, exact)

    def moved(by):
        def along(u, d):
            return u if d is None else u + by * d

        values = case.expected(*jax.tree.map(along, exact, direction))
        # An anchor without a negative has an infinite value, and no gradient.
        return jax.tree.map(lambda u: np.where(np.isfinite(u), u, 0.0), values)

    up, down = moved(1e-6), moved(-1e-6)
    cotangents = jax.tree.map(lambda u: rng.normal(size=np.shape(u)).astype(np.float32), up)
    quotients = jax.tree.map(lambda c, u, d: np.sum(c * (u - d)) / 2e-6, cotangents, up, down)
    gradients = jax.jit(device_cases.gradient_of(case, cotangents))(*arguments)
    wanted = [d for d, u in zip(direction, exact, strict=True) if floating(u)]
    terms = jax.tree.map(
        lambda g, d: (np.asarray(g, np.float64) * d).ravel(), list(gradients), wanted
    )
    terms = np.concatenate(jax.tree.leaves(terms))
    expected = sum(jax.tree.leaves(quotients))
    assert abs(terms.sum() - expected) <= GRADIENT * np.abs(terms).sum() + 1e-6


def drawn(create):
    """A first state without compiling every initializer."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape, leaf.dtype)
        if name in ("var", "scale"):
            return np.ones(leaf.shape, leaf.dtype)
        share = 1 / np.sqrt(max(np.prod(leaf.shape[:-1]), 1))
        return (rng.normal(size=leaf.shape) * (share if name == "kernel" else 0.01)).astype("f4")

    like = jax.eval_shape(create)
    state = jax.tree_util.tree_map_with_path(draw, like.replace(key=None, opt_state=None))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like.opt_state)
    return state.replace(key=jax.random.key(0), opt_state=zeros)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_train_step_is_finite_and_moves(name):
    step, create, batch = step_of(name)
    state = drawn(create)
    after, metrics = jax.jit(step)(state, batch)
    assert metrics["loss"].count == 4
    values = [mean.total for mean in metrics.values()]
    for leaf in jax.tree.leaves((values, after.params, after.model_state)):
        assert np.isfinite(np.asarray(leaf)).all()
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, after.params)
    assert any(jax.tree.leaves(moved))
    assert after.step == 1


@pytest.mark.usefixtures("full_precision")
def test_pmap_on_one_device_is_jit():
    step, create, batch = step_of("lfw_contrastive")
    devices = jax.local_devices()[:1]
    pmapped = data_parallel(step, devices=devices, donate_state=False)
    placed = replicate(drawn(create), devices=devices)
    one, metrics = pmapped(placed, shard(batch, devices=devices))
    other, expected = jax.jit(step)(drawn(create), batch)
    pairs = zip(
        jax.tree.leaves((one.params, one.model_state, metrics)),
        jax.tree.leaves((other.params, other.model_state, expected)),
        strict=True,
    )
    for got, wanted in pairs:
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_network_is_exported_and_read_again(tmp_path):
    """``export_run`` itself compares what it wrote with the network; here it is read once more."""
    network = Siamese(backbone=LfwNet(width=0.0625, embedding_scale=None), head=EuclideanHead())
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)
    variables = jax.jit(network.init)(jax.random.key(0), *images[:, :1])
    manifest = {"network": {}, "step": 1, "size": 16}
    run = Finished(
        folder=tmp_path, manifest=manifest, network=network, variables=variables, size=(16, 16)
    )
    differences = export_run(run, tmp_path / "out", platforms=("cpu", "cuda", "tpu"))
    assert max(differences) <= 1e-4
    weights = load_file(tmp_path / "out" / "model.safetensors")
    score = jax.export.deserialize(bytearray((tmp_path / "out" / "score.stablehlo").read_bytes()))
    expected = network.apply(variables, *images)[0]
    np.testing.assert_allclose(score.call(weights, *images), expected, rtol=1e-4, atol=1e-5)
