"""The embedded emoji: 1,127 items as two vendors draw them."""

import csv
import io
import zipfile

import tensorflow_datasets as tfds
from PIL import Image

from siamjax.data.catalogue import Catalogue, strings
from siamjax.data.images import ImageSet
from siamjax.data.prepared import EMBEDDED, FORMAT, prepare, prepared_examples

CREDIT = (
    "emoji: Noto Emoji (Copyright Google, Apache-2.0) and Twemoji (Copyright 2020 Twitter, Inc and "
    "other contributors, CC-BY-4.0)"
)
VENDORS = ("google", "twitter")
ATTRIBUTES = ("vendor", "name", "category", "subcategory")
_ARCHIVE = EMBEDDED / "emoji.zip"


class Emoji(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder of the embedded emoji; split ``pictures`` of 2,254, one vendor after the other.

    The two images of an item are drawn by different hands. They are artwork: the set shows that
    code works and learns, but supports no claim about a search in photographs.
    """

    VERSION = tfds.core.Version("1.0.0")
    name = "emoji"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(64, 64, 4), encoding_format="png"),
            "identity": tfds.features.Text(),
            "file": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="1,127 emoji of 64x64 with transparency, as Google and Twitter draw them.",
            features=tfds.features.FeaturesDict(
                features | {name: tfds.features.Text() for name in ATTRIBUTES}
            ),
            disable_shuffling=True,
            homepage="https://github.com/googlefonts/noto-emoji",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {"pictures": self._generate_examples()}

    def _generate_examples(self):
        number = 0
        with zipfile.ZipFile(_ARCHIVE) as archive:
            items = list(csv.DictReader(io.StringIO(archive.read("items.csv").decode())))
            for vendor in VENDORS:
                for item in items:
                    key = f"{vendor}/{item['item']}"
                    # TFDS cannot store WebP.
                    image = Image.open(io.BytesIO(archive.read(f"{key}.webp")))
                    encoded = io.BytesIO()
                    image.convert("RGBA").save(encoded, "PNG")
                    yield (
                        number,
                        {
                            "image": encoded.getvalue(),
                            "identity": item["item"],
                            "file": key,
                            "vendor": vendor,
                            "name": item["name"],
                            "category": item["category"],
                            "subcategory": item["subcategory"],
                        },
                    )
                    number += 1


def open_emoji() -> Catalogue:
    """The embedded emoji with their attributes; the two images of an item are of two vendors."""
    builder = Emoji(file_format=FORMAT)
    prepare(builder)
    source, read = prepared_examples(builder, ["pictures"], ["file", "identity", *ATTRIBUTES])
    columns = {name: [value.decode() for value in values] for name, values in read.items()}
    images = ImageSet(
        name="emoji",
        credit=CREDIT,
        keys=tuple(columns["file"]),
        identities=strings(columns["identity"]),
        source=source,
    )
    return Catalogue(
        images=images, attributes={name: strings(columns[name]) for name in ATTRIBUTES}
    )
