import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
from stand_in import png
from test_index import embedder, files, plain, run_of

from siamjax.commands import retrieval as commands
from siamjax.data import open_catalogue as readers
from siamjax.errors import UsageError
from siamjax.search import query
from siamjax.search.index import Index
from siamjax.training import Finished


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Twelve images, opened by the word ``noise``; runs are models by their seed."""
    made, pixels = files(tmp_path / "images", 12)
    opened = SimpleNamespace(catalogue=made, pixels=pixels, folder=tmp_path)
    for name in ("open_catalogue", "stream_catalogue"):
        monkeypatch.setattr(readers, name, lambda source, **_: opened.catalogue)

    def run(folder, *, trust=()):
        return run_of(embedder(seed=int(folder.name)), folder)

    monkeypatch.setattr(Finished, "open", run)
    return opened


def embed(place, **options):
    commands.embed("noise", run=place.folder / "0", out=place.folder / "index", **options)


def search(place, *queries, **options):
    paths = [place.folder / "images" / f"p{number:03d}.png" for number in queries]
    commands.search(paths, index=place.folder / "index", **options)


def test_embeds_and_finds(place, capsys):
    embed(place)
    assert "index: 12 items added, 0 were there before; 12 in all" in capsys.readouterr().out
    search(place, 5, 7, top=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("12 items in")
    assert len(lines) == 1 + 2 * 4  # one line an item, though its note has two
    distances = np.square(plain(place.pixels) - plain(place.pixels[[5]])).sum(1)
    order = np.argsort(distances)
    own = re.fullmatch(r"   1  squared distance (\S+)  p005, color blue, note with .*", lines[2])
    assert float(own[1]) < 1e-10  # rounding depends on how many images are embedded at a time
    assert lines[3].startswith(f"   2  squared distance {distances[order[1]]:.3f}"[:26])
    assert f"  p{order[1]:03d}," in lines[3]


def test_adds_and_removes(place, capsys):
    embed(place)
    place.catalogue, _ = files(place.folder / "images", 14)
    embed(place, remove=("p002", "p003"))
    out = capsys.readouterr().out
    assert "2 items removed" in out
    assert "2 items added, 10 were there before; 12 in all" in out
    search(place, 2, top=1)
    assert "p002," not in capsys.readouterr().out


def test_broken_images_end_with_an_error_that_names_them(place, capsys):
    (place.folder / "images" / "p004.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"1 of 12 images could not be read .*failed.csv"):
        embed(place)
    assert "p004.png: not an image" in capsys.readouterr().out
    assert len(Index.open(place.folder / "index")) == 11
    with pytest.raises(UsageError, match=r"p004.png: not an image"):
        embed(place, on_error="stop")


def test_filters(place, capsys):
    embed(place)
    capsys.readouterr()
    search(place, 5, where=("color=red",), metric="cosine")
    out = capsys.readouterr().out
    assert out.startswith("4 items of color=red in")
    assert [f"p{n:03d}," in out for n in range(12)] == [n % 3 == 0 for n in range(12)]
    with pytest.raises(UsageError, match="choose from: blue, green, red"):
        search(place, 5, where=("color=pink",))
    with pytest.raises(UsageError, match="expected name=value"):
        search(place, 5, where=("red",))
    both = ("color=red", "note=" + place.catalogue.attributes["note"][1])
    with pytest.raises(UsageError, match=r"no item of .* has color=red and note="):
        search(place, 5, where=both)


def test_refuses_another_model(place):
    embed(place)
    with pytest.raises(UsageError, match="another model or preprocessing: weights"):
        search(place, 5, run=place.folder / "1")
    with pytest.raises(UsageError, match="at least 1 of each"):
        search(place, 5, top=0)
    (place.folder / "images" / "p005.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"p005.png: not an image"):
        search(place, 5)


def test_page(place, capsys):
    embed(place)
    for number in (4, 7, 8):
        (place.folder / "images" / f"p{number:03d}.png").unlink()
    page = place.folder / "page.html"
    search(place, 5, 6, top=12, out=page)
    told = capsys.readouterr().err
    assert told.count("not on the page") == 6
    assert "p004.png: no such file" in told
    text = page.read_text()
    assert text.count("data:image/jpeg") == 2 * 13
    assert text.count("color green") == 2 * 4


def test_images_that_are_no_files_come_from_their_catalogue(place, capsys):
    from siamjax.data.catalogue import Catalogue
    from siamjax.data.images import ImageSet

    keys = tuple(f"k{n}" for n in range(12))
    images = ImageSet(
        name="x",
        credit="",
        keys=keys,
        identities=np.asarray(keys),
        source=tuple(png(one) for one in place.pixels),
    )
    place.catalogue = Catalogue(images=images, attributes={})
    embed(place)
    search(place, 5, top=4, out=place.folder / "page.html")
    said = capsys.readouterr()
    assert re.search(r"   1  squared distance \S+  k5\n", said.out)
    assert "not on the page" not in said.err


def test_approximate_search_runs_the_exact_one_only_if_asked(place, capsys, monkeypatch):
    pytest.importorskip("faiss", exc_type=ImportError)
    exact = []
    nearest = query.nearest
    monkeypatch.setattr(query, "nearest", lambda *a, **o: exact.append(a) or nearest(*a, **o))
    embed(place)
    search(place, 5, approximate=True)
    assert not exact
    assert "  p005, color blue" in capsys.readouterr().out
    search(place, 5, approximate=True, measure_recall=True)
    assert len(exact) == 1
    assert "approximate search: 1.0000 of the exact result found" in capsys.readouterr().out
    with pytest.raises(UsageError, match="measure that of an approximate one"):
        search(place, 5, measure_recall=True)


def test_removes_only_by_the_right_run_and_again_by_the_same_command(place, capsys):
    embed(place)
    with pytest.raises(UsageError, match="another model"):
        commands.embed("noise", run=place.folder / "1", out=place.folder / "index", remove=("p1",))
    for removed in (1, 0):
        embed(place, remove=("p002",))
        assert f"{removed} items removed" in capsys.readouterr().out
    assert len(Index.open(place.folder / "index")) == 11


def test_refuses_numbers_below_one(place):
    with pytest.raises(UsageError, match="batch size 0"):
        embed(place, batch_size=0)
    embed(place)
    with pytest.raises(UsageError, match="probes 0"):
        search(place, 5, probes=0)


def test_a_page_that_cannot_be_written_is_told_before_the_search(place, monkeypatch):
    from siamjax.commands.reid import rank
    from siamjax.report.results import write_results

    embed(place)
    searched = []
    monkeypatch.setattr(Finished, "open", lambda *a, **o: searched.append(a))
    for out, problem in (
        (place.folder, "is a folder; give a file, such as .*page.html"),
        (place.folder / "none" / "page.html", "the folder .*none does not exist"),
    ):
        with pytest.raises(UsageError, match=problem):
            search(place, 5, out=out)
        with pytest.raises(UsageError, match=problem):
            rank([], gallery=place.folder, run=place.folder, out=out)
        with pytest.raises(UsageError, match=r"the page cannot be written \((Is a|No such)"):
            write_results(out, title="", remark="", lists=[])
    os.mkfifo(place.folder / "pipe.html")
    for out, problem in (
        (place.folder / "pipe.html", "is a device or a pipe"),
        (place.folder / ("x" * 5000) / "page.html", "does not exist"),
    ):
        with pytest.raises(UsageError, match=problem):
            search(place, 5, out=out)
    with pytest.raises(UsageError, match="cannot be written"):
        write_results(place.folder / ("x" * 300), title="", remark="", lists=[])
    assert (place.folder / "pipe.html").is_fifo()
    assert searched == []


def test_keeps_a_word_though_a_folder_has_its_name(place, monkeypatch):
    monkeypatch.chdir(place.folder)
    (place.folder / "emoji").mkdir()
    (place.folder / "link").symlink_to("images")

    def kept(word):
        commands.embed(word, run=place.folder / "0", out=place.folder / word.replace("/", "-"))
        return Index.open(place.folder / word.replace("/", "-")).segments[0].catalogue

    assert kept("emoji") == "emoji"
    assert kept("./emoji") == str(place.folder.resolve() / "emoji")
    assert kept("emoji/../link") == str(place.folder.resolve() / "images")
