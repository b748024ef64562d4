"""Stanford Online Products: 120,053 images of 22,634 products, with its official split."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from siamjax.data.archives import tfds_folder
from siamjax.data.catalogue import Catalogue, files_below, strings
from siamjax.data.images import ImageSet, ImageSource
from siamjax.data.lines import read_lines
from siamjax.data.names import whole_number
from siamjax.data.open_catalogue import is_unpacked
from siamjax.data.prepared import FORMAT, prepared_examples, quiet, undamaged
from siamjax.data.retrieval import ONLINE_PRODUCTS as NAME
from siamjax.errors import UsageError, shown

SPLITS = ("train", "test")
_CREDIT = "Stanford Online Products (Song et al. 2016), images of eBay"
_REMEDY = (
    "unpack Stanford_Online_Products.zip and give the folder with Ebay_train.txt in place of this "
    f"name, or prepare the set by TFDS, on a machine with TensorFlow, with file_format={FORMAT!r}"
)
_COLUMNS = ("class_id", "super_class_id", "path")


def open_products(home: Path | None) -> Catalogue:
    """Its images; the item is the class, the attributes are ``category`` and ``split``.

    ``home`` is the unpacked folder (with Ebay_train.txt), or the data folder of TFDS (None: its
    default) in which the set was prepared as array_record. Nothing is downloaded, as TFDS's own
    builder of this set needs TensorFlow to prepare it, though not to read it.

    Raises ``UsageError`` if the set is in neither form.
    """
    if home is not None and not os.path.isdir(home):
        raise UsageError(f"{home}: no such folder; give the home of {NAME}, or none")
    if home is not None and is_unpacked(home):
        return _unpacked(home)
    quiet()
    directory: dict[str, Any] = {} if home is None else {"data_dir": home}
    with undamaged((tfds_folder() if home is None else home) / NAME, remedy=_REMEDY):
        # Not with a format, which TFDS refuses where the set was prepared in another one.
        builder: Any = tfds.builder(NAME, **directory)
    if not builder.is_prepared():
        raise UsageError(f"{NAME} is not prepared in {builder.data_path}; {_REMEDY}")
    try:
        source, columns = prepared_examples(builder, SPLITS, _COLUMNS[:2], remedy=_REMEDY)
    except NotImplementedError:
        raise UsageError(
            f"{builder.data_path}: not prepared as {FORMAT}, the only format that can be read "
            f"without TensorFlow; {_REMEDY}"
        ) from None
    sizes = [builder.info.splits[name].num_examples for name in SPLITS]
    named = np.array(builder.info.features["super_class_id"].names)
    return _catalogue(
        keys=tuple(f"{s}/{i}" for s, n in zip(SPLITS, sizes, strict=True) for i in range(n)),
        classes=[int(number) for number in columns["class_id"]],
        categories=named[np.array(columns["super_class_id"], np.int64)],
        splits=np.repeat(SPLITS, sizes),
        source=source,
    )


def _unpacked(home: Path) -> Catalogue:
    paths: list[str] = []
    lines_of: dict[str, str] = {}
    classes: list[int] = []
    sizes = []
    for split in SPLITS:
        path = home / f"Ebay_{split}.txt"
        lines = read_lines(path, remedy="unpack the set again")
        columns = lines[0].split(" ")
        if missing := sorted({*_COLUMNS} - {*columns}):
            raise UsageError(
                f"{path}, line 1: no column {missing[0]}, only {shown(columns)}; get the file again"
            )
        item, image = columns.index("class_id"), columns.index("path")
        before = len(paths)
        for number, line in enumerate(lines[1:], start=2):
            if not line.strip():
                continue
            words = line.split(" ")
            known = whole_number(words[item]) if len(words) == len(columns) else None
            if known is None or not words[image].strip():
                raise UsageError(
                    f"{path}, line {number}: expected 'image_id class_id super_class_id path'; "
                    "get the file again"
                )
            name = words[image].strip()
            if lines_of.setdefault(name, f"{path}, line {number}") != f"{path}, line {number}":
                raise UsageError(
                    f"{path}, line {number}: {shown(name)} is there before ({lines_of[name]}); get "
                    "the file again"
                )
            classes.append(known)
            paths.append(name)
        sizes.append(len(paths) - before)
    return _catalogue(
        keys=tuple(paths),
        classes=classes,
        categories=strings([path.split("/")[0].removesuffix("_final") for path in paths]),
        splits=np.repeat(SPLITS, sizes),
        source=files_below(home, tuple(paths)),
    )


def _catalogue(
    *,
    keys: tuple[str, ...],
    classes: list[int],
    categories: np.ndarray,
    splits: np.ndarray,
    source: ImageSource,
) -> Catalogue:
    images = ImageSet(
        name=NAME,
        credit=_CREDIT,
        keys=keys,
        identities=strings([str(number) for number in classes]),
        source=source,
    )
    return Catalogue(images=images, attributes={"category": categories, "split": splits})
