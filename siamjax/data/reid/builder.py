"""What the TFDS builders of the re-identification sets have in common."""

import abc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from siamjax.data.prepared import FORMAT

Picture = tuple[str, str, int, bytes]
"""File, as people know it; identity; camera; the encoded picture."""


class PeopleBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of one split ``people``: image (bytes as they came), identity, camera, file.

    Beside the pictures, ``info.metadata`` keeps the official partitions of a set that ships them
    in its large files, so that those are read once.
    """

    VERSION = tfds.core.Version("1.0.0")
    encoding: ClassVar[str] = "jpeg"
    about: ClassVar[str]

    def __init__(
        self, *, home: Path | None = None, config: str | None = None, data_dir: Path | None = None
    ) -> None:
        """``home`` holds the raw files; it is opened only if nothing was prepared before."""
        self._home = home
        super().__init__(config=config, data_dir=data_dir, file_format=FORMAT)

    @abc.abstractmethod
    def _pictures(self) -> Iterable[Picture]:
        """All pictures in a fixed order; ``UsageError`` unless they are complete."""

    def _partitions(self) -> dict[str, Any]:
        """What ``info.metadata`` keeps, as JSON can hold it."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format=self.encoding),
                "identity": tfds.features.Text(),
                "camera": np.int64,
                "file": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.about,
            features=features,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        kept = self.info.metadata
        assert kept is not None  # given in _info
        kept.update(self._partitions())
        return {"people": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (file, identity, camera, image) in enumerate(self._pictures()):
            yield (
                number,
                {"image": image, "identity": identity, "camera": camera, "file": file},
            )
