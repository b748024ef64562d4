"""A finished run, opened for use; nothing is written into its folder."""

import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from siamjax.data.transforms import Size, sides
from siamjax.errors import UsageError, shown
from siamjax.files import read_bytes, typed
from siamjax.models.applying import evaluate
from siamjax.models.comparing import compare
from siamjax.models.protocols import Compares, Embeds
from siamjax.parallel import replicate
from siamjax.pretrained.published import is_published, open_weights
from siamjax.pretrained.weights import Weights
from siamjax.training.checkpoints import load_variables
from siamjax.training.description import build_module, describe_module
from siamjax.training.fingerprint import weights_digest
from siamjax.training.manifest import Manifest, read_manifest

WEIGHTS = "model.safetensors"
"""Name of the weights in the folder of an exported run, which has no checkpoints."""

_LARGEST_FILE = 2**36  # bytes of weights
_LARGEST = 2**28
"""Numbers in the largest array that a network may make of two images: 1 GB of float32."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A finished run as its manifest describes it; its checkpoint is not read.

    Attributes:
        folder: the run's folder.
        manifest: what :meth:`siamjax.training.Run.write_manifest` wrote.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def kept(self) -> Path:
        """The folder of what is found out about it later: its own, or one beside its weights."""
        return self.folder if self.folder.is_dir() else Path(f"{self.folder}.siamjax")

    @classmethod
    def read(cls, folder: Path | str) -> "Described":
        """Read the manifest alone; ``UsageError`` as of :meth:`Finished.open`."""
        return Described(folder=Path(folder), manifest=read_manifest(Path(folder))[1])

    @cached_property
    def about(self) -> Manifest:
        """What the project itself uses of the manifest."""
        return typed(self.manifest, Manifest, where=shown(self.folder))


@dataclass(frozen=True, kw_only=True)
class Finished(Described):
    """A run whose network is ready to use.

    Attributes:
        network: the network that was trained.
        variables: parameters and statistics of the best checkpoint.
        size: of the network's images.
    """

    network: nn.Module
    variables: Any = field(repr=False)  # pages in a notebook
    size: Size

    @cached_property
    def weights(self) -> str:
        """What tells these weights from others; reads all of them, once."""
        return weights_digest(self.variables)

    @classmethod
    def open(cls, folder: Path | str, *, trust: Collection[str] = ()) -> "Finished":
        """Load a finished run with the checkpoint that its manifest names, or published weights.

        ``folder`` may also be a file of weights that :func:`siamjax.pretrained.read_weights` reads,
        or the name of published ones: the network is then the publisher's, without a threshold. Or
        the folder that :func:`siamjax.inference.export.export_run` wrote.

        ``trust`` are modules that the network may be imported from beside those of
        :mod:`siamjax.training.trusted`; the error for such a network names them.

        Raises ``UsageError`` if the run is not finished, was made by a later version, has lost
        that checkpoint (no other would fit the results in the manifest), or has a network that
        does not fit it.
        """
        weights, folder = str(folder), Path(folder)
        if is_published(weights):
            return cls._published(open_weights(weights))
        neither = (
            " (python -m siamjax runs lists runs); nor is it published weights: a file, a folder "
            "with model.safetensors or another of their names, or a name that python -m siamjax "
            "weights list shows"
        )
        manifest, whole = read_manifest(folder, missing=neither)
        network = build_module(manifest.network, trust=trust)
        if os.path.exists(folder / WEIGHTS):
            variables = replicate(_read_exported(folder / WEIGHTS, manifest))
        else:
            variables = cls._chosen(folder, manifest.step)
        run = cls(
            folder=folder,
            manifest=whole,
            network=network,
            variables=variables,
            size=manifest.images,
        )
        if isinstance(network, Embeds):  # else the command that needs it says so
            run._check()
        return run

    @staticmethod
    def _chosen(folder: Path, step: int) -> Any:
        try:
            return load_variables(folder / "checkpoints", step)
        except UsageError as error:
            raise UsageError(
                f"{shown(folder)}: the checkpoint of step {step} is gone or damaged ({error}); "
                "run the experiment's command again to evaluate the best one left"
            ) from None

    @classmethod
    def _published(cls, weights: Weights) -> "Finished":
        network = {"network": describe_module(weights.network), "size": list(sides(weights.size))}
        run = cls(
            folder=Path(weights.source),
            manifest={**network, "step": 0},
            network=weights.network,
            variables=replicate(weights.variables),
            size=weights.size,
        )
        run._check()
        return run

    @cached_property
    def of_two(self) -> Callable[[Any, Any], tuple[jax.Array, jax.Array | None]]:
        """Compiled: ``(variables, images) -> (features, value)`` of two uint8 images.

        Images are (2, height, width, 3), the value (1,) is that of
        :func:`siamjax.models.comparing.compare`; None for maps that the network does not compare.
        The check at opening has traced it, so that two images need no other trace.
        """

        def both(variables: Any, images: Any) -> tuple[jax.Array, jax.Array | None]:
            features = evaluate(self.network, variables, images, method="embed")
            if not isinstance(self.network, Compares) and features.ndim != 2:
                return features, None
            return features, compare(self.network, variables, features[:1], features[1:])

        return jax.jit(both)

    def _check(self) -> None:
        """Trace the network on two images, without computing: do variables, size, fields fit?"""
        height, width = sides(self.size)
        images = jax.ShapeDtypeStruct((2, height, width, 3), np.uint8)
        where = (
            f"{shown(self.folder)}: network and checkpoint do not fit images of {height}x{width}"
        )
        try:
            traced = self.of_two.trace(self.variables, images).jaxpr
        except Exception as error:  # whatever layers do with fields that do not fit
            first = next(iter(str(error).strip().splitlines()), "")
            raise UsageError(f"{where} ({type(error).__name__}: {shown(first)})") from None
        largest = max(_sizes(getattr(traced, "jaxpr", traced)), default=0)
        if largest > _LARGEST:
            raise UsageError(
                f"{where}: an array of {largest:,} numbers for two images, and at most "
                f"{_LARGEST:,} are computed"
            )


def by_paths(variables: Any) -> dict[str, Any]:
    """Variables by collection and path, as an exported run's weights have them.

    A slash within a name, of which ``flax.linen.SpectralNorm`` makes some, is written as ``%2F``.
    """
    return {
        "/".join(name.replace("%", "%25").replace("/", "%2F") for name in path): leaf
        for path, leaf in flax.traverse_util.flatten_dict(variables).items()
    }


def from_paths(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of :func:`by_paths`."""
    flat = {
        tuple(name.replace("%2F", "/").replace("%25", "%") for name in path.split("/")): leaf
        for path, leaf in leaves.items()
    }
    return flax.traverse_util.unflatten_dict(flat)


def _read_exported(path: Path, manifest: Manifest) -> dict[str, Any]:
    """Variables from an exported run's weights; ``UsageError`` for a damaged file."""
    from safetensors.numpy import load

    content = read_bytes(path, limit=_LARGEST_FILE)
    try:
        if hashlib.sha256(content).hexdigest() != manifest.sha256.get(path.name):
            raise ValueError("its sha256 is not that in manifest.json")
        return from_paths(load(content))
    except Exception as error:  # safetensors' own, and names that are in one another's way
        why = shown(f"{type(error).__name__}: {error}")
        raise UsageError(f"{shown(path)} is damaged ({why}); export the run again") from None


def _sizes(jaxpr: Any) -> Iterator[int]:
    """Sizes of all arrays that a traced function makes."""
    for equation in jaxpr.eqns:
        yield from (math.prod(getattr(one.aval, "shape", ())) for one in equation.outvars)
        for value in equation.params.values():
            for part in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _sizes(inner)
