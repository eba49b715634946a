"""A Parquet table: images as bytes in a column, as Hugging Face stores them, or as paths of files."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Dataset
from graft.data.readers.columns import Columns, TableCells, build_dataset
from graft.data.readers.columns import labels_to_texts as as_texts
from graft.data.readers.place import TableFolder
from graft.data.readers.text_table import build_table_dataset
from graft.errors import DataError, UsageError
from graft.progress import ProgressWrapper, no_progress

SUFFIXES = (".parquet",)
CACHED_GROUPS = 4  # row groups in memory; threads that read in order are in one or two


@dataclass(frozen=True, eq=False)
class ParquetImages:
    """Images in a column of a Parquet file. It is read by row groups, and the last few are kept.

    So reading in order reads each once; in random order, a whole group for nearly each image.
    """

    path: Path
    column: str
    rows: NDArray[np.intp]
    starts: NDArray[np.intp]  # the first row of each row group
    names: NDArray[Any]  # of numpy's StringDType; empty where the file says no name
    cache: OrderedDict[int, Any] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def root(self) -> str:
        return str(self.path)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.integer]) -> ParquetImages:
        return ParquetImages(
            self.path, self.column, self.rows[rows], self.starts, self.names[rows], self.cache, self.lock
        )

    def name(self, row: int) -> str:
        return str(self.names[row]) or f"row {self.rows[row]}"

    def read(self, row: int) -> bytes:
        group = int(np.searchsorted(self.starts, self.rows[row], "right")) - 1
        value = self._group(group)[int(self.rows[row] - self.starts[group])].as_py()
        if isinstance(value, dict):
            path = value.get("path")
            value = value.get("bytes") or (path and (self.path.parent / path).read_bytes())
        return value or b""

    def _group(self, number: int) -> Any:
        from pyarrow import parquet

        with self.lock:
            if number not in self.cache:
                try:
                    table = parquet.ParquetFile(self.path).read_row_group(number, columns=[self.column])
                except Exception as error:  # Arrow's errors have no common parent but Exception
                    raise OSError(f"row group {number} of {self.path} is damaged: {error}") from error
                self.cache[number] = table.column(0).combine_chunks()
            self.cache.move_to_end(number)
            while len(self.cache) > CACHED_GROUPS:
                self.cache.popitem(last=False)
            return self.cache[number]


def read_parquet(
    path: str | Path,
    classes: tuple[str, ...] | None = None,
    columns: str = "",
    *,
    strict: bool = False,
    watch: ProgressWrapper = no_progress,
) -> Dataset:
    """Read the images of a Parquet file, with columns as `read_table` has them.

    The column of images holds bytes, or {bytes, path}, or paths of files beside the table. Several labels are a list,
    or a text joined by '|'. Numbers that the file says are class labels of Hugging Face get their names.

    Raises DataError as `read_table` does; UsageError where pyarrow is not installed.
    """
    path = Path(path)
    file, named = _open_file(path), Columns.from_text(columns)
    names = list(file.schema_arrow.names)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path} has two columns {twice!r}. Rename or drop one of them.")
    at = TableCells(str(path), names, [], named).column_index.get("file")
    cells = _read_cells(path, file, named)
    if at is None or not _holds_bytes(file.schema_arrow.field(at).type):
        return build_table_dataset(cells, TableFolder.from_folder(path.parent, watch), classes, strict=strict)
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    starts = np.cumsum([0, *sizes])[:-1].astype(np.intp)
    rows = np.arange(len(cells.rows), dtype=np.intp)
    stored = ParquetImages(path, names[at], rows, starts, _read_names(file, names[at]))
    return build_dataset(stored.take, cells, rows, classes)


def _open_file(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow. Install it with: pip install 'graft-vision[parquet]'.") from error
    try:
        return parquet.ParquetFile(path)
    except OSError as error:
        raise DataError(f"The table {path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        raise DataError(f"{path} is damaged or no Parquet file: {error}.") from error


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    views = getattr(types, "is_binary_view", types.is_binary)  # from pyarrow 16 on
    plain = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return types.is_struct(kind) or plain or views(kind)


def _read_names(file: Any, image_column: str) -> NDArray[Any]:
    """Read the names of the images: the paths that Hugging Face keeps beside the bytes."""
    kind, names = file.schema_arrow.field(image_column).type, [""] * file.metadata.num_rows
    if hasattr(kind, "get_field_index") and kind.get_field_index("path") >= 0:
        found = file.read(columns=[f"{image_column}.path"]).column(0).to_pylist()
        names = [each["path"] or "" for each in found]
    return np.array(names, np.dtypes.StringDType())


def _read_cells(path: Path, file: Any, named: Columns) -> TableCells:
    """All columns as texts, but those of bytes, which are left empty unless they are the labels."""
    fields = {each.name: each.type for each in file.schema_arrow}
    label = TableCells(str(path), list(fields), [], named).column_index.get("label")
    plain = [each for at, each in enumerate(fields) if at == label and not fields[each].num_fields]
    texts = [name for name, kind in fields.items() if name in plain or not _holds_bytes(kind)]
    count = file.metadata.num_rows
    if not count:
        raise DataError(f"{path} lists no images: it has no row.")
    try:
        table = file.read(columns=texts)
    except Exception as error:  # Arrow's errors have no common parent but Exception
        raise DataError(f"{path} is damaged: {error}.") from error
    classes, empty = _read_class_names(file.schema_arrow), [""] * count
    columns = [
        as_texts(table.column(name).to_pylist(), classes.get(name, ())) if name in texts else empty for name in fields
    ]
    whole = frozenset(name for name, kind in fields.items() if name in classes or hasattr(kind, "value_type"))
    return TableCells(str(path), list(fields), [list(row) for row in zip(*columns, strict=True)], named, "|", whole)


def _read_class_names(schema: Any) -> dict[str, list[str]]:
    """The names of the classes that the numbers in a column mean, where Hugging Face wrote them into the file."""
    try:
        known = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = known.get("info", {}).get("features", {})
        inner = {name: each.get("feature", each) for name, each in features.items()}  # of a list, what is in it
        return {name: each["names"] for name, each in inner.items() if each.get("_type") == "ClassLabel"}
    except (ValueError, AttributeError, KeyError):
        return {}
