"""Checkpoints of the whole training state: the latest and the best are kept."""

import contextlib
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec

from siamjax.array_files import allowance
from siamjax.errors import UsageError, shown
from siamjax.files import read_json
from siamjax.parallel import replicated_sharding
from siamjax.processes import by_first, on_first
from siamjax.training.fingerprint import weights_digest
from siamjax.training.state import TrainState
from siamjax.training.step import all_finite

_DIFFERS = "its checksum differs"
_REMOVED = "removed"  # folder into which a checkpoint goes, at once and whole, to be removed there
_ROOM = 2**17  # bytes beside the arrays: what describes them, locks, folders


class Checkpoints:
    """The checkpoints of one run, in Orbax's format, one folder for each step.

    The two latest are kept, the best by the metric ``best`` (the higher the better, the earliest
    of equals), and the steps ``keep``. Each holds ``variables`` (parameters and batch statistics:
    all that is needed to use the network) and ``training`` (step, optimizer, key). Of parameters
    that are averaged, the averages are in ``variables``. Saving returns when the files are
    complete. With them are saved checksums of the arrays and of the metrics, so that a file that is
    missing, cut short or changed is noticed when it is read.

    Of several processes the first one saves, and chooses what all of them load. All must call the
    same methods in the same order.
    """

    def __init__(self, folder: Path, *, best: str, keep: Sequence[int] = ()) -> None:
        self._folder, self._best, self._keep = folder.absolute(), best, list(keep)
        self._orbax: Any = None  # of the first process
        self.messages = on_first(self._begin)

    def _begin(self) -> list[str]:
        """Open the folder; returns a message for each checkpoint that it was not opened with."""
        import orbax.checkpoint as ocp

        # Orbax reads what is beside the arrays of all checkpoints at once, so one broken file would
        # keep it from opening any.
        self._folder.mkdir(parents=True, exist_ok=True)
        saved = ocp.path.step.standard_name_format().find_all(self._folder)
        saved = sorted(saved, key=lambda found: found.step)
        broken = {found.step: why for found in saved if (why := self._broken(found))}
        if broken and len(broken) == len(saved):
            raise self._none_can_be_read(broken)
        messages = [
            f"checkpoint of step {step} cannot be read ({why}); moved to {self._move_aside(step)}"
            for step, why in broken.items()
        ]
        self._remove_parts()
        self._orbax = self._opened()
        return messages

    def _opened(self) -> Any:
        import orbax.checkpoint as ocp  # takes long: the help of an experiment needs none
        from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

        best = policies.BestN(get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False)
        kept = [policies.LatestN(2), policies.CustomSteps(self._keep), best]
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                best_fn=self._rank,
                create=False,
                todelete_subdir=_REMOVED,
                enable_async_checkpointing=False,
                multiprocessing_options=ocp.options.MultiprocessingOptions(**_alone()),
            ),
        )

    def _broken(self, found: Any) -> str:
        """What is wrong with the files beside a checkpoint's arrays; empty if nothing is.

        ``UsageError`` for metrics that are whole and another run's: those are not damaged.
        """
        folder = Path(found.path)
        path = folder / "metrics" / "metrics"
        try:
            checksum = _about(folder).checksums.get("metrics")
            _ = found.commit_timestamp  # Orbax reads the file, as it will when it opens all
        except Exception as error:  # Orbax has no one type for what it cannot read
            return _in_short(error)
        if checksum is None and not path.exists():
            return ""
        try:
            metrics = read_json(path, dict[str, float], limit=2**20)
        except UsageError as error:
            return str(error)
        if checksum not in (None, weights_digest(metrics)):
            return _DIFFERS
        if math.isnan(metrics.get("step", math.nan)):
            return "no step"
        if self._best not in metrics:
            raise UsageError(
                f"{shown(path)}: no {self._best}, which chooses the checkpoint; it was saved with "
                f"{', '.join(sorted(metrics))}: give one of these as best, or --run another folder"
            )
        return "its value is NaN" if math.isnan(metrics[self._best]) else ""

    def _none_can_be_read(self, problems: dict[int, str]) -> UsageError:
        """For all checkpoints; nothing is moved: the user decides whether to start anew."""
        return UsageError(
            f"{self._folder}: none of the checkpoints {sorted(problems)} can be read as this "
            f"network's ({next(iter(problems.values()))}); use the versions named in "
            "manifest.json, or move the run's folder away to start anew"
        )

    def _rank(self, metrics: dict[str, float]) -> Any:
        return metrics[self._best], -metrics["step"]

    @by_first
    def steps(self) -> list[int]:
        """The saved steps, ascending."""
        return sorted(self._orbax.all_steps())

    @by_first
    def best_steps(self) -> list[int]:
        """All steps, the best first; of equals the earlier, and last those without a metric."""
        metrics = {step: self._orbax.metrics(step) for step in reversed(self.steps())}
        rated = (step for step in metrics if metrics[step])
        rated = sorted(rated, key=lambda step: self._rank(metrics[step]), reverse=True)
        return rated + [step for step in metrics if not metrics[step]]

    @by_first
    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> str | None:
        """Save the state, unless its step is saved already, and wait until it is on disk.

        Returns None, or in a line why the disk refused it: then nothing of it is left, and the
        earlier checkpoints are as they were. Raises ``UsageError`` for parameters that are not
        finite.
        """
        import orbax.checkpoint as ocp

        state, step = state.averaged, int(state.step)
        if step in self.steps():
            return None
        if not jax.jit(all_finite)(state.params):
            raise UsageError(
                f"parameters after step {step} are not finite, so they were not saved; the last "
                f"good checkpoint is that of step {max(self.steps(), default='none')} in "
                f"{self._folder}; lower the learning rate"
            )
        self._remove_parts()
        what = f"{shown(self._folder)}: the checkpoint of step {step}"
        if lacking := self._lacking(state):
            return f"{what} {lacking}"
        items = {"variables": state.variables, "training": _training(state)}
        keys = {
            jax.tree_util.keystr(path): str(jax.random.key_impl(leaf))
            for path, leaf in jax.tree_util.tree_leaves_with_path(items)
            if _is_key(leaf)
        }
        if metrics is not None:
            metrics = {name: float(value) for name, value in {**metrics, "step": step}.items()}
        items = jax.device_get(items)  # but for the typed keys, which NumPy does not have
        checked = items if metrics is None else {**items, "metrics": metrics}
        checksums = {name: weights_digest(tree) for name, tree in checked.items()}
        plain = jax.device_get(_without_keys(items))
        args = {name: ocp.args.StandardSave(tree) for name, tree in plain.items()}
        try:
            self._orbax.save(
                step,
                args=ocp.args.Composite(**args),
                metrics=metrics,
                custom_metadata={"checksums": checksums, "keys": keys},
            )
            self._remove_parts()
        except Exception as error:
            self._remove_parts()
            if (reason := _refusal(error)) is None:
                raise
            return f"{what} cannot be written ({reason})"
        return None

    def _lacking(self, state: TrainState) -> str:
        """What the disk lacks, if it tells; empty if nothing.

        This comes before Orbax begins, as its threads go on after an error of the disk.
        """
        needed = _ROOM + sum(
            leaf.nbytes for leaf in jax.tree.leaves((state.variables, state.opt_state))
        )
        disk = shutil.disk_usage(self._folder)
        lacking = disk.free < needed and disk.total  # some network disks do not tell
        return f"needs {needed:,} bytes, and {disk.free:,} are free" if lacking else ""

    def _remove_parts(self) -> None:
        """Remove what is left of a save or of a removal that a full disk or a kill broke off."""
        for part in (*self._folder.glob("*.orbax-checkpoint-tmp"), self._folder / _REMOVED):
            shutil.rmtree(part, ignore_errors=True)

    def restore(self, like: TrainState) -> tuple[TrainState | None, list[str]]:
        """The latest state that can be read, replicated, and a message for each that cannot.

        ``like`` only gives the structure. Damaged checkpoints later than the restored one are moved
        to ``damaged/``, so that their steps can be saved again and nothing is deleted. None =
        nothing was saved yet. If there are checkpoints and none can be read, nothing is moved and
        ``UsageError`` is raised: the user decides whether to start anew.
        """
        wanted = _abstract({"variables": like.variables, "training": _training(like)})
        loaded: dict[str, Any] = {}

        def choose() -> tuple[int | None, list[str]]:
            problems: dict[int, str] = {}
            for step in reversed(self.steps()):
                try:
                    loaded.update(_load(self._folder / str(step), wanted))
                except Exception as error:  # Orbax has no one type for what a damaged file raises
                    problems[step] = _in_short(error)
                    continue
                return step, [
                    f"checkpoint of step {broken} cannot be read ({problem}); moved to "
                    f"{self._set_aside(broken)}, going back to step {step}"
                    for broken, problem in problems.items()
                ]
            if problems:
                raise self._none_can_be_read(problems)
            return None, []

        step, messages = on_first(choose)
        if step is None:
            return None, []
        if not loaded:
            with _reading(self._folder / str(step)):
                loaded = _load(self._folder / str(step), wanted)
        variables, training = loaded["variables"], loaded["training"]
        state = TrainState(
            step=training["step"],
            params=variables.get("params", {}),
            model_state={k: v for k, v in variables.items() if k != "params"},
            opt_state=training["opt_state"],
            key=training["key"],
        )
        return state.averaged, messages

    def load(self, step: int) -> Any:
        """The variables of a step; as :func:`load_variables`."""
        return load_variables(self._folder, step)

    def load_best(self) -> tuple[int, Any, list[str]]:
        """The best step that can be read, its variables, and a message for each that cannot."""
        variables: Any = None

        def choose() -> tuple[int, list[str]]:
            nonlocal variables
            messages = []
            for step in self.best_steps():
                try:
                    variables = self.load(step)
                except UsageError as error:
                    messages.append(f"{error}; taking the next best")
                else:
                    return step, messages
            raise UsageError(
                f"{self._folder} holds no checkpoint that can be read"
                + "".join(f"; {message}" for message in messages)
            )

        step, messages = on_first(choose)
        return step, self.load(step) if variables is None else variables, messages

    def close(self) -> None:
        """Stop Orbax's threads."""
        if self._orbax is not None:
            self._orbax.close()

    def _set_aside(self, step: int) -> Path:
        target = self._move_aside(step)
        self._orbax.reload()
        return target

    def _move_aside(self, step: int) -> Path:
        target = self._folder.parent / "damaged" / str(step)
        target.parent.mkdir(exist_ok=True)
        while target.exists():
            target = target.with_name(target.name + "-again")
        os.replace(self._folder / str(step), target)
        return target


