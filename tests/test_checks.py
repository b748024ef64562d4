"""What is refused as a label, and as a number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.checks import (
    require_bool,
    require_finite,
    require_names,
    require_number,
    require_places,
    require_whole,
)
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


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (["b", "a"], ["b", "a"]),
        ((3, 1), [3, 1]),
        (np.array([b"a", "\u00e9".encode()]), ["a", "\u00e9"]),
        (np.array(["a", "bc"], object), ["a", "bc"]),
        (np.array([np.int8(1), 2], object), [1, 2]),
        (np.array(["a", "b" * 99], np.dtypes.StringDType()), ["a", "b" * 99]),
        (np.arange(3, dtype=np.uint8), [0, 1, 2]),
        (jnp.arange(2), [0, 1]),
        ([], []),
    ],
)
def test_names_are_text_or_whole_numbers(given, right):
    assert require_names("identities", given).tolist() == right


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1, "1"], "1 of 2 .* '1' at 1"),
        ([1.0, 2.0], "2 of 2 .* 1.0 at 0"),
        ([1, np.nan, np.nan], "2 of 3 .* nan at 1"),
        (["a", None], "1 of 2 .* None at 1"),
        (["a", ""], "1 of 2 .* '' at 1"),
        (["a", float("nan"), "b"], "1 of 3 .* nan at 1"),
        ([True, False], "2 of 2 .* True at 0"),
        (np.array([1, True], object), "1 of 2 .* True at 1"),
        (np.array([2**70], object), "1 of 1"),
        (np.array(["a", None], np.dtypes.StringDType(na_object=None)), "1 of 2 .* None at 1"),
        (np.array(["2020-01-01"], "M8[D]"), "1 of 1"),
        ([1j], "1 of 1"),
        ([["a"]], r"of shape \(1, 1\); give one for each image"),
        ("a", r"of shape \(\)"),
    ],
)
def test_names_without_a_certain_equal_are_refused(given, message):
    with pytest.raises(UsageError, match=f"identities.* {message}|identities {message}"):
        require_names("identities", given)


def test_names_may_be_unknown_where_that_is_said():
    assert require_names("groups", ["a", ""], unknown=True).tolist() == ["a", ""]
    with pytest.raises(UsageError, match="one for each of 3 images"):
        require_names("groups", ["a", ""], unknown=True, count=3)


def test_numbers_that_are_not_finite_are_counted():
    np.testing.assert_array_equal(require_finite("x", [1, 2.5], axes=1, remedy=""), [1, 2.5])
    narrow = jnp.array([1, 2.5], jnp.bfloat16)
    np.testing.assert_array_equal(require_finite("x", narrow, axes=1, remedy=""), [1, 2.5])
    bad = np.array([[1, np.inf], [np.nan, 2]])
    with pytest.raises(UsageError, match=r"^x: 2 of 4 .* the first is inf at \(0, 1\); mend it$"):
        require_finite("x", bad, axes=2, remedy="mend it")
    where = np.array([[True, False], [False, True]])
    require_finite("x", bad, axes=2, remedy="", where=where)
    for wrong in (["a"], [None], [1j], np.zeros(1, "V3"), np.zeros(1, [("a", "f4")])):
        with pytest.raises(UsageError, match="give real numbers"):
            require_finite("x", wrong, axes=1, remedy="")


def test_places_lie_within():
    assert require_places("own", [0, 2], total=3, count=2).tolist() == [0, 2]
    for wrong, message in (
        ([0, 3], "1 of 2 .* from 0 to 2; the first is 3 at 1"),
        ([-1, 0], "-1 at 0"),
    ):
        with pytest.raises(UsageError, match=message):
            require_places("own", wrong, total=3, count=2)
    for wrong in ([0.0, 1.0], [True, False], [0], [[0, 1]]):
        with pytest.raises(UsageError, match="give 2 whole numbers"):
            require_whole("own", wrong, count=2)


@pytest.mark.parametrize("kind", [np.str_, object, np.dtypes.StringDType()], ids=str)
def test_names_in_both_of_unicodes_forms_are_one(kind):
    values = [
        "Jose\u0301",
        "Jos\u00e9",
        "Ang\u212bstrom",
        "Ang\u00c5strom",
        "plain",
        "\ud55c\u1112",
    ]
    named = require_names("people", np.array(values, kind)).tolist()
    assert named == [*["Jos\u00e9"] * 2, *["Ang\u00c5strom"] * 2, "plain", "\ud55c\u1112"]
    surrogates = np.array(["caf\udcff", "e\u0301\udcff"])
    assert require_names("people", surrogates).tolist() == ["caf\udcff", "\u00e9\udcff"]
