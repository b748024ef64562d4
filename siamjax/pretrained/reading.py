"""Reads published files of weights in all their formats."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec
import numpy as np

from siamjax.array_files import NUMBERS, read_npz
from siamjax.errors import UsageError, shown
from siamjax.files import Natural, decode_json, open_regular, read_bytes, read_json
from siamjax.isolation import isolated
from siamjax.options import Preprocessing
from siamjax.pretrained import architectures
from siamjax.pretrained.published_form import check_published, check_values
from siamjax.pretrained.torch_files import read_state_dict
from siamjax.pretrained.weights import MANIFEST, Weights


class Stored(NamedTuple):
    """What a reader finds in a file.

    Attributes:
        architecture: ``vgg16`` or ``inception_v3``.
        tensors: by collection and path.
        preprocessing: the one that the format implies, or None.
        certain: whether no other preprocessing is possible.
        own: whether :meth:`Weights.save` wrote it: then a part of a network, or another width, is
            meant, and :func:`siamjax.pretrained.put` compares it with the network.
    """

    architecture: str
    tensors: dict[str, np.ndarray]
    preprocessing: Preprocessing | None
    certain: bool
    own: bool = False


Layers = dict[str, dict[str, np.ndarray]]
_LARGEST = 2**33  # bytes of a shard

FORMATS = (
    "Keras .h5 and .weights.h5, TensorFlow.js model.json, .npz, torchvision .pth and .safetensors"
)


def read_weights(path: Path | str, *, preprocessing: Preprocessing | None = None) -> Weights:
    """VGG-16 or InceptionV3 from a published file, with tensors named as in siamjax.

    Formats: %s; the file's content decides which it is. A TensorFlow.js model is a ``model.json``
    beside its shards, or beside all of them joined as ``weights.bin``; quantised values are
    ``minimum + scale * q``. A ``.pth`` file is read without PyTorch, and without running any code
    in it.

    The preprocessing of published files is known: that of ``keras.applications`` for Keras files
    and an .npz with their names, torchvision's for its own, and the stated one for a file that
    :meth:`Weights.save` wrote. ``preprocessing`` overrides it for Keras' layouts (weights that were
    trained anew), and must be given for TensorFlow.js, which does not state it.

    Raises ``UsageError`` for a file that is missing, damaged or of another network; for NaN and
    infinite values; and, but for a file that :meth:`Weights.save` wrote, for tensors that are
    missing or of another shape than the published ones. It names the tensors.
    """
    path = Path(path)
    path = path / "model.json" if os.path.isdir(path) else path
    choices = ", ".join(get_args(Preprocessing))
    if preprocessing is not None and preprocessing not in get_args(Preprocessing):
        raise UsageError(f"preprocessing {shown(preprocessing)!r}; choose one of {choices}")
    try:
        with open_regular(path) as file:
            head = file.read(16)
        found = _reader(path, head)(path)
        check_values(str(path), found.tensors)
        if not found.own:
            check_published(str(path), found.architecture, found.tensors)
    except UsageError:
        raise
    except Exception as error:  # NumPy, pickletools and zipfile have no common type for damage
        why = shown(f"{type(error).__name__}: {error}")
        raise UsageError(f"{shown(path)} is damaged, or not what it seems to be ({why})") from None
    if found.certain and preprocessing not in (None, found.preprocessing):
        raise UsageError(
            f"{shown(path)}: its images are preprocessed by {found.preprocessing!r}, not "
            f"{preprocessing!r}; leave the option out"
        )
    preprocessing = preprocessing or found.preprocessing
    if preprocessing is None:
        raise UsageError(
            f"{shown(path)} does not say how its images are preprocessed; choose preprocessing "
            f"from {choices}"
        )
    return Weights(
        source=str(path),
        architecture=found.architecture,
        tensors=found.tensors,
        preprocessing=preprocessing,
    )


if read_weights.__doc__:  # not under python -OO
    read_weights.__doc__ %= FORMATS


def _reader(path: Path, head: bytes) -> Callable[[Path], Stored]:
    if head.startswith(b"\x89HDF"):
        return _keras
    if head.lstrip().startswith(b"{"):
        return _tensorflow_js
    if head.startswith(b"PK") and path.suffix == ".npz":
        return _npz
    if path.suffix == ".safetensors":
        return _safetensors
    if path.suffix in (".pth", ".pt"):
        return _torch
    raise UsageError(f"{shown(path)} is not a known file of weights, expected {FORMATS}")


def _npz(path: Path) -> Stored:
    arrays = read_npz(path, texts=(MANIFEST,))
    manifest = arrays.pop(MANIFEST, None)
    if manifest is not None:
        stated = decode_json(str(manifest), _Manifest, where=f"{shown(path)}: its manifest")
        for name in arrays:
            if not name.startswith(("params/", "batch_stats/")) or name.count("/") < 2:
                raise UsageError(f"{shown(path)}: {shown(name)} is no tensor of a layer")
        return Stored(stated.architecture, arrays, stated.preprocessing, True, True)
    layers: Layers = {}
    for name, array in arrays.items():
        layer, _, kind = name.rpartition("/")
        _add(layers, layer, kind, array, path)
    return _of_keras(path, layers)


class _Manifest(msgspec.Struct):
    architecture: Literal["vgg16", "inception_v3"]
    preprocessing: Preprocessing


def _of_keras(path: Path, layers: Layers, *, by_depth: bool = False) -> Stored:
    architecture, tensors = architectures.of_keras(str(path), layers, by_depth=by_depth)
    return Stored(architecture, tensors, architectures.PREPROCESSING[architecture], False)


def _keras(path: Path) -> Stored:
    layers: Layers = {}
    named = True
    for value, array in isolated("siamjax.isolation.keras_h5.tensors", path):
        if array is None:
            named = bool(value)
        else:
            layer, kind = map(str, value)
            _add(layers, layer, kind, array, path)
    return _of_keras(path, layers, by_depth=not named)


def _add(layers: Layers, layer: str, kind: str, array: np.ndarray, path: Path) -> None:
    own = layers.setdefault(layer, {})
    if kind in own:
        raise UsageError(f"{shown(path)}: {shown(layer)}/{shown(kind)} is twice in the file")
    own[kind] = array


class _Quantization(msgspec.Struct):
    dtype: Literal["uint8", "uint16", "float16"]
    scale: float | None = None
    min: float = 0.0


class _Entry(msgspec.Struct):
    name: str
    shape: list[Natural]
    dtype: Literal["float32", "int32", "bool"]
    quantization: _Quantization | None = None


class _Group(msgspec.Struct):
    paths: list[str]
    weights: list[_Entry]


class _Model(msgspec.Struct):
    weightsManifest: list[_Group]


def _tensorflow_js(path: Path) -> Stored:
    groups = read_json(path, _Model).weightsManifest
    names = [name for group in groups for name in group.paths]
    if len(set(names)) != len(names) or not all(Path(n).name == n and n for n in names):
        raise UsageError(f"{shown(path)}: expected different names of files beside it as shards")
    layers: Layers = {}
    joined, content = path.with_name("weights.bin"), b""
    place = 0
    for number, group in enumerate(groups):
        shards = [path.with_name(name) for name in group.paths]
        apart = all(os.path.exists(shard) for shard in shards)
        if apart:
            content, place = b"".join(read_bytes(shard, limit=_LARGEST) for shard in shards), 0
        elif not os.path.exists(joined):
            missing = next(shard for shard in shards if not os.path.exists(shard))
            raise UsageError(
                f"{shown(missing)}: a shard of {path.name} is missing; put it beside it"
            )
        elif number == 0:
            content = read_bytes(joined, limit=_LARGEST)
        for entry in group.weights:
            array, place = _tensor(content, place, entry)
            layer, _, kind = entry.name.rpartition("/")
            _add(layers, layer.rpartition("/")[2], kind, array, path)
        if place != len(content) and (apart or group is groups[-1]):
            raise ValueError(f"{len(content)} bytes of weights, but {place} are described")
    return _of_keras(path, layers)._replace(preprocessing=None)


def _tensor(content: bytes, place: int, entry: _Entry) -> tuple[np.ndarray, int]:
    """One tensor in float32, and where the next one begins."""
    packed = entry.quantization
    dtype = np.dtype((packed or entry).dtype).newbyteorder("<")
    count = math.prod(entry.shape)
    if place + count * dtype.itemsize > len(content):
        raise ValueError(f"cut short at {shown(entry.name)}: {len(content)} bytes of weights")
    array = np.frombuffer(content, dtype, count, place).astype(np.float32)
    if packed and packed.scale is not None:
        with np.errstate(all="ignore"):  # what is not finite then is refused by its name
            array = array * np.float32(packed.scale) + np.float32(packed.min)
    return array.reshape(entry.shape), place + count * dtype.itemsize


def _safetensors(path: Path) -> Stored:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise UsageError(f"{shown(path)} needs: pip install 'siamjax[safetensors]'") from None
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    for name, tensor in tensors.items():
        # bfloat16 and float8 are not NumPy's own types, so an .npz cannot hold them.
        if tensor.dtype.name.startswith(("bfloat16", "float8")):
            tensors[name] = tensor.astype(np.float32)
        elif tensor.dtype.kind not in NUMBERS:
            raise UsageError(
                f"{shown(path)}: {shown(name)} has values of type {tensor.dtype}; expected numbers"
            )
    return Stored(*architectures.of_torch(str(path), tensors), True)


def _torch(path: Path) -> Stored:
    return Stored(*architectures.of_torch(str(path), read_state_dict(path)), True)
