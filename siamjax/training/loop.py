"""The training loop of every experiment."""

import collections
import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from siamjax import processes
from siamjax.errors import Interrupted, UsageError
from siamjax.messages import note, warn
from siamjax.metrics.monitors import collapse_message
from siamjax.parallel import replicate, shard
from siamjax.progress import Progress
from siamjax.training.fingerprint import weights_digest
from siamjax.training.run import Run
from siamjax.training.state import TrainState
from siamjax.training.step import SKIPPED, STOPPED, TrainStep
from siamjax.training.trace import Trace
from siamjax.training.writers import MetricWriter, read_metrics

_ASKED_EVERY = 0.5
"""Seconds after which several processes ask one another whether one has received a signal."""

_ASKED_WITHIN = 50
"""Steps within which they do it, as steps may become slower."""


def fit(
    run: Run,
    state: TrainState,
    step: TrainStep,
    batches: Callable[[int], Iterator[dict[str, Any]]],
    *,
    evaluate: Callable[[dict[str, Any]], Mapping[str, float | None]],
    until: int | None = None,
    patience: int | None = None,
) -> TrainState:
    """Train a run up to step ``until`` (None: to the end) and return its state.

    A run that was stopped resumes at its last checkpoint, and ``state`` only gives the structure;
    otherwise training begins with ``state``, whose memory the steps reuse. Steps already done are
    skipped, so two calls can unfreeze layers on the way: the first with ``until``, the second with
    the state that the first returned and another ``step``.

    Args:
        run: says how many steps there are, and how often to log, validate and save.
        state: the state at step 0, or what an earlier call returned.
        step: a pmapped train step, ``data_parallel(make_train_step(loss_fn, optimizer))``.
        batches: ``start -> iterator`` over the batches from that step on, such as
            :func:`siamjax.data.batches.pair_batches` returns. Its ``unit`` and ``describe``, if
            it has them, name the examples of a batch. Of several processes each reads its rows of
            every batch, those of ``batches.divided(index, count)``.
        evaluate: validation, ``variables -> {name: value}``, with ``run.best`` among the names;
            None is a value that cannot be measured.
        until: the step to end at.
        patience: stop after so many validations in a row without a better ``run.best``; None:
            never. The manifest then says at which step. It counts all validations of the run, and
            belongs to its last call of ``fit``.

    Every ``log_every`` steps it writes the metrics (exact means over the steps since the last row),
    the rate, and where the time went: waiting for data, waiting for the device, or in the host.
    Every ``evaluate_every`` steps and at the end it calls ``evaluate`` and saves the state with the
    result; of parameters that :func:`siamjax.training.averaged` averages it takes the averages.
    Ctrl-C and SIGTERM finish the step, save, and raise :class:`Interrupted`; where the next batch
    cannot be read, a single process saves before it raises the error. A state that the disk refuses
    is warned of, and ``UsageError`` only where it is the last. A loss or gradient that is not
    finite raises ``UsageError`` with the step, the batch and the last good checkpoint, unless the
    step skips it (``make_train_step(..., nonfinite="skip")``): the first and the number of skipped
    steps are warned of. Each kind of collapse gives one warning.

    Several processes (:mod:`siamjax.processes`) take each step together. Process 0 alone writes,
    and its validation counts for all. A signal that reaches one of them stops all after the same
    step.
    """
    steps = run.config.steps
    if until is not None and not 0 < until <= steps:
        raise UsageError(f"until {until}: must be after step 0 and at most the {steps} of the run")
    if patience is not None and (patience < 1 or until is not None):
        raise UsageError(f"patience {patience}: must be at least 1, and given without until")
    batches = _own_part(batches)
    state = _resumed(run, state)
    begin, end = int(state.step), steps if until is None else until
    if begin >= end or processes.on_first(lambda: _tired(run, patience)):
        return state
    started = time.monotonic()
    writer = MetricWriter(run.folder, start=begin) if processes.is_first() else None
    loop = _Loop(run, step, batches, evaluate, writer)

    def close() -> None:
        if writer is None:
            return
        if loop.skipped:
            warn(
                f"skipped {loop.skipped} of {run.step - begin} steps, whose loss or "
                f"gradients were not finite ({SKIPPED} in metrics.jsonl)"
            )
        writer.close()
        run.note_session(
            start=begin, seconds=time.monotonic() - started, skipped_steps=loop.skipped
        )

    try:
        state = loop.train(replicate(state), end, patience)
    except BaseException:
        with contextlib.suppress(OSError):  # a full disk has been said already, and better
            close()
        raise
    close()
    return state


