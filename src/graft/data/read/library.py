"""Objects of other libraries as a Dataset, known by what they can do: none of these libraries is imported.

Pictures are asked for when they are needed, from where the other library keeps them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Dataset, as_rgb, from_paths, from_pictures
from graft.data.images import Raw
from graft.data.read.columns import Cells, Columns, labelled
from graft.data.read.layout import natural
from graft.data.read.parquet import as_text
from graft.errors import DataError, UsageError
from graft_runtime.walk import is_image

HELP = (
    "It may be a path, a graft.Dataset, a Dataset or DatasetDict of Hugging Face, a map-style dataset of pictures and "
    "labels as torch has them, or a pair (pictures, labels)."
)


def read_object(source: Any, classes: tuple[str, ...] | None = None, columns: str = "") -> Dataset:
    """A Dataset over what another library holds; see `read_source`. Raises DataError or UsageError."""
    if isinstance(source, tuple) and len(source) == 2:
        return _pair(*source)
    if isinstance(source, Mapping) and source and all(map(_is_hugging_face, source.values())):
        return _hugging_face(dict(source), classes, columns)
    if _is_hugging_face(source):
        return _hugging_face({"": source}, classes, columns)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, Mapping | str | bytes):
        return _map_style(source)
    raise UsageError(f"A {type(source).__name__} is no source of pictures. {HELP}")


# --- pictures and labels in memory ------------------------------------------------------------------------------------


def _pair(pictures: Any, labels: Any) -> Dataset:
    given = np.asarray(labels)
    if len(given) != len(pictures):
        raise DataError(f"There are {len(pictures)} pictures and {len(given)} labels. Each picture needs one.")
    if given.ndim == 2:
        return from_pictures(list(pictures), given, tuple(map(str, range(given.shape[1]))))
    number, names = _numbered([str(label) for label in given.tolist()])
    return from_pictures(list(pictures), number, names)


def _numbered(labels: Sequence[str]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Labels as numbers, and the classes that these mean, sorted as class folders are."""
    names = tuple(sorted(set(labels), key=natural))
    number = {name: at for at, name in enumerate(names)}
    return np.array([number[label] for label in labels], np.int32), names


# --- Hugging Face datasets --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Rows:
    """Pictures in one column of Hugging Face datasets, as the bytes that they were stored as."""

    tables: Sequence[Any]
    column: str
    rows: NDArray[np.intp]  # [n, 2]: which table, which row
    root: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.integer]) -> _Rows:
        return replace(self, rows=self.rows[rows])

    def name(self, row: int) -> str:
        return f"row {self.rows[row][1]}" + f" of {self.root}" * bool(self.root)

    def read(self, row: int) -> bytes:
        table, at = self.rows[row].tolist()
        value = self.tables[table][at][self.column]
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()


def _is_hugging_face(source: Any) -> bool:
    return hasattr(source, "features") and hasattr(source, "cast_column")


def _hugging_face(parts: dict[str, Any], classes: tuple[str, ...] | None, columns: str) -> Dataset:
    named = Columns.of(columns)
    first = next(iter(parts.values()))
    if not all(hasattr(part, "__len__") for part in parts.values()):
        raise UsageError("A streamed dataset of Hugging Face cannot be read twice. Load it without streaming=True.")
    features = first.features
    pictures = named.file or next((name for name, kind in features.items() if type(kind).__name__ == "Image"), "")
    if type(features.get(pictures)).__name__ != "Image":
        raise DataError(f"The dataset has no column of type Image. Its columns are {', '.join(map(repr, features))}.")
    cells = _cells(parts, features, replace(named, file=pictures, split=named.split or _split_column(parts)))
    stored = type(features[pictures])(decode=False)
    plain = [part.with_format(None).select_columns([pictures]) for part in parts.values()]
    tables = [part.cast_column(pictures, stored) for part in plain]
    where = np.concatenate([np.stack([np.full(len(t), n), np.arange(len(t))], 1) for n, t in enumerate(tables)])
    return labelled(_Rows(tables, pictures, where).take, cells, np.arange(len(where)), classes)


