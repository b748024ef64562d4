"""FAISS's lists as arrays in a folder, so that its own reader sees no file that may be damaged.

::

    approximate/squared_euclidean-0123456789abcdef/
      centres.npy    (lists, features) float32
      ranges.npy     (2, features) float32: where the 256 steps of each number begin and end
      sizes.npy      (lists,) int64: the rows of each list
      rows.npy       (rows,) int64: their numbers, list by list
      codes.npy      (rows, features) uint8: their steps
      sums.json      a checksum of each file

FAISS's reader (``faiss.read_index``) takes any memory that a damaged file asks for. Here sizes are
compared with the index's before memory is taken, and contents with their checksums.
"""

import math
import os
import shutil
import zlib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from siamjax.array_files import map_npy
from siamjax.errors import UsageError, shown
from siamjax.files import read_json, write_json
from siamjax.search.row_checks import row_checks

_SUMS = "sums.json"
_LINE = 4096  # bytes of a row that a checksum is computed of

_Sum = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


def write_lists(folder: Path, made: Any, faiss: Any) -> None:
    """Write a trained ``IndexIVFScalarQuantizer`` of 8 bits; there is a whole folder or none.

    Raises ``OSError`` as the disk does.
    """
    lists = made.invlists
    sizes = np.array([lists.list_size(one) for one in range(made.nlist)], np.int64)
    arrays = {
        "centres.npy": made.quantizer.reconstruct_n(0, made.nlist),
        "ranges.npy": faiss.vector_to_array(made.sq.trained).reshape(2, made.d),
        "sizes.npy": sizes,
    }
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            np.save(temporary / name, array)
        for name, dtype, width, content in (
            ("rows.npy", np.int64, (), lists.get_ids),
            ("codes.npy", np.uint8, (made.d,), lists.get_codes),
        ):
            shape = (made.ntotal, *width)
            with (temporary / name).open("wb") as file:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for one in np.flatnonzero(sizes).tolist():
                    count = int(sizes[one]) * math.prod(width)
                    file.write(faiss.rev_swig_ptr(content(one), count).tobytes())
                file.flush()
                os.fsync(file.fileno())
        names = sorted(path.name for path in temporary.iterdir())
        write_json(temporary / _SUMS, {n: checksum(map_npy(temporary / n)) for n in names})
        os.rename(temporary, folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_lists(folder: Path, faiss: Any, *, rows: int, features: int) -> Any:
    """The ``IndexIVFScalarQuantizer`` that :func:`write_lists` wrote, of an index's rows.

    Raises ``UsageError`` naming the file for one that is missing, of another shape or damaged.
    """
    sums = read_json(folder / _SUMS, dict[str, _Sum])
    lists = map_npy(folder / "sizes.npy").shape[:1]
    shapes = {
        "centres.npy": (np.float32, (*lists, features)),
        "ranges.npy": (np.float32, (2, features)),
        "sizes.npy": (np.int64, lists),
        "rows.npy": (np.int64, (rows,)),
        "codes.npy": (np.uint8, (rows, features)),
    }
    arrays = {}
    for name, (dtype, shape) in shapes.items():
        array = arrays[name] = map_npy(folder / name)
        right = array.dtype == dtype and array.shape == shape and array.flags.c_contiguous
        if not right or checksum(array) != sums.get(name):
            raise UsageError(
                f"{shown(folder / name)} is damaged; remove {shown(folder)}, and it is made again"
            )
    sizes, numbers = arrays["sizes.npy"], arrays["rows.npy"]
    if not 1 <= len(sizes) <= max(1, rows) or sizes.min() < 0 or int(sizes.sum()) != rows:
        raise UsageError(f"{shown(folder / 'sizes.npy')}: not the sizes of {rows} rows")
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < rows):
        raise UsageError(f"{shown(folder / 'rows.npy')}: rows that the index does not have")
    made = empty_lists(faiss, features, len(sizes))
    made.quantizer.add(np.ascontiguousarray(arrays["centres.npy"]))
    faiss.copy_array_to_vector(np.ascontiguousarray(arrays["ranges.npy"]).ravel(), made.sq.trained)
    start = 0
    for one, size in enumerate(sizes.tolist()):
        if size:
            ids = np.ascontiguousarray(numbers[start : start + size])
            codes = np.ascontiguousarray(arrays["codes.npy"][start : start + size])
            made.invlists.add_entries(one, size, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        start += size
    made.ntotal, made.is_trained = rows, True
    return made


def empty_lists(faiss: Any, features: int, lists: int) -> Any:
    """FAISS's index of one byte a number in so many lists, not trained."""
    quantizer = faiss.IndexFlatL2(features)
    return faiss.IndexIVFScalarQuantizer(
        quantizer, features, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2
    )


def checksum(array: np.ndarray) -> int:
    """CRC-32 of the checksums of an array's lines of 4 KiB, and of what is left."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = len(content) // _LINE * _LINE
    lines = content[:whole].view(np.float32).reshape(-1, _LINE // 4)
    sums = zlib.crc32(row_checks(lines, np.zeros(len(lines))).data)
    return zlib.crc32(content[whole:].data, sums)
