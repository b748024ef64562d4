"""Reads published files of weights in all their formats."""

import contextlib
import math
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np

from siamjax import messages
from siamjax.array_files import NUMBERS, read_npz
from siamjax.errors import UsageError, shown
from siamjax.files import Natural, decode_json, open_regular, read_bytes, read_json
from siamjax.isolation import isolated
from siamjax.options import Preprocessing, plain
from siamjax.pretrained import architectures
from siamjax.pretrained.beside import activation_beside, said_beside, said_by_timm
from siamjax.pretrained.layouts import COUNTERS, LAYOUTS, assumed, layout_of, translated
from siamjax.pretrained.networks import NETWORKS
from siamjax.pretrained.published_form import check_network, check_published, check_values
from siamjax.pretrained.torch_files import read_state_dict
from siamjax.pretrained.weights import MANIFEST, Weights


class Stored(NamedTuple):
    """What a reader finds in a file.

    Attributes:
        architecture: a key of :data:`siamjax.pretrained.networks.NETWORKS`.
        tensors: by collection and path.
        preprocessing: the one that the format implies, or None.
        certain: whether no other preprocessing is possible.
        own: whether :meth:`Weights.save` wrote it: then a part of a network, or another width, is
            meant, and :func:`siamjax.pretrained.put` compares it with the network.
        facts: what else the file, and those beside it, say of the network.
        doubt: what is told where the preprocessing is assumed.
        names: of tensors in the file, by collection and path; for messages.
    """

    architecture: str
    tensors: dict[str, np.ndarray]
    preprocessing: Preprocessing | None
    certain: bool
    own: bool = False
    facts: Mapping[str, Any] = {}
    doubt: str = ""
    names: Mapping[str, str] = {}


Layers = dict[str, dict[str, np.ndarray]]
_LARGEST = 2**33  # bytes of a shard
_LAID_OUT = {layout.architecture for layout in LAYOUTS}