def load_variables(folder: Path, step: int) -> Any:
    """The variables of a step in a folder of checkpoints, replicated; nothing is written.

    Raises ``UsageError`` for a step that is not there or cannot be read, for what is no regular
    file among its files, and for arrays that take more memory than these files can hold.
    """
    path = folder.absolute() / str(step)
    jax.devices()  # JAX without its device is no damage of the checkpoint
    with _reading(path):
        if not path.is_dir():
            raise UsageError("there is no such folder")
        most = allowance(_size_of(path))
        _about(path)  # before Orbax reads it, which warns of a damaged one and goes on
        saved = _saved(path)["variables"]
        wanted = {"variables": _abstract(saved)}
        needed = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(wanted))
        if needed > most:
            raise UsageError(f"its arrays would take {needed:,} bytes")
        return {"params": {}, **_load(path, wanted)["variables"]}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """``UsageError`` naming a checkpoint for whatever goes wrong as it is read."""
    try:
        yield
    except Exception as error:  # Orbax has no one type for what a damaged file raises
        raise UsageError(f"checkpoint {shown(path)} cannot be read ({_in_short(error)})") from None


class _Checks(msgspec.Struct):
    """What is saved beside a checkpoint's items; of one of an earlier version both are empty.

    Attributes:
        checksums: by the item's name.
        keys: implementation of the typed keys, whose data is saved, by their paths.
    """

    checksums: dict[str, str] = {}
    keys: dict[str, str] = {}


