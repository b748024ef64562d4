"""A TFDS builder's prepared data as an image set."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from siamjax.data.images import ImageSet

FORMAT = "array_record"  # the one format that TFDS writes and reads without TensorFlow


@dataclass(frozen=True)
class _EncodedImages:
    examples: Any

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> bytes:
        return self.examples[index]["image"]


def prepared_images(builder: Any, *, credit: str) -> ImageSet:
    """Prepare the TFDS builder's split ``faces`` if that was not done before, and open it."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS's advice to install OpenCV
    tfds.disable_progress_bar()
    builder.download_and_prepare(file_format=FORMAT)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    examples: Any = builder.as_data_source("faces", decoders=undecoded)
    rows = [examples[index] for index in range(len(examples))]
    named = builder.builder_config.name if builder.builder_config else None
    return ImageSet(
        name=f"{builder.name}/{named}" if named else builder.name,
        credit=credit,
        keys=tuple(row["file"].decode() for row in rows),
        identities=np.array([row["identity"].decode() for row in rows]),
        source=_EncodedImages(examples),
    )