def _own_part(batches: Any) -> Any:
    """What this process reads of the batches."""
    if processes.count() == 1:
        return batches
    if not hasattr(batches, "divided"):
        raise UsageError(
            "several processes share each batch, and these batches cannot be divided; give them a "
            "method divided(index, count) that returns the batches of that process's rows, as "
            "siamjax.data.pair_batches does, or train in one process"
        )
    return batches.divided(processes.index(), processes.count())


def _resumed(run: Run, state: TrainState) -> TrainState:
    """The latest state of an existing run, or ``state`` in a new one."""
    if run.begun:  # by an earlier call, which returned this state
        return state
    if run.begin():
        restored, messages = run.checkpoints.restore(state)
        for message in messages:
            warn(message)
        if restored is not None:
            state = restored
            note(f"{run.folder}: resumed at step {state.step} of {run.config.steps}")
    if processes.count() > 1 and len({*processes.exchange(weights_digest(state.variables))}) > 1:
        raise UsageError(
            "the processes begin with different parameters, as unlike processors compute them: "
            "begin the run in one process, stop it when it has saved, and resume it in all"
        )
    run.step = int(state.step)
    return state


def _tired(run: Run, patience: int | None) -> bool:
    """Whether the last ``patience`` validations up to the run's step found nothing better."""
    if patience is None:
        return False
    rows = (row for row in read_metrics(run.folder) if row["step"] <= run.step)
    found = [row[run.best] for row in rows if run.best in row]
    if not found or len(found) - 1 - int(np.argmax(found)) < patience:
        return False
    run.stopped = (
        f"at step {run.step} of {run.config.steps}: {patience} validations without a better "
        f"{run.best}"
    )
    return True


