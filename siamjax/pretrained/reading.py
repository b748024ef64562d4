"""Reads published files of weights in all their formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from siamjax.errors import UsageError
from siamjax.models.preprocessing import Preprocessing
from siamjax.pretrained import architectures
from siamjax.pretrained.torch_files import read_state_dict
from siamjax.pretrained.weights import MANIFEST, Weights


class Stored(NamedTuple):
    """What a reader finds in a file.

    Attributes:
        architecture: ``vgg16`` or ``inception_v3``.
        tensors: by collection and path.
        preprocessing: the one that the format implies, or None.
        certain: whether no other preprocessing is possible.
    """

    architecture: str
    tensors: dict[str, np.ndarray]
    preprocessing: Preprocessing | None
    certain: bool


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

    Raises ``UsageError`` for a file that is missing, damaged or of another network.
    """
    path = Path(path)
    path = path / "model.json" if path.is_dir() else path
    choices = ", ".join(get_args(Preprocessing))
    if preprocessing is not None and preprocessing not in get_args(Preprocessing):
        raise UsageError(f"preprocessing {preprocessing!r}; choose one of {choices}")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file of weights; check the path") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    reader = _reader(path, head)
    try:
        found = reader(path)
    except UsageError:
        raise
    except Exception as error:  # h5py, NumPy, pickle and zipfile have no common type for damage
        raise UsageError(
            f"{path} is damaged, or not what it seems to be ({type(error).__name__}: {error})"
        ) from None
    if found.certain and preprocessing not in (None, found.preprocessing):
        raise UsageError(
            f"{path}: its images are preprocessed by {found.preprocessing!r}, not "
            f"{preprocessing!r}; leave the option out"
        )
    preprocessing = preprocessing or found.preprocessing
    if preprocessing is None:
        raise UsageError(
            f"{path} does not say how its images are preprocessed; choose preprocessing from "
            f"{choices}"
        )
    return Weights(
        source=str(path),
        architecture=found.architecture,
        tensors=found.tensors,
        preprocessing=preprocessing,
    )


read_weights.__doc__ = (read_weights.__doc__ or "") % FORMATS


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
    raise UsageError(f"{path} is not a known file of weights, expected {FORMATS}")


def _npz(path: Path) -> Stored:
    # Opened here, because NumPy does not close a file that turns out not to be its own.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    manifest = arrays.pop(MANIFEST, None)
    if manifest is not None:
        stated = json.loads(str(manifest))
        architecture, preprocessing = stated["architecture"], stated["preprocessing"]
        if architecture not in architectures.PREPROCESSING:
            raise ValueError(f"architecture {architecture!r}")
        if preprocessing not in get_args(Preprocessing):
            raise ValueError(f"preprocessing {preprocessing!r}")
        return Stored(architecture, arrays, preprocessing, True)
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        layer, _, kind = name.rpartition("/")
        layers.setdefault(layer, {})[kind] = array
    return _of_keras(path, layers)


def _of_keras(path: Path, layers: architectures.Layers, *, by_depth: bool = False) -> Stored:
    architecture, tensors = architectures.of_keras(str(path), layers, by_depth=by_depth)
    return Stored(architecture, tensors, architectures.PREPROCESSING[architecture], False)


def _keras(path: Path) -> Stored:
    """Both layouts: groups named by layer with ``weight_names``, and ``layers/CLASS_N/vars/K``."""
    import h5py  # only here: training and export run without it

    layers: dict[str, dict[str, np.ndarray]] = {}
    with h5py.File(path, "r") as file:
        if "layers" in file and "layer_names" not in file.attrs:
            named = _keras3(file["layers"], layers)
        else:
            group: Any = file.get("model_weights", file)
            if "layer_names" not in group.attrs:
                raise UsageError(f"{path} is an HDF5 file, but not of Keras weights")
            named = True
            for layer in group.attrs["layer_names"]:
                inside = group[_text(layer)]
                for name in inside.attrs["weight_names"]:
                    parts = _text(name).split(":")[0].split("/")
                    layers.setdefault(parts[-2], {})[parts[-1]] = np.asarray(inside[_text(name)])
    return _of_keras(path, layers, by_depth=not named)


