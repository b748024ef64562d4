"""Whatever happens to a reader in its child is one line that names the file."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from siamjax import isolation
from siamjax.errors import UsageError
from siamjax.isolation import isolated

MEMORY = 200_000_000


def read(name, path, *arguments, memory=MEMORY, **limits):
    return list(isolated(f"readers_that_fail.{name}", path, *arguments, memory=memory, **limits))


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "a\nb.h5"  # its line break must not break the message
    made.write_text("content")
    return made


def test_values_and_arrays_come_as_they_are(path):
    first, *arrays, empty = read("right", path, 2)
    assert first == ({"text": "content"}, None)
    for dtype, array in arrays:
        expected = np.arange(12).reshape(3, 4).T.astype(dtype) * np.dtype(dtype).type(2)
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == np.dtype(dtype).newbyteorder("<")
    assert empty.array.shape == (0, 5)


def test_a_name_that_is_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.h5")
    with open(path, "w") as file:
        file.write("x")
    assert read("right", type(tmp_path)(path), 1)[0].value == {"text": "x"}


def test_what_libraries_print_is_no_answer(path, capfd):
    assert read("printing", path) == [(1, None)]
    assert capfd.readouterr() == ("", "")


FAILURES = {
    "refusing": r"b\.h5: no weights in it$",
    "raising": r"b\.h5: damaged, .* \(RuntimeError: wrong\\nfree space index\); fetch it again$",
    "crashing": r"b\.h5: damaged: its reader was ended by SIGSEGV; fetch it again$",
    "looping": r"b\.h5: damaged: its reader did not end within 1 s",
    "eating": r"b\.h5: damaged, or too large: takes more than 200,000,000 bytes; fetch it again$",
    "leaving": r"b\.h5: damaged: its reader ended with status 0 and no answer",
    "missing": r"b\.h5: damaged, or not what it seems to be \(AttributeError",
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures(path, name):
    with pytest.raises(UsageError, match=FAILURES[name]) as raised:
        read(name, path, seconds=1)
    assert "\n" not in str(raised.value)


def test_a_child_that_waits_is_ended_by_the_clock(path, monkeypatch):
    monkeypatch.setattr(isolation, "_CLOCK", 1.0)
    began = time.monotonic()
    with pytest.raises(UsageError, match="said nothing for 1 s"):
        read("waiting", path, seconds=0.01)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "header",
    [
        "{",
        "[]",
        json.dumps({"state": "answer", "dtype": "|O8", "shape": [1]}),
        json.dumps({"state": "answer", "dtype": "<f1", "shape": [1]}),
        json.dumps({"state": "answer", "dtype": "|b8", "shape": [1]}),
        json.dumps({"state": "answer", "dtype": "<f4", "shape": [-1]}),
        json.dumps({"state": "answer", "dtype": "<f4", "shape": [2**62, 4]}),
        json.dumps({"state": "answer", "dtype": "<f4", "shape": [MEMORY]}),
        json.dumps({"state": "answer", "dtype": "<f4", "shape": [100]}),  # and then too little
        json.dumps({"state": "answer", "dtype": "<f4", "shape": [1] * 40}),
        json.dumps({"state": 5}),
    ],
)
def test_a_child_that_was_taken_over_has_no_say(path, header):
    """Whether it ends then or waits for somebody to believe it."""
    for waits in (False, True):
        with pytest.raises(
            UsageError, match=r"b\.h5: damaged(: its reader|, or too large: an arr)"
        ):
            read("forging", path, header, 8 + waits * 2**21, waits)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read("right", tmp_path / "none", 1)
    with pytest.raises(UsageError, match="it is a folder"):
        read("right", tmp_path, 1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="it is a named pipe"):
        read("right", tmp_path / "pipe", 1)


def test_a_child_ends_with_its_reader(path, monkeypatch):
    """A caller that wants no more ends the child."""
    started, start = [], subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: started.append(start(*a, **k)) or started[-1]
    )
    answers = isolated("readers_that_fail.looping", path, memory=MEMORY, seconds=30)
    assert next(answers).value == 1
    began = time.monotonic()
    answers.close()
    assert time.monotonic() - began < 2
    assert [child.returncode for child in started] == [-signal.SIGKILL]
