"""A trace of some steps, for TensorBoard and Perfetto."""

from pathlib import Path

import jax

from siamjax import processes
from siamjax.messages import note

_FIRST_STEPS = 3
"""Steps that are not traced: the first compiles, and the next ones fill caches."""


class Trace:
    """Traces ``steps`` steps after the first few, or the last ones where there are not so many.

    JAX's profiler writes ``plugins/profile/TIME/`` into the folder: ``*.xplane.pb`` for
    TensorBoard (with ``tensorboard-plugin-profile``), and ``perfetto_trace.json.gz``. Of several
    processes the first is traced, and all turn at the same steps.
    """

    def __init__(self, folder: Path, *, begin: int, end: int, steps: int) -> None:
        self._folder = folder
        self._first = max(min(begin + _FIRST_STEPS, end - steps), begin) if steps else end
        self._after = self._first + steps
        self._running = False

    def turns(self, number: int) -> bool:
        """Whether the trace begins or ends before this step."""
        return number == self._first or (number == self._after and self._running)

    def turn(self) -> None:
        """Begin or end; no step may be queued."""
        if self._running:
            self.close()
            return
        if processes.is_first():
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
        self._running = True

    def close(self) -> None:
        """Write what was traced."""
        running, self._running = self._running, False
        if running and processes.is_first():
            jax.profiler.stop_trace()
            note(
                f"steps from {self._first + 1} on are traced in {self._folder}: tensorboard "
                f"--logdir {self._folder}, or open perfetto_trace.json.gz in ui.perfetto.dev"
            )
