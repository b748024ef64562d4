import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stand_in import png
from test_index import embed, embedder, files, killed_while_embedding, plain

from siamjax.data.catalogue import Catalogue
from siamjax.data.images import ImageSet
from siamjax.errors import UsageError

lancedb = pytest.importorskip("lancedb")


def table_of(folder):
    return lancedb.connect(str(folder.parent)).open_table(folder.stem)


def rows_of(folder):
    """id -> row; each id once."""
    rows = table_of(folder).search().to_list()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def same_as(folder, catalogue, pixels, *, atol=1e-6):
    rows = rows_of(folder)
    assert set(rows) == set(catalogue.images.keys)
    for number, key in enumerate(catalogue.images.keys):
        np.testing.assert_allclose(rows[key]["vector"], plain(pixels)[number], atol=atol)
        assert rows[key]["note"] == catalogue.attributes["note"][number]
        assert rows[key]["image"] == str(catalogue.images.source.paths[number])


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_the_table_has_vectors_and_columns(tmp_path, dtype):
    catalogue, pixels = files(tmp_path / "images", 21)
    folder = tmp_path / "shop.lance"
    done = embed(catalogue, folder, run="runs/one", dtype=dtype)
    assert (done.added, done.present, len(done.index)) == (21, 0, 21)
    table = table_of(folder)
    assert str(table.schema.field("vector").type.value_type) == (
        "float" if not dtype else "halffloat"
    )
    if dtype:
        with pytest.raises(UsageError, match="p000 does not fit float16"):
            embed(catalogue, tmp_path / "large.lance", dtype=dtype, model=embedder(gain=1e6))
        return
    same_as(folder, catalogue, pixels)
    found = table.search(plain(pixels)[4]).where("color = 'green'").limit(2).to_list()
    assert found[0]["id"] == "p004"
    assert {row["color"] for row in found} == {"green"}


def test_is_brought_up_to_date(tmp_path):
    folder = tmp_path / "shop.lance"
    catalogue, pixels = files(tmp_path / "images", 12)
    images = replace(catalogue.images, keys=("it's", *catalogue.images.keys[1:]))
    catalogue = Catalogue(images=images, attributes=catalogue.attributes)
    embed(catalogue, folder)
    pixels[[0, 5]] = 255 - pixels[[0, 5]]
    for number in (0, 5):
        catalogue.images.source.paths[number].write_bytes(png(pixels[number]))
    done = embed(catalogue, folder, without=("p003",))
    assert (done.added, done.present, done.removed) == (0, 9, 1)
    assert done.changed == ["it's", "p005"]
    rows = rows_of(folder)
    assert len(rows) == 11
    for key, number in (("it's", 0), ("p005", 5)):
        np.testing.assert_allclose(rows[key]["vector"], plain(pixels)[number], atol=1e-6)
    fewer, _ = files(tmp_path / "images", 3, first=6)
    assert len(embed(fewer, folder).gone) == 8
    assert embed(fewer, folder, remove_gone=True).removed == 8
    assert set(rows_of(folder)) == {"p006", "p007", "p008"}


def test_a_changed_image_that_cannot_be_read_goes(tmp_path):
    folder = tmp_path / "shop.lance"
    catalogue, _ = files(tmp_path / "images", 3)
    embed(catalogue, folder)
    catalogue.images.source.paths[1].write_bytes(b"nothing")
    assert list(embed(catalogue, folder).failed) == ["p001"]
    assert set(rows_of(folder)) == {"p000", "p002"}
    assert "p001" in (folder / "failed.csv").read_text()


def test_attributes_may_differ(tmp_path):
    folder = tmp_path / "shop.lance"
    first, _ = files(tmp_path / "a", 2)
    embed(first, folder)
    images = files(tmp_path / "b", 2, first=2)[0].images
    embed(Catalogue(images=images, attributes={"size": np.array(["1", "2"])}), folder, source="b")
    rows = rows_of(folder)
    assert (rows["p003"]["size"], rows["p003"]["color"]) == ("2", "")
    assert (rows["p001"]["size"], rows["p001"]["color"]) == (None, "green")
    wrong = Catalogue(images=images, attributes={"vector": np.array(["1", "2"])})
    with pytest.raises(UsageError, match="noise: a column vector, which the table has for itself"):
        embed(wrong, folder)


def test_a_kill_leaves_whole_chunks_and_the_same_command_goes_on(tmp_path, monkeypatch):
    folder = tmp_path / "shop.lance"
    catalogue, pixels = files(tmp_path / "images", 60)
    with (
        killed_while_embedding(
            "siamjax.search.lance_table:LanceMaking",
            tmp_path / "images",
            folder,
            when=lambda: (folder / "data").exists() and len(list((folder / "data").iterdir())) >= 2,
        ),
        pytest.raises(UsageError, match="is being written by another process"),
    ):
        embed(catalogue, folder)
    before = len(rows_of(folder))
    assert 8 <= before < 60
    assert before % 8 == 0
    seen = []
    image = ImageSet.image
    monkeypatch.setattr(ImageSet, "image", lambda self, i: seen.append(i) or image(self, i))
    assert embed(catalogue, folder).present == before
    assert len(seen) == 60 - before
    same_as(folder, catalogue, pixels)


def test_refuses_what_is_not_its_own(tmp_path, monkeypatch):
    catalogue, _ = files(tmp_path / "images", 3)
    embed(catalogue, tmp_path / "shop.lance")
    with pytest.raises(UsageError, match=r"shop.lance was embedded by another model"):
        embed(catalogue, tmp_path / "shop.lance", model=embedder(seed=1))
    with pytest.raises(UsageError, match=r"shop.lance stores float32, not float16"):
        embed(catalogue, tmp_path / "shop.lance", dtype="float16")
    lancedb.connect(str(tmp_path)).create_table("other", data=[{"id": "a"}])
    with pytest.raises(UsageError, match=r"other.lance is not a table of siamjax's"):
        embed(catalogue, tmp_path / "other.lance")
    (tmp_path / "full.lance").mkdir()
    (tmp_path / "full.lance" / "x").touch()
    with pytest.raises(UsageError, match=r"full.lance exists and is not an index"):
        embed(catalogue, tmp_path / "full.lance")
    with pytest.raises(UsageError, match="q: to be removed, but neither"):
        embed(catalogue, tmp_path / "new.lance", without=("q",))
    assert not (tmp_path / "new.lance" / "_versions").exists()
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(UsageError, match=r"needs LanceDB: pip install 'siamjax\[lance\]'"):
        embed(catalogue, tmp_path / "missing.lance")


def test_the_page_s_search(tmp_path, capsys):
    page = (Path(__file__).parents[2] / "docs" / "large_catalogues.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    catalogue, pixels = files(tmp_path / "images", 12)
    embed(catalogue, tmp_path / "shop.lance")
    exec(code, {"folder": tmp_path, "embedding": plain(pixels)[7]})
    first, *others = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["p007", str(tmp_path / "images" / "p007.png")]
    assert float(first.split()[2]) < 1e-9
    distances = np.square(plain(pixels) - plain(pixels)[7]).sum(1)
    right = sorted((n for n in range(1, 12, 3) if n != 7), key=lambda n: distances[n])[:2]
    assert [line.split()[0] for line in others] == [f"p{n:03d}" for n in right]
