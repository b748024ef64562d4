"""What arguments have in common, checked where they come in: bools, and numbers within bounds."""

from typing import Any

import numpy as np

from siamjax.errors import UsageError


def require_bool(name: str, values: Any, *, true: str) -> Any:
    """``values``, which must be bool; a list of bools becomes an array.

    Labels of another type (1 / 0, 1 / -1, text) are refused, because each has its own way to count
    as True by mistake: -1 is true, ``~1`` is -2, and integers select places and not a mask. Only
    the type is looked at, so it works under ``jax.jit`` too. ``true`` is what True means, such as
    ``the same identity``.
    """
    array = values if hasattr(values, "dtype") else np.asarray(values)
    if array.dtype != np.bool_:
        remedy = f"of 1 / 0 or 1 / -1 give {name} > 0"
        if array.dtype.kind in "OUST":
            remedy = f"compare it with the word for that: {name} == ..."
        raise UsageError(f"{name} must be bool (True = {true}), not {array.dtype}; {remedy}")
    return array


def require_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """``UsageError`` unless a number is finite and within the bounds, as float32 holds it.

    An array must be so in every element. A value that JAX traces cannot be looked at, and passes.
    """
    try:
        with np.errstate(over="ignore"):
            number = np.asarray(value, np.float64).astype(np.float32)
    except (TypeError, ValueError):
        if hasattr(value, "aval"):  # traced by JAX
            return
        number = np.float32(np.nan)
    if isinstance(value, (str, bytes, bool)) or value is None:
        number = np.float32(np.nan)
    bounds = [
        (above, "above", np.greater),
        (at_least, "at least", np.greater_equal),
        (at_most, "at most", np.less_equal),
        (below, "below", np.less),
    ]
    wanted = [(limit, word, holds) for limit, word, holds in bounds if limit is not None]
    if not (np.isfinite(number).all() and all(f(number, b).all() for b, _, f in wanted)):
        words = ["finite (in float32)", *(f"{word} {limit:g}" for limit, word, _ in wanted)]
        raise UsageError(f"{name} {value}: must be a number, {' and '.join(words)}")
