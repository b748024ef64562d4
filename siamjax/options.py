"""What an option may be: types that say it, and one check of every option where it comes in.

The options of an experiment are a dataclass on top of :class:`Options`, those of a command are its
arguments. Their annotations say all that is checked: ``margin: Positive = 1.0``.
"""

import dataclasses
import functools
import inspect
import math
import numbers
import operator
import os
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from siamjax.checks import require_number
from siamjax.errors import UsageError, shown
from siamjax.surroundings import expanded

Kind = TypeVar("Kind")

__all__ = [
    "Bounds",
    "Count",
    "Options",
    "Positive",
    "Precision",
    "Rate",
    "Seed",
    "Share",
    "Source",
    "Whole",
]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Within what a number must lie, in an annotation: ``Annotated[float, Bounds(above=0)]``."""

    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None


class Expanded:
    """In an annotation: a text that may be a path, in which ``~`` is the home folder."""


Positive = Annotated[float, Bounds(above=0)]
"""Such as a learning rate, a margin, a width."""
Share = Annotated[float, Bounds(at_least=0, at_most=1)]
"""A part of a whole."""
Rate = Annotated[float, Bounds(above=0, below=1)]
"""A share that is neither none nor all, such as a wanted error rate."""
Count = Annotated[int, Bounds(at_least=1, at_most=2**31 - 1)]
"""A number of things, at least one."""
Whole = Annotated[int, Bounds(at_least=0, at_most=2**31 - 1)]
"""A whole number from 0, such as a place in a list."""
Seed = Annotated[int, Bounds(at_least=0, at_most=2**32 - 1)]
"""A seed; of a larger one JAX would drop all but 32 bits, so that two seeds were one."""
Source = Annotated[str, Expanded]
"""Name of a data set, or a path."""
Preprocessing = Literal[
    "unit", "signed", "bgr_signed", "bgr_mean", "torchvision", "clip", "face_api"
]
"""What becomes of an image's bytes before the network: :mod:`siamjax.models.preprocessing`."""
Precision = Literal["float32", "bfloat16"]
"""The type of a network's products; what stays float32: docs/precision.md."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that are checked by their annotations, and made plain Python of.

    NumPy's numbers become Python's, texts become paths where a path is wanted and paths texts, and
    ``~`` at the start of a path becomes the home folder. Raises ``UsageError`` with the option's
    name for what is of another type or out of bounds; every number must be finite. A subclass that
    gives another default does not repeat the bounds.
    """

    def __post_init__(self) -> None:
        """Check every field by its annotation, and by the bounds that base classes give it."""
        kinds = [_kinds(owner) for owner in type(self).__mro__ if issubclass(owner, Options)]
        for field in dataclasses.fields(self):
            name = field.name
            own, *others = (one[name] for one in kinds if name in one)
            value = plain(name, getattr(self, name), own)
            for bounds in (found for kind in others for found in _bounds(kind)):
                if isinstance(value, (int, float)):
                    _require_within(name, value, bounds)
            object.__setattr__(self, name, value)  # it is frozen


def _kinds(owner: type) -> dict[str, Any]:
    """The annotations of one class, without those of its base classes."""
    own = inspect.get_annotations(owner)
    try:
        hints = get_type_hints(owner, include_extras=True) if own else {}
    except NameError:  # annotations as texts, with names that only a function knows
        hints = own
    return {name: hints[name] for name in own}


def _bounds(kind: Any) -> list[Bounds]:
    """The bounds of an annotation, or of the kinds of a union."""
    if get_origin(kind) in (Union, types.UnionType):
        return [found for one in get_args(kind) for found in _bounds(one)]
    return [rule for rule in getattr(kind, "__metadata__", ()) if isinstance(rule, Bounds)]


