"""A network as JSON: saved with a run, and built from it without the experiment's code."""

import dataclasses
import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Collection
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import msgspec
import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.files import typed
from siamjax.training.trusted import PUBLIC, look_up


class _Module(msgspec.Struct):
    path: str = msgspec.field(name="class")
    fields: dict[str, Any]


class _Partial(msgspec.Struct):
    partial: Any
    arguments: list[Any]
    options: dict[str, Any]


def describe_module(module: nn.Module) -> dict[str, Any]:
    """A linen module as JSON: the import path of its class, and its fields.

    Fields may be numbers, strings, booleans, None, dtypes, modules, functions and classes that can
    be imported, ``functools.partial`` of these, and tuples, lists and dicts of all. Other values
    are left out where they are the class's default (such as the initialisers of
    ``flax.linen.Dense``). Raises ``UsageError`` naming the field for anything else.
    """
    cls = type(module)
    fields = {}
    for field in dataclasses.fields(module):
        if field.name in ("parent", "name") or not field.init:
            continue
        value = getattr(module, field.name)
        try:
            fields[field.name] = _describe(value, f"{cls.__name__}.{field.name}")
        except UsageError:
            if value is not field.default:
                raise
    return {"class": _path(cls, cls.__name__), "fields": fields}


def build_module(description: Any, *, trust: Collection[str] = ()) -> nn.Module:
    """The module that :func:`describe_module` described.

    The description may be anything that JSON holds. What it names is looked up by the rule of
    :mod:`siamjax.training.trusted`; ``trust`` are further modules to import. Raises ``UsageError``
    for names that the rule does not allow or that are not there, and for fields that the class
    does not take.
    """
    try:
        return _module(description, trust)
    except RecursionError:
        raise UsageError("the run's network: too many things within things") from None


def _module(description: Any, trust: Collection[str]) -> nn.Module:
    named = typed(description, _Module, where="the run's network")
    cls = look_up(named.path, trust=trust)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise UsageError(f"{named.path} is not a linen module")
    known = {field.name for field in dataclasses.fields(cls)} - {"parent", "name"}
    if unknown := sorted(set(named.fields) - known):
        raise UsageError(
            f"the run's network {named.path} has no field {', '.join(unknown)} any more; "
            "use the version of the code that trained the run"
        )
    fields = {name: _build(value, trust) for name, value in named.fields.items()}
    try:
        return cls(**fields)
    except (UsageError, RecursionError):
        raise
    except Exception as error:  # whatever a class does with fields that it does not expect
        raise UsageError(
            f"the run's network {named.path} cannot be made of its fields "
            f"({type(error).__name__}: {error})"
        ) from None


def defining_module(thing: Any) -> str:
    """Import path of the module that defines a class or function, also under ``python -m``."""
    home = thing.__module__
    if home != "__main__":
        return home
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    # python -m package.file: its import path, and not __main__, its name while it runs.
    return home if spec is None else spec.name


def _describe(value: Any, where: str) -> Any:
    if isinstance(value, nn.Module):
        return describe_module(value)
    if isinstance(value, (np.bool_, np.number)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, functools.partial):
        return {
            "partial": _describe(value.func, where),
            "arguments": [_describe(one, where) for one in value.args],
            "options": {name: _describe(one, where) for name, one in value.keywords.items()},
        }
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [_describe(one, where) for one in value]}
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise UsageError(f"{where}: the keys of a dict must be strings to be saved with a run")
        return {"dict": {name: _describe(one, where) for name, one in value.items()}}
    if _is_dtype(value):
        return {"dtype": np.dtype(value).name}
    if callable(value) and hasattr(value, "__qualname__"):
        return {"import": _path(value, where)}
    raise UsageError(
        f"{where} = {value!r} cannot be saved with a run; use numbers, strings, dtypes, modules, "
        "functions that can be imported, or tuples, lists and dicts of these"
    )


def _is_dtype(value: Any) -> bool:
    """Whether it is a dtype or a scalar type of NumPy's or JAX's (not a type in every version)."""
    # np.dtype itself cannot be asked: it takes any class for the dtype of objects.
    if isinstance(value, type) and issubclass(value, np.generic):
        return True
    own = getattr(value, "dtype", None)
    return isinstance(value, np.dtype) or (
        isinstance(own, np.dtype) and not hasattr(value, "shape")
    )


def _build(value: Any, trust: Collection[str]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    kind = next((key for key in _KINDS if isinstance(value, dict) and key in value), None)
    if kind is None:
        known = sorted(value) if isinstance(value, dict) else value
        raise UsageError(f"the run's network has a field of an unknown kind: {shown(known)}")
    if kind == "class":
        return _module(value, trust)
    if kind == "partial":
        made = typed(value, _Partial, where="the run's network")
        function = _build(made.partial, trust)
        if not callable(function):
            raise UsageError(f"the run's network: {shown(made.partial)} is no function")
        options = {name: _build(one, trust) for name, one in made.options.items()}
        return functools.partial(function, *(_build(a, trust) for a in made.arguments), **options)
    content = typed(value[kind], _KINDS[kind], where=f"the run's network: {kind}")
    if kind == "dtype":
        return _dtype(content)
    if kind == "import":
        return look_up(content, trust=trust)
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {name: _build(one, trust) for name, one in content.items()}
    return (tuple if kind == "tuple" else list)(_build(one, trust) for one in content)


# What stands for a value that JSON does not have, and the type of what it holds.
_KINDS: dict[str, Any] = {
    "class": str,
    "dtype": str,
    "float": Literal["inf", "-inf", "nan"],
    "import": str,
    "partial": Any,
    "dict": dict[str, Any],
    "tuple": list[Any],
    "list": list[Any],
}


def _dtype(name: str) -> np.dtype:
    try:
        found = np.dtype(name)
    except Exception:  # NumPy parses more than names
        found = None
    if found is None or not (found == np.bool_ or jnp.issubdtype(found, np.number)):
        raise UsageError(f"the run's network: {shown(name)} is not a dtype of numbers")
    return found


def _path(thing: type | Callable[..., Any], where: str) -> str:
    """``module:name`` of what imports as exactly this thing."""
    name = getattr(thing, "__qualname__", "")
    home = defining_module(thing)
    if home == "__main__":
        raise UsageError(
            f"{where}: {name} is defined in a script or a notebook; move it into a module that can "
            "be imported"
        )
    for public in PUBLIC:
        if getattr(importlib.import_module(public), name, None) is thing:
            return f"{public}:{name}"
    found: Any = inspect.getmodule(thing) if thing.__module__ == "__main__" else None
    try:
        found = found or importlib.import_module(home)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        found = None
    if found is not thing:
        raise UsageError(
            f"{where}: {name} of {home} cannot be imported by that name (a lambda, or defined "
            "inside a function); define it at the top of a module"
        )
    return f"{home}:{name}"
