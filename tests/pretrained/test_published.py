"""Downloads from a server of our own, which stops early, knows ranges or not, or lies."""

import concurrent.futures
import dataclasses
import errno
import hashlib
import http.server
import os
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from siamjax.errors import UsageError
from siamjax.pretrained import open_weights, published
from siamjax.pretrained.networks import NETWORKS
from siamjax.pretrained.published import Published, fetch, is_published

CONTENT = bytes(range(256)) * 40


class Server(http.server.BaseHTTPRequestHandler):
    ranges, stop_at, content, asked = True, None, CONTENT, []
    said = ("ETag", '"1"')  # of which version this is

    def do_GET(self):
        begin = 0
        if self.ranges and "Range" in self.headers and self.headers["If-Range"] == self.said[1]:
            begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.asked.append(begin)
        if begin >= len(self.content):
            self.send_error(416)
            return
        body = self.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header(*self.said)
        self.end_headers()
        self.wfile.write(body if self.stop_at is None else body[: self.stop_at])

    def log_message(self, *_):
        pass


@pytest.fixture
def handler():
    return type("Handler", (Server,), {"asked": []})


@pytest.fixture
def folder(tmp_path, monkeypatch, handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("SIAMJAX_WEIGHTS", str(tmp_path / "cache"))
    own = Published(
        address=f"http://127.0.0.1:{server.server_port}/w.npz",
        digest=f"sha256:{hashlib.sha256(CONTENT).hexdigest()[:16]}",
        architecture="vgg16",
        preprocessing="bgr_mean",
        licence="none",
        megabytes=1,
        use="tests",
    )
    monkeypatch.setitem(published.PUBLISHED, "own", own)
    yield tmp_path / "cache"
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetched_once_and_whole(folder, handler):
    assert fetch("own").read_bytes() == CONTENT
    assert fetch("own") == folder / "w.npz"
    assert handler.asked == [0]
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "w.npz"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_gone_on_with(folder, handler, ranges):
    handler.ranges, handler.stop_at = ranges, 3000
    with pytest.raises(UsageError, match=r"w.npz could not be downloaded from http.*put it into"):
        fetch("own")
    assert not (folder / "w.npz").exists()
    handler.stop_at = None
    assert fetch("own").read_bytes() == CONTENT
    assert handler.asked == [0, 3000 if ranges else 0]


def test_all_came_but_the_end_was_not_seen(folder, handler):
    folder.mkdir()
    (folder / "w.npz.part").write_bytes(CONTENT)
    (folder / "w.npz.part.version").write_text('"1"')
    assert fetch("own").read_bytes() == CONTENT
    assert handler.asked == [len(CONTENT)]
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "w.npz"]


@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [
        (("ETag", '"1"'), ("ETag", '"1"'), 3000),
        (("ETag", '"1"'), ("ETag", '"2"'), 0),
        (("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT"), ("ETag", '"2"'), 0),
        (("ETag", 'W/"1"'), ("ETag", 'W/"1"'), 0),  # alike, not the same bytes
        (("X-None", ""), ("X-None", ""), 0),
    ],
    ids=str,
)
def test_no_two_versions_are_joined(folder, handler, monkeypatch, before, after, asked):
    """Where no digest would show it."""
    of_no_digest = dataclasses.replace(published.PUBLISHED["own"], digest="")
    monkeypatch.setitem(published.PUBLISHED, "own", of_no_digest)
    handler.stop_at, handler.said = 3000, before
    with pytest.raises(UsageError, match="could not be downloaded"):
        fetch("own")
    handler.stop_at, handler.said = None, after
    if before != after:
        handler.content = CONTENT[::-1]
    assert fetch("own").read_bytes() == handler.content
    assert handler.asked == [0, asked]


def test_another_digest_leaves_nothing(folder, handler):
    handler.content = CONTENT[::-1]
    with pytest.raises(UsageError, match=r"has sha256 .* the publisher states .* was removed"):
        fetch("own")
    assert [path.name for path in folder.iterdir()] == [".lock"]
    (folder / "w.npz").write_bytes(b"changed since")
    with pytest.raises(UsageError, match="remove it, so that it is downloaded again"):
        fetch("own")


def offline(request, *, timeout):
    raise urllib.error.URLError(OSError("Network is unreachable"))


