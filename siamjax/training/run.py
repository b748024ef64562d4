"""A run: one network trained in one folder.

Contract: training locks the folder (``lock``) and writes ``config.json`` (the options),
``metrics.jsonl``, TensorBoard events, ``sessions.jsonl`` and ``checkpoints/`` into it, evaluation
then ``manifest.json`` (all that is needed to use the network) and ``report.html``.
"""

import contextlib
import dataclasses
import json
import os
import re
import sys
import time
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax

from siamjax import processes
from siamjax.checks import share_of_batch
from siamjax.data.transforms import Framing, Size, sides
from siamjax.errors import UsageError, shown
from siamjax.files import append_row, dump_json, locked, read_rows, saying, write_json
from siamjax.messages import warn
from siamjax.runs import FORMAT, differences
from siamjax.training.agreement import LOCK, check_same, config_in
from siamjax.training.checkpoints import Checkpoints
from siamjax.training.config import RunConfig, Splits
from siamjax.training.description import (
    build_module,
    defining_module,
    describe_module,
)
from siamjax.training.environment import environment
from siamjax.training.manifest import read_manifest
from siamjax.training.seen import Seen
from siamjax.training.start import Start
from siamjax.training.trusted import modules_in

if TYPE_CHECKING:
    from siamjax.pretrained.weights import Weights

# Options that change no result, and so may differ when a run is resumed: where the run is, how
# many processes read images, how many steps are traced, where the raw data is, and whether what is
# left out of it is refused.
# Steps that are not finite stop a run, which may then go on and skip them: sessions.jsonl tells.
# What training starts from is agreed on by its weights, wherever they are.
_OPERATIONAL = ("run", "start_from", "workers", "nonfinite", "profile", "home", "strict")

_SESSIONS = "sessions.jsonl"

_CACHED = 10  # seconds for which a network disk may say that a new file is not there

Results = dict[str, dict[str, float | None]]
"""Measures by name, by what was measured: the network and the baselines."""


