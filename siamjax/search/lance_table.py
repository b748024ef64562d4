"""A catalogue's embeddings as a LanceDB table (``pip install 'siamjax[lance]'``).

The folder ``shop/catalogue.lance`` is the table ``catalogue`` of the database ``shop``, which
LanceDB opens, filters and searches: https://lancedb.com. Its columns are ``id``, ``item``,
``image``, ``catalogue``, the attributes, ``vector``, and what the image's file was when it was
embedded. The schema's metadata has the model's fingerprint.

Each chunk of rows is one version of the table, so that a kill leaves whole chunks. What is in the
table is not embedded again.
"""

import importlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from siamjax.errors import UsageError, shown
from siamjax.files import decode_json
from siamjax.search.index import Place, check_model
from siamjax.search.index_making import as_stored
from siamjax.search.index_manifest import Dtype, ModelNote
from siamjax.search.index_segment import Item
from siamjax.search.stamps import Stamp

_ABOUT = b"siamjax"  # key of the schema's metadata
_TEXTS = ("id", "item", "image", "catalogue")
_STAMP = ("image_size", "image_modified", "image_crc")
_OWN = {*_TEXTS, *_STAMP, "vector"}
_NAMED = 1000  # ids in a condition
_BLOCK = 8192  # rows read at a time


@dataclass(frozen=True, kw_only=True)
class LanceTable:
    """A LanceDB table of embeddings; what an ``Index`` is to ``embed_catalogue``.

    Attributes:
        folder: the table's folder, NAME.lance.
        fingerprint: model, weights and preprocessing; see ``Embedder``.
        features: length of an embedding.
        dtype: type of the stored embeddings.
        run: folder of the model's run, "" if there is none.
    """

    MARK: ClassVar = "_versions"

    folder: Path
    fingerprint: dict[str, str]
    features: int
    dtype: Dtype
    run: str

    @classmethod
    def create(cls, folder: Path, **about: Any) -> "LanceTable":
        """Make an empty table; ``about`` are the attributes of the class."""
        table = cls(folder=folder, **about)
        arrow, note = _import("pyarrow"), {**about, "format": "siamjax catalogue"}
        fields = [
            *((name, arrow.string()) for name in _TEXTS),
            ("vector", arrow.list_(arrow.from_numpy_dtype(np.dtype(table.dtype)), table.features)),
            *((name, arrow.int64()) for name in _STAMP),
        ]
        with _telling(folder):
            schema = arrow.schema(fields, metadata={_ABOUT: json.dumps(note)})
            _database(folder).create_table(folder.stem, schema=schema)
        return table

    @classmethod
    def open(cls, folder: Path) -> "LanceTable":
        """Open the table in a folder; ``UsageError`` for one that siamjax did not make."""
        with _telling(folder):
            about = (_database(folder).open_table(folder.stem).schema.metadata or {}).get(_ABOUT)
        if about is None:
            raise UsageError(f"{shown(folder)} is not a table of siamjax's; give another name")
        where = f"{shown(folder)}: metadata {_ABOUT.decode()}"
        note = decode_json(about, ModelNote, where=where)
        return cls(folder=folder, **{n: getattr(note, n) for n in ModelNote.__struct_fields__})

    def __len__(self) -> int:
        """Number of rows."""
        with _telling(self.folder):
            return self.table.count_rows()

    @property
    def table(self) -> Any:
        """LanceDB's own object."""
        return _database(self.folder).open_table(self.folder.stem)

    def check(self, fingerprint: dict[str, str]) -> None:
        """Raise ``UsageError`` unless embeddings of this fingerprint fit the table."""
        check_model(self.folder, self.fingerprint, fingerprint, run=self.run)

    def places(self) -> Iterator[Place]:
        """All rows."""
        columns, row = ["id", "image", "catalogue", *_STAMP], 0
        with _telling(self.folder):
            for batch in self.table.search().select(columns).to_batches(_BLOCK):
                values = (batch.column(name).to_pylist() for name in columns)
                for key, image, catalogue, *stamp in zip(*values, strict=True):
                    known = None if stamp[0] is None else Stamp(*stamp)
                    yield Place(key, image, known, catalogue, row, True)
                    row += 1


class LanceMaking:
    """Adds rows to a table; what :class:`siamjax.search.index_making.Making` is to an index."""

    def __init__(self, table: LanceTable, *, catalogue: str, attributes: tuple[str, ...]) -> None:
        if both := sorted(_OWN & set(attributes)):
            raise UsageError(
                f"{catalogue}: a column {both[0]}, which the table has for itself; rename it"
            )
        self._table, self._attributes = table, attributes
        self._opened: Any = None

    def written(self) -> Iterator[tuple[str, Stamp | None]]:
        """Nothing: rows are in the table as soon as they are written."""
        return iter(())

    def append(
        self,
        items: Sequence[Item],
        rows: Float[np.ndarray, "n features"],
        *,
        replaced: Collection[str] = (),
    ) -> None:
        """Add rows, in place of those with the ids ``replaced``."""
        arrow, about = _import("pyarrow"), self._table
        stored = as_stored(items, rows, about.dtype)
        with _telling(about.folder):
            if self._opened is None:
                self._opened = about.table
                new = [n for n in self._attributes if n not in self._opened.schema.names]
                if new:
                    self._opened.add_columns(arrow.schema([(n, arrow.string()) for n in new]))
            self._delete(replaced)
            schema = self._opened.schema
            stamps = [one.stamp or (None,) * 3 for one in items]
            columns: dict[str, Any] = {
                **{name: [getattr(one, name) for one in items] for name in _TEXTS},
                **dict(zip(_STAMP, zip(*stamps, strict=True), strict=True)),
            }
            for name in set(schema.names) - _OWN:
                columns[name] = [one.attributes.get(name, "") for one in items]
            arrays = [
                arrow.FixedSizeListArray.from_arrays(arrow.array(stored.ravel()), about.features)
                if field.name == "vector"
                else arrow.array(columns[field.name], field.type)
                for field in schema
            ]
            self._opened.add(arrow.table(arrays, schema=schema))

    def commit(
        self,
        dropped: Collection[int],
        removed: Mapping[str, int],
        *,
        replaced: Collection[str] = (),
    ) -> LanceTable:
        """Remove these ids but those that were ``replaced``, and let LanceDB tidy up."""
        assert not dropped
        with _telling(self._table.folder):
            gone = removed.keys() - set(replaced)
            if gone or self._opened is not None:
                self._opened = self._opened or self._table.table
                self._delete(sorted(gone))
                self._opened.optimize()
        return self._table

    def _delete(self, ids: Collection[str]) -> None:
        names = ["'" + one.replace("'", "''") + "'" for one in ids]
        for start in range(0, len(names), _NAMED):
            self._opened.delete(f"id IN ({', '.join(names[start : start + _NAMED])})")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(
            "a .lance table needs LanceDB: pip install 'siamjax[lance]', or give --out a folder"
        ) from None


def _database(folder: Path) -> Any:
    return _import("lancedb").connect(str(folder.absolute().parent))


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Turn LanceDB's errors into ``UsageError``."""
    try:
        yield
    except UsageError:
        raise
    except UnicodeEncodeError:
        raise UsageError(
            f"{shown(folder)}: a name that is not UTF-8, which LanceDB cannot hold; rename the file"
        ) from None
    except Exception as error:  # LanceDB raises RuntimeError, ValueError, OSError and Arrow's
        raise UsageError(f"{shown(folder)}: LanceDB: {shown(error, longest=300)}") from None
