"""A run: one network trained in one folder.

Contract: training writes ``config.json`` (the options), ``metrics.jsonl``, TensorBoard events,
``sessions.jsonl`` and ``checkpoints/`` into the folder, evaluation then ``manifest.json`` (all that
is needed to use the network) and ``report.html``.
"""

import contextlib
import dataclasses
import json
import re
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from siamjax.data.transforms import Size, sides
from siamjax.errors import UsageError
from siamjax.files import append_row, dump_json, read_json, read_rows, saying, write_json
from siamjax.parallel import check_split
from siamjax.pretrained.weights import Weights
from siamjax.runs import FORMAT
from siamjax.training.checkpoints import Checkpoints
from siamjax.training.config import RunConfig, Splits
from siamjax.training.description import (
    build_module,
    defining_module,
    describe_module,
    modules_in,
)
from siamjax.training.environment import environment
from siamjax.training.seen import Seen

# Options that change no result, and so may differ when a run is resumed: where the run is, how
# many processes read images, where the raw data is, and whether what is left out of it is refused.
_OPERATIONAL = ("run", "workers", "home", "strict")

_SESSIONS = "sessions.jsonl"

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
        weights: Weights | None = None,
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
        self.step, self.begun = 0, False
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
        weights: Weights | None = None,
    ) -> "Run":
        """A new run, or the one in ``config.run``, which training then resumes.

        ``best`` names the metric, among those that ``evaluate`` returns, that chooses the
        checkpoint; the higher the better. ``weights`` are the published weights that the network
        starts from, if any: a resumed run must have the same.

        Whatever is known to fail is refused here, before step 0 and before a folder is made:
        options that cannot work, a network that cannot be saved and built again, a folder that
        holds another run or something else (``UsageError``).
        """
        if jax.process_count() > 1:
            raise UsageError(
                "several hosts cannot write one run folder; train on one host's devices"
            )
        check_split(config.batch_size, "examples", jax.local_device_count())
        run = cls(config, network, splits, best=best, weights=weights)
        # This process has the network already, so its code may run.
        trust = modules_in(run.description)
        again = describe_module(build_module(run.description, trust=trust))
        if again != run.description:
            raise UsageError(
                f"{type(network).__name__} is another network when it is built again from its "
                f"fields: {again} and not {run.description}; keep all its options in its fields"
            )
        run._check_folder()
        return run

    def _check_folder(self) -> bool:
        """Whether the folder holds this run; ``UsageError`` if it holds anything else."""
        path = self.folder / "config.json"
        if path.exists():
            before = read_json(path, dict[str, Any])
            if before.get("format") != FORMAT:
                raise UsageError(
                    f"{self.folder} is a run of another version of siamjax, which cannot be "
                    "resumed; if it is finished, python -m siamjax can still use it; give --run "
                    "another folder to train anew"
                )
            if differing := _differences(before, self.agreed):
                raise UsageError(
                    f"{self.folder} is a run of another config ({'; '.join(differing)}); give "
                    "--run another folder, or resume it with the same options"
                )
            return True
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise UsageError(
                f"{self.folder} is not empty and not a run (no config.json); give --run another"
            )
        return False

    def begin(self) -> bool:
        """Make the folder of a new run, or resume; returns whether the run existed."""
        self.begun = True
        _ = self.environment  # the code as it is now, which may be edited while this trains
        if self._check_folder():
            # Now, because write_manifest would refuse it only after the training.
            read_rows(self.folder / _SESSIONS, dict[str, Any])
            return True
        with saying(f"{self.folder} cannot be made or written", remedy="give --run another"):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(self.folder / "config.json", self.agreed)
            except OSError:
                with contextlib.suppress(OSError):  # a refused run leaves no folder
                    self.folder.rmdir()
                raise
        return False

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What this process trains and judges with; ``git`` is of the experiment's repository."""
        module = sys.modules[type(self.config).__module__]
        return environment(getattr(module, "__file__", None))

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints, opened at the first use."""
        if self._checkpoints is None:
            self._checkpoints = Checkpoints(self.folder / "checkpoints", best=self.best)
            for message in self._checkpoints.messages:
                print(f"warning: {message}")
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
            print(f"warning: {message}")
        return variables

    def note_session(self, *, start: int, seconds: float) -> None:
        """Append what one call of ``fit`` did; a run that was resumed has several sessions."""
        row = {"start": start, "end": self.step, "seconds": round(seconds, 1), **self.environment}
        append_row(self.folder / _SESSIONS, row)

    def write_manifest(
        self, *, size: Size, results: Results, facts: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write ``manifest.json``, all that is needed to use the best checkpoint, and return it.

        ``size`` is that of the network's images; ``facts`` are what only this kind of experiment
        has, such as a threshold. Call :meth:`best_variables` first.
        """
        if self.best_step is None:
            raise RuntimeError("call best_variables() first: it chooses the checkpoint")
        if seen := Seen.of(self.splits):  # before the manifest, which says that all is there
            seen.write(self.folder)
        images = self.splits.images
        manifest = {
            "format": FORMAT,
            "experiment": self.experiment,
            "network": self.description,
            "parameters": self.parameters,
            "size": list(sides(size)),
            "step": self.best_step,
            "best": self.best,
            **(facts or {}),
            "data": images.name,
            "data_credit": images.credit,
            "data_sha256": images.checksum(),
            "protocol": self.splits.protocol,
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


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The differences of two configs, each in a few words."""
    differing = []
    for name in sorted({*before, *now}):
        there, here = before.get(name), now.get(name)
        if there == here:
            continue
        both = [one for one in (there, here) if isinstance(one, dict)]
        if len(both) == 2 and name == "fields":
            differing += _differences(*both)
        elif len(both) == 2 and all("class" in one for one in both):
            whose = "the network's" if name == "network" else f"{name}'s"
            differing += [f"{whose} {one}" for one in _differences(*both)]
        else:
            differing.append(f"{name} is {there!r} there and {here!r} here")
    return differing