_IN_FOLDERS = (
    "model.json",
    "face_recognition_model-weights_manifest.json",
    "model.safetensors.index.json",
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
FORMATS = (
    "PyTorch .pth, .pt and .bin, .safetensors (both also in shards: .index.json), Keras .h5 and "
    ".weights.h5, TensorFlow.js .json, .npz"
)


def read_weights(path: Path | str, *, preprocessing: Preprocessing | None = None) -> Weights:
    """A published network from a file (or the folder of one), with tensors named as in siamjax.

    Formats: %s. The file's content decides which it is, and the names and shapes of its tensors
    which network (:mod:`siamjax.pretrained.layouts`), its variant, its image size and how its
    images are preprocessed; a publisher's JSON file beside it may say more
    (:mod:`siamjax.pretrained.beside`). A TensorFlow.js model is a ``model.json`` beside its shards,
    or beside all of them joined as ``weights.bin``; quantised values are ``minimum + scale * q``. A
    PyTorch file is read without PyTorch, and without running any code in it.

    ``preprocessing`` overrides the published one, for weights that were trained anew, and must be
    given for a Keras network in TensorFlow.js, which does not state it. It cannot be another one
    for torchvision's VGG-16 and InceptionV3, and for a file that :meth:`Weights.save` wrote.

    Raises ``UsageError`` for a file that is missing, damaged or of another network; for NaN and
    infinite values; and, but for a file that :meth:`Weights.save` wrote, for tensors that are
    missing or of another shape than the published ones. It names the tensors.
    """
    path = Path(path)
    if os.path.isdir(path):
        path = _file_in(path)
    plain("preprocessing", preprocessing, Preprocessing | None)
    with _damaged(path):
        found = _reader(path, _head(path))(path)
        check_values(str(path), found.tensors, names=found.names)
        if found.architecture in _LAID_OUT:
            facts = {**found.facts, **({"preprocessing": preprocessing} if preprocessing else {})}
            what = (str(path), found.architecture, found.tensors, facts)
            known = check_network(*what, whole=not found.own, names=found.names)
            found = found._replace(preprocessing=found.preprocessing or known)
        elif not found.own:
            check_published(str(path), found.architecture, found.tensors)
    if found.certain and preprocessing not in (None, found.preprocessing):
        raise UsageError(
            f"{shown(path)}: its images are preprocessed by {found.preprocessing!r}, not "
            f"{preprocessing!r}; leave the option out"
        )
    if found.doubt and preprocessing is None:
        messages.warn(found.doubt)
    preprocessing = preprocessing or found.preprocessing
    if preprocessing is None:
        raise UsageError(
            f"{shown(path)} does not say how its images are preprocessed; choose preprocessing "
            f"from {', '.join(get_args(Preprocessing))} (python -m siamjax weights convert FILE "
            "--preprocessing KIND)"
        )
    return Weights(
        source=str(path),
        architecture=found.architecture,
        tensors=found.tensors,
        preprocessing=preprocessing,
        facts=found.facts,
    )


if read_weights.__doc__:  # not under python -OO
    read_weights.__doc__ %= FORMATS


def in_folder(folder: Path | str) -> Path | None:
    """The file of weights in a folder, by the names that publishers give it; None: none.

    If there is no other, a link that leads nowhere, as in a copy of a part of a cache.
    """
    places = [Path(folder) / name for name in _IN_FOLDERS]
    found = [*filter(os.path.exists, places), *filter(os.path.lexists, places), None]
    return found[0]


def _file_in(folder: Path) -> Path:
    if os.path.exists(folder / "manifest.json"):
        raise UsageError(
            f"{shown(folder)} is a run and no published weights; an experiment starts from a run "
            "by --start-from"
        )
    if found := in_folder(folder):
        return found
    raise UsageError(
        f"{shown(folder)} has no file of weights by a publisher's name ({', '.join(_IN_FOLDERS)}); "
        "give the file itself"
    )


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Tell what the block meets as damage of a file."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # NumPy, pickletools and zipfile have no common type for damage
        why = shown(f"{type(error).__name__}: {error}")
        raise UsageError(
            f"{shown(path)} is damaged, or not what it seems to be ({why}); get it anew"
        ) from None


def _head(path: Path) -> bytes:
    """The first bytes of a file; ``UsageError`` if Git has left a pointer in its place."""
    with open_regular(path) as file:
        head = file.read(16)
    if head == b"version https://":
        raise UsageError(f"{shown(path)} is not the file but Git LFS's pointer to it: git lfs pull")
    return head


def _reader(path: Path, head: bytes) -> Callable[[Path], Stored]:
    if head.startswith(b"\x89HDF"):
        return _keras
    if path.name.endswith((".safetensors.index.json", ".bin.index.json")):
        return _in_shards
    # A .safetensors begins with a number of 8 bytes, whose first may be those of JSON.
    if head.lstrip()[:1] in (b"{", b"[") and path.suffix != ".safetensors":
        return _tensorflow_js
    if head.startswith(b"PK") and path.suffix == ".npz":
        return _npz
    if re.search(r"-\d+-of-(?!0*1\.)\d+\.(safetensors|bin)$", path.name):
        raise UsageError(
            f"{shown(path)} is one of several shards; give the .index.json that lies beside it"
        )
    if path.suffix == ".safetensors":
        return _safetensors
    if path.suffix == ".bin" and head[:1] not in (b"P", b"\x80"):  # neither archive nor pickle
        raise UsageError(
            f"{shown(path)} is not a file of PyTorch's; of TensorFlow.js give the .json beside it"
        )
    if path.suffix in (".pth", ".pt", ".bin", ".tar", ".ckpt"):
        return _torch
    raise UsageError(f"{shown(path)} is not a known file of weights, expected {FORMATS}")


def _npz(path: Path) -> Stored:
    arrays = read_npz(path, texts=(MANIFEST,))
    manifest = arrays.pop(MANIFEST, None)
    if manifest is not None:
        stated = decode_json(str(manifest), _Manifest, where=f"{shown(path)}: its manifest")
        for name in arrays:
            if not name.startswith(("params/", "batch_stats/")):
                raise UsageError(f"{shown(path)}: {shown(name)} is no tensor of a layer")
        return Stored(stated.architecture, arrays, stated.preprocessing, True, True, stated.facts)
    if found := _laid_out(path, arrays):
        return found
    layers: Layers = {}
    for name, array in arrays.items():
        layer, _, kind = name.rpartition("/")
        _add(layers, layer, kind, array, path)
    return _of_keras(path, layers)


class _Manifest(msgspec.Struct):
    architecture: str
    preprocessing: Preprocessing
    facts: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.architecture not in NETWORKS:
            raise ValueError(f"no architecture {shown(self.architecture)}")


def _laid_out(path: Path, tensors: Mapping[str, np.ndarray]) -> Stored | None:
    """What the table of layouts makes of tensors by their names; None: it has none such."""
    tensors = {name.replace("/", "."): tensor for name, tensor in tensors.items()}
    try:
        found = layout_of(tensors)
    except UsageError as error:
        raise UsageError(f"{shown(path)} {error}") from None
    if found is None:
        return None
    layout, before = found
    translation, names = translated(tensors, layout, before)
    facts = dict(layout.facts)
    if layout.config is not None:
        facts["activation"] = activation_beside(path, layout.config)
    facts |= said_by_timm(path, pool=layout.timm) if layout.timm else said_beside(path)
    doubt = ""
    if layout.moments and "preprocessing" not in facts:
        facts["preprocessing"], certain = assumed(tensors)
        doubt = "" if certain else _doubt(path, facts["preprocessing"], layout.moments)
    known = {"facts": facts, "doubt": doubt, "names": names}
    return Stored(layout.architecture, translation, None, False, **known)


def _doubt(path: Path, preprocessing: Preprocessing, moments: str) -> str:
    mine, other, kind = "0.5 (augreg)", "ImageNet's (DINO, MAE, DeiT)", "torchvision"
    if preprocessing == kind:
        mine, other, kind = other, mine, "signed"
    return (
        f"{shown(path)} does not say its images' mean and standard deviation; assumed: {mine}. If "
        f"they are {other}, put {moments} beside it, or run: python -m siamjax weights convert "
        f"{shlex.quote(shown(path))} --preprocessing {kind}"
    )


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
    either: Any = _Model | list[_Group]
    try:
        groups = read_json(path, either)
    except UsageError as error:  # another JSON file, or what a server said in place of the weights
        raise UsageError(
            f"{error}; expected the model.json of TensorFlow.js, or a file of weights"
        ) from None
    groups = groups if isinstance(groups, list) else groups.weightsManifest
    names = [name for group in groups for name in group.paths]
    if len(set(names)) != len(names) or not all(Path(n).name == n and n for n in names):
        raise UsageError(f"{shown(path)}: expected different names of files beside it as shards")
    tensors: dict[str, np.ndarray] = {}
    joined, content = path.with_name("weights.bin"), b""
    place = 0
    for number, group in enumerate(groups):
        shards = [path.with_name(name) for name in group.paths]
        apart = all(os.path.exists(shard) for shard in shards)
        if apart:
            content, place = b"".join(map(_content, shards)), 0
        elif not os.path.exists(joined):
            missing = next(shard for shard in shards if not os.path.exists(shard))
            raise UsageError(
                f"{shown(missing)}: a shard of {path.name} is missing; put it beside it"
            )
        elif number == 0:
            content = _content(joined)
        for entry in group.weights:
            array, place = _tensor(content, place, entry)
            if entry.name in tensors:
                raise UsageError(f"{shown(path)}: {shown(entry.name)} is twice in the file")
            tensors[entry.name] = array
        if place != len(content) and (apart or group is groups[-1]):
            raise ValueError(f"{len(content)} bytes of weights, but {place} are described")
    if found := _laid_out(path, tensors):
        return found
    layers: Layers = {}
    for name, array in tensors.items():
        layer, _, kind = name.rpartition("/")
        _add(layers, layer.rpartition("/")[2], kind, array, path)
    return _of_keras(path, layers)._replace(preprocessing=None)


def _content(shard: Path) -> bytes:
    _head(shard)
    return read_bytes(shard, limit=_LARGEST)


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


class _Sharded(msgspec.Struct):
    weight_map: dict[str, str]


def _in_shards(path: Path) -> Stored:
    """Of Hugging Face: an index says in which of the files beside it each tensor is."""
    places = read_json(path, _Sharded).weight_map
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(places.values())):
        shard = path.parent / name
        if Path(name).name != name:
            raise UsageError(f"{shown(path)}: the shard {shown(name)!r} is not beside it")
        if not os.path.isfile(shard):
            raise UsageError(f"{shown(shard)}: this shard is missing; put it there")
        _head(shard)
        with _damaged(shard):
            own = read_state_dict(shard) if name.endswith(".bin") else _in_safetensors(shard)
        if lacking := sorted(t for t, at in places.items() if at == name and t not in own):
            named = shown(", ".join(lacking[:3]))
            raise UsageError(f"{shown(shard)} lacks {named}, which {path.name} says is there")
        if twice := sorted(own.keys() & tensors):
            raise UsageError(f"{shown(shard)}: {shown(twice[0])} is in another shard as well")
        tensors |= own
    return _of_publisher(path, tensors)


