"""Reads state dicts that PyTorch saved, without PyTorch and without running code in the file.

``torch.save`` writes a pickle that names storages, and their bytes: as members of a zip archive
(since PyTorch 1.6), or after the pickle (before; torchvision's VGG-16 is still stored like this).
Of the pickle, :mod:`siamjax.pretrained.torch_pickles` takes nothing but tensors.
"""

import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from siamjax.array_files import allowance
from siamjax.errors import UsageError, shown
from siamjax.files import open_regular
from siamjax.pretrained.torch_pickles import MOST_BYTES, Clipped, Forbidden, unpickle

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old format
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others can grow without bound


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, by name.

    Raises ``UsageError`` for a pickle of anything but plain tensors, and ``ValueError`` for a
    damaged file; also if a tensor has more values than its storage, or all together take more than
    :func:`siamjax.array_files.allowance`.
    """
    with open_regular(path) as file:
        most = allowance(os.fstat(file.fileno()).st_size)
        try:
            zipped = zipfile.is_zipfile(file)
            file.seek(0)
            if not zipped and file.read(4) == b"PK\x03\x04":  # the list of members is at the end
                raise ValueError("an archive that is cut short")
            file.seek(0)
            state = _archive(file, most) if zipped else _before_archives(file)
        except Forbidden as error:
            raise UsageError(
                f"{shown(path)} holds code ({shown(error)}) and was not read; save "
                "model.state_dict() alone"
            ) from None
        except UsageError as error:
            raise UsageError(f"{shown(path)}: {error}") from None
        except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None
    state = _network(path, state)
    if sum(tensor.nbytes for tensor in state.values()) > most:
        raise ValueError(f"its tensors take more than the {most:,} bytes that its size allows")
    return state


def _network(path: Path, saved: Any) -> dict[str, np.ndarray]:
    """The state dict, also of a checkpoint that holds it as ``state_dict`` or as its only one."""
    remedy = "save model.state_dict()"
    if not isinstance(saved, dict):
        raise UsageError(f"{shown(path)} is not a state dict; {remedy}")
    if {"state", "param_groups"} <= saved.keys():
        raise UsageError(f"{shown(path)} is an optimizer's state and no network; {remedy}")
    if saved and all(map(_is_tensor, saved.items())):
        return saved
    within = {
        name: inner
        for name, inner in saved.items()
        if isinstance(inner, dict) and inner and all(map(_is_tensor, inner.items()))
    }
    main = within.get("state_dict") or next(iter(within.values()), {})
    alike = [name for name, inner in within.items() if inner.keys() == main.keys()]
    if len(alike) == 1 and (len(within) == 1 or "state_dict" in within):
        return main
    found = f": it holds {' and '.join(map(shown, within))}" if within else ""
    raise UsageError(f"{shown(path)} is not a state dict{found}; {remedy}")


def _is_tensor(named: tuple[Any, Any]) -> bool:
    return isinstance(named[0], str) and isinstance(named[1], np.ndarray)


def _archive(file: IO[bytes], most: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("an archive without data.pkl")
        top = pickles[0].removesuffix("data.pkl")
        if members[pickles[0]].file_size > MOST_BYTES:
            raise ValueError("a pickle that is too long for a state dict")
        order = members.get(f"{top}byteorder")
        if order is not None and (order.file_size > 10 or archive.read(order) != b"little"):
            raise ValueError("big-endian tensors")
        if any(member.compress_type not in _PACKED for member in members.values()):
            raise ValueError("packed as PyTorch does not pack tensors")
        if sum(member.file_size for member in members.values()) > most:
            raise ValueError(f"its members take more than the {most:,} bytes that its size allows")
        storages: dict[str, np.ndarray] = {}

        def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
            member = members[f"{top}data/{key}"]
            if member.file_size != count * dtype.itemsize:
                raise ValueError(f"storage {shown(key)} has {member.file_size} bytes")
            if key not in storages:
                storages[key] = np.frombuffer(archive.read(member), dtype)
            return _of_type(storages[key], dtype, key)

        with archive.open(pickles[0]) as inside:
            return unpickle(inside, storage)


def _of_type(storage: np.ndarray, dtype: np.dtype, key: str) -> np.ndarray:
    if storage.dtype != dtype:
        raise ValueError(f"storage {shown(key)} is of {storage.dtype} and of {dtype}")
    return storage


def _before_archives(file: IO[bytes]) -> Any:
    size = os.fstat(file.fileno()).st_size
    left = size
    storages: dict[str, np.ndarray] = {}

    def refuse(*_: Any) -> np.ndarray:
        raise ValueError("a storage in the header")

    def storage(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        """An empty storage for tensors to view; its bytes come after the pickle."""
        nonlocal left
        if key not in storages:
            left -= count * dtype.itemsize
            if left < 0:
                raise ValueError(f"storage {shown(key)} of {count} values is larger than the file")
            storages[key] = np.empty(count, dtype)
        return _of_type(storages[key], dtype, key)

    clipped: Any = Clipped(file, size)
    if unpickle(clipped, refuse) != _MAGIC:
        raise ValueError("not saved by torch.save")
    for _ in range(2):  # protocol, and the machine's integer sizes
        unpickle(clipped, refuse)
    state = unpickle(clipped, storage)
    keys = unpickle(clipped, refuse)
    if sorted(map(str, keys)) != sorted(storages):
        raise ValueError("storages without content")
    for key in map(str, keys):
        own = storages[key]
        count, content = int.from_bytes(file.read(8), "little"), file.read(own.nbytes)
        if count != len(own) or len(content) != own.nbytes:
            raise ValueError("cut short")
        own[:] = np.frombuffer(content, own.dtype)
    return state
