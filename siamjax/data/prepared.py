"""What TFDS builders have prepared: encoded pictures, and what stands beside them."""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int

from siamjax.data.images import ImageSet

FORMAT = "array_record"  # the one format that TFDS writes and reads without TensorFlow


@dataclass(frozen=True)
class Examples:
    """The encoded pictures of prepared splits, one after the other."""

    splits: tuple[Any, ...]

    def __len__(self) -> int:
        return sum(map(len, self.splits))

    def __getitem__(self, index: int) -> bytes:
        for split in self.splits:
            if index < len(split):
                return split[index]["image"]
            index -= len(split)
        raise IndexError(index)


def quiet() -> None:
    """No progress bars, and no advice of TFDS to install OpenCV."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    tfds.disable_progress_bar()


def prepare(builder: Any) -> None:
    """Prepare a TFDS builder's data, if that was not done before, without a word."""
    quiet()
    with contextlib.redirect_stdout(io.StringIO()):  # "Downloading ... Unknown size ..."
        builder.download_and_prepare(file_format=FORMAT)


def prepared_examples(
    builder: Any, splits: Sequence[str], columns: Sequence[str]
) -> tuple[Examples, dict[str, list[Any]]]:
    """Open splits of a prepared builder: the pictures, and some of what stands beside each.

    Every record is read once for its columns; no picture is decoded or kept.
    """
    undecoded = {"image": tfds.decode.SkipDecoding()}
    opened = tuple(builder.as_data_source(split, decoders=undecoded) for split in splits)
    values: dict[str, list[Any]] = {column: [] for column in columns}
    for split in opened:
        for index in range(len(split)):
            example = split[index]
            for column in columns:
                values[column].append(example[column])
    return Examples(opened), values


def prepared_images(builder: Any, *, credit: str) -> ImageSet:
    """Prepare the TFDS builder's split ``faces`` if that was not done before, and open it."""
    images, _ = _opened(builder, "faces", credit)
    return images


def prepared_people(builder: Any, *, credit: str) -> tuple[ImageSet, Int[np.ndarray, " n"]]:
    """The same of split ``people``, whose pictures also tell their camera: (images, cameras)."""
    images, columns = _opened(builder, "people", credit, "camera")
    return images, np.array([int(camera) for camera in columns["camera"]], np.int64)


def _opened(
    builder: Any, split: str, credit: str, *more: str
) -> tuple[ImageSet, dict[str, list[Any]]]:
    """A split as an image set, and its columns: file, identity and ``more``."""
    prepare(builder)
    source, columns = prepared_examples(builder, [split], ["file", "identity", *more])
    named = builder.builder_config.name if builder.builder_config else None
    images = ImageSet(
        name=f"{builder.name}/{named}" if named else builder.name,
        credit=credit,
        keys=tuple(file.decode() for file in columns["file"]),
        identities=np.array([identity.decode() for identity in columns["identity"]]),
        source=source,
    )
    return images, columns
