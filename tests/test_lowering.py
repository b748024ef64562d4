"""All that is public and runs on a device lowers for CUDA and for TPUs, on a machine with neither.

What does not lower here would fail on the first accelerator that somebody tries; nothing is
computed.
"""

import dataclasses
import importlib

import device_cases
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from device_cases import CASES, EXPERIMENTS, ON_HOST, step_of
from small_experiments import OPTIONS

PLATFORMS = ("cuda", "tpu")


def lowered(function, arguments, platform):
    exported = jax.export.export(jax.jit(function), platforms=(platform,))(*arguments)
    assert exported.platforms == (platform,)
    return exported.mlir_module()


def abstract(tree, dtype):
    def leaf(u):
        own = dtype if np.issubdtype(u.dtype, np.floating) else u.dtype
        return jax.ShapeDtypeStruct(u.shape, own)

    return jax.tree.map(leaf, tree)


def test_every_public_function_has_a_case():
    assert device_cases.public() == device_cases.covered() | ON_HOST


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", CASES)
def test_a_public_function_and_its_gradient_lower(name, platform):
    case = CASES[name]
    for dtype in (jnp.float32, jnp.bfloat16):
        lowered(case.function, abstract(case.arguments, dtype), platform)
    cotangents = jax.tree.map(
        lambda u: np.ones(u.shape, np.float32), jax.eval_shape(case.function, *case.arguments)
    )
    gradient = device_cases.gradient_of(case, cotangents)
    lowered(gradient, abstract(case.arguments, jnp.float32), platform)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_normxcorr_is_matrix_products_in_full_precision_there(platform):
    """Products of float32 are rounded to 10 or 7 bits by default, which loses the correlation."""
    case = CASES["correlation.normxcorr_conv"]
    text = lowered(case.function, abstract(case.arguments, jnp.float32), platform)
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    # On a TPU of patches and with the kernel; a GPU sums shifted maps instead of the first.
    assert len(products) == {"cuda": 1, "tpu": 2}[platform]
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_every_experiment_has_a_step():
    assert sorted(OPTIONS) == EXPERIMENTS


def dtypes(name):
    fields = dataclasses.fields(importlib.import_module(f"experiments.{name}").Config)
    return ("float32", "bfloat16") if any(f.name == "dtype" for f in fields) else ("float32",)


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_train_step_of_an_experiment_lowers(name, platform):
    for dtype in dtypes(name):
        step, create, batch = step_of(name, **({} if dtype == "float32" else {"dtype": dtype}))
        lowered(step, (jax.eval_shape(create), batch), platform)
