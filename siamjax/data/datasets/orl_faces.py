"""The embedded ORL (AT&T) faces: 40 people, 10 images each."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from siamjax.data.images import ImageSet
from siamjax.data.prepared import EMBEDDED, ImageBuilder, RawImage, as_png, prepared_images

CREDIT = "ORL faces, AT&T Laboratories Cambridge (Samaria and Harter 1994)"


class OrlFaces(ImageBuilder, skip_registration=True):
    """TFDS builder of the embedded ORL faces; split ``faces`` of 400, person by person."""

    name = "orl_faces"
    split: ClassVar[str] = "faces"
    shape: ClassVar = (112, 92, 1)
    encoding: ClassVar[str] = "png"
    columns: ClassVar = {}
    about: ClassVar[str] = "40 people, 10 grey images of 92x112 each: light, expression, glasses."

    def _images(self) -> Iterator[RawImage]:
        with np.load(EMBEDDED / "orl_faces.npz") as archive:
            images = archive["images"]
        for person, series in enumerate(images, start=1):
            for number, image in enumerate(series, start=1):
                identity = f"s{person:02d}"
                yield f"{identity}/{number:02d}.png", identity, as_png(image), {}


def open_images() -> ImageSet:
    """The embedded faces."""
    return prepared_images(OrlFaces(), credit=CREDIT)
