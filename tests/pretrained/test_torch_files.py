"""Pickles that no torch is needed to write."""

import pickle
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.pretrained import read_weights
from siamjax.pretrained.torch_files import read_state_dict
from siamjax.pretrained.torch_pickles import _tensor


class Bomb:
    def __reduce__(self):
        return print, ("boom",)


def test_code_is_not_run(tmp_path, capsys):
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"features.0.weight": Bomb()}))
    for name in ("plain.pth", "zip.pth"):
        with pytest.raises(UsageError, match=r"holds code \(builtins.print\) and was not read"):
            read_weights(tmp_path / name)
    assert "boom" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", pickle.dumps(5), b"not a pickle", pickle.dumps([1])]
)
def test_files_that_are_none(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UsageError, match=r"damaged|not what it seems"):
        read_weights(tmp_path / "w.pth")


def test_archives_that_are_none(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("something", b"")
    with pytest.raises(UsageError, match=r"without data.pkl"):
        read_weights(tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    with pytest.raises(UsageError, match="not a state dict"):
        read_weights(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"an archive that is cut short\); get it anew"):
        read_weights(tmp_path / "w.pth")


def test_a_tensor_stays_inside_its_storage():
    storage = np.arange(6.0)
    np.testing.assert_array_equal(_tensor(storage, 1, (2, 2), (2, 1)), [[1, 2], [3, 4]])
    for offset, size, stride in ((1, (6,), (1,)), (0, (2, 3), (4, 1)), (-1, (1,), (1,))):
        with pytest.raises(ValueError, match="reaches beyond"):
            _tensor(storage, offset, size, stride)


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key, count, size, stride, *, offset=0, kind="FloatStorage"):
    """The pickled call that makes a tensor."""
    call = b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage")
    call += b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"
    call += number(offset) + numbers(*size) + numbers(*stride)
    return call + b"\x89ccollections\nOrderedDict\n)RtR"


def state(*tensors):
    return pickled({f"t{n}": one for n, one in enumerate(tensors)})


def pickled(tensors):
    """A pickled dict of pickled tensors."""
    return b"\x80\x02}(" + b"".join(text(n) + one for n, one in tensors.items()) + b"u."


def write(path, pickled, **storages):
    """An archive as torch.save writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key[1:]}", np.asarray(array).tobytes())
    return path


def before_archives(path, pickled, **storages):
    """A file as torch.save wrote it before 1.6."""
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"a": 1})]
    content = b"".join(head) + pickled + pickle.dumps([key[1:] for key in storages], 2)
    for array in storages.values():
        content += len(array).to_bytes(8, "little") + np.asarray(array).tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("writer", [write, before_archives])
def test_views_of_storages(tmp_path, writer):
    values = np.arange(12, dtype="f4")
    pickled = state(
        tensor("0", 12, (3, 4), (4, 1)),
        tensor("0", 12, (4, 2), (1, 4), offset=4),
        tensor("1", 2, (2,), (1,), kind="LongStorage"),
        tensor("0", 12, (), (), offset=5),
        tensor("0", 12, (0, 3), (3, 1)),
    )
    path = writer(tmp_path / "w.pth", pickled, s0=values, s1=np.array([7, -8]))
    whole, view, longs, one, none = read_state_dict(path).values()
    np.testing.assert_array_equal(whole, values.reshape(3, 4))
    np.testing.assert_array_equal(view, values.reshape(3, 4)[1:].T)
    assert longs.tolist() == [7, -8]
    assert (one, none.shape) == (5, (0, 3))


def test_as_python_2_wrote_it(tmp_path):
    """Ordered dicts as lists of pairs, names of bytes, and the function's older name."""
    made = tensor("0", 4, (2, 2), (2, 1)).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor", 1)
    pair = b"](U\x04name" + made + b"e"
    pickled = b"\x80\x02ccollections\nOrderedDict\n]" + pair + b"a\x85R}U\x05otherK\x01sb."
    path = before_archives(tmp_path / "w.pth", pickled, s0=np.arange(4, dtype="f4"))
    np.testing.assert_array_equal(read_state_dict(path)["name"], [[0, 1], [2, 3]])


PLAIN = tensor("0", 2, (2,), (1,))
OTHER_KINDS = {
    "torch.ComplexFloatStorage": tensor("0", 2, (2,), (1,), kind="ComplexFloatStorage"),
    "torch._utils._rebuild_sparse_tensor": b"ctorch._utils\n_rebuild_sparse_tensor\n)R",
    "torch._tensor._rebuild_from_type_v2": b"ctorch._tensor\n_rebuild_from_type_v2\n)R",
    "torch.storage.UntypedStorage": b"ctorch.storage\nUntypedStorage\n",
    "conjugated or negated only as they are used": (  # torch.complex(a, b).conj().imag
        PLAIN.removesuffix(b"tR") + b"}" + text("neg") + b"\x88stR"
    ),
    "of a storage that is a part of another": PLAIN.replace(  # its name, offset and length
        b"tQ", b"(" + text("v") + number(1) + number(1) + b"ttQ", 1
    ),
}


@pytest.mark.parametrize("writer", [write, before_archives])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_tensors_of_another_kind_are_no_code(tmp_path, kind, writer):
    path = writer(tmp_path / "w.pth", state(PLAIN, OTHER_KINDS[kind]), s0=np.ones(2, "f4"))
    message = rf"w\.pth: tensors of a kind that cannot be read \({kind}\); save plain ones of float"
    with pytest.raises(UsageError, match=message):
        read_weights(path)


@pytest.mark.parametrize("without", [b"N", b"}"])
def test_tensors_may_say_that_nothing_is_special(tmp_path, without):
    made = PLAIN.removesuffix(b"tR") + without + b"tR"
    path = write(tmp_path / "w.pth", state(made), s0=np.array([3, 4], "f4"))
    assert read_state_dict(path)["t0"].tolist() == [3, 4]


def test_tensors_by_numbers_are_no_state_dict(tmp_path):
    path = write(tmp_path / "w.pth", b"\x80\x02}(K\x00" + PLAIN + b"u.", s0=np.ones(2, "f4"))
    with pytest.raises(UsageError, match=r"w\.pth is not a state dict; save model"):
        read_weights(path)


NESTED = b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))


