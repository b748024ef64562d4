"""A network as JSON: saved with a run, and built from it without the experiment's code."""

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np

from siamjax.errors import UsageError

# Where functions are looked up first, so that a run names jax.nn.relu and not the private module
# that defines it in one version of JAX.
_PUBLIC = ("jax.nn", "jax.numpy", "jax.lax", "flax.linen", "jax.nn.initializers")


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


def build_module(description: dict[str, Any]) -> nn.Module:
    """The module that :func:`describe_module` described.

    Raises ``UsageError`` if its class, or a function among its fields, cannot be imported.
    """
    cls = _import(description["class"])
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise UsageError(f"{description['class']} is not a linen module")
    known = {field.name for field in dataclasses.fields(cls)}
    fields = {name: _build(value) for name, value in description["fields"].items()}
    if unknown := sorted(set(fields) - known):
        raise UsageError(
            f"the run's network {description['class']} has no field {', '.join(unknown)} any more; "
            "use the version of the code that trained the run"
        )
    return cls(**fields)


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
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (np.bool_, np.number)):
        return value.item()
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


def _build(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "class" in value:
        return build_module(value)
    if "dtype" in value:
        return np.dtype(value["dtype"])
    if "import" in value:
        return _import(value["import"])
    if "partial" in value:
        options = {name: _build(one) for name, one in value["options"].items()}
        return functools.partial(
            _build(value["partial"]), *map(_build, value["arguments"]), **options
        )
    if "dict" in value:
        return {name: _build(one) for name, one in value["dict"].items()}
    if "tuple" in value:
        return tuple(map(_build, value["tuple"]))
    if "list" in value:
        return list(map(_build, value["list"]))
    raise UsageError(f"the run's network has a field of an unknown kind: {sorted(value)}")


def _path(thing: type | Callable[..., Any], where: str) -> str:
    """``module:name`` of what imports as exactly this thing."""
    name = getattr(thing, "__qualname__", "")
    home = defining_module(thing)
    if home == "__main__":
        raise UsageError(
            f"{where}: {name} is defined in a script or a notebook; move it into a module that can "
            "be imported"
        )
    for public in _PUBLIC:
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


def _import(path: str) -> Any:
    home, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(home)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        raise UsageError(
            f"the run's network {path} cannot be imported; install its module, put it on "
            "PYTHONPATH, or run the command in its folder"
        ) from None
    return found
