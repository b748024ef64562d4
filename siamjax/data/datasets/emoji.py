"""The embedded emoji: 1,127 items as two vendors draw them."""

import csv
import io
import zipfile
from collections.abc import Iterator
from typing import ClassVar

import tensorflow_datasets as tfds
from PIL import Image

from siamjax.data.catalogue import Catalogue, strings
from siamjax.data.prepared import EMBEDDED, ImageBuilder, RawImage, as_png, opened

CREDIT = (
    "emoji: Noto Emoji (Copyright Google, Apache-2.0) and Twemoji (Copyright 2020 Twitter, Inc and "
    "other contributors, CC-BY-4.0)"
)
VENDORS = ("google", "twitter")
ATTRIBUTES = ("vendor", "name", "category", "subcategory")


class Emoji(ImageBuilder, skip_registration=True):
    """TFDS builder of the embedded emoji; split ``pictures`` of 2,254, one vendor after the other.

    The two images of an item are drawn by different hands. They are artwork: the set shows that
    code works and learns, but supports no claim about a search in photographs.
    """

    name = "emoji"
    split: ClassVar[str] = "pictures"
    shape: ClassVar = (64, 64, 4)
    encoding: ClassVar[str] = "png"
    columns: ClassVar = {name: tfds.features.Text() for name in ATTRIBUTES}
    about: ClassVar[str] = "1,127 emoji with transparency, as Google and Twitter draw them."

    def _images(self) -> Iterator[RawImage]:
        with zipfile.ZipFile(EMBEDDED / "emoji.zip") as archive:
            items = list(csv.DictReader(io.StringIO(archive.read("items.csv").decode())))
            for vendor in VENDORS:
                for item in items:
                    key = f"{vendor}/{item['item']}"
                    # TFDS cannot store WebP.
                    image = Image.open(io.BytesIO(archive.read(f"{key}.webp"))).convert("RGBA")
                    more = {"vendor": vendor} | {name: item[name] for name in ATTRIBUTES[1:]}
                    yield key, item["item"], as_png(image), more


def open_emoji() -> Catalogue:
    """The embedded emoji with their attributes; the two images of an item are of two vendors."""
    images, columns = opened(Emoji(), CREDIT, *ATTRIBUTES)
    attributes = {name: strings([v.decode() for v in columns[name]]) for name in ATTRIBUTES}
    return Catalogue(images=images, attributes=attributes)
