"""The embedded ORL (AT&T) faces: 40 people, 10 images each."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from siamjax.data.images import ImageSet
from siamjax.data.prepared import EMBEDDED, FORMAT, prepared_images

CREDIT = "ORL faces, AT&T Laboratories Cambridge (Samaria and Harter 1994)"
_ARCHIVE = EMBEDDED / "orl_faces.npz"


class OrlFaces(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder of the embedded ORL faces; split ``faces`` of 400, person by person."""

    VERSION = tfds.core.Version("1.0.0")
    name = "orl_faces"

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(112, 92, 1), encoding_format="png"),
                "identity": tfds.features.Text(),
                "file": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="40 people, 10 grey images of 92x112 each: light, expression, glasses.",
            features=features,
            disable_shuffling=True,
            homepage="https://cam-orl.co.uk/facedatabase.html",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        return {"faces": self._generate_examples()}

    def _generate_examples(self):
        with np.load(_ARCHIVE) as archive:
            images = archive["images"]
        for person, series in enumerate(images, start=1):
            for number, image in enumerate(series, start=1):
                encoded = io.BytesIO()
                Image.fromarray(image).save(encoded, "PNG")
                identity = f"s{person:02d}"
                yield (
                    (person - 1) * len(series) + number,
                    {
                        "image": encoded.getvalue(),
                        "identity": identity,
                        "file": f"{identity}/{number:02d}.png",
                    },
                )


def open_images() -> ImageSet:
    """The embedded faces."""
    return prepared_images(OrlFaces(file_format=FORMAT), credit=CREDIT)
