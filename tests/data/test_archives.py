"""Archives that are damaged, that link, or that unpack to more than they may."""

import contextlib
import gzip
import io
import os
import tarfile
import zipfile

import pytest

from siamjax.data import archives
from siamjax.data.archives import Published, collect, opened_file
from siamjax.errors import UsageError

SET = Published(title="Set", names=("set",), tree="DIR/set/1.png", source="ask")


def tar(path, *members, mode="w:gz"):
    """Members are (TarInfo fields, content)."""
    with tarfile.open(path, mode) as archive:
        for fields, content in members:
            member = tarfile.TarInfo()
            member.size = len(content)
            for name, value in fields.items():
                setattr(member, name, value)
            archive.addfile(member, io.BytesIO(content))
    return path


def png(path):
    return path.name if path.suffix == ".png" else None


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "b.png", "nowhere"])
def test_links_in_a_tar_are_refused_where_they_stand_for_an_image(tmp_path, kind, target):
    link = {"name": "a.png", "type": kind, "linkname": target}
    path = tar(tmp_path / "x.tgz", ({"name": "b.png"}, b"b"), (link, b""))
    with pytest.raises(UsageError, match=r"x.tgz: a.png is a link; unpack the archive"):
        collect(path, png)
    path = tar(tmp_path / "x.tgz", ({"name": "b.png"}, b"b"), (link | {"name": "README"}, b""))
    assert collect(path, png) == {"b.png": b"b"}


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.tar.gz"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_is_read_by_its_content(tmp_path, name, mode):
    path = tar(
        tmp_path / name, ({"name": "s/a.png"}, b"a"), ({"name": "s/b.png"}, b"bb"), mode=mode
    )
    assert collect(path, png) == {"a.png": b"a", "b.png": b"bb"}


def test_a_link_in_a_zip_is_refused(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("a.png")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UsageError, match=r"a.png is a link"):
        collect(path, png)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_changed_byte_of_a_zip_never_changes_an_image(tmp_path, method):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("é.png", b"image" * 20)
    whole, path = content.getvalue(), tmp_path / "x.zip"
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(UsageError):
            assert {*collect(path, png).values()} <= {b"image" * 20}


def test_a_name_flagged_as_utf8_that_is_not(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("é.png", b"x")
    (tmp_path / "x.zip").write_bytes(content.getvalue().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(UsageError, match="broken archive"):
        collect(tmp_path / "x.zip", png)


def test_a_name_in_a_folder_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "caf\udcff.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="a name that is not UTF-8; rename"):
        collect(tmp_path / "set", png)


@pytest.mark.parametrize(
    "content", [b"", b"no archive", gzip.compress(b"", mtime=0), gzip.compress(b"no", mtime=0)]
)
@pytest.mark.parametrize("name", ["x.tgz", "x.zip", "x.tar"])
def test_what_is_no_archive_is_one_short_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=f"{name}: broken archive") as error:
        collect(tmp_path / name, png)
    assert len(str(error.value)) < len(str(tmp_path)) + 200


@pytest.mark.parametrize("name", ["x.tgz", "x.zip", "x.tar"])
def test_an_archive_is_a_regular_file(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="it is a named pipe"):
        collect(tmp_path / name, png)


class TestBombs:
    """What a small archive may unpack to."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(archives, "_ROOM", 100_000)
        monkeypatch.setattr(archives, "_GROWTH", 2)

    @pytest.mark.parametrize("sizes", [[400_000], [60_000] * 4])
    @pytest.mark.parametrize("kind", ["tgz", "zip"])
    def test_members_of_zeros(self, tmp_path, sizes, kind):
        path = tmp_path / f"x.{kind}"
        if kind == "tgz":
            tar(path, *(({"name": f"{n}.png"}, bytes(size)) for n, size in enumerate(sizes)))
        else:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for n, size in enumerate(sizes):
                    archive.writestr(f"{n}.png", bytes(size))
        with pytest.raises(UsageError, match=r"it unpacks to more than 10\d,\d\d\d bytes"):
            collect(path, png)

    def test_a_member_that_is_not_asked_for_is_not_unpacked_from_a_zip(self, tmp_path):
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("big.mat", bytes(10**6))
            archive.writestr("1.png", b"x")
        assert collect(path, png) == {"1.png": b"x"}
        with (
            pytest.raises(UsageError, match="it unpacks to more than"),
            opened_file(path, "big.mat", SET),
        ):
            pass

    def test_a_tar_is_not_read_beyond_the_limit(self, tmp_path):
        path = tar(
            tmp_path / "x.tgz", ({"name": "big.mat"}, bytes(10**6)), ({"name": "1.png"}, b"")
        )
        with pytest.raises(UsageError, match="it unpacks to more than"):
            collect(path, png)

    def test_a_size_that_is_only_claimed(self, tmp_path):
        member = tarfile.TarInfo("1.png")
        member.size = 2**40
        (tmp_path / "x.tar").write_bytes(member.tobuf() + bytes(2048))
        with pytest.raises(UsageError, match="it unpacks to more than"):
            collect(tmp_path / "x.tar", png)

    def test_a_large_archive_may_unpack_to_more(self, tmp_path):
        content = os.urandom(300_000)
        for kind in ("w:gz", "w"):
            path = tmp_path / ("x.tgz" if kind == "w:gz" else "x.tar")
            tar(path, ({"name": "1.png"}, content), mode=kind)
            assert collect(path, png) == {"1.png": content}


def test_a_disk_that_is_full_is_said(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def full_disk():
        yield "/dev"  # where writing to the file "full" finds no space

    monkeypatch.setattr(archives.tempfile, "TemporaryDirectory", full_disk)
    tarred = tar(tmp_path / "y.tgz", ({"name": "full"}, b"x" * 2**20))
    with (
        pytest.raises(
            UsageError, match=r"cannot be written \(No space left on device\); set TMPDIR"
        ),
        opened_file(tarred, "full", SET),
    ):
        pass