class _Loop:
    """One call of :func:`fit`."""

    def __init__(
        self, run: Run, step: TrainStep, batches: Any, evaluate: Any, writer: MetricWriter | None
    ) -> None:
        self._run, self._step, self._batches = run, step, batches
        self._evaluate, self._writer = evaluate, writer
        self._unit: str = getattr(batches, "unit", "examples")
        self._meter = _Meter(run.config.batch_size, self._unit)
        # Queueing one step ahead hides the time of dispatch on an accelerator. On a CPU there is
        # nothing to hide, and collectives of two queued steps can block each other.
        self._queued: collections.deque[tuple[int, dict[str, Any]]] = collections.deque()
        self._ahead = 0 if jax.default_backend() == "cpu" else 1
        self._said: set[str] = set()
        self.skipped = 0  # steps

    def train(self, state: TrainState, end: int, patience: int | None) -> TrainState:
        """From the state's step to ``end``, or until the run's patience is at an end."""
        run, config, begin = self._run, self._run.config, int(state.step)
        batches = self._batches(begin)
        self._bar = Progress(
            "training",
            unit=self._unit,
            total=config.steps * config.batch_size,
            done=begin * config.batch_size,
        )
        with _collected() as received, contextlib.ExitStack() as stack, self._bar:
            if hasattr(batches, "close"):  # grain: stop its threads and processes
                stack.callback(batches.close)
            trace = Trace(run.folder / "profile", begin=begin, end=end, steps=config.profile)
            stack.callback(trace.close)
            signals = _Signals(received, begin)
            for number in range(begin, end):
                if trace.turns(number):
                    self._settle(0)
                    trace.turn()
                with jax.profiler.StepTraceAnnotation("train", step_num=number):
                    try:
                        batch = self._meter.wait_for(batches)
                    except UsageError:  # of an image that cannot be read, say
                        if number > begin and processes.count() == 1:  # others know nothing of it
                            self._keep(state, number)
                            note(f"saved after step {number}")
                        raise
                    state, metrics = self._step(state, shard(batch))
                    self._queued.append((number, metrics))
                    self._settle(self._ahead)
                self._bar.update(config.batch_size)
                done = run.step = number + 1
                if done % config.log_every == 0 or done == end:
                    self._log(done)
                if done % config.evaluate_every == 0 or done == config.steps:
                    self._validate(state, done)
                validated = done % config.evaluate_every == 0
                if signum := signals.agreed(done, now=validated or done == end):
                    self._stop(state, done, signum)
                if validated and done < end and processes.on_first(lambda: _tired(run, patience)):
                    note(f"stopped {run.stopped}")
                    break
        return state

    def _settle(self, left: int) -> None:
        """Add up the metrics of queued steps until only ``left`` are queued."""
        while len(self._queued) > left:
            number, metrics = self._queued.popleft()
            self._meter.add(self._checked(number, self._meter.result_of(metrics)))

    def _log(self, done: int) -> None:
        self._settle(0)
        values = self._meter.take()
        self._write(done, values)
        self._bar.note(
            f"loss {values.get('loss', math.nan):.4f}, "
            f"data wait {values['data_wait_percent']:.1f} %, "
            f"device {values['device_percent']:.1f} %, host {values['host_percent']:.1f} %"
            + (f", {self.skipped} steps skipped" if self.skipped else "")
        )
        if (problem := collapse_message(values)) and problem not in self._said:
            self._said.add(problem)
            warn(f"step {done}: {problem}")

    def _validate(self, state: TrainState, done: int) -> None:
        self._settle(0)
        with self._meter.paused():
            found = self._evaluate(state.averaged.variables)
            result = {name: float(value) for name, value in found.items() if value is not None}
            result = processes.exchange(result)[0]
            self._write(done, result)
            if math.isnan(result.get(self._run.best, math.nan)):
                self._save(state, last=True)  # nothing that was trained is lost
                raise UsageError(
                    f"evaluate returned {dict(found)} without a number for {self._run.best}, which "
                    f"chooses the checkpoint; the state of step {done} was saved"
                )
            self._save(state, result, last=done == self._run.config.steps)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in result.items())
        note(f"step {done}: {shown}")

    def _save(
        self, state: TrainState, metrics: dict[str, float] | None = None, *, last: bool
    ) -> None:
        """Save the state. A disk that refuses it ends the training only if nothing comes later."""
        refused = self._run.checkpoints.save(state, metrics)
        if refused is not None and last:
            raise UsageError(f"{refused}; make space, and run the same command to resume")
        if refused is not None:
            warn(f"{refused}; make space: training goes on, and the next validation saves again")

    def _write(self, done: int, values: dict[str, float]) -> None:
        if self._writer is not None:
            self._writer.write(done, values)

    def _keep(self, state: TrainState, done: int) -> None:
        """Save what was trained before an end that was not planned."""
        self._settle(0)
        if self._meter.steps:
            self._write(done, self._meter.take())
        self._save(state, last=True)

    def _stop(self, state: TrainState, done: int, signum: int) -> None:
        self._keep(state, done)
        raise Interrupted(
            signum,
            f"{signal.Signals(signum).name}: saved after step {done} of {self._run.config.steps}; "
            "run the same command to resume",
        )

    def _checked(self, number: int, metrics: dict[str, Any]) -> dict[str, Any]:
        """The metrics of a step, unless it was not finite and was not skipped either."""
        stopped, skipped = metrics.pop(STOPPED, None), metrics.get(SKIPPED)
        if self._run.config.nonfinite == "skip" and skipped is None:
            raise UsageError(
                "--nonfinite skip: this experiment's step skips nothing; make it with "
                "make_train_step(loss_fn, optimizer, nonfinite=config.nonfinite)"
            )
        if skipped is not None and skipped.total:
            self.skipped += 1
            if self.skipped == 1:
                warn(
                    f"the loss or a gradient of step {number + 1} is not finite"
                    f"{self._on_batch(number)}; the step was skipped, and so will others be: "
                    f"{SKIPPED} in metrics.jsonl counts them"
                )
        loss = metrics["loss"].total
        if not np.isfinite(loss) or (stopped is not None and stopped.total):
            last = max(self._run.checkpoints.steps(), default=None)
            saved = f"the last good checkpoint is that of step {last}"
            if last is None:
                saved = "no checkpoint was saved yet"
            value = f"a gradient of step {number + 1} is not finite"
            if not np.isfinite(loss):
                value = f"the loss of step {number + 1} is {float(loss)}"
            raise UsageError(
                f"{value}{self._on_batch(number)}; {saved}; lower the learning rate, look at these "
                "images, or skip such steps with --nonfinite skip"
            )
        return metrics

    def _on_batch(self, number: int) -> str:
        describe = getattr(self._batches, "describe", None)
        return "" if describe is None else f" on the batch {describe(number)}"


