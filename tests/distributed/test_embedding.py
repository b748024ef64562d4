"""A catalogue is embedded by two processes as by one."""

import os
from pathlib import Path

import numpy as np
import pytest
from embedding import SIZE
from stand_in import png
from starting import Processes

COUNT = 43


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Forty-three images, of which each process reads one that is broken."""
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(np.random.default_rng(5).integers(0, 256, (COUNT, *SIZE, 3))):
        path = folder / f"p{number:03d}.png"
        path.write_bytes(b"nothing" if number in (9, 22) else png(image.astype(np.uint8)))
        os.utime(path, (1e9, 1e9))  # a file that has just changed has no time in the index
    return folder


def embed(images, out, *, count, writes=-1):
    """As so many processes on four devices; process 0 is killed after so many writes."""
    where = "{distributed}" if count > 1 else "alone"
    words = [where, str(images), str(out), str(writes)]
    program = str(Path(__file__).parent / "embedding.py")
    options = {"folder": out.with_suffix(f".said{count}"), "count": count, "devices": 4 // count}
    with Processes(program, *words, **options) as running:
        return running.ended() if writes >= 0 else running.succeeded()


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    """The index of one process."""
    out = tmp_path_factory.mktemp("alone") / "index"
    said = embed(images, out, count=1)[0].out
    assert said == "41 0 41 ['p009.png', 'p022.png']\n"
    return content(out)


@pytest.mark.slow
def test_two_processes_write_the_index_of_one(images, alone, tmp_path):
    first, second = embed(images, tmp_path / "index", count=2)
    assert (first.out, second.out) == ("41 0 41 ['p009.png', 'p022.png']\n", "")
    assert content(tmp_path / "index") == alone


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "resumed"), [(1, 2), (2, 1)])
def test_either_goes_on_where_the_other_was_killed(images, alone, tmp_path, killed, resumed):
    ended = embed(images, tmp_path / "index", count=killed, writes=12)
    assert ended[0].status == -9
    assert all(one.status != 0 for one in ended)
    embed(images, tmp_path / "index", count=resumed)
    assert content(tmp_path / "index") == alone
