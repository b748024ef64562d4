"""Settings of XLA, which must be made before JAX starts its backend."""

import os
from importlib import metadata

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
# XLA aborts the process at a flag that it does not know; these series are known to know this one.
_KNOWN_IN = ((0, 10), (0, 11))


def use_fast_cpu_kernels() -> None:
    """Choose the faster convolutions and reductions of XLA's CPU backend; call this first.

    By default XLA (jaxlib 0.10) uses its YNN library for dot products only where it can fuse them,
    and computes most convolutions and their kernel gradients by slower code: the kernel gradient
    of a 5x5 convolution from 64 to 128 channels took 2.5 times as long. It also turns sums over
    more than 32 rows into ``reduce-window`` loops that do not vectorise, which slows down batch
    normalisation most. ``INDIVIDUAL_DOT`` fixes the first, ``REDUCE`` the second;
    ``benchmarks/lfw_step.py`` measures both. Accelerators ignore the flag.

    Does nothing if ``XLA_FLAGS`` already names the flag, which keeps the user's choice, or if the
    installed jaxlib may not know it. Has no effect after JAX's first computation.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    series = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    if _FLAG in flags or series not in _KNOWN_IN:
        return
    types = ("INDIVIDUAL_DOT", "REDUCE")
    value = ",".join(f"LIBRARY_FUSION_TYPE_{name}" for name in types)
    os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}={value}".strip()
