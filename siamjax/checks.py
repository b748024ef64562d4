"""What arguments have in common, checked where they come in: bools, and numbers within bounds."""

import unicodedata
from collections.abc import Iterable
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


def share_of_batch(batch_size: int, unit: str, count: int, of: str) -> int:
    """Rows of a batch for each of ``count`` devices or processes; ``UsageError`` if not even."""
    if batch_size % count:
        raise UsageError(
            f"batch of {batch_size} {unit} cannot be split over {count} {of}; use a multiple of "
            f"{count}"
        )
    return batch_size // count


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


def require_finite(
    name: str, values: Any, *, axes: int, remedy: str, where: Any = None
) -> np.ndarray:
    """``values`` as an array of so many axes, every number of it finite.

    ``where`` is a mask of those that count. The error counts the others and names the first:
    ``remedy`` is what to do.
    """
    array = np.asarray(values)
    if array.dtype.kind == "V" and "float" in array.dtype.name:  # such as JAX's bfloat16
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiu":
        raise UsageError(f"{name}: {array.dtype}; give real numbers")
    if array.ndim != axes:
        raise UsageError(f"{name} of shape {array.shape}; give an array of {axes} axes")
    if array.dtype.kind == "f":
        bad = ~np.isfinite(array) if where is None else ~np.isfinite(array) & where
        if bad.any():
            first = tuple(np.argwhere(bad)[0].tolist())
            place = first[0] if axes == 1 else f"({', '.join(map(str, first))})"
            raise UsageError(
                f"{name}: {int(bad.sum())} of {array.size} values are not finite, the first is "
                f"{array[first]} at {place}; {remedy}"
            )
    return array


def require_names(
    name: str, values: Any, *, count: int | None = None, unknown: bool = False
) -> np.ndarray:
    """Identities, cameras or groups as an array of text or of whole numbers, one for each image.

    Text of Python and NumPy is taken (its letters composed, NFC), bytes as UTF-8, and whole
    numbers. What has no certain equal is refused, with a count and the first place: NaN, None,
    fractions, bools, text beside numbers, 1.0, which is neither 1 nor "1", and unless ``unknown``
    the empty text, which means that it is not known. ``count`` is how many there must be.
    """
    array = np.asarray(values)
    if array.dtype.kind in "US" and not hasattr(values, "dtype"):
        array = np.asarray(values, object)  # [1, "a"] would have become text in silence
    if array.ndim != 1 or (count is not None and len(array) != count):
        expected = "one for each image" if count is None else f"one for each of {count} images"
        raise UsageError(f"{name} of shape {array.shape}; give {expected}")
    kind, good = array.dtype.kind, np.ones(len(array), np.bool_)
    if kind == "S":
        array = np.char.decode(array, "utf-8", "surrogateescape")
    elif kind == "O" or hasattr(array.dtype, "na_object"):
        items = array.tolist()
        types = str if items and isinstance(items[0], str) else (int, np.integer)
        good = np.array([isinstance(x, types) and type(x) is not bool for x in items], np.bool_)
        if types is not str:
            good &= [bool(ok) and abs(x) < 2**63 for ok, x in zip(good, items, strict=True)]
        if good.all():
            array = np.array(items, np.str_ if types is str or not items else np.int64)
    elif kind not in "UTiu":
        good = np.zeros(len(array), np.bool_)
        if kind == "f" and not np.isfinite(array).all():
            good = np.isfinite(array)
    if array.dtype.kind in "UT" and not unknown:
        good = good & (array != "")
    if not good.all():
        first = int(good.argmin())
        raise UsageError(
            f"{name}: {int((~good).sum())} of {len(good)} are not known or of another type, the "
            f"first {array[first : first + 1].tolist()[0]!r} at {first} ({array.dtype}); give all "
            "as text or all as whole numbers (.astype(int)), and leave out those not known"
        )
    return _composed(array) if array.dtype.kind in "UT" else array


def _composed(names: np.ndarray) -> np.ndarray:
    """The names in one of Unicode's two forms: else José of a Mac's disk were another José."""
    if names.dtype.kind == "U":
        # Below U+0300 there is nothing that could be composed.
        plain = not names.size or np.ascontiguousarray(names).view(np.uint32).max() < 0x300
    else:
        plain = all(name.isascii() for name in names.tolist())
    if plain:
        return names
    composed = [unicodedata.normalize("NFC", name) for name in names.tolist()]
    return np.array(composed, np.str_ if names.dtype.kind == "U" else names.dtype)


def same_kind(name: str, query: np.ndarray, gallery: np.ndarray) -> None:
    """``UsageError`` unless the names of queries and gallery are both text or both numbers."""
    numbers = [one.dtype.kind in "iu" for one in (query, gallery) if len(one)]
    if len(set(numbers)) > 1:
        kinds = f"{query.dtype} for the queries, {gallery.dtype} for the gallery"
        raise UsageError(f"{name} are {kinds}: give both as text or both as whole numbers")


def require_whole(name: str, values: Any, *, count: int) -> np.ndarray:
    """``values`` as ``count`` whole numbers."""
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise UsageError(
            f"{name}: {array.dtype} of shape {array.shape}; give {count} whole numbers "
            "(.astype(int))"
        )
    return array


def require_places(name: str, values: Any, *, total: int, count: int) -> np.ndarray:
    """``values`` as ``count`` whole numbers, each at least 0 and below ``total``."""
    array = require_whole(name, values, count=count)
    wrong = (array < 0) | (array >= total)
    if wrong.any():
        first = int(wrong.argmax())
        raise UsageError(
            f"{name}: {int(wrong.sum())} of {len(array)} are not from 0 to {total - 1}; the first "
            f"is {array[first]} at {first}"
        )
    return array


def begins(path: str, beginnings: Iterable[str]) -> bool:
    """Whether a path begins with one of these, as options name layers.

    Numbers are whole: ``blocks_1`` is the beginning of ``blocks_1/norm1``, not of ``blocks_10``.
    """
    return any(
        path.startswith(one)
        and not (one[-1:].isdecimal() and path[len(one) : len(one) + 1].isdecimal())
        for one in beginnings
    )
