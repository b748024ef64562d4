"""Mined tables as a folder may hold them, and digests of names that are not UTF-8."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from siamjax.data import of_arrays
from siamjax.data.images import ImageSet
from siamjax.errors import UsageError
from siamjax.inference.digests import images_digest
from siamjax.inference.hard_negatives import LAG, Miner


def miner(folder):
    """A miner, and the steps from which on it uses the tables of the folder."""
    used = []
    triplets = SimpleNamespace(use=lambda table, *, start: used.append((start, table.tolist())))
    images = of_arrays(np.zeros((2, 4, 4), np.uint8))
    Miner(triplets, images, np.arange(2), folder=folder)
    return used


def test_tables_are_used_in_the_order_of_their_steps(tmp_path):
    assert miner(tmp_path / "gone") == []
    for step in (100, 20, 3):
        np.save(tmp_path / f"{step}.npy", np.full((1, 2, 1), step, np.int32))
    assert miner(tmp_path) == [(step + LAG, [[[step], [step]]]) for step in (3, 20, 100)]


def header(shape, *, dtype="<i4", rest=b""):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + rest


BAD = {
    "10.npy": [
        b"",
        b"\x93NUMPY",
        header("(99999999999, 3)"),
        header("(True, 3)", rest=bytes(12)),
        header("(1,", rest=bytes(4)),
        header("(1,)", dtype="<f2", rest=bytes(2)),
        header("(1,)", dtype="|O", rest=b"\x80\x04."),
        b"PK\x03\x04",
    ],
    "x.npy": [header("(1,)", rest=bytes(4))],
    "-5.npy": [header("(1,)", rest=bytes(4))],
    "²0.npy": [header("(1,)", rest=bytes(4))],
    "9" * 200 + ".npy": [header("(1,)", rest=bytes(4))],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, one) for name, contents in BAD.items() for one in contents]
)
def test_a_file_that_is_no_table_is_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=r"\.npy: ") as error:
        miner(tmp_path)
    assert str(error.value).isprintable()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "10.npy")
    with pytest.raises(UsageError, match="named pipe"):
        miner(tmp_path)


def test_names_that_are_not_utf_8_are_told_apart():
    plain = of_arrays(np.zeros((1, 4, 4), np.uint8))
    digests = {
        images_digest(
            ImageSet(
                name="n", credit="", keys=(key,), identities=plain.identities, source=plain.source
            ),
            np.arange(1),
        )
        for key in ("a\udce9", "a\udce8", "a\\udce9", "aé")
    }
    assert len(digests) == 4