def test_an_optimizer_is_no_network(tmp_path):
    """What ``torch.save(optimizer.state_dict(), ...)`` writes, before the first step and after."""
    for of_parameters in (b"}", b"}" + b"K\x00" + b"}" + text("step") + b"K\x01" + b"s" + b"s"):
        whole = {"state": of_parameters, "param_groups": b"]"}
        with pytest.raises(UsageError, match=r"w.pth is an optimizer's state and no network; save"):
            read_weights(write(tmp_path / "w.pth", pickled(whole)))


def test_averages_beside_the_network_are_another_network(tmp_path):
    """As timm's training saves them; what else a checkpoint holds does not matter."""

    def holding(*names):
        one = tensor("0", 3, (3,), (1,))
        return b"}(" + b"".join(text(name) + one for name in names) + b"u"

    path, stored = tmp_path / "w.pth", np.arange(3, dtype="f4")
    write(path, pickled({"ema": holding("c"), "state_dict": holding("a", "b")}), s0=stored)
    assert read_state_dict(path).keys() == {"a", "b"}
    both = {name: holding("a", "b") for name in ("state_dict", "state_dict_ema")}
    write(path, pickled(both), s0=stored)
    with pytest.raises(UsageError, match="holds state_dict and state_dict_ema; save model"):
        read_state_dict(path)


HARMFUL = {
    "memo": b"Nr\xff\xff\xff\x0f.",
    "memo of 34 GB": b"Nr\xff\xff\xff\x7f.",
    "bytes that are not there": b"\x8e" + (2**40).to_bytes(8, "little") + b"x.",
    "text that is not there": b"X\xff\xff\xff\xffx.",
    "a name that is hashed for ever": b"\x80\x02})" + NESTED + b"Ns.",
    "steps": b"\x80\x02" + b"N" * 400_000 + b".",
    "repeated values": state(tensor("0", 36, (2**20, 2**10, 1, 1), (0, 0, 1, 1))),
    "more than the memory": state(tensor("0", 36, (2**40, 2**10), (0, 0))),
    "a long storage": state(tensor("0", 2**31 - 1, (1,), (1,))),
    "another type of the storage": state(
        tensor("0", 36, (3,), (1,)), tensor("0", 36, (3,), (1,), kind="IntStorage")
    ),
    "negative": state(tensor("0", 36, (-1,), (1,))),
    "no pairs": b"\x80\x02ccollections\nOrderedDict\n]K\x01a\x85R.",
    "nothing on the stack": b"\x80\x02R.",
    "no end": b"\x80\x02}",
    "a number for a name": b"\x80\x02}K\x01K\x01s.",
    "storage of a tensor": b"\x80\x02(K\x01K\x02tQ.",
}


@pytest.mark.parametrize("writer", [write, before_archives])
@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_pickles(tmp_path, name, writer):
    path = writer(tmp_path / "w.pth", HARMFUL[name], s0=np.zeros(36, "f4"))
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(UsageError, match=r"w\.pth (is damaged|is not a state dict|holds code)"):
        read_weights(path)
    assert time.process_time() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "call",
    [
        b"cos\nsystem\n",
        b"\x80\x04" + b"\x8c\x02os\x8c\x06system\x93",
        b"(ios\nsystem\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n)\x81",
        b"ccollections\nOrderedDict\nK\x05\x85R",
        b"\x82\x01",
        b"ctorch\nFloatStorage\n)R",
        b"cbuiltins\neval\n" + b"X\x01\x00\x00\x001\x85R",
    ],
)
def test_nothing_is_called(tmp_path, call):
    path = write(tmp_path / "w.pth", b"\x80\x02}X\x01\x00\x00\x00x" + call + b"s.")
    with pytest.raises(UsageError, match=r"holds code|damaged"):
        read_weights(path)


def test_an_archive_that_grows(tmp_path):
    pickled = state(tensor("0", 100_000_000, (100_000_000,), (1,)))
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(400_000_000))
    with pytest.raises(UsageError, match="its members take more than"):
        read_weights(tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("archive/data.pkl", state())
    with pytest.raises(UsageError, match="packed as PyTorch does not"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("writer", [write, before_archives])
def test_many_views_of_one_storage(tmp_path, writer):
    views = [tensor("0", 10**6, (10**6,), (1,))] * 90
    path = writer(tmp_path / "w.pth", state(*views), s0=np.zeros(10**6, "f4"))
    with pytest.raises(UsageError, match=r"its tensors take more than the \d+,"):
        read_weights(path)