_BY_COUNT = {
    ("conv2d", 1): ("kernel",),
    ("conv2d", 2): ("kernel", "bias"),
    ("dense", 1): ("kernel",),
    ("dense", 2): ("kernel", "bias"),
    ("batch_normalization", 3): ("beta", "moving_mean", "moving_variance"),
    ("batch_normalization", 4): ("gamma", "beta", "moving_mean", "moving_variance"),
}


def _keras3(group: Any, layers: dict[str, dict[str, np.ndarray]]) -> bool:
    """Read Keras 3's ``.weights.h5``; returns whether it has the layers' names (3.3 and later)."""
    names = []
    for stored in group:
        variables = group[stored].get("vars")
        if variables is None or not len(variables):
            if any(key != "vars" for key in group[stored]):
                raise ValueError(
                    f"layer {stored} is itself a network: save the weights of that one"
                )
            continue
        kind = stored.rstrip("0123456789").rstrip("_")
        kinds = _BY_COUNT.get((kind, len(variables)))
        if kinds is None:
            raise ValueError(f"layer {stored} with {len(variables)} variables is unknown")
        own = variables.attrs.get("name")
        names.append(own)
        layers[stored if own is None else _text(own)] = {
            name: np.asarray(variables[str(place)]) for place, name in enumerate(kinds)
        }
    return all(name is not None for name in names)


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _tensorflow_js(path: Path) -> Stored:
    groups = json.loads(path.read_text(encoding="utf-8"))["weightsManifest"]
    layers: dict[str, dict[str, np.ndarray]] = {}
    joined = path.with_name("weights.bin")
    place = 0
    for group in groups:
        shards = [path.with_name(name) for name in group["paths"]]
        if all(shard.exists() for shard in shards):
            content, place = b"".join(shard.read_bytes() for shard in shards), 0
        elif joined.exists():
            content = joined.read_bytes()
        else:
            missing = next(shard for shard in shards if not shard.exists())
            raise UsageError(f"{missing}: a shard of {path.name} is missing; put it beside it")
        for entry in group["weights"]:
            array, place = _tensor(content, place, entry)
            layer, _, kind = entry["name"].rpartition("/")
            layers.setdefault(layer.rpartition("/")[2], {})[kind] = array
        if place != len(content) and (not joined.exists() or group is groups[-1]):
            raise ValueError(f"{len(content)} bytes of weights, but {place} are described")
    return _of_keras(path, layers)._replace(preprocessing=None)


def _tensor(content: bytes, place: int, entry: dict[str, Any]) -> tuple[np.ndarray, int]:
    """One tensor in float32, and where the next one begins."""
    packed = entry.get("quantization")
    kind = np.dtype((packed or entry)["dtype"]).newbyteorder("<")
    count = int(np.prod(entry["shape"], dtype=np.int64))
    if place + count * kind.itemsize > len(content):
        raise ValueError(f"cut short at {entry['name']}: {len(content)} bytes of weights")
    array = np.frombuffer(content, kind, count, place).astype(np.float32)
    if packed and "scale" in packed:
        array = array * np.float32(packed["scale"]) + np.float32(packed["min"])
    return array.reshape(entry["shape"]), place + count * kind.itemsize


def _safetensors(path: Path) -> Stored:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise UsageError(f"{path} needs: pip install 'siamjax[safetensors]'") from None
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    # bfloat16 and float8 are not NumPy's own types, so an .npz cannot hold them.
    tensors = {
        name: tensor if tensor.dtype.kind in "fiub" else tensor.astype(np.float32)
        for name, tensor in tensors.items()
    }
    return Stored(*architectures.of_torch(str(path), tensors), True)


def _torch(path: Path) -> Stored:
    return Stored(*architectures.of_torch(str(path), read_state_dict(path)), True)