def _split_column(parts: dict[str, Any]) -> str:
    return "" if list(parts) == [""] else "the DatasetDict's keys"


def _cells(parts: dict[str, Any], features: Any, named: Columns) -> Cells:
    """All columns as texts but that of the pictures, and the keys of a DatasetDict as the part of the split."""
    inner = {name: getattr(kind, "feature", kind) for name, kind in features.items()}
    classes = {name: list(kind.names) for name, kind in inner.items() if type(kind).__name__ == "ClassLabel"}
    texts = [name for name, kind in inner.items() if type(kind).__name__ in ("Value", "ClassLabel")]
    header = [*texts, named.file, *([named.split] if named.split and named.split not in texts else [])]
    rows: list[list[str]] = []
    for key, part in parts.items():
        plain = part.with_format(None)
        cells = [[as_text(value, classes.get(name)) for value in plain[name][:]] for name in texts]
        rest = [""] + [key] * (len(header) - len(texts) - 1)
        rows += [[*row, *rest] for row in zip(*cells, strict=True)]
    lists = [name for name, kind in features.items() if kind is not inner[name]]
    return Cells("The dataset", header, rows, named, "|", frozenset([*classes, *lists]))


# --- datasets as torch has them ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Items:
    """The pictures of a map-style dataset. One is asked for at a time: few of them are made for threads."""

    items: Any
    rows: NDArray[np.intp]
    root: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.integer]) -> _Items:
        return replace(self, rows=self.rows[rows])

    def name(self, row: int) -> str:
        return f"item {self.rows[row]}"

    def read(self, row: int) -> Raw:
        with self.lock:
            picture = self.items[int(self.rows[row])][0]
        if isinstance(picture, str | Path):
            return Path(picture).read_bytes()
        return picture if isinstance(picture, bytes) else as_rgb(picture)


def _map_style(source: Any) -> Dataset:
    _check_first(source)
    known = [str(name) for name in getattr(source, "classes", ())]
    numbers = _targets(source)
    if known and all(isinstance(each, int) and 0 <= each < len(known) for each in numbers):
        labels, names = _numbered([known[each] for each in numbers])
    else:
        labels, names = _numbered([str(each) for each in numbers])
    if files := _files(source):
        return from_paths(files, labels, names)
    return Dataset(_Items(source, np.arange(len(source))), labels, names, np.zeros(len(source), np.int8))


def _check_first(source: Any) -> None:
    """A picture that graft cannot use is refused before the work begins, with what to do."""
    if not len(source):
        raise DataError("The dataset is empty.")
    try:
        item = source[0]
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(f"A {type(source).__name__} is no source of pictures. {HELP}") from error
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UsageError(f"The items of this {type(source).__name__} are no pairs (picture, label). {HELP}")
    if not isinstance(item[0], str | Path | bytes):
        try:
            as_rgb(item[0])
        except DataError as error:
            raise DataError(f"{error} A dataset of torch is given without its transform: graft has its own.") from error


def _targets(source: Any) -> list[Any]:
    """The label of each item: from the dataset's own list where it has one, for that spares decoding every picture."""
    own = getattr(source, "targets", None)
    if own is None or len(own) != len(source) or getattr(source, "target_transform", None):
        own = [source[row][1] for row in range(len(source))]
    return [each.item() if hasattr(each, "item") else each for each in own]


def _files(source: Any) -> list[str]:
    """The files of torchvision's ImageFolder, whose bytes need not go through its own decoder."""
    plain = type(source).__getitem__.__module__ == "torchvision.datasets.folder" and not source.transform
    files = [str(path) for path, _ in source.samples] if plain else []
    return files if all(map(is_image, files)) else []
