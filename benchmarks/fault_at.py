"""Run a module, and let a fault happen in it at a chosen call of a chosen function.

    python -m benchmarks.fault_at siamjax.training.loop:replicate 1 SIGKILL \\
        experiments.lfw_contrastive --run RUN

Words: ``module:name`` (a dot for a method) of a function, at which call of it the signal comes, the
signal, and the module with its own words.
"""

import importlib
import os
import runpy
import signal
import sys
from typing import Any


def arm(where: str, call: int, number: int) -> None:
    """Let the process get a signal when a function is called for the ``call``-th time."""
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *homes, name = path.split(".")
    for home in homes:
        owner = getattr(owner, home)
    function, calls = getattr(owner, name), 0

    def faulty(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            print(f"{signal.Signals(number).name} at {where}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    setattr(owner, name, faulty)


if __name__ == "__main__":
    _, place, times, kind, program, *words = sys.argv
    sys.argv = [program, *words]
    arm(place, int(times), signal.Signals[kind])
    runpy.run_module(program, run_name="__main__", alter_sys=True)
