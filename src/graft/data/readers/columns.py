"""Columns of tables: labels in any form, and which columns are image, label, split and group."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft import spec
from graft.data.classes import MIN_CHECKED, SINGLETON_SHARE, match_classes
from graft.data.dataset import UNGROUPED, UNLABELLED, UNSPLIT, Dataset, Labels
from graft.data.images import Images, describe_text_column
from graft.data.readers.delimited import FILE_COLUMNS
from graft.data.readers.folder import SPLIT_FOLDERS as FOLDERS
from graft.data.readers.folder import natural_key, normalise_split
from graft.errors import DataError

MISSING = ("nan", "NaN", "<NA>", "#N/A")  # what programs write for a missing value; 'None' and 'NA' may be names
NUL_SEPARATOR = "\0"  # joins labels where a label may have any letter in it
_PANDAS_MISSING = ("NAType", "NaTType")  # pandas' own words for a missing value, which cannot be compared


def parse_labels(labels: Any, names: Sequence[str] = ()) -> tuple[Labels, tuple[str, ...]]:
    """Parse labels, one entry for each image; return them and their classes, sorted as class folders are.

    An entry is a name or a number, a row of 0 and 1 with one column for each class, or several labels in a list or set;
    None and NaN are a missing label. Numbers count in `names` where these are given. Raises DataError for any other.
    """
    if hasattr(labels, "columns") and hasattr(labels, "to_numpy"):  # a DataFrame, as pandas.get_dummies makes one
        names = list(map(str, labels.columns)) if len(labels.columns) > 1 else names
        labels = labels.to_numpy()
    given = _validate_entries(labels, names)
    flags = _is_multi_hot(given)
    row_labels = _row_labels(given, names)
    found = tuple(sorted({label for row in row_labels for label in row}, key=natural_key))
    explicit = flags and any(isinstance(row, list) and not any(row) for row in given)
    return encode_labels(row_labels, found, explicit=explicit), found


def encode_labels(row_labels: Sequence[tuple[str, ...]], classes: tuple[str, ...], *, explicit: bool = False) -> Labels:
    """Return a class index for each image, UNLABELLED where the label is missing; or a matrix of 0 and 1.

    A table if any image has several labels. Also if an image without one says something: because 0 was written for
    each class (`explicit`), or because there is but one class, to have or not to have.
    """
    number = {name: at for at, name in enumerate(classes)}
    none = not all(row_labels)
    if all(len(labels) < 2 for labels in row_labels) and not (none and (explicit or len(classes) == 1)):
        return np.array([number[labels[0]] if labels else UNLABELLED for labels in row_labels], np.int32)
    table = np.zeros((len(row_labels), len(classes)), np.uint8)
    for row, labels in enumerate(row_labels):
        table[row, [number[label] for label in labels]] = 1
    return table


def labels_to_texts(column: Any, names: Sequence[str] = ()) -> list[str]:
    """A column of a table as texts: several labels joined by NUL_SEPARATOR, a missing value as an empty text."""
    return [NUL_SEPARATOR.join(row) for row in _row_labels(to_entries(column), names)]


def name_labels(labels: Any, names: Sequence[str]) -> list[list[str] | None]:
    """Return numbers or rows of 0 and 1 as the names that they mean, None where the label is missing."""
    given = _validate_entries(labels, names)
    return [None if each is None else list(row) for each, row in zip(given, _row_labels(given, names), strict=True)]


def _validate_entries(labels: Any, names: Sequence[str]) -> list[Any]:
    """The entries of labels, None for the words that NumPy writes for NaN. Raises DataError for what is no label."""
    given = [
        None if isinstance(each, str) and each in MISSING and each not in names else each for each in to_entries(labels)
    ]
    square = np.ndim(labels if hasattr(labels, "ndim") else 0) > 1
    if square and not _is_multi_hot(given) and any(isinstance(each, list) and len(each) > 1 for each in given):
        raise DataError(
            f"Labels in {np.ndim(labels)} dimensions are rows of 0 and 1, one column for each class. "
            f"Got {list(np.shape(labels))} with other numbers: give the number of the likeliest class, or thresholds."
        )
    if odd := next(filter(_is_odd, _flatten(given)), None):
        said = "the number of the likeliest class, or rows of 0 and 1" if isinstance(odd, float) else "its name"
        raise DataError(
            f"A label is a name, a whole number, a row of 0 and 1, or a list of labels. Got {odd!r}: give {said}."
        )
    return given


def _is_odd(value: Any) -> bool:
    """Neither a name nor a whole number, but a share, a mapping or an object that has no name of its own."""
    unnamed = type(value).__str__ is object.__str__ and type(value).__repr__ is object.__repr__
    share = isinstance(value, float) and not value.is_integer() and not is_missing(value)
    return share or unnamed or isinstance(value, Mapping | complex)


def to_entries(labels: Any) -> list[Any]:
    """Return the entry of each image, in Python's own values; DataError for what has no length."""
    own = next((name for name in ("tolist", "to_pylist") if hasattr(labels, name)), "")  # of NumPy, of Arrow
    whole = getattr(labels, own)() if own else list(labels) if isinstance(labels, Iterator) else labels
    if isinstance(whole, str | bytes | Mapping) or not hasattr(whole, "__len__") or not hasattr(whole, "__iter__"):
        raise DataError(f"Labels are a list with one entry for each image. Got {type(labels).__name__}.")
    return [to_plain(each) for each in whole]