class _About(msgspec.Struct):
    custom_metadata: _Checks


def _about(folder: Path) -> _Checks:
    """``UsageError`` if it cannot be read."""
    return read_json(folder / "_CHECKPOINT_METADATA", _About, limit=2**20).custom_metadata


def _alone() -> dict[str, Any]:
    """Options with which Orbax waits for no other process."""
    own = jax.process_index()
    return {
        "primary_host": own,
        "active_processes": {own},
        "barrier_sync_key_prefix": str(own),
    }


@contextlib.contextmanager
def _orbax_alone() -> Iterator[Any]:
    """Orbax, to load in this process alone."""
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    for name, value in _alone().items():
        setattr(context.multiprocessing, name, value)
    with context:
        yield ocp


def _saved(folder: Path) -> Any:
    """What a checkpoint says that it holds: shapes and dtypes, by item."""
    with _orbax_alone() as ocp:
        return ocp.checkpointables_metadata(str(folder)).metadata


def _load(folder: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Items of a checkpoint, as ``wanted`` describes them; ``UsageError`` if a checksum differs."""
    _size_of(folder)  # refuses what would be waited for
    about = _about(folder)
    with _orbax_alone() as ocp:
        plain = _abstract(jax.eval_shape(_without_keys, wanted)) if about.checksums else wanted
        loaded = ocp.load_checkpointables(str(folder), plain)

    def with_key(path: Any, leaf: Any) -> Any:
        impl = about.keys.get(jax.tree_util.keystr(path))
        return leaf if impl is None else jax.random.wrap_key_data(leaf, impl=impl)

    loaded = jax.tree_util.tree_map_with_path(with_key, loaded)
    for name, tree in loaded.items():
        if about.checksums and about.checksums.get(name) != weights_digest(tree):
            raise UsageError(_DIFFERS)
    return loaded


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


def _training(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "key": state.key}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_keys(tree: Any) -> Any:
    """The data of typed keys in their place."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


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


def _in_short(error: Exception) -> str:
    if isinstance(error, UsageError):
        return str(error)
    if type(error).__name__ == "NoEntryError":  # Orbax finds none of its formats in the files
        return "its files are not whole"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shown(lines[0])}" if lines else type(error).__name__
