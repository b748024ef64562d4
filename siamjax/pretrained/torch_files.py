"""Reads state dicts that PyTorch saved, without PyTorch and without running code in the file.

``torch.save`` writes a pickle that names storages, and their bytes: as members of a zip archive
(since PyTorch 1.6), or after the pickle (before; torchvision's VGG-16 is still stored like this).
A pickle can ask for any function to be called; only the few that make up a state dict are allowed.
"""

import collections
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from siamjax.errors import UsageError

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old format
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, by name.

    Raises ``UsageError`` for a pickle of anything but tensors, and ``ValueError`` for a damaged
    file.
    """
    try:
        state = _archive(path) if zipfile.is_zipfile(path) else _before_archives(path)
    except _Forbidden as error:
        raise UsageError(
            f"{path} holds code ({error}) and was not read; save model.state_dict() alone"
        ) from None
    except (pickle.UnpicklingError, IndexError, AttributeError) as error:
        raise ValueError(str(error)) from None
    arrays = isinstance(state, dict) and all(isinstance(t, np.ndarray) for t in state.values())
    if not arrays or not all(isinstance(name, str) for name in state):
        raise UsageError(f"{path} is not a state dict; save model.state_dict()")
    return dict(state)


class _Forbidden(Exception):
    """A pickle asks for something that no state dict needs."""


class _Unpickler(pickle.Unpickler):
    """Reads ordered dicts, tensors and storages, and nothing else."""

    def __init__(self, file: Any, storage: Any) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Refuse everything that is not part of a tensor."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        if module == "torch" and name.endswith("Storage"):
            raise UsageError(f"tensors of torch.{name} cannot be read; save them as float32")
        raise _Forbidden(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The storage that a tensor is a view of."""
        kind, storage_type, key, _, count = pid[:5]
        if kind != "storage" or storage_type not in _TYPES.values():
            raise ValueError(f"unknown storage {kind!r}")
        return self._storage(str(key), np.dtype(storage_type), int(count))


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """A view of a storage; ``ValueError`` if the storage is too small for it."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride), default=0) < 0 or (0 not in size and last >= len(storage)):
        raise ValueError(f"a tensor of {size} reaches beyond its {len(storage)} values")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _archive(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("an archive without data.pkl")
        top = pickles[0].removesuffix("data.pkl")
        if f"{top}byteorder" in archive.namelist() and archive.read(f"{top}byteorder") != b"little":
            raise ValueError("big-endian tensors")

        def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
            content = archive.read(f"{top}data/{key}")
            if len(content) != count * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(content)} bytes")
            return np.frombuffer(content, dtype)

        with archive.open(pickles[0]) as file:
            return _Unpickler(file, storage).load()


def _before_archives(path: Path) -> Any:
    with path.open("rb") as file:

        def refuse(*_: Any) -> np.ndarray:
            raise ValueError("a storage in the header")

        if _Unpickler(file, refuse).load() != _MAGIC:
            raise ValueError("not saved by torch.save")
        for _ in range(2):  # protocol, and the machine's integer sizes
            _Unpickler(file, refuse).load()
        storages: dict[str, np.ndarray] = {}
        most = path.stat().st_size

        def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
            """An empty storage for tensors to view; its bytes come after the pickle."""
            if not 0 <= count * dtype.itemsize <= most:
                raise ValueError(f"storage {key} of {count} values is larger than the file")
            return storages.setdefault(key, np.empty(count, dtype))

        state = _Unpickler(file, storage).load()
        keys = [str(key) for key in _Unpickler(file, refuse).load()]
        if set(keys) != set(storages):
            raise ValueError("storages without content")
        for key in keys:
            own = storages[key]
            count, content = int.from_bytes(file.read(8), "little"), file.read(own.nbytes)
            if count != len(own) or len(content) != own.nbytes:
                raise ValueError("cut short")
            own[:] = np.frombuffer(content, own.dtype)
    return state
