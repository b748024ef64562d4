"""Pickles that no torch is needed to write."""

import pickle
import zipfile

import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.pretrained import read_weights
from siamjax.pretrained.torch_files import _tensor


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


def test_a_tensor_stays_inside_its_storage():
    storage = np.arange(6.0)
    np.testing.assert_array_equal(_tensor(storage, 1, (2, 2), (2, 1)), [[1, 2], [3, 4]])
    for offset, size, stride in ((1, (6,), (1,)), (0, (2, 3), (4, 1)), (-1, (1,), (1,))):
        with pytest.raises(ValueError, match="reaches beyond"):
            _tensor(storage, offset, size, stride)
