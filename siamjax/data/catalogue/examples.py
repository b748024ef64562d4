"""Pictures that a TFDS builder has prepared, and the columns beside them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow_datasets as tfds


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
