"""Tensors of a published network, with the preprocessing that it was trained with."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from siamjax.checks import begins
from siamjax.data.transforms import Size
from siamjax.errors import UsageError, shown
from siamjax.files import write_bytes
from siamjax.models.applying import modules_within
from siamjax.options import Preprocessing
from siamjax.pretrained.networks import NETWORKS, variables_of
from siamjax.pretrained.published_form import inside, mismatches

MANIFEST = "manifest"
"""Name of the array with JSON in a file that :meth:`Weights.save` wrote."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """The contents of a file of weights, in siamjax's names and layouts.

    Attributes:
        source: the file that they were read from.
        architecture: a key of :data:`siamjax.pretrained.networks.NETWORKS`, such as ``vgg16``.
        tensors: by collection and path, such as ``params/block1_conv1/kernel`` (HWIO) and
            ``batch_stats/batch_normalization_1/mean``.
        preprocessing: what the network's images must go through.
        facts: what else its file said of it, as JSON.
    """

    source: str
    architecture: str
    tensors: Mapping[str, np.ndarray] = dataclasses.field(repr=False)  # pages in a notebook
    preprocessing: Preprocessing
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @cached_property
    def _embedding(self) -> tuple[nn.Module, Size]:
        shapes = {path: tensor.shape for path, tensor in self.tensors.items()}
        facts = {**self.facts, "preprocessing": self.preprocessing}
        return NETWORKS[self.architecture].build(shapes, facts)

    @property
    def network(self) -> nn.Module:
        """The network that embeds images as its publisher has it; :attr:`variables` are its own."""
        return self._embedding[0]

    @property
    def size(self) -> Size:
        """Size of that network's images, and how they come to it."""
        return self._embedding[1]

    @cached_property
    def variables(self) -> dict[str, Any]:
        """Variables of :attr:`network`; ``UsageError`` as of :func:`put`."""
        return self.into(self.network, variables_of(self.network, self.size), under="")

    def into(self, network: nn.Module, variables: Mapping[str, Any], *, under: str) -> Any:
        """``variables`` of a network with :attr:`network` as its part ``under``, that as published.

        Raises ``UsageError`` as :func:`put` does.
        """
        about = NETWORKS[self.architecture]
        place = "/".join(filter(None, (under, about.under)))
        return put(network, variables, self.without(*about.unused), under=place)

    def save(self, path: Path) -> None:
        """Write an .npz that :func:`siamjax.pretrained.read_weights` reads, whole or not at all.

        Its array ``manifest`` is JSON with architecture, preprocessing, facts and source.
        """
        manifest = {
            "architecture": self.architecture,
            "preprocessing": self.preprocessing,
            "facts": dict(self.facts),
            "source": self.source,
        }
        buffer = io.BytesIO()
        # bfloat16 is none of NumPy's own types, so an .npz cannot hold it.
        tensors = {
            path: tensor if tensor.dtype.kind != "V" else tensor.astype(np.float32)
            for path, tensor in self.tensors.items()
        }
        arrays: dict[str, Any] = {**tensors, MANIFEST: np.array(json.dumps(manifest))}
        np.savez(buffer, **arrays)
        write_bytes(path, buffer.getbuffer())

    @property
    def digest(self) -> str:
        """sha256 of everything but the source; a resumed run must have the same."""
        said = (self.architecture, self.preprocessing, *sorted(self.facts.items()))
        digest = hashlib.sha256(repr(said).encode())
        for path, tensor in sorted(self.tensors.items()):
            digest.update(repr((path, tensor.shape, tensor.dtype.str)).encode())
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()

    def without(self, *layers: str) -> "Weights":
        """These weights without the layers of these prefixes, such as a head of another task."""
        kept = {p: t for p, t in self.tensors.items() if _kept(p, layers)}
        return dataclasses.replace(self, tensors=kept)


def put(
    network: nn.Module,
    variables: Mapping[str, Any],
    weights: Weights,
    *,
    under: str = "",
    new: Sequence[str] = (),
    unused: Sequence[str] = (),
) -> dict[str, Any]:
    """``variables`` of ``network`` with the weights in place, in the variables' dtypes.

    Every tensor is accounted for. ``under`` is the path of the published network within
    ``network``, such as ``deep``. ``new`` has prefixes of paths under it that keep their initial
    values, ``unused`` prefixes of tensors in the file that are left out. Raises ``UsageError``
    naming the tensors that are missing, left over or of another shape, and if the field
    ``preprocessing`` of ``network``, or of the modules that are its fields, is not that of the
    weights.
    """
    modules: list[Any] = [one for one in modules_within(network) if hasattr(one, "preprocessing")]
    stated = {module.preprocessing for module in modules}
    if not stated:
        raise UsageError(
            f"{type(network).__name__} does not say how its images are preprocessed; give it a "
            f"field preprocessing ({weights.preprocessing!r} for {weights.source})"
        )
    if stated != {weights.preprocessing}:
        raise UsageError(
            f"{weights.source} was trained on images preprocessed by {weights.preprocessing!r}, "
            f"the network has {' and '.join(map(repr, sorted(stated)))}"
        )
    # By tuples too: a name outside of the published network may have a slash within it.
    flat: dict[Any, Any] = flax.traverse_util.flatten_dict(dict(variables))
    places = {"/".join(place): place for place in flat}
    own: dict[str, Any] = {}
    for path, place in places.items():
        collection, _, rest = path.partition("/")
        if not under or rest.startswith(f"{under}/"):
            own[f"{collection}/{rest[len(under) :].lstrip('/')}"] = place
    wanted = {path: flat[at].shape for path, at in own.items() if _kept(path, new)}
    given = {path: t.shape for path, t in weights.tensors.items() if _kept(path, unused)}
    if wrong := mismatches(wanted, given, there="in the network"):
        raise UsageError(f"{shown(weights.source)} does not fit the network: {wrong}")
    for path in wanted:
        flat[own[path]] = jnp.asarray(weights.tensors[path], flat[own[path]].dtype)
    return flax.traverse_util.unflatten_dict(flat)


def _kept(path: str, left_out: Sequence[str]) -> bool:
    return not begins(inside(path), left_out)
