"""The training loop: the same for every experiment."""

import collections
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from siamjax.errors import UsageError
from siamjax.report.writers import MetricWriter
from siamjax.training.checkpoints import Checkpoints
from siamjax.training.parallel import shard
from siamjax.training.state import TrainState


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM after which everything was saved; the status is 128 + the signal."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(128 + signum)
        self.message = message


def fit(
    state: TrainState,
    step: Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, Any]]],
    batches: Any,
    *,
    steps: int,
    batch_size: int,
    checkpoints: Checkpoints,
    writer: MetricWriter,
    evaluate: Callable[[TrainState], dict[str, float]],
    evaluate_every: int,
    log_every: int,
    describe_batch: Callable[[int], str],
    diagnose: Callable[[dict[str, float]], str | None],
    unit: str = "pairs",
) -> TrainState:
    """Train from ``state.step`` to ``steps``; returns the last state.

    ``batches`` begins at ``state.step``. Every ``log_every`` steps the metrics (exact means over
    the steps since the last row), the rate and the share of time that the step waited for data
    are written; every ``evaluate_every`` steps and at the end ``evaluate`` runs and the state is
    saved with its result. Ctrl-C and SIGTERM finish the step, save, and raise
    :class:`Interrupted`. A loss that is not finite raises ``UsageError`` with the step,
    ``describe_batch(step)`` and the last good checkpoint. ``diagnose`` turns a collapse into
    words, said once each.
    """
    begin = int(state.step)
    # Queueing one step ahead hides the dispatch on an accelerator. On a CPU there is nothing to
    # hide, and collectives of two queued steps can block one another there.
    queued: collections.deque[tuple[int, dict[str, Any]]] = collections.deque()
    ahead = 0 if jax.default_backend() == "cpu" else 1
    meter = _Meter(batch_size, unit)
    said: set[str] = set()

    def settle(left: int) -> None:
        """Take in the metrics of queued steps until so many are left."""
        while len(queued) > left:
            meter.add(_checked(*queued.popleft(), checkpoints, describe_batch))

    bar = tqdm(
        total=steps * batch_size,
        initial=begin * batch_size,
        unit=f" {unit}",
        desc="training",
        mininterval=0.5 if sys.stderr.isatty() else 20.0,
        dynamic_ncols=True,
    )
    with _signals() as received, contextlib.ExitStack() as stack, bar:
        if hasattr(batches, "close"):  # grain: stop its threads and processes
            stack.callback(batches.close)
        for number in range(begin, steps):
            batch = meter.wait_for(batches)
            state, metrics = step(state, shard(batch))
            queued.append((number, metrics))
            settle(ahead)
            bar.update(batch_size)
            done = number + 1
            if done % log_every == 0 or done == steps:
                settle(0)
                values = meter.take()
                writer.write(done, values)
                bar.set_postfix_str(
                    f"loss {values['loss']:.4f}, data wait {values['data_wait_percent']:.1f} %"
                )
                problem = diagnose(values)
                if problem and problem not in said:
                    said.add(problem)
                    bar.write(f"warning, step {done}: {problem}", file=sys.stderr)
            if done % evaluate_every == 0 or done == steps:
                settle(0)
                with meter.paused():
                    result = evaluate(state)
                    writer.write(done, result)
                    checkpoints.save(state, result)
                shown = ", ".join(f"{name} {value:.4f}" for name, value in result.items())
                bar.write(f"step {done}: {shown}", file=sys.stderr)
            if received:
                settle(0)
                if meter.steps:
                    writer.write(done, meter.take())
                checkpoints.save(state)
                name = signal.Signals(received[0]).name
                raise Interrupted(
                    received[0],
                    f"{name}: saved after step {done} of {steps}; the same command goes on from "
                    "there",
                )
    return state


class _Meter:
    """Means, rate and data wait between two logs."""

    def __init__(self, batch_size: int, unit: str) -> None:
        self._batch_size, self._unit = batch_size, unit
        self._restart()

    def _restart(self) -> None:
        self._means: dict[str, Any] = {}
        self.steps, self._waited, self._idle = 0, 0.0, 0.0
        self._since = time.perf_counter()

    def wait_for(self, batches: Any) -> dict[str, np.ndarray]:
        before = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - before
        return batch

    def add(self, metrics: dict[str, Any]) -> None:
        self.steps += 1
        for name, mean in metrics.items():
            self._means[name] = mean if name not in self._means else self._means[name] + mean

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        self._idle += time.perf_counter() - before

    def take(self) -> dict[str, float]:
        elapsed = max(time.perf_counter() - self._since - self._idle, 1e-9)
        values = {name: float(mean.compute()) for name, mean in self._means.items()}
        # A mean over nothing (no different pair among these steps) has no value to write.
        values = {name: value for name, value in values.items() if not np.isnan(value)}
        values[f"{self._unit}_per_second"] = self.steps * self._batch_size / elapsed
        values["data_wait_percent"] = 100.0 * self._waited / elapsed
        self._restart()
        return values


def _checked(
    number: int,
    metrics: dict[str, Any],
    checkpoints: Checkpoints,
    describe_batch: Callable[[int], str],
) -> dict[str, Any]:
    metrics = jax.device_get(metrics)
    loss = metrics["loss"]
    if not np.isfinite(loss.total):
        last = max(checkpoints.steps(), default=None)
        saved = (
            "none was saved yet" if last is None else f"the last good one is that of step {last}"
        )
        raise UsageError(
            f"the loss of step {number + 1} is {float(loss.total)}; its batch was "
            f"{describe_batch(number)}; of the checkpoints {saved}; lower the learning rate, or "
            "look at these pictures"
        )
    return metrics


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second Ctrl-C dies at once."""
    received: list[int] = []

    def note(signum: int, frame: Any) -> None:
        if received:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        received.append(signum)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread (a notebook's executor): signals are not ours there
        yield received
        return
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
