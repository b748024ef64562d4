"""A TFDS builder's prepared data as an image set."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

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
    images, _ = _opened(builder, "faces", credit)
    return images


def prepared_people(builder: Any, *, credit: str) -> tuple[ImageSet, Int[np.ndarray, " n"]]:
    """The same of split ``people``, whose pictures also tell their camera: (images, cameras)."""
    images, rows = _opened(builder, "people", credit)
    return images, np.array([int(row["camera"]) for row in rows], np.int64)


def _opened(builder: Any, split: str, credit: str) -> tuple[ImageSet, list[dict[str, Any]]]:
    """A split as an image set, and what stands beside each picture."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS's advice to install OpenCV
    tfds.disable_progress_bar()
    builder.download_and_prepare(file_format=FORMAT)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    examples: Any = builder.as_data_source(split, decoders=undecoded)
    rows = []
    for index in range(len(examples)):
        row = examples[index]
        del row["image"]  # a list of all would hold every picture in memory
        rows.append(row)
    named = builder.builder_config.name if builder.builder_config else None
    images = ImageSet(
        name=f"{builder.name}/{named}" if named else builder.name,
        credit=credit,
        keys=tuple(row["file"].decode() for row in rows),
        identities=np.array([row["identity"].decode() for row in rows]),
        source=_EncodedImages(examples),
    )
    return images, rows
