"""Siamese networks in JAX and Flax: pure functions that experiment files compose.

``import siamjax`` loads nothing else; a module loads when it is first named, as in
``siamjax.losses.contrastive``. Everything public works under a bare ``jax.jit``, ``jax.grad`` and
``jax.vmap``.
"""

import importlib
from types import ModuleType

from siamjax.errors import UsageError
from siamjax.host_memory import keep_memory
from siamjax.platform import use_fast_cpu_kernels

_MODULES = (
    "correlation",
    "data",
    "distances",
    "inference",
    "losses",
    "metrics",
    "mining",
    "models",
    "options",
    "parallel",
    "pretrained",
    "report",
    "search",
    "training",
)

__all__ = ["UsageError", "keep_memory", "use_fast_cpu_kernels", *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"siamjax.{name}")
    raise AttributeError(f"module 'siamjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
