"""Files that are anything but what they should be, and lines that a kill cut short."""

import errno
import fcntl
import os
import socket
import subprocess
import sys

import msgspec
import pytest

from siamjax.errors import UsageError, shown
from siamjax.files import (
    append_row,
    dump_json,
    locked,
    read_bytes,
    read_json,
    read_rows,
    saying,
    write_json,
)


class Row(msgspec.Struct):
    step: int
    size: tuple[int, int] = (1, 1)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Éva Ω 孫 שלום 🧑🏽\u200d🚀", "Éva Ω 孫 שלום 🧑🏽\u200d🚀"),
        ("a\nb\r\tc\x1b[2J\x00", r"a\nb\r\tc\x1b[2J\x00"),
        ("\u2028\u202e\udcff", r"\u2028\u202e\udcff"),
    ],
)
def test_a_text_is_shown_in_one_line(text, right):
    assert shown(text) == right
    shown(text).encode()


def test_a_long_text_keeps_its_ends():
    text = shown("a" * 150 + "b" * 9000 + "c" * 150)
    assert len(text) <= 300
    assert text.startswith("aaa")
    assert text.endswith("ccc")
    assert len(str(UsageError("x" * 10**6))) < 2000


def test_a_link_that_leads_nowhere_is_called_so(tmp_path):
    (tmp_path / "it").symlink_to("nowhere")
    with pytest.raises(UsageError, match="it: what this link leads to is missing; look"):
        read_bytes(tmp_path / "it", limit=4, remedy="look")
    with pytest.raises(UsageError, match="nowhere: no such file; look"):
        read_bytes(tmp_path / "nowhere", limit=4, remedy="look")


def make(path, kind):
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        path.write_bytes(b"12345")
    elif kind == "loop":
        path.symlink_to(path)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device", "large", "loop", "nothing"])
def test_only_regular_files_within_the_limit_are_read(kind, tmp_path):
    make(tmp_path / "it", kind)
    with pytest.raises(UsageError, match="it: ") as error:
        read_bytes(tmp_path / "it", limit=4)
    assert "\n" not in str(error.value)


def test_a_file_of_the_limit_is_read(tmp_path):
    (tmp_path / "four").write_bytes(b"1234")
    assert read_bytes(tmp_path / "four", limit=4) == b"1234"


@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "\udcff\ud800"])
def test_names_that_no_file_can_have_are_refused(name, tmp_path):
    with pytest.raises(UsageError):
        read_bytes(tmp_path / name, limit=4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"step": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[]", "object"),
        (b"{}", "step"),
        (b'{"step": "1"}', r"\$\.step"),
        (b'{"step": 1, "size": [1]}', r"\$\.size"),
    ],
)
def test_json_of_another_kind_is_named_with_file_and_key(content, said, tmp_path):
    path = tmp_path / "row.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"row\.json: .*{said}"):
        read_json(path, Row)


def test_json_round_trip_without_nan(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1.0, float("nan"), {"b": float("-inf")}]})
    assert read_json(tmp_path / "a.json", dict) == {"a": [1.0, None, {"b": None}]}
    assert dump_json({"a": 1.5}) == '{"a": 1.5}'


def test_a_row_cut_short_is_left_out_with_a_word(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    assert read_rows(path, Row) == []
    append_row(path, {"step": 1})
    append_row(path, {"step": 22})
    whole = path.read_bytes()
    for kept in range(len(whole) // 2 + 1, len(whole) - 1):  # every place at which it can be cut
        path.write_bytes(whole[:kept])
        assert [row.step for row in read_rows(path, Row)] == [1]
        assert "line 2: cut short" in capsys.readouterr().err
        append_row(path, {"step": 3})
        assert [row.step for row in read_rows(path, Row)] == [1, 3]
        assert capsys.readouterr().err == ""


def test_a_wrong_row_that_is_whole_is_refused_with_its_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(UsageError, match=r"rows\.jsonl, line 2"):
        read_rows(path, Row)


def test_a_whole_row_without_its_line_break_is_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    append_row(path, {"step": 3})
    assert [row.step for row in read_rows(path, Row)] == [1, 2, 3]


HOLDER = """
import sys, pathlib
from siamjax.files import locked
with locked(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read(1)
"""


def holder(lock):
    """A process that is inside the block until its standard input ends."""
    command = [sys.executable, "-c", HOLDER, lock]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "in\n"
    return child


def test_one_process_at_a_time_is_inside_the_lock(tmp_path, capfd):
    with holder(tmp_path / "lock") as first:
        second = subprocess.Popen(
            [sys.executable, "-c", HOLDER, tmp_path / "lock"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr.readline() == f"waiting for another process, which writes {tmp_path}\n"
        assert second.poll() is None  # it waits, and does not end
        with (
            pytest.raises(UsageError, match="is being written by another process; wait"),
            locked(tmp_path / "lock", wait=False),
        ):
            pass
        first.kill()  # the lock ends with its process
    assert second.communicate(timeout=60)[0] == "in\n"
    with locked(tmp_path / "lock", wait=False):
        pass
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys, kind):
    def no_locks(*_):
        raise OSError(kind, os.strerror(kind))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    inside = []
    with locked(tmp_path / "lock"):
        inside.append(True)
    assert inside
    assert "no locks on this disk" in capsys.readouterr().err
    monkeypatch.setattr(fcntl, "flock", lambda *_: os.open(tmp_path / "no" / "file", os.O_RDONLY))
    with pytest.raises(FileNotFoundError), locked(tmp_path / "lock"):
        pass


@pytest.mark.parametrize(
    ("error", "remedy", "told"),
    [
        (OSError(errno.ENOSPC, "No space left"), "make room", "(No space left); make room"),
        (OSError("of a library's own"), "", "(of a library's own)"),
    ],
)
def test_what_the_disk_refuses_is_said_with_a_remedy(error, remedy, told):
    with pytest.raises(UsageError) as said, saying("a.txt: cannot be written", remedy=remedy):
        raise error
    assert str(said.value) == f"a.txt: cannot be written {told}"
    with pytest.raises(KeyError), saying("a.txt: cannot be written"):
        raise KeyError("a bug stays a bug")