def test_offline(folder, handler, monkeypatch):
    """Without a cache a line says where to get the file and where to put it; with one it works."""
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(
        UsageError, match=r"w.npz could not .* \(Network is unreachable\); .*put it"
    ):
        fetch("own")
    (folder / "w.npz").write_bytes(CONTENT)
    assert fetch("own").read_bytes() == CONTENT
    assert handler.asked == []


def test_a_cache_on_a_disk_that_is_only_read(folder, monkeypatch):
    folder.mkdir()
    (folder / "w.npz").write_bytes(CONTENT)

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(published, "locked", refused)
    monkeypatch.setattr(type(folder), "mkdir", refused)
    assert fetch("own") == folder / "w.npz"
    (folder / "w.npz").unlink()
    with pytest.raises(
        UsageError, match=r"cache: w.npz cannot be kept .*Read-only.*SIAMJAX_WEIGHTS"
    ):
        fetch("own")


def test_a_disk_that_is_full(folder, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    with pytest.raises(UsageError, match=r"cannot be kept there \(No space left"):
        fetch("own")
    assert not (folder / "w.npz").exists()


def test_two_at_a_time(folder, handler):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(fetch, ["own"] * 4))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert handler.asked == [0]


def test_a_folder_that_cannot_be_written_serves_what_is_in_it(folder, monkeypatch):
    fetch("own")
    (folder / ".lock").unlink()
    monkeypatch.setattr(published, "locked", None)  # neither lock nor download
    assert fetch("own").read_bytes() == CONTENT


def test_what_a_server_says_is_one_line(folder, handler):
    handler.send_response = lambda self, code: self.wfile.write(b"HTTP/1.1 abc\r\x1b[31m\r\n")
    with pytest.raises(UsageError, match="could not be downloaded") as raised:
        fetch("own")
    assert str(raised.value).isprintable()


def test_no_end(folder, handler, monkeypatch):
    monkeypatch.setattr(published, "_LARGEST", 5000)
    monkeypatch.setattr(published, "_BLOCK", 1000)
    with pytest.raises(UsageError, match="more than 5,000 bytes came"):
        fetch("own")
    assert not (folder / "w.npz").exists()


def test_no_home(monkeypatch):
    for name in ("SIAMJAX_WEIGHTS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "~")
    with pytest.raises(UsageError, match="no home folder"):
        fetch("vgg16-imagenet")


@pytest.mark.parametrize("where", ["/proc/none", "/dev/null", "/" + "x" * 300])
def test_a_folder_that_cannot_be(folder, monkeypatch, where):
    monkeypatch.setenv("SIAMJAX_WEIGHTS", where)
    with pytest.raises(UsageError, match="SIAMJAX_WEIGHTS"):
        fetch("own")


def test_a_published_preprocessing_is_not_changed(folder):
    with pytest.raises(UsageError, match="the images of own are preprocessed by 'bgr_mean', not"):
        open_weights("own", preprocessing="unit")


def test_names(folder, tmp_path, monkeypatch):
    with pytest.raises(
        UsageError, match="no published weights 'vgg19'; choose one of vgg16-imagenet"
    ):
        fetch("vgg19")
    with pytest.raises(UsageError, match=r"vgg19: no such file, nor a name .* weights list"):
        open_weights(tmp_path / "vgg19")
    with pytest.raises(UsageError, match="not a known file of weights"):  # fetched
        open_weights("own")
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "own", x=np.zeros(3))  # a file of that name counts more
    (tmp_path / "own.npz").rename(tmp_path / "own")
    with pytest.raises(UsageError, match=r"^own is not a known file of weights"):
        open_weights("own")


def test_files_that_belong_together_lie_in_one_folder(folder, handler, monkeypatch):
    several = dataclasses.replace(published.PUBLISHED["own"], digest="", beside=("config.json",))
    monkeypatch.setitem(published.PUBLISHED, "several", several)
    assert fetch("several") == folder / "several" / "w.npz"
    assert (folder / "several" / "config.json").read_bytes() == CONTENT
    assert is_published("several")


def test_what_is_stated_of_each():
    for name, one in published.PUBLISHED.items():
        algorithm, _, digits = one.digest.partition(":")
        assert len(digits) == {"md5": 32, "sha256": 8, "": 0}[algorithm], name
        assert one.address.startswith("https://"), name
        assert one.architecture in NETWORKS, name
