"""The embedded emoji are what the vendors drew."""

import hashlib
from itertools import islice

import numpy as np
import pytest

from siamjax.data.datasets import emoji
from siamjax.data.open_catalogue import open_catalogue
from siamjax.data.prepared import EMBEDDED


@pytest.fixture(scope="module")
def catalogue():
    return open_catalogue("emoji")


def test_all_are_there(catalogue):
    images = catalogue.images
    assert len(catalogue) == 2254
    assert len(set(images.keys)) == 2254
    _, counts = np.unique(images.identities, return_counts=True)
    assert len(counts) == 1127
    assert (counts == 2).all()
    vendors = catalogue.attributes["vendor"]
    for key, identity, vendor in zip(images.keys, images.identities, vendors, strict=True):
        assert key == f"{vendor}/{identity}"
    assert vendors.tolist() == ["google"] * 1127 + ["twitter"] * 1127


def test_nothing_is_said_when_they_are_prepared(tmp_path, capfd, monkeypatch):
    prepared, examples = emoji.Emoji, emoji.Emoji._generate_examples
    monkeypatch.setattr(emoji, "Emoji", lambda **options: prepared(data_dir=tmp_path, **options))
    monkeypatch.setattr(prepared, "_generate_examples", lambda self: islice(examples(self), 3))
    assert len(open_catalogue("emoji")) == 3
    assert (tmp_path / "emoji").is_dir()
    assert capfd.readouterr() == ("", "")


def test_what_is_known_of_one(catalogue):
    row = catalogue.images.keys.index("google/1f004")
    known = {name: column[row] for name, column in catalogue.attributes.items()}
    assert known == {
        "vendor": "google",
        "name": "MAHJONG TILE RED DRAGON",
        "category": "Activities",
        "subcategory": "game",
    }
    assert set(catalogue.attributes["category"]) == {
        "Activities",
        "Animals & Nature",
        "Flags",
        "Food & Drink",
        "Objects",
        "Travel & Places",
    }


# sha256 of the original PNG's pixels, composited on white.
ORIGINALS = {
    "google/1f004": "1146b6d01d3086b6c0854727e927cec16ed2a9df68952b1a083f1d44a3714255",
    "twitter/1f004": "a6a4cc707292bccf551f3a110f594efc25bbf00f55da39401b51140253c84092",
    "google/1f34e": "10eb3d828bbf3714524eae7e30fb4d9034c50f13d4eff32d4919ac219ac9e771",
    "twitter/1f34e": "449e8889c9fc40ff434b7f9230ce0959bb17a66de539df556c8f97a969bf7fcb",
    "google/1f1e9-1f1ea": "38800b9d6ad89d9db800158f303d2bfa1dc5a6f6e328d1360c41702ff63ecd45",
    "twitter/1f427": "88fa8cc41d356d30a62b8f3de807777eaeecafa8974abc7e34d8e68c9b15db97",
}


@pytest.mark.parametrize("key", ORIGINALS)
def test_pixels_are_the_originals(catalogue, key):
    pixels = catalogue.images.image(catalogue.images.keys.index(key))
    assert pixels.shape == (64, 64, 3)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == ORIGINALS[key]


def test_credit_goes_with_it(catalogue):
    assert catalogue.images.credit == emoji.CREDIT
    licence = (EMBEDDED / "emoji.LICENSE.txt").read_text()
    for word in ("Noto Emoji", "Apache", "Twemoji", "Attribution 4.0"):
        assert word in licence
