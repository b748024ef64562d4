"""A catalogue's embeddings as one array, for those who bring another search engine.

``vectors.npy`` has (rows, features), and ``vectors.csv`` a line with the id, item, image, catalogue
and attributes of each row, in the same order. Both are written when all is embedded; until then an
index lies beside them, in ``vectors.npy.unfinished``.
"""

import csv
import os
import shutil
from pathlib import Path

import numpy as np

from siamjax.errors import UsageError, shown
from siamjax.search.failed import FAILED
from siamjax.search.index import Index, writing

_BLOCK = 8192  # rows in memory at a time


def unfinished(out: Path) -> Path:
    """The folder of the index until ``out`` is written; ``UsageError`` if that exists."""
    if os.path.lexists(out):
        raise UsageError(f"{shown(out)} exists; remove it, or give another name")
    return out.with_name(out.name + ".unfinished")


def write_vectors(index: Index, out: Path) -> None:
    """Write an index's rows as ``out`` (.npy), and what they are as .csv; remove the index.

    The array comes last: where it is, all is. A list of images that could not be read is kept as
    NAME.failed.csv. Raises ``UsageError`` for a damaged index and for a full disk.
    """
    table, shape = out.with_suffix(".csv"), (len(index), index.features)
    kept = index.kept
    names = sorted({name for segment in index.segments for name in segment.attributes})
    with writing(index.folder):
        new = [path.with_name(path.name + ".tmp") for path in (table, out)]
        with (
            new[0].open("w", encoding="utf-8", errors="surrogateescape", newline="") as lines,
            new[1].open("wb") as rows,
        ):
            writer = csv.writer(lines)
            writer.writerow(["id", "item", "image", "catalogue", *names])
            for _, one in index.items():
                attributes = [one.attributes.get(name, "") for name in names]
                writer.writerow([*one[:4], *attributes])
            header = {"descr": np.dtype(index.dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(rows, header)
            for base, segment in index.bases():
                for start in range(0, len(segment), _BLOCK):
                    block = segment.rows(start, start + _BLOCK)
                    rows.write(block[kept[base + start : base + start + len(block)]].tobytes())
            for file in (lines, rows):
                file.flush()
                os.fsync(file.fileno())
        if (index.folder / FAILED).exists():
            os.replace(index.folder / FAILED, out.with_suffix(".failed.csv"))
        for written, path in zip(new, (table, out), strict=True):
            os.replace(written, path)
        done = index.folder.with_suffix(".done")
        shutil.rmtree(done, ignore_errors=True)
        os.replace(index.folder, done)  # so that a kill leaves no half of an index to go on with
        shutil.rmtree(done)
