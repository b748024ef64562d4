"""A finished run, opened for use; nothing is written into its folder."""

import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import flax.linen as nn
import jax
import msgspec
import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.files import Finite, Natural, read_json, typed
from siamjax.models.applying import evaluate
from siamjax.models.protocols import Compares, Embeds
from siamjax.runs import FORMAT
from siamjax.training.checkpoints import load_variables
from siamjax.training.description import build_module

_LARGEST = 2**28
"""Numbers in the largest array that a network may make of one image or pair: 1 GB of float32."""

_Side = Annotated[int, msgspec.Meta(ge=1, le=2**16)]


class Manifest(msgspec.Struct, kw_only=True):
    """What the project itself uses of ``manifest.json``; format 1 lacks some.

    Attributes:
        network: the network's description.
        size: side, or height and width, of the network's images.
        step: of the checkpoint that the results are those of.
        threshold: between same and different, as a distance or a logit.
        data: name of the data set.
        trained_on: identities that training saw.
        config: the experiment's options.
        splits: the options that make the splits again.
    """

    network: dict[str, Any]
    size: _Side | Annotated[list[_Side], msgspec.Meta(min_length=2, max_length=2)]
    step: Natural
    threshold: Finite | None = None
    data: str = ""
    trained_on: list[str] = []
    config: dict[str, Any] = {}
    splits: dict[str, Any] = {}

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the network's images."""
        height, width = [self.size] * 2 if isinstance(self.size, int) else self.size
        return height, width


class _Format(msgspec.Struct):
    format: Natural = 1


def read_manifest(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    """What the project uses of a run's manifest, and all that stands in it.

    Raises ``UsageError`` if there is none, for a later format, and for a value of another type.
    """
    path = folder / "manifest.json"
    if not os.path.exists(path):  # also one that cannot be looked at
        raise UsageError(f"{shown(folder)} is not a finished run: manifest.json is missing")
    whole, where = read_json(path, dict[str, Any]), shown(path)
    number = typed(whole, _Format, where=where).format
    if number > FORMAT:
        raise UsageError(
            f"{shown(folder)} was made by a later version of siamjax (format {number}, this one "
            f"reads up to {FORMAT}); pip install --upgrade siamjax"
        )
    manifest = typed(whole, Manifest, where=where)
    if number == 1:
        try:
            manifest.network = _without_axis(manifest.network)
        except RecursionError:
            raise UsageError(f"{where}: network: too many things within things") from None
    return manifest, whole


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run whose network is ready to use.

    Attributes:
        folder: the run's folder.
        manifest: what :meth:`siamjax.training.Run.write_manifest` wrote.
        network: the network that was trained.
        variables: parameters and statistics of the best checkpoint.
        size: (height, width) of the network's images.
    """

    folder: Path
    manifest: dict[str, Any]
    network: nn.Module
    variables: Any
    size: tuple[int, int]

    @cached_property
    def about(self) -> Manifest:
        """What the project itself uses of the manifest."""
        return typed(self.manifest, Manifest, where=shown(self.folder))

    @classmethod
    def open(cls, folder: Path | str, *, trust: Collection[str] = ()) -> "Finished":
        """Load a finished run with the checkpoint that its manifest names.

        ``trust`` are modules that the network may be imported from beside those of
        :mod:`siamjax.training.trusted`; the error for such a network names them.

        Raises ``UsageError`` if the run is not finished, was made by a later version, has lost
        that checkpoint (no other would fit the results in the manifest), or has a network that
        does not fit it.
        """
        folder = Path(folder)
        manifest, whole = read_manifest(folder)
        network = build_module(manifest.network, trust=trust)
        try:
            variables = load_variables(folder / "checkpoints", manifest.step)
        except UsageError as error:
            raise UsageError(
                f"{shown(folder)}: the checkpoint of step {manifest.step} is gone or damaged "
                f"({error}); run the experiment's command again to evaluate the best one left"
            ) from None
        _check(network, variables, manifest.sides, folder)
        return cls(
            folder=folder,
            manifest=whole,
            network=network,
            variables=variables,
            size=manifest.sides,
        )


def _check(network: nn.Module, variables: Any, size: tuple[int, int], folder: Path) -> None:
    """Trace the network on one image, without computing: do variables, size and fields fit?"""
    if not isinstance(network, Embeds):
        return  # the command that needs it says so

    def answers(variables: Any, image: Any) -> Any:
        features = evaluate(network, variables, image, method="embed")
        if not isinstance(network, Compares):
            return features
        return features, evaluate(network, variables, features, features, method="compare")

    image = jax.ShapeDtypeStruct((1, *size, 3), np.uint8)
    where = f"{shown(folder)}: network and checkpoint do not fit images of {size[0]}x{size[1]}"
    try:
        traced = jax.make_jaxpr(answers)(variables, image)
    except Exception as error:  # whatever layers do with fields that do not fit
        first = next(iter(str(error).strip().splitlines()), "")
        raise UsageError(f"{where} ({type(error).__name__}: {shown(first)})") from None
    largest = max(_sizes(traced.jaxpr), default=0)
    if largest > _LARGEST:
        raise UsageError(
            f"{where}: an array of {largest:,} numbers for one image, and at most {_LARGEST:,} "
            "are computed"
        )


def _sizes(jaxpr: Any) -> Iterator[int]:
    """Sizes of all arrays that a traced function makes."""
    for equation in jaxpr.eqns:
        yield from (math.prod(getattr(one.aval, "shape", ())) for one in equation.outvars)
        for value in equation.params.values():
            for part in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _sizes(inner)


def _without_axis(description: Any) -> Any:
    """A description of format 1 without the axis of devices, which is no longer a field."""
    if not isinstance(description, dict):
        return description
    return {
        name: _without_axis(value) for name, value in description.items() if name != "axis_name"
    }
