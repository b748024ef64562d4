"""Ids, paths and attributes of any characters: in the index, on the page, on the terminal."""

import csv
import os
import re
import unicodedata

import numpy as np
import pytest
from stand_in import png
from test_index import SIZE, embed, embedder, files, plain, run_of

from siamjax.commands import retrieval as commands
from siamjax.data.catalogue import Catalogue
from siamjax.data.open_catalogue import open_catalogue
from siamjax.errors import UsageError
from siamjax.search.index import Index
from siamjax.search.nearest import nearest
from siamjax.training import Finished

NAMES = [
    b"plain.png",
    b"caf\xff.png",  # Latin-1, from an old disk
    b"\xe9\xe8.png",
    "line\u2028break\u0085.png".encode(),
    b"two\nlines\r.png",
    b"q\"uote',;\t.png",
    b"$x^2$ \\frac_%s{0}<b>&amp;.png",
    "\u202egnp.reverse.png".encode(),
    "\u0645\u06cc\u200c\u062e \u4e2d\u6587 \U0001f469\u200d\U0001f469.png".encode(),
    unicodedata.normalize("NFC", "\u00e9t\u00e9.png").encode(),
    unicodedata.normalize("NFD", "\u00e9t\u00e9.png").encode(),
    b"\x1b[31mred\x07.png",
    b"n" * 200 + b".png",
    b"-rf.png",
]


@pytest.fixture
def things(tmp_path, monkeypatch):
    """A folder of these names, its pixels by id, and a run that every command opens."""
    pixels = np.random.default_rng(1).integers(0, 256, (len(NAMES), *SIZE, 3), np.uint8)
    folder = tmp_path / "things"
    folder.mkdir()
    for name, image in zip(NAMES, pixels, strict=True):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(png(image))
    run = run_of(embedder(), tmp_path / "run")
    monkeypatch.setattr(Finished, "open", lambda *a, **o: run)
    return folder, {os.fsdecode(n): image for n, image in zip(NAMES, pixels, strict=True)}


def test_every_name_is_embedded_and_found_at_distance_0(things, tmp_path, capsys):
    folder, pixels = things
    commands.embed(str(folder), run=tmp_path / "run", out=tmp_path / "index")
    assert f"index: {len(NAMES)} items added" in capsys.readouterr().out
    index = Index.open(tmp_path / "index")
    items = {item.id: (row, item) for row, item in index.items()}
    assert set(items) == set(pixels)
    found = nearest(plain(np.stack(list(pixels.values()))), index, top=1)
    for (name, image), row in zip(pixels.items(), found.rows[:, 0], strict=True):
        assert items[name][0] == row
        assert items[name][1].image == str(folder / name)
        with open(items[name][1].image, "rb") as file:
            assert file.read() == png(image)
    capsys.readouterr()
    queries = [folder / name for name in pixels]
    page = tmp_path / "page.html"
    commands.search(queries, index=tmp_path / "index", top=2, out=page)
    said = capsys.readouterr()
    assert "out of date" not in said.err
    assert len(said.out.splitlines()) == 1 + 3 * len(NAMES) + 1
    said.out.encode()  # strict UTF-8, as a terminal's
    assert all(line.isprintable() or "\u200d" in line for line in said.out.splitlines())
    for words in ("caf\\udcff.png", "two\\nlines\\r.png", "\\x1b[31mred\\x07.png"):
        (distance,) = re.findall(rf"   1  squared distance (\S+)  {re.escape(words)}", said.out)
        assert float(distance) < 1e-10  # some CPUs round by the row of a batch
    text = page.read_text(encoding="utf-8")
    assert "caf\\udcff.png" in text
    assert "{0}&lt;b&gt;&amp;amp;.png" in text
    assert text.count("data:image/jpeg") == 3 * len(NAMES)


def test_every_name_can_be_removed_and_fail(things, tmp_path, capsys):
    folder, pixels = things
    commands.embed(str(folder), run=tmp_path / "run", out=tmp_path / "index")
    for name in pixels:
        (folder / name).write_bytes(b"no image")
    with pytest.raises(UsageError, match=f"{len(NAMES)} of {len(NAMES)} images could not be read"):
        commands.embed(str(folder), run=tmp_path / "run", out=tmp_path / "index")
    capsys.readouterr().out.encode()
    path = tmp_path / "index" / "failed.csv"
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert {line[0] for line in list(csv.reader(file))[1:]} == set(pixels)
    for name, image in pixels.items():
        (folder / name).write_bytes(png(image))
    commands.embed(str(folder), run=tmp_path / "run", out=tmp_path / "index")
    assert not path.exists()
    names = tuple(pixels)
    commands.embed(str(folder), run=tmp_path / "run", out=tmp_path / "index", remove=names[1:])
    assert [item.id for _, item in Index.open(tmp_path / "index").items()] == [names[0]]


def test_attributes_of_any_text_are_searched_for(tmp_path):
    values = ["one\u2028two", 'a "b"\r\n;,', "\u00e9", "e\u0301x", " ", "x" * 131_072, "\0", "$_^"]
    catalogue, _ = files(tmp_path / "images", len(values))
    named = {"no,te\n": np.array(values, dtype=object)}
    embed(Catalogue(images=catalogue.images, attributes=named), tmp_path / "index")
    index = Index.open(tmp_path / "index")
    for row, value in enumerate(values):
        assert np.flatnonzero(index.where([("no,te\n", value)])).tolist() == [row]
    # Unicode's two forms of one text are one value.
    assert np.flatnonzero(index.where([("no,te\n", "e\u0301")])).tolist() == [2]
    assert np.flatnonzero(index.where([("no,te\n", "\u00e9x")])).tolist() == [3]
    with pytest.raises(UsageError, match="no item has") as error:
        index.where([("no,te\n", "none\x1b")])
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "problem"),
    [("y" * 131_073, "p001: y+\u2026y+ has 131,073 characters"), ("\ud800", r"p001: .*U\+D800")],
)
def test_a_text_that_the_table_cannot_hold_is_refused_before_it_is_written(
    tmp_path, value, problem
):
    catalogue, _ = files(tmp_path / "images", 3)
    named = {"note": np.array(["a", value, "b"], dtype=object)}
    with pytest.raises(UsageError, match=problem):
        embed(Catalogue(images=catalogue.images, attributes=named), tmp_path / "index")
    assert embed(catalogue, tmp_path / "index").added == 3


def test_a_table_that_writes_names_in_another_form_than_the_disk(tmp_path):
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "a.png").write_bytes(png(np.zeros((*SIZE, 3), np.uint8)))
    nfc = unicodedata.normalize("NFC", "Gr\u00fc\u00dfe")
    (tmp_path / "things" / "items.csv").write_text(f"image,item,about\na.png,{nfc},{nfc}\n")
    embed(open_catalogue(tmp_path / "things"), tmp_path / "index", source=str(tmp_path / "things"))
    index = Index.open(tmp_path / "index")
    nfd = unicodedata.normalize("NFD", nfc)
    assert nfd != nfc
    assert index.where([("about", nfd)]).all()
