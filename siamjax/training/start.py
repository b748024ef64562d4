"""Where training starts from: the weights of a finished run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import jax
import numpy as np

from siamjax import messages
from siamjax.errors import UsageError, shown
from siamjax.models.applying import states
from siamjax.training.agreement import differing_words
from siamjax.training.checkpoints import load_variables
from siamjax.training.config import Splits
from siamjax.training.fingerprint import weights_digest
from siamjax.training.manifest import read_manifest
from siamjax.training.seen import Seen


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """The weights of a finished run. Its code is not needed: they are arrays with paths.

    Attributes:
        folder: the run.
        step: of the checkpoint that its manifest names.
        network: the description of its network.
        variables: parameters and state of that checkpoint.
        seen: the images that it has seen; None of a run that does not tell.
    """

    folder: Path
    step: int
    network: Mapping[str, Any]
    variables: Mapping[str, Any]
    seen: Seen | None

    @classmethod
    def read(cls, folder: Path) -> "Start":
        """``UsageError`` for a run that is not finished, or has lost that checkpoint."""
        manifest, _ = read_manifest(folder)
        variables = load_variables(folder / "checkpoints", manifest.step)
        return cls(
            folder=folder,
            step=manifest.step,
            network=manifest.network,
            variables=variables,
            seen=Seen.read(folder),
        )

    @cached_property
    def weights(self) -> str:
        """What tells these weights from others."""
        return weights_digest(self.variables)

    def about(self, splits: Splits) -> dict[str, Any]:
        """What a run that starts here keeps of it.

        ``known`` is the number of images that the run holds out and that this one was trained on;
        None: this one does not tell what it has seen.
        """
        training = getattr(splits, "training_images", None)
        known = None if self.seen is None else 0
        if self.seen is not None and training is not None:
            held_out = np.setdiff1d(np.arange(len(splits.images)), training)
            known = len({*splits.images.content(held_out)} & {*self.seen.trained})
        place = str(self.folder.absolute())
        return {"run": place, "step": self.step, "weights": self.weights, "known": known}

    def put(self, network: Mapping[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """``variables`` with these in place of those of the same path, which one line tells.

        ``network`` is the description of the network that they are for. Layers that only one of
        the two has are named: new ones keep their values, the others are left out. Raises
        ``UsageError`` for a tensor of the same path with another shape or dtype, and where no path
        is the same.
        """
        own = {name: variables[name] for name in ("params", *states(variables))}
        wanted, given = _tensors(own), _tensors(self.variables)
        both = wanted.keys() & given.keys()
        where = f"--start-from {shown(self.folder)}"
        if not both:
            raise UsageError(
                f"{where}: no layer in common: it has {_outermost(given, wanted)}, and this "
                f"network has {_outermost(wanted, given)}"
            )
        wrong = [p for p in wanted if p in both and _form(wanted[p]) != _form(given[p])]
        if wrong:
            more = f"; {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
            raise UsageError(
                f"{where}: its {wrong[0]} is {_form(given[wrong[0]])}, and this network's is "
                f"{_form(wanted[wrong[0]])}{more}; give the options that it was trained with"
            )
        notes = [f"starting from {shown(self.folder)}, step {self.step}"]
        if new := wanted.keys() - both:
            notes.append(f"new: {_outermost(new, given)}")
        if unused := given.keys() - both:
            notes.append(f"left out: {_outermost(unused, wanted)}")
        notes += differing_words({"network": self.network}, {"network": network})
        messages.note("; ".join(notes))
        leaves = [given.get(path, leaf) for path, leaf in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(own), leaves)


def _tensors(variables: Any) -> dict[str, Any]:
    """The leaves by their paths, such as ``params/head/dense/kernel``."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _form(tensor: Any) -> str:
    return f"{tensor.dtype} {tensor.shape}"


def _outermost(paths: Iterable[str], others: Iterable[str]) -> str:
    """The outermost layers of these paths, without their collections, that others do not have."""

    def layers(path: str) -> list[str]:
        return list(accumulate(path.split("/")[1:], "{}/{}".format))

    known = {layer for path in others for layer in layers(path)}
    found = (next((one for one in layers(path) if one not in known), path) for path in paths)
    return ", ".join(sorted(set(found)))
