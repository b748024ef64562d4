"""Tensors of a published network, with the preprocessing that they were trained on."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from siamjax.errors import UsageError
from siamjax.models.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """What a file of weights holds.

    Attributes:
        source: where they were read from.
        tensors: by path, such as ``block1_conv1/kernel``; kernels are HWIO.
        preprocessing: what the network's pictures must go through.
    """

    source: str
    tensors: Mapping[str, np.ndarray]
    preprocessing: Preprocessing


def read_vgg16(path: Path) -> Weights:
    """ImageNet's VGG-16 from an .npz with Keras' names (``block1_conv1/kernel`` ...), any float.

    Its pictures are BGR less the mean. ``UsageError`` if the file cannot be read.
    """
    try:
        # Opened here, as NumPy leaves a file open that turns out to be none of its own.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            tensors = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file of weights; check the path") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: not an .npz of weights, or damaged ({error})") from None
    return Weights(source=str(path), tensors=tensors, preprocessing="bgr_mean")


def put(
    params: Any,
    weights: Weights,
    *,
    under: str = "",
    new: Sequence[str] = (),
    unused: Sequence[str] = (),
) -> Any:
    """``params`` with all of the weights in place, in the parameters' types.

    Every tensor is accounted for. ``under`` is the path of the published network within
    ``params``, such as ``deep``; of what lies under it ``new`` names (by the beginning of the
    path) what keeps its start, ``unused`` what of the file is left out. Raises ``UsageError``
    naming every tensor that is missing, left over or of another shape.
    """
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
    prefix = f"{under}/" if under else ""
    own = {path[len(prefix) :]: path for path in flat if path.startswith(prefix)}
    wanted = {path for path in own if not path.startswith(tuple(new))}
    given = {path for path in weights.tensors if not path.startswith(tuple(unused))}
    wrong = [f"{path} is missing in the file" for path in sorted(wanted - given)]
    wrong += [f"{path} has no place in the network" for path in sorted(given - wanted)]
    for path in sorted(wanted & given):
        here, there = flat[own[path]].shape, weights.tensors[path].shape
        if here != there:
            wrong.append(f"{path} is {there} in the file and {here} in the network")
    if wrong:
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        raise UsageError(f"{weights.source} does not fit the network: {shown}")
    for path in wanted:
        flat[own[path]] = jnp.asarray(weights.tensors[path], flat[own[path]].dtype)
    return flax.traverse_util.unflatten_dict(flat, sep="/")
