"""Which classes and functions a run may name: the rule by which a name in a file becomes code.

A manifest is data, and may come from anybody. What it names is taken from

* siamjax's own networks and pure functions, the modules within flax.linen, and the experiments:
  linen modules, and the functions and classes that are defined there;
* flax.linen, jax.nn, jax.nn.initializers, jax.numpy and jax.lax: public functions, but for those
  that read, write or print; and ``functools.partial``;
* a module that this process has imported before and that defines a linen module: as of the first
  kind. Others that are in memory, such as ``os`` or ``shutil``, hold functions that delete files;
* a module that the user trusts (``--trust MODULE``), and those within it, which are imported.

Nothing else is imported or called.
"""

import functools
import importlib
import re
import sys
from collections.abc import Collection
from types import ModuleType
from typing import Any

from siamjax.errors import UsageError, shown

PUBLIC = ("jax.nn", "jax.numpy", "jax.lax", "flax.linen", "jax.nn.initializers")
"""Where functions are looked up first, so that a run names jax.nn.relu and not the private module
that defines it in one version of JAX."""

_OWN = (
    "experiments",
    "flax.linen",
    "siamjax.correlation",
    "siamjax.distances",
    "siamjax.losses",
    "siamjax.metrics",
    "siamjax.mining",
    "siamjax.models",
)
_OUTSIDE = re.compile("load|save|from|print|set_")  # beginnings of what reaches beyond the result
_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def look_up(path: str, *, trust: Collection[str] = ()) -> Any:
    """The class or function ``module:name`` of a description, if the rule above allows it.

    Raises ``UsageError`` for a module that the rule does not allow, naming the option that would,
    and for what is not there.
    """
    if not _PATH.fullmatch(path) or ".__" in path.replace(":", "."):
        raise UsageError(f"the run's network: {path!r} is not the name of a class or a function")
    home, _, name = path.partition(":")
    trusted = _within(home, trust)
    if path == "functools:partial":
        return functools.partial
    if home in PUBLIC and not trusted:
        found = getattr(importlib.import_module(home), name, None)
        if callable(found) and not name.startswith("_") and not _OUTSIDE.match(name):
            return found
        raise UsageError(
            f"the run's network {path} cannot be imported: {home} has no such function, or none "
            "that only computes"
        )
    found = module = _module(home, path, trusted=trusted)
    for part in name.split("."):
        # Through classes only: a module within a module is another module.
        inside = found is module or isinstance(found, type)
        found = getattr(found, part, None) if inside else None
    defined = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if _is_linen(found) or (callable(found) and (trusted or defined == (home, name))):
        return found
    raise UsageError(
        f"the run's network {path} cannot be imported: {home} defines no such class or function; "
        "use the version of the code that trained the run"
    )


def _module(home: str, path: str, *, trusted: bool) -> ModuleType:
    known = sys.modules.get(home)
    if must_be_trusted(path) and not trusted:
        if known is not None and any(
            _is_linen(one) and one.__module__ == home for one in list(vars(known).values())
        ):
            return known
        raise UsageError(
            f"the run's network {path} is of a module that a file may not ask for; if you know it "
            f"and trust it, give --trust {home} (in Python, trust=({home!r},)): it is imported, "
            "which runs its code"
        )
    try:
        return importlib.import_module(home)
    # SystemExit: a module that is a program. Any other: whatever its code raises.
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"the run's network {path} cannot be imported ({type(error).__name__}: "
            f"{shown(error)}); install its module, put it on PYTHONPATH, or run the command in its "
            "folder"
        ) from None


def must_be_trusted(path: str) -> bool:
    """Whether the module of ``module:name`` is imported for a file only if ``trust`` names it."""
    home = _home(path)
    return path != "functools:partial" and home not in PUBLIC and not _within(home, _OWN)


def modules_in(description: Any) -> set[str]:
    """The modules that a description names."""
    return set(map(_home, _paths_in(description)))


def modules_to_trust(description: Any) -> list[str]:
    """Of the modules that a description names those that ``--trust`` must name, too."""
    return sorted(set(map(_home, filter(must_be_trusted, _paths_in(description)))))


def _home(path: str) -> str:
    return path.partition(":")[0]


def _paths_in(description: Any) -> set[str]:
    """What a description names, as ``module:name``."""
    found, left = set(), [description]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            paths = (one.get(key) for key in ("class", "import"))
            found |= {path for path in paths if isinstance(path, str)}
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found


def _within(home: str, packages: Collection[str]) -> bool:
    return any(home == one or home.startswith(f"{one}.") for one in packages)


def _is_linen(thing: Any) -> bool:
    import flax.linen as nn  # here, as the list of runs asks for modules alone and needs no JAX

    return isinstance(thing, type) and issubclass(thing, nn.Module)
