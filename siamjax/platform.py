"""Settings of XLA that must be made before JAX starts its backend."""

import os
from importlib import metadata

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# XLA stops the process at a flag that it does not know. Both series were checked to know this one.
_KNOWN_IN = ((0, 10), (0, 11))


def use_fast_cpu_kernels() -> None:
    """Choose the faster convolutions and reductions of XLA's CPU backend; call it first.

    By default XLA (jaxlib 0.10) lets its YNN library take single dot products only where it can
    fuse them, and runs most convolutions and their kernel gradients through slower code: a 5x5
    convolution of 64 to 128 channels needed 2.5 times the time in its kernel gradient. It also
    turns sums over more than 32 rows into ``reduce-window`` loops that do not vectorise, which
    costs batch normalisation most. ``INDIVIDUAL_DOT`` mends the first, ``REDUCE`` the second;
    ``benchmarks/lfw_step.py`` measures both. Accelerators ignore the flag.

    Does nothing if ``XLA_FLAGS`` names the flag already (so a user's choice stands) or if the
    installed jaxlib is not known to have it. After JAX's first computation it comes too late and
    changes nothing.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    series = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    if _FLAG in flags or series not in _KNOWN_IN:
        return
    types = ("INDIVIDUAL_DOT", "REDUCE")
    value = ",".join(f"LIBRARY_FUSION_TYPE_{name}" for name in types)
    os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}={value}".strip()
