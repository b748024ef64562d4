"""Siamese networks in JAX and Flax: pure functions that experiment files compose.

Everything public works under a bare ``jax.jit``, ``jax.grad`` and ``jax.vmap``.
"""

from siamjax.errors import UsageError
from siamjax.platform import use_fast_cpu_kernels

__all__ = ["UsageError", "use_fast_cpu_kernels"]