def to_plain(value: Any) -> Any:
    """The same without arrays, tensors, tuples and sets: numbers, texts and lists of them."""
    if isinstance(value, str | bytes | bytearray | Mapping):
        return value
    if hasattr(value, "tolist"):  # numpy, torch, pandas: a list, or a single value
        value = value.tolist()
    elif hasattr(value, "as_py"):  # Arrow
        value = value.as_py()
    elif hasattr(value, "numpy"):  # TensorFlow
        value = value.numpy().tolist()
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _collapse_missing([to_plain(each) for each in value])
    return value


def _collapse_missing(values: list[Any]) -> Any:
    """A list whose entries all are missing is missing itself."""
    return None if values and all(each is None or is_missing(each) for each in values) else values


def is_missing(value: Any) -> bool:
    """None, NaN, and what pandas has for them."""
    number = isinstance(value, float | Decimal)
    return value is None or type(value).__name__ in _PANDAS_MISSING or (number and value != value)


def _is_multi_hot(given: list[Any]) -> bool:
    """Whether entries are rows of 0 and 1, at least two, equally long."""
    rows = [each for each in given if isinstance(each, list)]
    numbers = all(isinstance(each, bool | int | float) and each in (0, 1) for row in rows for each in row)
    alone = all(isinstance(each, list) or is_missing(each) for each in given)
    return bool(rows) and alone and numbers and len({len(row) for row in rows}) == 1 and len(rows[0]) > 1


def _row_labels(given: list[Any], names: Sequence[str]) -> list[tuple[str, ...]]:
    """The labels of each image, each once."""
    if _is_multi_hot(given):
        width = next(len(row) for row in given if isinstance(row, list))
        columns = names if len(names) == width else [str(at) for at in range(width)]
        shown = ([name for name, there in zip(columns, row or (), strict=False) if there] for row in given)
        return [tuple(sorted(row)) for row in shown]
    spell = _name_formatter([each for each in _flatten(given) if not is_missing(each)], names)
    rows = ([spell(value) for value in _flatten([each]) if not is_missing(value)] for each in given)
    return [tuple(sorted(set(row) - {""})) for row in rows]


def _name_formatter(values: list[Any], names: Sequence[str]) -> Callable[[Any], str]:
    """Return a function that formats these values as names: those of a column of whole numbers without a point."""
    whole = all(isinstance(each, int) or (isinstance(each, float) and each.is_integer()) for each in values)
    if whole and names and all(-1 <= each < len(names) for each in values):
        number = [*names, ""]  # -1 is what Hugging Face writes for 'unknown'
        return lambda value: number[int(value)]
    mixed = not all(isinstance(each, bool) for each in values)
    return lambda value: _format_name(int(value) if whole and mixed else value)


