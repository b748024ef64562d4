"""Checkpoints of the whole training state: the latest and the best are kept."""

import math
import os
import re
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from siamjax.array_files import allowance
from siamjax.errors import UsageError, shown
from siamjax.files import read_json
from siamjax.parallel import replicated_sharding
from siamjax.training.state import TrainState

_ROOM = 2**17  # bytes beside the arrays: what describes them, locks, folders


class Checkpoints:
    """The checkpoints of one run, in Orbax's format, one folder for each step.

    The two latest are kept, the best by the metric ``best`` (the higher the better, the earliest
    of equals), and the steps ``keep``. Each holds ``variables`` (parameters and batch statistics:
    all that is needed to use the network) and ``training`` (step, optimizer, key). Of parameters
    that are averaged, the averages are in ``variables``. Saving returns when the files are
    complete. A missing or truncated file is noticed when it is read; changed bytes within a file
    are not.
    """

    def __init__(self, folder: Path, *, best: str, keep: Sequence[int] = ()) -> None:
        from orbax.checkpoint import v1 as ocp  # takes long: the help of an experiment needs none

        self._folder, self._best = folder.absolute(), best
        # Orbax reads all metrics at once, so one broken file would keep it from opening any.
        self.messages = [
            f"metrics of the checkpoint of step {path.parent.parent.name} cannot be read ({why}); "
            f"it was moved to {self._move_aside(path.parent.parent)}"
            for path in sorted(self._folder.glob("*/metrics/metrics"))
            if (why := self._broken(path))
        ]
        # Any: Orbax's annotations do not admit its own policies, paths and metrics.
        policies: Any = ocp.training.preservation_policies
        self._orbax: Any = ocp.training.Checkpointer(
            str(self._folder),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(2),
                    policies.CustomSteps(list(keep)),
                    policies.BestN(
                        get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
        )

    def _broken(self, path: Path) -> str:
        """What is wrong with the metrics of a checkpoint; empty if nothing is.

        ``UsageError`` for metrics that are whole and another run's: those are not damaged.
        """
        try:
            metrics = read_json(path, dict[str, float], limit=2**20)
        except UsageError as error:
            return str(error)
        if math.isnan(metrics.get("step", math.nan)):
            return "no step"
        if self._best not in metrics:
            raise UsageError(
                f"{shown(path)}: no {self._best}, which chooses the checkpoint; it was saved with "
                f"{', '.join(sorted(metrics))}: give one of these as best, or --run another folder"
            )
        return "its value is NaN" if math.isnan(metrics[self._best]) else ""

    def _rank(self, metrics: dict[str, float]) -> tuple[float, float]:
        return metrics[self._best], -metrics["step"]

    def steps(self) -> list[int]:
        """The saved steps, ascending."""
        return sorted(checkpoint.step for checkpoint in self._orbax.checkpoints)

    def best_steps(self) -> list[int]:
        """All steps, the best first; of equals the earlier, and last those without a metric."""
        checkpoints = list(self._orbax.checkpoints)
        rated = (c for c in checkpoints if c.metrics)
        rated = sorted(rated, key=lambda c: self._rank(c.metrics), reverse=True)
        unrated = sorted((c.step for c in checkpoints if not c.metrics), reverse=True)
        return [c.step for c in rated] + unrated

    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Save the state, unless its step is saved already, and wait until it is on disk."""
        state, step = state.averaged, int(state.step)
        if step in self.steps():
            return
        if not all_finite(state.params):
            raise UsageError(
                f"parameters after step {step} are not finite, so they were not saved; the last "
                f"good checkpoint is that of step {max(self.steps(), default='none')} in "
                f"{self._folder}; lower the learning rate"
            )
        self._check_space(state, step)
        try:
            self._orbax.save_checkpointables(
                step,
                {"variables": state.variables, "training": _training(state)},
                metrics=None if metrics is None else {**metrics, "step": float(step)},
            )
        except Exception as error:
            if (reason := _refusal(error)) is None:
                raise
            raise UsageError(
                f"{shown(self._folder)}: the checkpoint of step {step} cannot be written "
                f"({reason}); make space, and run the same command to resume"
            ) from None

    def _check_space(self, state: TrainState, step: int) -> None:
        """``UsageError`` before Orbax begins; its threads go on after an error of the disk."""
        needed = _ROOM + sum(
            leaf.nbytes for leaf in jax.tree.leaves((state.variables, state.opt_state))
        )
        disk = shutil.disk_usage(self._folder)
        if disk.free < needed and disk.total:  # some network disks do not tell
            raise UsageError(
                f"{shown(self._folder)}: the checkpoint of step {step} needs {needed:,} bytes, and "
                f"{disk.free:,} are free; make space, and run the same command to resume"
            )

    def restore(self, like: TrainState) -> tuple[TrainState | None, list[str]]:
        """The latest state that can be read, replicated, and a message for each that cannot.

        ``like`` only gives the structure. Damaged checkpoints later than the restored one are moved
        to ``damaged/``, so that their steps can be saved again and nothing is deleted. None =
        nothing was saved yet. If there are checkpoints and none can be read, nothing is moved and
        ``UsageError`` is raised: the user decides whether to start anew.
        """
        wanted = {"variables": _abstract(like.variables), "training": _abstract(_training(like))}
        problems: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                _size_of(self._folder / str(step))  # refuses what would be waited for
                loaded = self._orbax.load_checkpointables(step, wanted)
            except Exception as error:  # Orbax has no one type for what a damaged file raises
                problems[step] = _first_line(error)
                continue
            variables, training = loaded["variables"], loaded["training"]
            state = TrainState(
                step=training["step"],
                params=variables.get("params", {}),
                model_state={k: v for k, v in variables.items() if k != "params"},
                opt_state=training["opt_state"],
                key=training["key"],
            )
            return state.averaged, [
                f"checkpoint of step {broken} cannot be read ({problem}); moved to "
                f"{self._set_aside(broken)}, going back to step {step}"
                for broken, problem in problems.items()
            ]
        if problems:
            raise UsageError(
                f"{self._folder}: none of the checkpoints {sorted(problems)} can be read as this "
                f"network's ({next(iter(problems.values()))}); use the versions named in "
                "manifest.json, or move the run's folder away to start anew"
            )
        return None, []

    def load(self, step: int) -> Any:
        """The variables of a step; as :func:`load_variables`."""
        return load_variables(self._folder, step)

    def load_best(self) -> tuple[int, Any, list[str]]:
        """The best step that can be read, its variables, and a message for each that cannot."""
        messages = []
        for step in self.best_steps():
            try:
                return step, self.load(step), messages
            except UsageError as error:
                messages.append(f"{error}; taking the next best")
        raise UsageError(
            f"{self._folder} holds no checkpoint that can be read"
            + "".join(f"; {message}" for message in messages)
        )

    def close(self) -> None:
        """Stop Orbax's threads."""
        self._orbax.close()

    def _set_aside(self, step: int) -> Path:
        target = self._move_aside(self._folder / str(step))
        self._orbax.reload()
        return target

    def _move_aside(self, step_folder: Path) -> Path:
        target = self._folder.parent / "damaged" / step_folder.name
        target.parent.mkdir(exist_ok=True)
        while target.exists():
            target = target.with_name(target.name + "-again")
        os.replace(step_folder, target)
        return target


def load_variables(folder: Path, step: int) -> Any:
    """The variables of a step in a folder of checkpoints, replicated; nothing is written.

    Raises ``UsageError`` for a step that is not there or cannot be read, for what is no regular
    file among its files, and for arrays that take more memory than these files can hold.
    """
    from orbax.checkpoint import v1 as ocp

    path = folder.absolute() / str(step)
    place = str(path)
    jax.devices()  # JAX without its device is no damage of the checkpoint
    try:
        if not path.is_dir():
            raise UsageError("there is no such folder")
        most = allowance(_size_of(path))
        saved = ocp.checkpointables_metadata(place).metadata["variables"]
        wanted = {"variables": _abstract(saved)}
        needed = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(wanted))
        if needed > most:
            raise UsageError(f"its arrays would take {needed:,} bytes")
        variables: Any = ocp.load_checkpointables(place, wanted)["variables"]
        return {"params": {}, **variables}
    except Exception as error:  # Orbax has no one type for what a damaged file raises
        why = str(error) if isinstance(error, UsageError) else _first_line(error)
        raise UsageError(f"checkpoint {shown(path)} cannot be read ({why})") from None


def _size_of(folder: Path) -> int:
    """Bytes of the files in a folder; ``UsageError`` for pipes and devices, which are not read."""
    total = 0
    for home, _, names in os.walk(folder):
        for name in names:
            about = os.stat(os.path.join(home, name))
            if not stat.S_ISREG(about.st_mode):
                raise UsageError(f"{shown(name)} is not a regular file")
            total += about.st_size
    return total


def all_finite(tree: Any) -> bool:
    """Whether every number of the tree is finite."""
    return bool(_all_finite(tree))


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def _training(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "key": state.key}


def _abstract(tree: Any) -> Any:
    sharding = replicated_sharding()
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _refusal(error: Exception) -> str | None:
    """Why the disk refused; None for any other error."""
    # TensorStore, which writes for Orbax, raises a ValueError that ends with the error's number.
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number is not None:
        return os.strerror(int(number[1]))
    return error.strerror or str(error) if isinstance(error, OSError) else None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shown(lines[0])}" if lines else type(error).__name__
