"""The commands on an index that is old, moved, read-only, or in use by another process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stand_in import png
from test_index import SIZE, embedder, run_of, without_checksums

from siamjax.commands import retrieval as commands
from siamjax.errors import UsageError
from siamjax.search.index import Index, writing
from siamjax.training import Finished


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of eight images and a hidden one, current; runs are the one model."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (8, *SIZE, 3), np.uint8)
    (tmp_path / "things").mkdir()
    for number, image in enumerate(pixels):
        (tmp_path / "things" / f"t{number}.png").write_bytes(png(image))
    (tmp_path / "things" / ".t0.png").write_bytes(png(pixels[0]))
    (tmp_path / "things" / "._t0.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "run").mkdir()

    def opened(folder, *, trust=()):
        if not folder.exists():
            raise UsageError(f"{folder}: no such run")
        return run_of(embedder(), folder)

    monkeypatch.setattr(Finished, "open", opened)
    return tmp_path


def embed(**options):
    commands.embed("things", run=Path("run"), out=Path("index"), **options)


def search(place, name="t5.png", **options):
    commands.search([place / "things" / name], index=place / "index", **options)


def warned(said):
    """What is on standard error beside the next command."""
    return "".join(line for line in said.err.splitlines(True) if not line.startswith("next: "))


def test_hidden_files_are_neither_embedded_nor_ranked_nor_new(place, capsys):
    embed()
    assert "8 items added" in capsys.readouterr().out
    search(place, top=50)
    said = capsys.readouterr()
    assert re.search(r"   1  squared distance \S+  t5.png\n", said.out)
    assert ".t0" not in said.out
    assert len(said.out.splitlines()) == 2 + 8
    assert warned(said) == ""


def test_what_is_out_of_date_is_said_with_counts(place, capsys):
    embed()
    (place / "things" / "t1.png").write_bytes(png(np.zeros((*SIZE, 3), np.uint8)))
    (place / "things" / "t2.png").unlink()
    for name in ("u0.png", "u1.png"):
        (place / "things" / name).write_bytes(png(np.ones((*SIZE, 3), np.uint8)))
    capsys.readouterr()
    page = place / "page.html"
    search(place, top=8, out=page)
    said = capsys.readouterr()
    told = "1 changed (t1.png); 1 gone (t2.png); 2 new (u0.png, u1.png)"
    warning, pictures = warned(said).splitlines()
    assert (
        warning == f"warning: the index is out of date: {told}; run embed again with --remove-gone"
    )
    assert re.match(r"warning: not on the page: .*t2.png: no such file", pictures)
    assert re.search(r"squared distance \S+  t1.png \(changed since\)\n", said.out)
    assert re.search(r"squared distance \S+  t2.png \(gone\)\n", said.out)
    assert f"the index is out of date: {told}" in page.read_text()
    embed()
    out = capsys.readouterr().out
    assert "1 items embedded again, as their images have changed: t1.png" in out
    assert re.search(r"1 items are gone from things .*--remove-gone takes them out\): t2.png", out)
    assert "2 items added, 1 embedded again, 6 were there before; 10 in all" in out
    embed(remove_gone=True)
    assert "1 items removed" in capsys.readouterr().out
    search(place)
    assert warned(capsys.readouterr()) == ""


def test_opened_from_another_folder_than_its_relative_paths_were_given_in(
    place, monkeypatch, capsys
):
    embed()
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    capsys.readouterr()
    search(place, out=place / "page.html")
    said = capsys.readouterr()
    assert warned(said) == ""
    assert "not on the page" not in said.err


def test_a_run_that_was_moved_is_asked_for(place):
    embed()
    (place / "run").rename(place / "moved")
    with pytest.raises(
        UsageError, match=r"was made by the run .*/run, which is not there; give --"
    ):
        search(place)
    search(place, run=place / "moved")


@pytest.mark.parametrize("approximate", [False, True])
def test_a_search_changes_nothing(place, approximate, monkeypatch):
    """So an index on a read-only disk is searched."""
    if approximate:
        pytest.importorskip("faiss", exc_type=ImportError)
    embed()
    listing = {p: p.read_bytes() for p in (place / "index").rglob("*") if p.is_file()}

    def read_only(name):
        function = getattr(os, name)

        def checked(path, *rest, **more):
            flags = rest[0] if name == "open" and rest else 0
            if str(place / "index") in str(path) and (name != "open" or flags & os.O_ACCMODE):
                raise OSError(30, os.strerror(30), str(path))
            return function(path, *rest, **more)

        monkeypatch.setattr(os, name, checked)

    for name in ("open", "mkdir", "rename", "replace", "unlink"):
        read_only(name)
    search(place, approximate=approximate)
    monkeypatch.undo()
    assert listing == {p: p.read_bytes() for p in (place / "index").rglob("*") if p.is_file()}


HOLDS = """
import sys, time
from pathlib import Path
from siamjax.search.index import writing
with writing(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_command_on_an_index_is_refused_and_breaks_nothing(place, capsys):
    embed()
    before = (place / "index" / "manifest.json").read_bytes()
    (place / "things" / "new.png").write_bytes(png(np.ones((*SIZE, 3), np.uint8)))
    command = [sys.executable, "-c", HOLDS, str(place / "index")]
    root = os.path.dirname(os.path.dirname(commands.__file__))
    env = {**os.environ, "PYTHONPATH": os.path.dirname(root)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=env, **pipes) as other:
        assert other.stdout.readline() == b"locked\n"
        for change in (embed, Index.open(place / "index").remove):
            with pytest.raises(UsageError, match="is being written by another process"):
                change(**({} if change is embed else {"ids": ["t1.png"]}))
        search(place)  # reads the index as it was
        other.stdin.close()
    assert (place / "index" / "manifest.json").read_bytes() == before
    embed()
    assert "1 items added" in capsys.readouterr().out
    with writing(place / "index"):  # the lock is free again
        pass


def test_an_index_of_the_first_version_says_what_it_lacks(place, capsys):
    embed()
    without_checksums(place / "index")
    capsys.readouterr()
    search(place)
    said = capsys.readouterr()
    assert warned(said).count("\n") == 1
    assert "have no checksums" in said.err
    assert re.search(r"   1  squared distance \S+  t5.png\n", said.out)