class Run:
    """One training run: its folder, its network's description, its checkpoints.

    Attributes:
        config: the experiment's options.
        folder: where everything is written; made when training begins, not before.
        experiment: name of the experiment's file.
        network: what is trained.
        splits: what it is trained, validated and tested on.
        best: name of the metric that chooses the checkpoint; the higher the better.
        step: the step that training has reached.
        begun: whether this process has begun or resumed its training.
        extendable: whether a finished run may go on to more steps.
        stopped: when and why training ended before the last step, if it did.
        started: whether :meth:`initial` was asked what training starts from.
        best_step: step of the best checkpoint, once :meth:`best_variables` has chosen it.
        parameters: number of parameters, known from then on.
    """

    def __init__(
        self,
        config: RunConfig,
        network: nn.Module,
        splits: Splits,
        *,
        best: str,
        weights: "Weights | None" = None,
        extendable: bool = False,
    ) -> None:
        """Use :meth:`open`."""
        self.config, self.network, self.splits, self.best = config, network, splits, best
        self.experiment = defining_module(type(config)).rpartition(".")[2].strip("_")
        parts = {
            "{experiment}": self.experiment,
            "{data}": re.sub(r"[^\w.]+", "-", splits.images.name),
            "{seed}": f"-seed{config.seed}" if config.seed else "",
        }
        name = re.sub("{experiment}|{data}|{seed}", lambda part: parts[part[0]], str(config.run))
        self.folder = Path(name)
        self.description = describe_module(network)
        self.extendable = extendable
        self.step, self.begun, self.started = 0, False, False
        self.stopped: str | None = None
        self._start: Start | None = None
        self._lock: _Lock | None = None  # of the first process
        self.best_step: int | None = None
        self.parameters: int | None = None
        options = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OPERATIONAL}
        agreed = {
            "format": FORMAT,
            "experiment": self.experiment,
            **options,
            **({} if weights is None else {"weights_sha256": weights.digest}),
            "network": self.description,
            "data_fingerprint": splits.fingerprint(),
        }
        # As it is read from a file: paths are strings, tuples are lists.
        self.agreed: dict[str, Any] = json.loads(dump_json(agreed))
        self._checkpoints: Checkpoints | None = None

    @classmethod
    def open(
        cls,
        config: RunConfig,
        network: nn.Module,
        splits: Splits,
        *,
        best: str,
        weights: "Weights | None" = None,
        extendable: bool = False,
    ) -> "Run":
        """A new run, or the one in ``config.run``, which training then resumes.

        ``best`` names the metric, among those that ``evaluate`` returns, that chooses the
        checkpoint; the higher the better. ``weights`` are the published weights that the network
        starts from, if any: a resumed run must have the same. ``extendable`` declares that nothing
        in the training depends on ``config.steps``, such as a learning rate that falls to 0 with
        the last step: with more steps, a finished run then goes on where it ended.

        Whatever is known to fail is refused here, before step 0 and before a folder is made:
        options that cannot work, a network that cannot be saved and built again, a folder that
        holds another run or something else (``UsageError``). So are several processes with
        different options.
        """
        share_of_batch(config.batch_size, "examples", jax.device_count(), "devices")
        run = cls(config, network, splits, best=best, weights=weights, extendable=extendable)
        # This process has the network already, so its code may run.
        trust = modules_in(run.description)
        again = describe_module(build_module(run.description, trust=trust))
        if again != run.description:
            raise UsageError(
                f"{type(network).__name__} is another network when it is built again from its "
                f"fields: {again} and not {run.description}; keep all its options in its fields"
            )
        run._agree_on_start()
        run._agree_with_others()
        processes.on_first(run._check_folder)
        return run

    def _agree_on_start(self) -> None:
        """Read the run to start from, unless this one has begun with it and saved a checkpoint."""
        if (given := self.config.start_from) is None:
            return

        def begun() -> tuple[Any, bool]:
            before = (config_in(self.folder) or {}).get("start_from")
            return before, any((self.folder / "checkpoints").glob("[0-9]*"))

        before, saved = processes.on_first(begun)
        before = before if isinstance(before, dict) else {}
        if not saved or before.get("run") != str(given.absolute()):
            if given.resolve() == self.folder.resolve():
                raise UsageError(
                    f"--start-from {given} is the run itself; give --run another folder"
                )
            start = Start.read(given)
            self._start = None if saved else start
            if before.get("weights") != start.weights:
                before = start.about(self.splits)
        self.agreed["start_from"] = before

    def initial(self, variables: dict[str, Any]) -> dict[str, Any]:
        """What training starts from: ``variables``, or in their place the weights of --start-from.

        Published weights are put into ``variables`` before, and stay where the other run has no
        layer of that path. In a run that resumes the weights are those of its own checkpoint: what
        does not train is there as it was at the start. Raises ``UsageError`` where a tensor has
        another shape or dtype, and where no layer is the same.
        """
        self.started = True
        if self.config.start_from is None:
            return variables
        if self._start is None:
            return self.checkpoints.load_best()[1]
        return self._start.put(self.description, variables)

    def _agree_with_others(self) -> None:
        """``UsageError`` unless all processes have the same options, network and data."""
        # A resumed run may have others, but all processes take each step in the same way.
        options = {name: getattr(self.config, name) for name in ("nonfinite", "profile")}
        first, *others = processes.exchange({**self.agreed, **options})
        for number, other in enumerate(others, start=1):
            if differing := differences([first, other]):
                name, (one, two) = next(iter(differing.items()))
                raise UsageError(
                    f"{shown(name)} is {one!r} in process 0 and {two!r} in process {number}; start "
                    "all processes with the same options, code and data"
                )

    def _check_folder(self) -> dict[str, Any] | None:
        """The options of the run in the folder, if it is this one; None of a new folder."""
        before = config_in(self.folder)
        if before is not None:
            check_same(self.folder, before, self.agreed, extendable=self.extendable)
        return before

    def begin(self) -> bool:
        """Make the folder of a new run, or resume; returns whether the run existed."""
        if self.config.start_from is not None and not self.started:
            raise UsageError(
                "--start-from: this experiment does not use it; begin its state with "
                "create_state(run.initial(variables), ...)"
            )
        self.begun = True
        _ = self.environment  # the code as it is now, which may be edited while this trains
        before = processes.on_first(self._make)
        self._check_shared()
        processes.on_first(lambda: self._note_options(before))
        return before is not None

    def _make(self) -> dict[str, Any] | None:
        """Make and lock the folder; returns the options of the run in it."""
        self._hold()
        before = self._check_folder()
        if before is not None:
            # Now, because write_manifest would refuse it only after the training.
            read_rows(self.folder / _SESSIONS, dict[str, Any])
        return before

    def _hold(self) -> None:
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)

    def _note_options(self, before: dict[str, Any] | None) -> None:
        if before == self.agreed and self._start is None:
            return
        with self._writing():
            write_json(self.folder / "config.json", self.agreed)
            if self._start is not None and self._start.seen is not None:
                self._start.seen.write(self.folder)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with saying(f"{self.folder} cannot be made or written", remedy="give --run another"):
            try:
                yield
            except OSError:
                self._unmake()
                raise

    def _unmake(self) -> None:
        """Remove the folder if nothing is in it: a refused run leaves none."""
        self._lock = None
        with contextlib.suppress(OSError):
            if all(path.name == LOCK for path in self.folder.iterdir()):
                (self.folder / LOCK).unlink(missing_ok=True)
                self.folder.rmdir()

    def _check_shared(self) -> None:
        """``UsageError`` unless the folder is the same one for all processes."""
        if processes.count() == 1:
            return

        def put() -> str:
            token = self.folder / f"shared-{os.urandom(8).hex()}.tmp"
            with self._writing():
                token.touch()
            return token.name

        token = self.folder / processes.on_first(put)
        found = processes.exchange(_appears(token))
        if processes.is_first():
            token.unlink(missing_ok=True)
        if not all(found):
            if processes.is_first():
                self._unmake()
            raise UsageError(
                f"process {found.index(False)} does not see what process 0 writes into "
                f"{self.folder.absolute()}: give --run a folder on a disk that all processes share"
            )

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What this process trains and judges with; ``git`` is of the experiment's repository."""
        module = sys.modules.get(type(self.config).__module__)
        return environment(getattr(module, "__file__", None))

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints, opened at the first use."""
        if self._checkpoints is None:
            processes.on_first(self._hold)  # what is damaged or half saved is moved and removed
            kept = []  # with the manifest that names it, the run can be used while it is extended
            with contextlib.suppress(UsageError):
                kept = [read_manifest(self.folder)[0].step]
            folder = self.folder / "checkpoints"
            self._checkpoints = Checkpoints(folder, best=self.best, keep=kept)
            for message in self._checkpoints.messages:
                warn(message)
        return self._checkpoints

    def close(self) -> None:
        """Stop the checkpoints' threads; using the checkpoints opens them again."""
        if self._checkpoints is not None:
            self._checkpoints.close()
            self._checkpoints = None

    def best_variables(self) -> dict[str, Any]:
        """Parameters and state of the best checkpoint that can be read; sets ``best_step``."""
        self.best_step, variables, messages = self.checkpoints.load_best()
        self.close()
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))
        for message in messages:
            warn(message)
        return variables

    def note_session(self, *, start: int, seconds: float, skipped_steps: int = 0) -> None:
        """Append what one call of ``fit`` did; a run that was resumed has several sessions."""
        row = {"start": start, "end": self.step, "seconds": round(seconds, 1)}
        if skipped_steps:
            row["skipped_steps"] = skipped_steps
        append_row(self.folder / _SESSIONS, {**row, **self.environment})

    def write_manifest(
        self, *, size: Size, results: Results, facts: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write ``manifest.json``, all that is needed to use the best checkpoint, and return it.

        ``size`` is that of the network's images; ``facts`` are what only this kind of experiment
        has, such as a threshold. Call :meth:`best_variables` first.
        """
        if self.best_step is None:
            raise RuntimeError("call best_variables() first: it chooses the checkpoint")
        start, protocol = self.agreed.get("start_from", {}), self.splits.protocol
        if start and (known := start.get("known")) != 0:
            protocol += (
                f"; {start['run']}, where it started, does not tell what it was trained on"
                if known is None
                else f"; CONTAMINATED: {start['run']} was trained on {known} images held out"
            )
        if seen := Seen.of(self.splits):  # before the manifest, which says that all is there
            if start and (earlier := Seen.read(self.folder)):
                seen |= earlier
            seen.write(self.folder)
        images = self.splits.images
        manifest = {
            "format": FORMAT,
            "experiment": self.experiment,
            "network": self.description,
            "parameters": self.parameters,
            "size": list(sides(size)),
            **({"framing": dataclasses.asdict(size)} if isinstance(size, Framing) else {}),
            "step": self.best_step,
            "best": self.best,
            **({} if self.stopped is None else {"stopped": self.stopped}),
            **(facts or {}),
            "data": images.name,
            "data_credit": images.credit,
            "data_sha256": images.checksum(),
            "protocol": protocol,
            "trained_on": [str(identity) for identity in self.splits.trained_on],
            "results": results,
            "config": {k: v for k, v in self.agreed.items() if k != "network"},
            "splits": self.splits.request,
            "sessions": read_rows(self.folder / _SESSIONS, dict[str, Any]),
            "judged": self.environment,
        }
        with saying(
            f"{self.folder / 'manifest.json'}: cannot be written",
            remedy="make room, or make it writable, and run the same command again",
        ):
            write_json(self.folder / "manifest.json", manifest)
        return manifest


class _Lock:
    """Keeps other processes from writing into a folder, until it is gone or its process ends."""

    def __init__(self, folder: Path) -> None:
        self._held = contextlib.ExitStack()
        self._held.enter_context(locked(folder / LOCK, wait=False))


_LOCKS: weakref.WeakValueDictionary[Path, _Lock] = weakref.WeakValueDictionary()


def _lock(folder: Path) -> _Lock:
    """The lock of a folder; all runs that this process has in it share one."""
    place = folder.resolve()
    held = _LOCKS.get(place)
    if held is None:
        _LOCKS[place] = held = _Lock(folder)
    return held


def _appears(path: Path) -> bool:
    """Whether a file is there, or comes within the time for which network disks remember."""
    end = time.monotonic() + _CACHED
    while not path.exists():
        if time.monotonic() > end:
            return False
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # makes NFS look anew
        time.sleep(0.1)
    return True
