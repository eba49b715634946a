"""Tables of images and labels, CSV, TSV, a list or Parquet: one label for each image, or several."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import UNSPLIT, Dataset
from graft.data.images import TableFolder, normalise_name
from graft.data.readers import delimited
from graft.data.readers.columns import Columns, TableCells, build_dataset
from graft.data.readers.columns import labels_to_texts as as_texts
from graft.data.readers.delimited import decode_text
from graft.errors import DataError, UsageError
from graft.progress import ProgressWrapper, no_progress

TEXT_SUFFIXES = (".csv", ".tsv")
SPLIT_TABLE = "split.csv"  # file, split: read if the table says nothing of parts
LIST_SUFFIXES = (".txt", ".lst")  # text files that may be lists of images
HEAD_BYTES = 1 << 16  # bytes in which a list names an image
MAX_PROBED_FILES = 200  # files that are looked for to tell an encoding
IMAGE_FOLDER = "images"  # where images may lie that are not beside the table


def read_table(
    path: str | Path,
    classes: tuple[str, ...] | None = None,
    columns: str = "",
    *,
    strict: bool = False,
    watch: ProgressWrapper = no_progress,
) -> Dataset:
    """Read the images that a table lists, with the label or labels of each.

    A column called file, image, path, filename or image; and label, labels, class, classes, tags or category, with
    several labels joined by '|', by ';' or by ',' (the first of these that any row has), or else one column of 0 and
    1 for each class. A column called split, or a split.csv beside the table, names each image's part; one called
    group, patient, subject, session or video says which images belong together. `columns` names others, as in
    'file=path,label=species,group=patient'. Images lie beside the table or in a folder `images` there. If any image
    has several labels, all are taken to be of the kind that may; else a row without one has UNLABELLED. With `classes`
    given (a trained classifier's), other labels are an error.

    A file that is not there stays in the table, to be named with those that cannot be read, unless `strict`.

    Raises DataError: no such table, columns missing, files listed with other labels, or more than half of the files not
    there; UsageError for `columns` that cannot be.
    """
    path = Path(path)
    place = TableFolder.from_folder(path.parent, watch)
    return build_table_dataset(
        parse_cells(str(path), read_table_bytes(path), Columns.from_text(columns), place), place, classes, strict=strict
    )


def read_table_bytes(path: Path) -> bytes:
    """Read the bytes of a table's file; raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"The table {path} cannot be read: {error.strerror or error}.") from error


def build_table_dataset(
    cells: TableCells, place: TableFolder, classes: tuple[str, ...] | None, *, strict: bool
) -> Dataset:
    """Build the data set of a table whose cells name files."""
    cells = replace(cells, known_classes=classes or ())
    files = _file_names(cells)
    first, unnamed = _first_rows(cells, files), files.count("")
    if not first:
        raise DataError(f"{cells.where} lists no images: not one row names a file.")
    where = _locate_files(cells, place, [files[row] for row in first], strict=strict)
    counts = {"rows listed twice": len(files) - unnamed - len(first), "rows without a file": unnamed}
    ignored = {what: count for what, count in counts.items() if count}
    rows = np.array(first, np.intp)
    return build_dataset(
        lambda _: place.open_images(where), cells, rows, classes, _read_split(cells, place, files), ignored
    )


def parse_cells(where: str, raw: bytes, named: Columns | None = None, place: TableFolder | None = None) -> TableCells:
    """Parse the cells of a table; the files in `place` decide its encoding where that is none of Unicode's."""

    def count_found(text: str) -> int:
        with suppress(DataError):
            names = [name for name in _file_names(_split_cells(where, text, named)) if not name.isascii()]
            return (
                sum(any(map(place.find, _candidate_paths(name))) for name in names[:MAX_PROBED_FILES]) if place else 0
            )
        return 0

    text, encoding = decode_text(where, raw, count_found)
    return replace(_split_cells(where, text, named), encoding=encoding)


def _split_cells(where: str, text: str, named: Columns | None) -> TableCells:
    header, rows = delimited.parse_table(where, text)
    if not rows:
        raise DataError(f"{where} lists no images: there is no row below its header.")
    if odd := next((row for row in rows if len(row) != len(header)), None):
        raise DataError(
            f"The row of {odd[0]!r} in {where} has {len(odd)} cells, the header has {len(header)}. "
            f"Put labels that are joined by commas in quotes."
        )
    return TableCells(where, header, rows, named or Columns())


def decode_table_text(where: str, raw: bytes) -> str:
    """Decode the text in a file; see `delimited.decode_text`."""
    return decode_text(where, raw)[0]


def is_list(path: Path) -> bool:
    """Whether a file is a text with paths of images in its first lines, as many data sets are published."""
    if not path.name.lower().endswith(LIST_SUFFIXES) or not path.is_file():
        return False
    with path.open("rb") as file:
        return delimited.is_list_text(file.read(HEAD_BYTES).replace(b"\0", b"").decode("latin-1"))


def _file_names(cells: TableCells) -> list[str]:
    return [os.path.normpath(name.replace("\\", "/")) if name else "" for name in cells.column("file")]


def _first_rows(cells: TableCells, files: list[str]) -> list[int]:
    """Return the first row of each file."""
    labels, first = cells.labels, dict[str, int]()
    for row, name in ((row, name) for row, name in enumerate(files) if name):
        if labels[first.setdefault(name, row)] != labels[row]:
            raise DataError(
                f"{cells.where} lists {name} twice, as {labels[first[name]]} and as {labels[row]}. "
                f"An image has one row; several labels are joined by '|'."
            )
    return list(first.values())


def _locate_files(cells: TableCells, place: TableFolder, files: list[str], *, strict: bool) -> list[str]:
    """Locate each file relative to the table's folder; one that is not there keeps the name that it is listed by."""
    looked = place.watch(files, "files looked for", len(files))
    located = [next(filter(None, map(place.find, _candidate_paths(name))), "") for name in looked]
    absent = [name for name, way in zip(files, located, strict=True) if not way]
    if absent and (strict or 2 * len(absent) > len(files)):
        raise DataError(
            f"{len(absent)} of {len(files)} files that {cells.where} lists are not there, the first is {absent[0]}. "
            f"They are looked for in {place.name} and in a folder {IMAGE_FOLDER} there."
        )
    return [way or name for name, way in zip(files, located, strict=True)]


def _candidate_paths(name: str) -> tuple[str, str]:
    return name, f"{IMAGE_FOLDER}/{name}"


def _read_split(cells: TableCells, place: TableFolder, files: list[str]) -> list[int]:
    """The part of the split of each row: by a column, or by a table beside this one."""
    beside = os.path.join(place.name, SPLIT_TABLE)
    if "split" in cells.column_index or not place.has_file(SPLIT_TABLE) or beside == cells.where:
        return cells.split_codes()
    other = parse_cells(beside, place.read(SPLIT_TABLE), place=place)
    other.column("split")
    known = dict(zip(map(normalise_name, _file_names(other)), other.split_codes(), strict=True))
    files = [normalise_name(name) for name in files]
    known[""] = UNSPLIT
    if lost := [name for name in files if name not in known]:
        table = os.path.basename(cells.where)
        raise DataError(f"{beside} has no row for {len(lost)} files of {table}, the first is {lost[0]}.")
    return [known[name] for name in files]


# --- Parquet ----------------------------------------------------------------------------------------------------------

PARQUET_SUFFIXES = (".parquet",)
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
