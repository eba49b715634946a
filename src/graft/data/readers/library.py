"""Objects of other libraries as a Dataset, recognised by their methods: none of these libraries is imported.

Images are asked for when they are needed, from where the other library keeps them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Dataset, as_rgb, from_images, from_paths
from graft.data.images import Raw, TableFolder
from graft.data.readers.columns import (
    LABEL_SEPARATORS,
    Columns,
    TableCells,
    build_dataset,
    is_missing,
    labels_to_texts,
    name_labels,
    parse_labels,
    to_plain,
)
from graft.data.readers.tables import build_table_dataset
from graft.errors import DataError, UsageError
from graft_runtime.image import ImageError, read
from graft_runtime.walk import is_image

SOURCE_HELP = (
    "It may be a path, a graft.Dataset, a Dataset or DatasetDict of Hugging Face, a DataFrame, a map-style dataset of "
    "images and labels as torch has them, or a pair (images, labels)."
)


def read_object(source: Any, classes: tuple[str, ...] | None = None, columns: str = "") -> Dataset:
    """Build a Dataset over an object of another library; see `read_source`. Raises DataError or UsageError."""
    if isinstance(source, tuple) and len(source) == 2:
        return _read_pair(*source)
    if isinstance(source, Mapping) and source and all(map(_is_hugging_face, source.values())):
        return _read_hugging_face(dict(source), classes, columns)
    if _is_hugging_face(source):
        return _read_hugging_face({"": source}, classes, columns)
    if _is_frame(source):
        return _read_frame(source, classes, columns)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, Mapping | str | bytes):
        return _read_map_style(source)
    raise UsageError(f"A {type(source).__name__} is no source of images. {SOURCE_HELP}")


# --- images and labels in memory ------------------------------------------------------------------------------------


def _read_pair(inputs: Any, labels: Any) -> Dataset:
    given, names = parse_labels(labels)
    images = from_images(inputs)
    if len(given) != len(images):
        raise DataError(f"There are {len(images)} images and {len(given)} labels. Each image needs one.")
    return replace(images, labels=given, classes=names)


# --- Hugging Face datasets --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _HuggingFaceImages:
    """Images in one column of Hugging Face datasets, as the bytes that they were stored as."""

    tables: Sequence[Any]
    column: str
    rows: NDArray[np.intp]  # [n, 2]: which table, which row
    root: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.integer]) -> _HuggingFaceImages:
        return replace(self, rows=self.rows[rows])

    def name(self, row: int) -> str:
        return f"row {self.rows[row][1]}" + f" of {self.root}" * bool(self.root)

    def read(self, row: int) -> bytes:
        table, at = self.rows[row].tolist()
        value = self.tables[table][at][self.column] or {}
        if value.get("bytes") is not None:
            return value["bytes"]
        if value.get("path") is None:
            raise ImageError("no image")
        return read(value["path"])


def _is_hugging_face(source: Any) -> bool:
    return hasattr(source, "features") and hasattr(source, "cast_column")


def _read_hugging_face(parts: dict[str, Any], classes: tuple[str, ...] | None, columns: str) -> Dataset:
    named = Columns.from_text(columns)
    first = next(iter(parts.values()))
    if not all(hasattr(part, "__len__") for part in parts.values()):
        raise UsageError("A streamed dataset of Hugging Face cannot be read twice. Load it without streaming=True.")
    features = first.features
    image_column = named.file or next((name for name, kind in features.items() if type(kind).__name__ == "Image"), "")
    if type(features.get(image_column)).__name__ != "Image":
        raise DataError(f"The dataset has no column of type Image. Its columns are {', '.join(map(repr, features))}.")
    cells = _build_cells(parts, features, replace(named, file=image_column, split=named.split or _split_column(parts)))
    stored = type(features[image_column])(decode=False)
    unformatted = [part.with_format(None).select_columns([image_column]) for part in parts.values()]
    tables = [part.cast_column(image_column, stored) for part in unformatted]
    where = np.concatenate([np.stack([np.full(len(t), n), np.arange(len(t))], 1) for n, t in enumerate(tables)])
    return build_dataset(_HuggingFaceImages(tables, image_column, where).take, cells, np.arange(len(where)), classes)


def _split_column(parts: dict[str, Any]) -> str:
    return "" if list(parts) == [""] else "the DatasetDict's keys"


def _build_cells(parts: dict[str, Any], features: Any, named: Columns) -> TableCells:
    """All columns as texts but that of the images, and the keys of a DatasetDict as the part of the split."""
    inner = {name: getattr(kind, "feature", kind) for name, kind in features.items()}
    classes = {name: list(kind.names) for name, kind in inner.items() if type(kind).__name__ == "ClassLabel"}
    own = [name for name, kind in inner.items() if type(kind).__name__ in ("Value", "ClassLabel")]
    header = [*own, named.file, *([named.split] if named.split and named.split not in own else [])]
    split_columns = len(header) - len(own) - 1
    unformatted = [part.with_format(None) for part in parts.values()]
    cells = [
        labels_to_texts([value for part in unformatted for value in part[name][:]], classes.get(name, ()))
        for name in own
    ]
    keys = [key for key, part in parts.items() for _ in range(len(part))]
    rows = [list(row) for row in zip(*cells, [""] * len(keys), *[keys] * split_columns, strict=True)]
    lists = [name for name, kind in features.items() if kind is not inner[name]]
    return TableCells("The dataset", header, rows, named, "|", frozenset([*classes, *lists]))


# --- tables of pandas and polars --------------------------------------------------------------------------------------


def _is_frame(source: Any) -> bool:
    return hasattr(source, "columns") and hasattr(source, "dtypes") and hasattr(source, "to_dict")


def _read_frame(source: Any, classes: tuple[str, ...] | None, columns: str) -> Dataset:
    """The rows of a DataFrame, with columns as a CSV has them: files seen from where we are, or images themselves."""
    header = [str(name) for name in source.columns]
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise DataError(f"The DataFrame has two columns {twice!r}. Drop one of them.")
    if not len(source):
        raise DataError("The DataFrame lists no images: it has no row.")
    values = {name: source[own].to_list() for name, own in zip(header, source.columns, strict=True)}
    at = TableCells("The DataFrame", header, [], Columns.from_text(columns)).column_index.get("file")
    images = values[header[at]] if at is not None else []
    holds_images = any(not isinstance(each, str | Path) and not is_missing(each) for each in images)
    whole = frozenset(name for name, cells in values.items() if any(isinstance(to_plain(each), list) for each in cells))
    cells = [
        [""] * len(source) if holds_images and place == at else labels_to_texts(values[name])
        for place, name in enumerate(header)
    ]
    rows = [list(row) for row in zip(*cells, strict=True)]
    made = TableCells("The DataFrame", header, rows, Columns.from_text(columns), LABEL_SEPARATORS, whole)
    if not holds_images:
        return build_table_dataset(made, TableFolder.from_folder(Path()), classes, strict=False)
    items = _MapStyleImages([(each,) for each in images], np.arange(len(rows)), unit="row")
    return build_dataset(items.take, made, np.arange(len(rows)), classes)


# --- datasets as torch has them ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _MapStyleImages:
    """The images of a map-style dataset. One is asked for at a time: few of them are made for threads."""

    items: Any
    rows: NDArray[np.intp]
    root: str = ""
    unit: str = "item"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.integer]) -> _MapStyleImages:
        return replace(self, rows=self.rows[rows])

    def name(self, row: int) -> str:
        return f"{self.unit} {self.rows[row]}"

    def read(self, row: int) -> Raw:
        with self.lock:
            image = self.items[int(self.rows[row])][0]
        return _to_raw(image)


def _to_raw(image: Any) -> Raw:
    """An image as a dataset holds it; one that is none is a fault of this row, and does not end the run."""
    if isinstance(image, Mapping):  # as Hugging Face stores one
        image = image.get("bytes") or image.get("path")
    if is_missing(image):
        raise ImageError("no image")
    if isinstance(image, str | Path):
        return read(image)
    try:
        return image if isinstance(image, bytes) else as_rgb(image)
    except DataError as error:
        raise ImageError("not an image", str(error)) from error


def _read_map_style(source: Any) -> Dataset:
    _check_first(source)
    labels, names = parse_labels(_get_labels(source, range(len(source))))
    if files := _get_files(source):
        return from_paths(files, labels, names)
    return Dataset(_MapStyleImages(source, np.arange(len(source))), labels, names, np.zeros(len(source), np.int8))


def _check_first(source: Any) -> None:
    """An image that graft cannot use is refused before the work begins, with what to do."""
    if not len(source):
        raise DataError("The dataset is empty.")
    try:
        item = source[0]
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(f"A {type(source).__name__} is no source of images. {SOURCE_HELP}") from error
    lists = isinstance(source, list) and isinstance(item, list) and len(item) > 2  # [images, labels]
    if not isinstance(item, tuple | list) or len(item) < 2 or lists:
        raise UsageError(f"The items of this {type(source).__name__} are no pairs (image, label). {SOURCE_HELP}")
    if not isinstance(item[0], str | Path | bytes):
        try:
            as_rgb(item[0])
        except DataError as error:
            raise DataError(f"{error} A dataset of torch is given without its transform: graft has its own.") from error


def _get_labels(source: Any, rows: Sequence[int]) -> list[Any]:
    """The labels of these items, by name where the dataset has names for them.

    Torch's Subset and ConcatDataset have none of their own, so those that they hold are asked.
    """
    own = getattr(type(source).__getitem__, "__module__", "") == "torch.utils.data.dataset"
    if own and hasattr(source, "dataset") and hasattr(source, "indices"):
        return _get_labels(source.dataset, [int(source.indices[row]) for row in rows])
    if own and hasattr(source, "datasets"):
        every = [label for each in source.datasets for label in _get_labels(each, range(len(each)))]
        return [every[row] for row in rows]
    names = _get_class_names(source)
    return name_labels(_get_targets(source, rows), names) if names else _get_targets(source, rows)


def _get_class_names(source: Any) -> list[str]:
    """The names of a dataset's classes; of a Subset with items of its own, those of what it is a part of."""
    if found := getattr(source, "classes", None):
        return list(map(str, found))
    order = getattr(source, "class_to_idx", None)
    if isinstance(order, Mapping) and sorted(order.values()) == list(range(len(order))):
        return [str(name) for name in sorted(order, key=order.__getitem__)]
    inner = [getattr(source, "dataset", None)] if hasattr(source, "indices") else getattr(source, "datasets", ())
    found = [_get_class_names(each) for each in inner if each is not None]
    return found[0] if found and all(each == found[0] for each in found) else []


def _get_targets(source: Any, rows: Sequence[int]) -> list[Any]:
    """The label of each item: from the dataset's own list where it has one, for that spares decoding every image."""
    own = getattr(source, "targets", None)
    if own is None or len(own) != len(source) or getattr(source, "target_transform", None):
        return [source[row][1] for row in rows]
    return [own[row] for row in rows]


def _get_files(source: Any) -> list[str]:
    """The files of torchvision's ImageFolder, whose bytes need not go through its own decoder."""
    home = getattr(type(source).__getitem__, "__module__", "")  # a list's method has none
    plain = home == "torchvision.datasets.folder" and not source.transform
    files = [str(path) for path, _ in source.samples] if plain else []
    return files if all(map(is_image, files)) else []