def _safetensors(path: Path) -> Stored:
    return _of_publisher(path, _in_safetensors(path))


def _in_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    except AttributeError as error:  # a type that NumPy lacks, such as float8
        raise UsageError(
            f"{shown(path)}: values of a type that cannot be read ({shown(error)}): save the "
            "network as float16 or float32"
        ) from None


def _torch(path: Path) -> Stored:
    return _of_publisher(path, read_state_dict(path))


def _of_publisher(path: Path, tensors: Mapping[str, np.ndarray]) -> Stored:
    """Of tensors by dotted names, in PyTorch's layouts."""
    if adapter := next((name for name in tensors if ".lora_" in name), None):
        raise UsageError(
            f"{shown(path)} holds a LoRA adapter ({shown(adapter)}) and no network; merge it into "
            "its network (merge_and_unload in peft) and save that"
        )
    if path_within := next((name for name in tensors if name.startswith("params/")), None):
        raise UsageError(
            f"{shown(path)} has tensors by their paths in siamjax ({shown(path_within)}) and does "
            "not say how images come to it; give the whole folder of an exported run, with its "
            "manifest.json"
        )
    for name, tensor in tensors.items():
        number = tensor.dtype.kind == "f" or tensor.dtype.name == "bfloat16"
        number = number or re.fullmatch(COUNTERS, name)
        if not number and (tensor.ndim > 1 or tensor.dtype.kind not in NUMBERS):
            raise UsageError(
                f"{shown(path)}: {shown(name)} has values of type {tensor.dtype}: quantised "
                "weights cannot be read; save the network as float16 or float32"
            )
    if found := _laid_out(path, tensors):
        return found
    architecture, found, usual = architectures.of_torch(str(path), tensors)
    stated = said_by_timm(path, pool="avg").get("preprocessing", usual)  # Gluon's InceptionV3
    return Stored(architecture, found, stated, True)
