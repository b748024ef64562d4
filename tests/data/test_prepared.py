"""Prepared copies: made once, whole or not at all, and never read when they are damaged."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_set

from siamjax.data import prepared
from siamjax.data.prepared import partitions, prepared_people
from siamjax.errors import UsageError

HERE = Path(__file__).parent
PLACE = Path("small_set", "1.0.0")


def images(folder, **options):
    return prepared_people(small_set.SmallSet(data_dir=folder, **options), credit="mine")


def run(folder, *words):
    """A process that prepares the small set, or finds it done."""
    path = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    return subprocess.Popen(
        [sys.executable, small_set.__file__, folder, *words],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_at_once_prepare_it_once(tmp_path):
    ran = [run(tmp_path / "tfds") for _ in range(3)]
    said = [process.communicate(timeout=120) for process in ran]
    assert [process.returncode for process in ran] == [0, 0, 0], said
    assert [out for out, _ in said] == ["12 images of 4 people\n"] * 3
    assert len((tmp_path / "tfds" / "times").read_text().splitlines()) == 1
    waited = [err for _, err in said if err]
    assert all(err.startswith("waiting for another process, which writes") for err in waited)


def test_a_killed_preparation_leaves_nothing_that_counts(tmp_path):
    killed = run(tmp_path, "killed")
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    assert list((tmp_path / "small_set").glob("incomplete.*"))
    assert len(images(tmp_path)[0]) == 12
    assert [path.name for path in (tmp_path / "small_set").iterdir()] == ["1.0.0"]


def test_refused_raw_files_leave_no_folder(tmp_path):
    with pytest.raises(UsageError, match="the raw files are not complete"):
        images(tmp_path / "tfds", home="broken")
    assert not (tmp_path / "tfds" / "small_set").exists()


def test_a_copy_on_a_disk_that_is_only_read_is_opened(tmp_path, monkeypatch):
    images(tmp_path)
    monkeypatch.setattr(prepared, "locked", None)  # neither locked nor written
    found, cameras = images(tmp_path)
    assert found.keys[-1] == "p3/2.png"
    np.testing.assert_array_equal(cameras, [1, 2, 3] * 4)
    assert found.image(11).shape == (9, 7, 3)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("/dev/null/home", "/dev/null/home: small_set cannot be prepared there (Not a directory"),
        ("/proc/none", "/proc/none: small_set cannot be prepared there (No such file"),
        ("/" + 300 * "x", "TFDS_DATA_DIR /xxx"),
    ],
)
def test_a_folder_that_cannot_be_written(monkeypatch, where, said):
    monkeypatch.setenv("TFDS_DATA_DIR", where)
    with pytest.raises(UsageError) as raised:
        images(None)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk(tmp_path, monkeypatch, number):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(small_set.SmallSet, "_generate_examples", refused)
    with pytest.raises(UsageError, match=f"cannot be prepared there .{os.strerror(number)}"):
        images(tmp_path / "tfds")
    assert not (tmp_path / "tfds" / "small_set").exists()


def test_no_home(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "~")
    with pytest.raises(UsageError, match="no home folder is known; set HOME"):
        images(None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    images(folder)
    return folder


def record_file(folder):
    (path,) = (folder / PLACE).glob("*array_record*")
    return path


def changed_info(**changes):
    def change(folder):
        path = folder / PLACE / "dataset_info.json"
        content = json.loads(path.read_text())
        content["splits"][0].update(changes)
        path.write_text(json.dumps(content))

    return change


def flipped(folder):
    content = bytearray(record_file(folder).read_bytes())
    content[len(content) // 2] ^= 0x10
    record_file(folder).write_bytes(content)


DAMAGE = {
    "records cut": lambda f: os.truncate(record_file(f), record_file(f).stat().st_size // 2),
    "records empty": lambda f: os.truncate(record_file(f), 0),
    "records gone": lambda f: record_file(f).unlink(),
    "a bit of the records": flipped,
    "info gone": lambda f: (f / PLACE / "dataset_info.json").unlink(),
    "info empty": lambda f: (f / PLACE / "dataset_info.json").write_bytes(b""),
    "info no JSON": lambda f: (f / PLACE / "dataset_info.json").write_bytes(b"\xff{"),
    "info nested": lambda f: (f / PLACE / "dataset_info.json").write_bytes(b"[" * 10**5),
    "info another type": lambda f: (f / PLACE / "dataset_info.json").write_text("[1]"),
    "fewer records": changed_info(shardLengths=["5"]),
    "more records": changed_info(shardLengths=["13"]),
    "no records": changed_info(shardLengths=[]),
    "another split": changed_info(name="others"),
    "features gone": lambda f: (f / PLACE / "features.json").unlink(),
    "all gone": lambda f: [path.unlink() for path in (f / PLACE).iterdir()],
    "a file for the folder": lambda f: (shutil.rmtree(f / PLACE), (f / PLACE).write_text("x")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_named_and_once_removed_prepared_anew(whole, tmp_path, damage):
    folder = tmp_path / "tfds"
    shutil.copytree(whole, folder)
    DAMAGE[damage](folder)
    if damage == "features gone":  # of which the program has its own
        assert len(images(folder)[0]) == 12
        return
    with pytest.raises(UsageError) as raised:
        images(folder)
    said = str(raised.value)
    assert said.startswith(f"{folder / PLACE}: the prepared copy cannot be read (")
    assert said.endswith("remove this folder, and it is prepared anew")
    if (folder / PLACE).is_dir():
        shutil.rmtree(folder / PLACE)
    else:
        (folder / PLACE).unlink()
    assert len(images(folder)[0]) == 12


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "records"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_only_files_are_read(whole, tmp_path, name, kind):
    folder = tmp_path / "tfds"
    shutil.copytree(whole, folder)
    path = record_file(folder) if name == "records" else folder / PLACE / name
    path.unlink()
    {"a pipe": os.mkfifo, "a device": lambda p: p.symlink_to("/dev/zero"), "a folder": os.mkdir}[
        kind
    ](path)
    with pytest.raises(UsageError, match=f"{path.name}: expected a file, and it is"):
        images(folder)


def test_partitions_are_typed(whole, tmp_path):
    folder = tmp_path / "tfds"
    shutil.copytree(whole, folder)
    builder = small_set.SmallSet(data_dir=folder)
    assert partitions(builder, "training", list[list[int]]) == [[1, 2], [3]]
    path = folder / PLACE / "metadata.json"
    for content in ("{}", '{"training": 3}', '{"training": [["a"]]}', "[]", "", None):
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(UsageError, match="the prepared copy cannot be read"):
            partitions(small_set.SmallSet(data_dir=folder), "training", list[list[int]])
