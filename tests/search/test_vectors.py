import csv
import os
from types import SimpleNamespace

import numpy as np
import pytest
from stand_in import Stopped, stop_after
from test_index import embedder, files, plain, run_of

from siamjax.commands import retrieval as commands
from siamjax.data import open_catalogue as readers
from siamjax.errors import UsageError
from siamjax.search import index_making
from siamjax.training import Finished


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Twelve images, and a function that embeds them."""
    catalogue, pixels = files(tmp_path / "images", 12)
    monkeypatch.setattr(readers, "stream_catalogue", lambda source, **_: catalogue)
    monkeypatch.setattr(Finished, "open", lambda folder, **_: run_of(embedder(), folder))
    out = tmp_path / "vectors.npy"

    def embed(**options):
        commands.embed("noise", run=tmp_path, out=out, chunk=8, batch_size=8, **options)

    return SimpleNamespace(catalogue=catalogue, pixels=pixels, out=out, embed=embed)


def lines_of(shop):
    with shop.out.with_suffix(".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_array_and_a_table_of_its_rows(shop, capsys):
    shop.embed()
    assert "vectors.npy: 12 items added" in capsys.readouterr().out
    np.testing.assert_allclose(np.load(shop.out), plain(shop.pixels), atol=1e-6)
    lines = lines_of(shop)
    assert [line["id"] for line in lines] == list(shop.catalogue.images.keys)
    assert [line["note"] for line in lines] == shop.catalogue.attributes["note"].tolist()
    assert sorted(path.name for path in shop.out.parent.iterdir()) == [
        "images",
        "vectors.csv",
        "vectors.npy",
    ]
    with pytest.raises(UsageError, match=r"vectors.npy exists; remove it, or give another name"):
        shop.embed()


@pytest.mark.parametrize("replaced", [1, 2])
def test_there_is_nothing_before_all_is_there(shop, monkeypatch, replaced):
    with monkeypatch.context() as patch:
        stop_after(patch, index_making, "write_at", 6)
        with pytest.raises(Stopped):
            shop.embed()
    with monkeypatch.context() as patch:  # the table and the array take their names last
        calls, rename = [], os.replace

        def stopped(source, target):
            if str(target).endswith(("vectors.csv", "vectors.npy")):
                calls.append(target)
                if len(calls) == replaced:
                    raise Stopped
            rename(source, target)

        patch.setattr(os, "replace", stopped)
        with pytest.raises(Stopped):
            shop.embed()
    assert not shop.out.exists()
    shop.embed()
    np.testing.assert_allclose(np.load(shop.out), plain(shop.pixels), atol=1e-6)


def test_images_that_cannot_be_read_are_listed(shop):
    shop.catalogue.images.source.paths[3].write_bytes(b"")
    with pytest.raises(UsageError, match=r"1 of 12 images .* replace those listed in .*failed.csv"):
        shop.embed()
    assert np.load(shop.out).shape == (11, 7)
    assert "p003" not in [line["id"] for line in lines_of(shop)]
    assert "p003" in shop.out.with_suffix(".failed.csv").read_text()
