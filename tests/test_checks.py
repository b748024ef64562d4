"""What is refused as a label, and as a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.checks import require_bool, require_number
from siamjax.errors import UsageError

WRONG_LABELS = [
    np.array([1, -1]),
    np.array([1, 0], np.uint8),
    np.array([1.0, 0.0], np.float32),
    jnp.array([1, 0]),
    jnp.array([1, 0], jnp.bfloat16),
    [1, 0],
    [],
    ["same", "different"],
    np.array([True, False], object),
    [True, None],
]


@pytest.mark.parametrize("wrong", WRONG_LABELS, ids=repr)
def test_what_is_not_bool_is_refused(wrong):
    with pytest.raises(UsageError, match=r"^same must be bool \(True = one person\), not .+; "):
        require_bool("same", wrong, true="one person")


@pytest.mark.parametrize("right", [[True, False], np.array([True]), jnp.zeros((0, 2), bool)])
def test_bool_passes(right):
    np.testing.assert_array_equal(require_bool("same", right, true="one person"), right)


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.float32])
def test_the_remedy_is_right_for_both_conventions(dtype):
    with pytest.raises(UsageError, match="of 1 / 0 or 1 / -1 give mask > 0"):
        require_bool("mask", np.ones(2, dtype), true="counts")


def test_under_jit_the_type_alone_decides():
    count = jax.jit(lambda mask: require_bool("mask", mask, true="counts").sum())
    assert count(jnp.array([True, False, True])) == 2
    with pytest.raises(UsageError, match="mask must be bool"):
        count(jnp.array([1, 0, 1]))


@pytest.mark.parametrize(
    "bad", [np.nan, np.inf, -np.inf, 0, -1.0, 1e39, 1e-50, None, "1", True, np.float32(-2), [1, 0]]
)
def test_a_number_that_cannot_be(bad):
    with pytest.raises(UsageError, match=r"^margin .*: must be a number, finite .* and above 0"):
        require_number("margin", bad, above=0)


@pytest.mark.parametrize("good", [1, 0.5, np.float32(2), np.int64(3), jnp.float32(0.1), [1, 2]])
def test_a_number_that_can_be(good):
    require_number("margin", good, above=0)


def test_bounds():
    require_number("share", 0, at_least=0, at_most=1)
    require_number("share", 1, at_least=0, at_most=1)
    for bad in (-1e-9, 1.1):
        with pytest.raises(UsageError, match=r"at least 0 and at most 1$"):
            require_number("share", bad, at_least=0, at_most=1)
    with pytest.raises(UsageError, match=r"momentum 1: .* and at least 0 and below 1$"):
        require_number("momentum", 1, at_least=0, below=1)


def test_a_traced_number_passes():
    def f(margin):
        require_number("margin", margin, above=0)
        return 2 * margin

    assert jax.jit(f)(0.5) == 1.0
    assert jax.grad(f)(0.5) == 2.0
