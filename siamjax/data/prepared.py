"""What the TFDS builders share, and how to open what they prepared; all without TensorFlow."""

import abc
import contextlib
import io
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Int
from PIL import Image

from siamjax.data.archives import tfds_folder
from siamjax.data.images import ImageSet
from siamjax.errors import UsageError, shown
from siamjax.files import locked, open_regular, saying
from siamjax.progress import Progress

EMBEDDED = Path(__file__).parent / "embedded"
"""Folder of the sets that come with the package, each with its licence."""

_ANEW = "remove this folder, and it is prepared anew"
_DESCRIPTION = 2**26  # bytes of a JSON file; that of CUHK03's test sets has 40 kB

FORMAT = "array_record"  # the only format that TFDS writes and reads without TensorFlow


@dataclass(frozen=True)
class Examples:
    """The encoded images of prepared splits, one split after the other."""

    splits: tuple[Any, ...]

    def __len__(self) -> int:
        return sum(map(len, self.splits))

    def __getitem__(self, index: int) -> bytes:
        for split in self.splits:
            if index < len(split):
                return split[index]["image"]
            index -= len(split)
        raise IndexError(index)


RawImage = tuple[str, str, bytes, dict[str, Any]]
"""Name of the file, as people know it; identity; the encoded image; other columns by name."""


class ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder of one split: image (its bytes unchanged), identity, file, and other columns.

    Where a set has its official partitions in its large files, ``info.metadata`` keeps them, so
    that those files are read only once.
    """

    VERSION = tfds.core.Version("1.0.0")
    split: ClassVar[str] = "people"
    shape: ClassVar[tuple[int | None, ...]] = (None, None, 3)
    encoding: ClassVar[str] = "jpeg"
    columns: ClassVar[dict[str, Any]] = {"camera": np.int64}
    about: ClassVar[str]

    def __init__(
        self, *, home: Any = None, config: str | None = None, data_dir: Path | None = None
    ) -> None:
        """``home`` has the raw files; it is opened only if the set is not prepared yet."""
        self._home = home
        root = tfds_folder() if data_dir is None else Path(data_dir)
        place = root.joinpath(self.name, *([config] if config else []), str(self.VERSION))
        with undamaged(place):  # it reads what describes the prepared copy
            for path in place.glob("*"):  # TFDS would wait for a pipe, and read a device for ever
                open_regular(path, limit=_DESCRIPTION if path.suffix == ".json" else None).close()
            super().__init__(config=config, data_dir=root, file_format=FORMAT)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In a worker process, where all that counts is what is prepared.
        state = state["_original_state"]
        ImageBuilder.__init__(self, config=state["config"], data_dir=state["data_dir"])

    @abc.abstractmethod
    def _images(self) -> Iterable[RawImage]:
        """All images in a fixed order; raises ``UsageError`` unless they are complete."""

    def _partitions(self) -> dict[str, Any]:
        """What ``info.metadata`` keeps, in types that JSON knows."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=self.shape, encoding_format=self.encoding),
            "identity": tfds.features.Text(),
            "file": tfds.features.Text(),
            **self.columns,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.about,
            features=tfds.features.FeaturesDict(features),
            # Sets without cameras were prepared without metadata by earlier versions.
            metadata=tfds.core.MetadataDict() if "camera" in self.columns else None,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        if self.info.metadata is not None:
            self.info.metadata.update(self._partitions())
        return {self.split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with Progress(f"preparing {self.name}", unit="images", total=None) as bar:
            for number, (file, identity, image, more) in enumerate(self._images()):
                yield number, {"image": image, "identity": identity, "file": file, **more}
                bar.update(1)


def as_png(image: Image.Image | np.ndarray) -> bytes:
    """An image encoded without loss."""
    encoded = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(encoded, "PNG")
    return encoded.getvalue()


def quiet() -> None:
    """Turn off TFDS's progress bars and its advice to install OpenCV."""
    log = logging.getLogger("absl")
    log.setLevel(max(log.level, logging.ERROR))
    tfds.disable_progress_bar()


def prepare(builder: ImageBuilder) -> None:
    """Prepare a builder's data, unless that was done before; one process does, others wait.

    TFDS writes into a folder of another name, which it renames at the end. What a killed process
    left there is removed, and so is all that a failed one made. Raises ``UsageError`` if the
    folder cannot be written.
    """
    quiet()
    place = Path(builder.data_dir)
    own = place.parents[1 if builder.builder_config else 0]  # ROOT/NAME[/CONFIG]/VERSION
    with saying(
        f"{shown(own.parent)}: {builder.name} cannot be prepared there",
        remedy="set TFDS_DATA_DIR to a folder that you may write, on a disk with space",
    ):
        if place.exists():  # on a disk that may be read only
            return
        own.parent.mkdir(parents=True, exist_ok=True)
        with locked(own.with_name(f".{own.name}.lock")):
            if not place.exists():
                with _all_or_nothing(own, place):
                    builder.download_and_prepare(file_format=FORMAT)
                return
    with undamaged(place):  # by the process that was waited for
        builder.info.read_from_directory(place)


@contextlib.contextmanager
def _all_or_nothing(own: Path, place: Path) -> Iterator[None]:
    """Remove what was begun before, and after an error all that is new."""
    for left in place.parent.glob("incomplete.*"):
        shutil.rmtree(left, ignore_errors=True)
    new = not own.exists()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints "Downloading ..."
            yield
    except BaseException:
        if new:
            shutil.rmtree(own, ignore_errors=True)
        raise


@contextlib.contextmanager
def undamaged(place: Path, *, remedy: str = _ANEW) -> Iterator[None]:
    """``UsageError`` with the ``remedy`` for any error while a prepared copy is read."""
    try:
        yield
    except (UsageError, MemoryError, NotImplementedError):  # the last: another format
        raise
    except Exception as error:  # of TFDS, protobuf, Riegeli, JSON: whatever damage leads to
        why = " ".join(str(error).split()[:30]) or type(error).__name__
        raise UsageError(
            f"{shown(place)}: the prepared copy cannot be read ({shown(why)}); {remedy}"
        ) from None


def prepared_examples(
    builder: Any, splits: Sequence[str], columns: Sequence[str], *, remedy: str = _ANEW
) -> tuple[Examples, dict[str, list[Any]]]:
    """Open splits of a prepared builder: the images, and some columns of their records.

    Every record is read once for its columns; no image is decoded or kept.
    """
    undecoded = {"image": tfds.decode.SkipDecoding()}
    values: dict[str, list[Any]] = {column: [] for column in columns}
    with undamaged(Path(builder.data_dir), remedy=remedy):
        opened = tuple(builder.as_data_source(split, decoders=undecoded) for split in splits)
        for name, split in zip(splits, opened, strict=True):
            _check_count(builder.info.splits[name], len(split))
            for index in range(len(split)):
                example = split[index]
                for column in columns:
                    values[column].append(example[column])
    return Examples(opened), values


def _check_count(split: Any, count: int) -> None:
    """``ValueError`` if the files of a split hold another number of records than is written."""
    files = [ArrayRecordReader(str(path)) for path in split.filepaths]
    held = sum(file.num_records() for file in files)
    for file in files:
        file.close()
    if held != count:
        raise ValueError(f"{held:,} records, expected {count:,}")


def partitions(builder: ImageBuilder, name: str, kind: Any) -> Any:
    """What the metadata of a prepared copy keep, as one type."""
    with undamaged(Path(builder.data_dir)):
        return msgspec.convert((builder.info.metadata or {})[name], kind)


def prepared_images(builder: ImageBuilder, *, credit: str) -> ImageSet:
    """Open a builder's split, and prepare it first if need be."""
    return opened(builder, credit)[0]


def prepared_people(
    builder: ImageBuilder, *, credit: str
) -> tuple[ImageSet, Int[np.ndarray, " n"]]:
    """Open a builder's split, and prepare it first if need be: (images, cameras)."""
    images, columns = opened(builder, credit, "camera")
    return images, np.array([int(camera) for camera in columns["camera"]], np.int64)


def opened(builder: ImageBuilder, credit: str, *more: str) -> tuple[ImageSet, dict[str, list[Any]]]:
    """Open a builder's split, and prepare it first if need be.

    Returns the image set, and the columns ``file``, ``identity`` and ``more`` as TFDS reads them.
    """
    prepare(builder)
    source, columns = prepared_examples(builder, [builder.split], ["file", "identity", *more])
    named = builder.builder_config.name if builder.builder_config else None
    images = ImageSet(
        name=f"{builder.name}/{named}" if named else builder.name,
        credit=credit,
        keys=tuple(file.decode() for file in columns["file"]),
        identities=np.array([identity.decode() for identity in columns["identity"]]),
        source=source,
    )
    return images, columns