def checked(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose arguments are checked as :class:`Options` are, before it is called."""
    kinds = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)

    @functools.wraps(command)
    def call(*arguments: Any, **options: Any) -> Any:
        bound = signature.bind(*arguments, **options)
        for name, value in bound.arguments.items():
            bound.arguments[name] = plain(name, value, kinds.get(name))
        return command(*bound.args, **bound.kwargs)

    return call


def add_option(
    wrapper: Callable[..., Any], function: Callable[..., Any], name: str, kind: Any, *, default: Any
) -> None:
    """Let a wrapper of a function show its arguments and one more, which has a name."""
    signature = inspect.signature(function)
    one = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
    arguments = [*signature.parameters.values(), one]
    shown: Any = wrapper
    shown.__signature__ = signature.replace(parameters=arguments)
    shown.__annotations__ = {**function.__annotations__, name: kind}
    shown.__dict__.pop("__wrapped__", None)  # whose arguments would be read instead


def plain(name: str, value: Any, kind: Any) -> Any:
    """The value of an option as its annotation ``kind`` wants it; ``UsageError`` with its name.

    Values of kinds that are not known here, such as functions, are returned as they are.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        value = plain(name, value, inner[0])
        for rule in inner[1:]:
            if isinstance(rule, Bounds):
                _require_within(name, value, rule)
            elif rule is Expanded:
                value = expanded(value, name=name)
        return value
    if origin in (Union, types.UnionType):
        return _one_of(name, value, inner)
    if origin is Literal:
        return _chosen(name, value, inner)
    if origin in (tuple, list):
        return origin(plain(name, *both) for both in _each(name, value, inner))
    return _PLAIN[kind](name, _scalar(value)) if kind in _PLAIN else value


def _each(name: str, value: Any, kinds: tuple[Any, ...]) -> Iterable[tuple[Any, Any]]:
    """Each element of a list or tuple, with its own kind."""
    elements = list(value) if isinstance(value, (tuple, list)) else None
    if elements is not None and (len(kinds) == 1 or ... in kinds):
        kinds = kinds[:1] * len(elements)
    if elements is None or len(elements) != len(kinds):
        count = "" if ... in kinds else f" of {len(kinds)}"
        raise UsageError(f"{name} {shown(value)}: must be a list{count}")
    return zip(elements, kinds, strict=True)


def _one_of(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and type(None) in kinds:
        return None
    *others, last = (kind for kind in kinds if kind is not type(None))
    for kind in others:
        try:
            return plain(name, value, kind)
        except UsageError:
            continue
    return plain(name, value, last)


def _chosen(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    value = _scalar(value)
    for choice in choices:
        # True is 1 to Python, but no depth.
        alike = isinstance(value, bool) == isinstance(choice, bool)
        if alike and isinstance(value, type(choice)) and value == choice:
            return choice
    raise UsageError(f"{name} {shown(value)}: choose one of {', '.join(map(str, choices))}")


def _scalar(value: Any) -> Any:
    """NumPy's and JAX's numbers and bools as Python's; anything else as it is."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind is None or value.shape != ():
        return value
    # As it is printed: of float32's 0.001 and 0.0010000000474974513 the one that was meant.
    return float(str(value)) if kind == "f" else value.item()


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{name} {shown(value)}: must be a whole number")
    if value.bit_length() > 64:  # Python prints none of thousands of digits
        raise UsageError(f"{name}: must be a whole number of at most 64 bits")
    return value


def _real(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise UsageError(f"{name} {shown(value)}: must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    require_number(name, number)
    return number


def _truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name} {shown(value)}: must be True or False")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise UsageError(f"{name} {shown(value)}: must be a text")
    return str(value)


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise UsageError(f"{name} {shown(value)}: must be a path")
    return Path(expanded(str(value), name=name))


_PLAIN: dict[Any, Callable[[str, Any], Any]] = {
    int: _whole,
    float: _real,
    bool: _truth,
    str: _text,
    Path: _path,
}

_HOLDS = {
    "above": operator.gt,
    "at_least": operator.ge,
    "at_most": operator.le,
    "below": operator.lt,
}


def _require_within(name: str, value: Any, bounds: Bounds) -> None:
    limits = {key: limit for key, limit in vars(bounds).items() if limit is not None}
    if not isinstance(value, int):
        require_number(name, value, **limits)
        return
    for key, limit in limits.items():  # exactly, where float32 has no 2**32 - 1
        if not _HOLDS[key](value, limit):
            raise UsageError(f"{name} {value}: must be {key.replace('_', ' ')} {limit}")


def only(kind: type[Kind], config: Any) -> Kind:
    """The options of one kind, out of a config that may have many more."""
    fields = dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
    return kind(**{field.name: getattr(config, field.name) for field in fields})


def asked_before(kind: type[Kind], request: Mapping[str, Any]) -> Kind:
    """The options that :func:`request_of` wrote, without those of earlier versions."""
    names = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    return kind(**{name: value for name, value in request.items() if name in names})


def request_of(options: Any, *, sets: Collection[str]) -> dict[str, Any]:
    """The options as JSON can hold them, and as they are right in any folder.

    Paths are absolute strings, and so is ``data``, unless it is the name of one of the ``sets``.
    """
    named = dataclasses.asdict(options)
    if named["data"] not in sets:
        named["data"] = Path(named["data"])
    return {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in named.items()
    }