def _flatten(values: Sequence[Any]) -> list[Any]:
    """Flatten nested lists."""
    return [each for value in values for each in (_flatten(value) if isinstance(value, list) else [value])]


def _format_name(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        value = value.decode("utf-8", "replace")
    return unicodedata.normalize("NFC", str(value)).strip()


SPLIT_CODES = {"": UNSPLIT} | FOLDERS
IDS = ("group", "groups", "patient", "subject", "session", "video")
COLUMN_NAMES = {
    "file": FILE_COLUMNS,
    "label": ("label", "labels", "class", "classes", "tags", "category"),
    "split": ("split", "part"),
    "group": IDS + tuple(f"{name}_id" for name in IDS),
}
LABEL_SEPARATORS = "|;,"  # what joins several labels: the first of these that any row has
LABEL_LIKE_NAMES = (
    *COLUMN_NAMES["label"],
    "species",
    "type",
    "name",
    "kind",
    "target",
    "diagnosis",
    "breed",
    "genus",
    "family",
)
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


_UNNAMED = re.compile(r"|Unnamed: \d+")  # as pandas writes and reads the index of a table
_LIST = re.compile(r"\[.*\]|\{'.*'\}|\('.*\)", re.DOTALL)  # as Python and JSON write a list
_ITEM = re.compile(r"'([^']*)'|\"([^\"]*)\"|([^\s,\[\](){}'\"]+)")
_INTEGER = re.compile(r"-?\d+(\.0+)?")  # a number that a gap in the column made a float


def _blank_if_missing(cell: str) -> str:
    """A cell, empty where its value is missing."""
    return "" if cell in MISSING else cell


def _parse_list(cell: str) -> list[str | int] | None:
    """What a list in a cell holds."""
    found = [quoted or double or bare for quoted, double, bare in _ITEM.findall(cell)]
    return [int(each) if each.isdecimal() and len(each) < 10 else each for each in found] if cell else None


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns, as a user gives them; those left empty are guessed."""

    file: str = ""
    label: str = ""
    split: str = ""
    group: str = ""

    @classmethod
    def from_text(cls, text: str) -> Columns:
        """From 'file=path,label=species,group=patient'; raises UsageError for other words than these four."""
        return spec.replace_options(cls(), text, "--columns")


@dataclass(frozen=True)
class TableCells:
    """The cells of a table as texts, each row as wide as the header, and what its columns were taken for.

    Several labels in a cell are joined by one of `separators`; in one of `single_columns`, by NUL_SEPARATOR.
    """

    where: str
    header: list[str]
    rows: list[list[str]]
    given_columns: Columns = field(default_factory=Columns)
    separators: str = LABEL_SEPARATORS
    single_columns: frozenset[str] = frozenset()
    encoding: str = ""  # where it is none of Unicode's
    known_classes: tuple[str, ...] = ()  # of a trained classifier: a cell that is one is that, whatever it contains

    def __post_init__(self) -> None:
        for role, name in asdict(self.given_columns).items():
            if name and name not in self.header:
                raise DataError(f"{self.where} has no column {name!r} to be the {role}. {self._columns_message()}")

    @cached_property
    def column_index(self) -> dict[str, int]:
        """The number of the column that plays each part, as named or guessed; parts that none plays are left out."""
        called = [name.lower() for name in self.header]
        given = asdict(self.given_columns)
        found = {role: self.header.index(name) for role, name in given.items() if name}
        for role, names in COLUMN_NAMES.items():
            free = (called.index(name) for name in names if name in called)
            at = next((at for at in free if at not in found.values()), None)
            if role not in found and at is not None:
                found[role] = at
        guessed_group = "group" in found and not self.given_columns.group and "label" not in found
        if guessed_group and {row[found["group"]].lower() for row in self.rows} <= FLAGS.keys():
            del found["group"]  # among columns of 0 and 1 it is a class
        return found

    def column(self, role: str) -> list[str]:
        """The cells of the column that plays this part; raises DataError where none does."""
        if role not in self.column_index:
            raise DataError(self.missing_message(role))
        at = self.column_index[role]
        name, cells = self.header[at], [row[at] for row in self.rows]
        same_name = [place for place, other in enumerate(self.header) if other == name]
        if any([row[place] for row in self.rows] != cells for place in same_name):
            raise DataError(f"{self.where} has two columns {name!r} that say different things. Rename or drop one.")
        return cells if name in self.single_columns else [_blank_if_missing(cell) for cell in cells]

    def missing_message(self, role: str, more: str = "") -> str:
        """What to say when no column plays this part."""
        *names, last = COLUMN_NAMES[role]
        more += describe_text_column(self.header) if role == "file" else ""
        return f"{self.where} has no column called {', '.join(names)} or {last}. {self._columns_message(more)}"

    def _columns_message(self, more: str = "") -> str:
        columns = ", ".join(map(repr, self.header))
        return f"Its columns are {columns}. {more}Name yours as in --columns file=path,label=species."

    def describe_columns(self) -> str:
        """What the columns were taken for, as a user would name them."""
        roles = [each.name for each in fields(Columns) if each.name in self.column_index]
        text = ",".join(f"{role}={self.header[self.column_index[role]]}" for role in roles)
        guessed = [role for role in roles if not getattr(self.given_columns, role)]
        notes = [f"guessed: {', '.join(guessed)}"] * bool(guessed) + [f"read as {self.encoding}"] * bool(self.encoding)
        return f"{text} ({'; '.join(notes)})" if notes else text

    @cached_property
    def labels(self) -> list[tuple[str, ...]]:
        """The labels of each row, sorted, each once."""
        if "label" not in self.column_index:
            return self._labels_from_flags()
        cells = [unicodedata.normalize("NFC", cell) for cell in self.column("label")]
        whole = self.header[self.column_index["label"]] in self.single_columns
        marks = NUL_SEPARATOR if whole else self.separators
        if not whole and any(cells) and all(not cell or _LIST.fullmatch(cell) for cell in cells):
            marks, cells = NUL_SEPARATOR, labels_to_texts([_parse_list(cell) for cell in cells])
        joined = [cell for cell in cells if cell not in self.known_classes]
        mark = next((mark for mark in marks if any(mark in cell for cell in joined)), marks[0])
        rows = [
            {cell} if cell in self.known_classes else {label.strip() for label in cell.split(mark)} - {""}
            for cell in cells
        ]
        if not whole and all(_INTEGER.fullmatch(label) for row in rows for label in row):
            rows = [{label.partition(".")[0] for label in row} for row in rows]
        return [tuple(sorted(row)) for row in rows]

    def _labels_from_flags(self) -> list[tuple[str, ...]]:
        """Labels from columns of 0 and 1."""
        flags = self._flag_columns
        said = {row[at] for row in self._stated_rows if any(row[at] for at in flags) for at in flags}
        odd = {cell for cell in said if cell.lower() not in FLAGS}
        if not flags or odd:
            raise DataError(
                self.missing_message("label", f"Nor are they all 0 and 1: one holds {min(odd)!r}. " if odd else "")
            )
        return [
            tuple(sorted(self.header[at] for at in flags if FLAGS.get(row[at].lower()))) for row in self._stated_rows
        ]

    @cached_property
    def _flag_columns(self) -> list[int]:
        """The columns of 0 and 1, where there is none of labels. A column without a name is that of row numbers."""
        if "label" in self.column_index:
            return []
        taken = self.column_index.values()
        return [at for at, name in enumerate(self.header) if at not in taken and not _UNNAMED.fullmatch(name)]

    @cached_property
    def _stated_rows(self) -> list[list[str]]:
        """The rows, with empty cells where a value is missing."""
        return [[_blank_if_missing(cell) for cell in row] for row in self.rows]

    @property
    def has_explicit_negatives(self) -> bool:
        """Whether an image without a label says so, by a 0 for each class."""
        flags = self._flag_columns
        rows = zip(self._stated_rows if flags else (), self.labels, strict=False)
        return any(any(row[at] for at in flags) and not said for row, said in rows)

    def split_codes(self) -> list[int]:
        """The part of the split of each row."""
        if "split" not in self.column_index:
            return [UNSPLIT] * len(self.rows)
        named = self.column("split")
        if odd := next((name for name in named if name.lower() not in SPLIT_CODES), None):
            legal = ", ".join(filter(None, SPLIT_CODES))
            raise DataError(f"{self.where} names a part of the split {odd!r}. Parts are {legal}, or empty.")
        return [SPLIT_CODES[name.lower()] for name in named]

    def groups(self) -> NDArray[np.int64] | None:
        """Numbers by order of first appearance, UNGROUPED where the cell is empty."""
        if "group" not in self.column_index:
            return None
        number: dict[str, int] = {}
        named = self.column("group")
        return np.array([number.setdefault(name, len(number)) if name else UNGROUPED for name in named], np.int64)


def build_dataset(
    images: Callable[[NDArray[np.intp]], Images],
    cells: TableCells,
    rows: NDArray[np.intp],
    classes: tuple[str, ...] | None = None,
    parts: list[int] | None = None,
    ignored: dict[str, int] | None = None,
) -> Dataset:
    """Build the data set of these rows of a table; `images` returns the column of their images.

    Raises DataError: no label at all, all the same, or none that a trained classifier's `classes` have.
    """
    cells = replace(cells, known_classes=classes or ())
    row_labels = cells.labels
    found = tuple(sorted({label for row in row_labels for label in row}, key=natural_key))
    _check_labels(cells, found, classes)
    known = found if classes is None else match_classes(cells.where, found, classes)
    split = normalise_split(cells.split_codes() if parts is None else parts)[rows]
    groups = cells.groups()
    return Dataset(
        images(rows),
        encode_labels([row_labels[row] for row in rows], known, explicit=cells.has_explicit_negatives),
        known,
        split,
        ignored or {},
        None if groups is None else groups[rows],
        cells.describe_columns(),
    )


def _check_labels(cells: TableCells, found: tuple[str, ...], classes: tuple[str, ...] | None) -> None:
    where, said = cells.where, cells.labels
    if not found:
        raise DataError(f"{where} gives no image a label.")
    if classes is not None:
        return
    if len(found) == 1 and all(said):
        raise DataError(f"{where} gives every image the same label, {found[0]!r}; there is nothing to tell apart.")
    counts = Counter(label for row in said for label in row)
    singletons = sum(all(counts[label] == 1 for label in row) for row in said if row)
    if (
        "label" in cells.column_index
        and len(said) >= MIN_CHECKED
        and singletons >= SINGLETON_SHARE * sum(map(bool, said))
    ):
        name = cells.header[cells.column_index["label"]]
        raise DataError(
            f"{where} gives {singletons} of its {len(said)} rows a label that no other row has, such as {found[0]!r}: "
            f"the column {name!r} seems to be none of classes, and there is nothing to learn. "
            f"{_suggest_label_column(cells)}"
        )


def _suggest_label_column(cells: TableCells) -> str:
    """Suggest columns that may be the labels instead: those whose values repeat, the likeliest first."""
    taken = {cells.column_index.get(role) for role in ("file", "label", "split")}
    columns = {
        name: [row[at] for row in cells.rows if row[at]] for at, name in enumerate(cells.header) if at not in taken
    }
    found = {name: len(set(values)) for name, values in columns.items() if 2 <= len(set(values)) <= len(values) / 2}
    if not found:
        return "No other column has values that repeat. A class needs several images, better 20."

    def unlikely(name: str) -> tuple[bool, bool, int]:
        called = any(word in name.lower() for word in LABEL_LIKE_NAMES)
        return not called, all(value.replace(".", "").isdigit() for value in columns[name]), found[name]

    best, *others = sorted(found, key=unlikely)
    more = f" Or {', '.join(map(repr, others[:3]))}?" if others else ""
    return f"Did you mean {best!r}, which has {found[best]} values? Then --columns label={best}.{more}"
