"""Reads the pickle of a state dict without the power that a pickle has.

A pickle is a program that can ask for any function to be called. Here :mod:`pickletools` takes it
apart, and what reads it knows only the instructions and the few names that make up a state dict.
"""

import math
import pickletools
import re
from collections.abc import Callable, Iterable
from typing import IO, Any, cast

import numpy as np

from siamjax.errors import UsageError, shown

MOST_BYTES = 2**26
"""Bytes of a pickle; a tensor takes about 150."""

_MOST_STEPS = 300_000  # instructions; a tensor takes about 30
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
Storage = Callable[[str, np.dtype, int], np.ndarray]
"""From key, dtype and number of values to a storage."""


class Forbidden(Exception):
    """A pickle asks for something that no state dict needs."""


class _Name(str):
    """A function or class that a pickle names: ``module.name``."""


_MARK = object()
_DICTIONARY = "collections.OrderedDict"
_PARAMETER = "torch._utils._rebuild_parameter"
_TENSORS = (  # of PyTorch 0.4 and later, and before
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor",
)


def unpickle(file: IO[bytes], storage: Storage) -> Any:
    """What the pickle where ``file`` stands describes; the file stands behind it then."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    instructions = cast("Iterable[tuple[Any, Any, int]]", pickletools.genops(file))
    for steps, (step, argument, _) in enumerate(instructions):
        if steps > _MOST_STEPS:
            raise ValueError("a pickle that is too long for a state dict")
        match step.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(_since_mark(stack)))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(step.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(step.name == "NEWTRUE")
            case name if name in _PLAIN:
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "APPEND":
                _list(stack[-2]).append(stack.pop())
            case "APPENDS":
                added = _since_mark(stack)
                _list(stack[-1]).extend(added)
            case "SETITEM":
                added = [stack.pop(-2), stack.pop()]
                _set(stack[-1], added)
            case "SETITEMS":
                added = _since_mark(stack)
                _set(stack[-1], added)
            case "GLOBAL":
                stack.append(_known(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_known(f"{module}.{name}"))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_made(stack.pop(), arguments))
            case "BINPERSID":
                stack.append(_stored(stack.pop(), storage))
            case "BUILD":  # attributes of the ordered dict, such as versions of modules
                stack.pop()
            case name:
                raise Forbidden(f"instruction {name}")
    return stack.pop()


# Python 2, which saved torchvision's VGG-16, had text as SHORT_BINSTRING.
_PLAIN = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_PLAIN |= {"BINSTRING", "SHORT_BINSTRING"}


def _since_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
    found = stack[place + 1 :]
    del stack[place:]
    return found


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError("a pickle that appends to no list")
    return value


def _set(target: Any, added: list[Any]) -> None:
    names = added[::2]
    # Numbers are the keys of an optimizer's state, which lies beside some networks.
    if type(target) is not dict or not all(type(name) in (str, int) for name in names):
        raise ValueError("a pickle of a dictionary whose keys are no names")
    target.update(zip(names, added[1::2], strict=True))


def _known(name: str) -> _Name:
    """A name that state dicts have; refuses every other."""
    storage = name.startswith("torch.") and name.removeprefix("torch.") in _TYPES
    if storage or name in (_DICTIONARY, _PARAMETER, *_TENSORS):
        return _Name(name)
    if re.fullmatch(r"torch\.(\w+\.)*(_rebuild_\w+|\w+Storage)", name):
        raise _unreadable(name)
    raise Forbidden(name)


def _unreadable(kind: str) -> UsageError:
    return UsageError(
        f"tensors of a kind that cannot be read ({shown(kind)}); save plain ones of float16 or "
        "float32"
    )


def _made(function: Any, arguments: Any) -> Any:
    """What a call stands for: a dictionary or a tensor."""
    if type(arguments) is not tuple or type(function) is not _Name:
        raise Forbidden("a call of what it made itself")
    if function == _DICTIONARY:
        made: dict[str, Any] = {}
        for pair in _list(arguments[0]) if arguments else ():  # Python 2 gave it its items
            _set(made, pair)
        return made
    if function in _TENSORS:
        if any(arguments[6:]):
            raise _unreadable("conjugated or negated only as they are used")
        return _tensor(*arguments[:4])
    if function == _PARAMETER and isinstance(arguments[0], np.ndarray):
        return arguments[0]
    raise Forbidden(f"{function} with {len(arguments)} arguments")


def _stored(which: Any, storage: Storage) -> np.ndarray:
    """The storage that tensors are views of."""
    kind, storage_type, key, _, count, *part = which
    if kind != "storage" or type(storage_type) is not _Name or type(count) is not int or count < 0:
        raise ValueError(f"unknown storage {shown(kind)!r}")
    if any(part):  # of old versions
        raise _unreadable("of a storage that is a part of another")
    return storage(str(key), np.dtype(_TYPES[storage_type.removeprefix("torch.")]), count)


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple) -> np.ndarray:
    """A view of a storage; ``ValueError`` if the storage is too small for it."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, np.ndarray) or not all(type(one) is int for one in numbers):
        raise ValueError("a tensor of no storage")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(numbers) < 0 or (0 not in size and last >= len(storage)):
        raise ValueError(f"a tensor of {size} reaches beyond its {len(storage)} values")
    if math.prod(size) > len(storage):
        raise ValueError(f"a tensor of {size} repeats its {len(storage)} values; save a copy of it")
    if 0 in size:
        return np.empty(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


class Clipped:
    """A file from which one read takes at most what a pickle may have, whatever it asks for."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._most = min(size, MOST_BYTES)
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        """So many bytes, or fewer."""
        return self._file.read(min(count, self._most))

    def readline(self) -> bytes:
        """A line, or the beginning of one."""
        return self._file.readline(self._most)