class _Meter:
    """Means, rate, and where the time went since the last row of metrics.

    ``data_wait_percent`` is spent waiting for a batch, ``device_percent`` waiting for the result of
    a step, and ``host_percent`` is the rest: dispatch, means, logging. Where little is waited for
    the device, it waits for data or host. Validation and saving do not count.
    """

    def __init__(self, batch_size: int, unit: str) -> None:
        self._batch_size, self._unit = batch_size, unit
        self._restart()

    def _restart(self) -> None:
        self._means: dict[str, Any] = {}
        self.steps, self._waited, self._device, self._idle = 0, 0.0, 0.0, 0.0
        self._since = time.perf_counter()

    def wait_for(self, batches: Any) -> dict[str, np.ndarray]:
        before = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - before
        return batch

    def result_of(self, metrics: dict[str, Any]) -> dict[str, Any]:
        before = time.perf_counter()
        found = jax.device_get(metrics)
        self._device += time.perf_counter() - before
        return found

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
        skipped = self._means.pop(SKIPPED, None)
        # Not mean.compute(), for which JAX would compile. A mean over nothing (such as no different
        # pair in these steps) has no value to write.
        means = {n: float(m.total) / float(m.count) for n, m in self._means.items() if m.count > 0}
        values = {name: value for name, value in means.items() if not math.isnan(value)}
        if skipped is not None:
            values[SKIPPED] = float(skipped.total)
        values[f"{self._unit}_per_second"] = self.steps * self._batch_size / elapsed
        values["data_wait_percent"] = 100.0 * self._waited / elapsed
        values["device_percent"] = 100.0 * self._device / elapsed
        values["host_percent"] = 100.0 - values["data_wait_percent"] - values["device_percent"]
        self._restart()
        return values


class _Signals:
    """The signals that this process has received, or another of several.

    All must stop after the same step, so they ask one another. That takes some milliseconds, so
    they do it about every half second: after a number of steps that all compute from the time a
    step takes in the slowest of them.
    """

    def __init__(self, received: list[int], begin: int) -> None:
        self._received, self._asked, self._next = received, begin, begin + 1
        self._since = time.monotonic()

    def agreed(self, done: int, *, now: bool) -> int:
        """A signal that stops all after this step, or 0; ``now`` asks in any case."""
        own = self._received[0] if self._received else 0
        if processes.count() == 1:
            return own
        if not now and done < self._next:
            return 0
        seconds = (time.monotonic() - self._since) / (done - self._asked)
        told = processes.exchange((own, seconds))
        steps = _ASKED_EVERY / max(seconds for _, seconds in told)
        self._asked, self._next = done, done + min(max(round(steps), 1), _ASKED_WITHIN)
        self._since = time.monotonic()
        return max(signum for signum, _ in told)


@contextlib.contextmanager
def _collected() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of ending; a second one ends the process at once."""
    received: list[int] = []

    def note(signum: int, frame: Any) -> None:
        if received:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        received.append(signum)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread (a notebook's executor), which cannot set handlers
        yield received
        return
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
