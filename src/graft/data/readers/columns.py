"""What the columns of a table mean, whatever it was written in: image, labels, part of the split, group."""

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
from graft.data.classes import ALONE, SEVERAL, matched
from graft.data.dataset import UNGROUPED, UNLABELLED, UNSPLIT, Dataset, Labels
from graft.data.images import Images
from graft.data.readers import place
from graft.data.readers.delimited import FILES
from graft.data.readers.folder import PARTS as FOLDERS
from graft.data.readers.folder import decided, natural
from graft.errors import DataError

MISSING = ("nan", "NaN", "<NA>", "#N/A")  # what programs write for a missing value; 'None' and 'NA' may be names
NO_MARK = "\0"  # joins labels where a label may have any letter in it
_NOTHING = ("NAType", "NaTType")  # pandas' own words for a missing value, which cannot be compared


def known(labels: Any, names: Sequence[str] = ()) -> tuple[Labels, tuple[str, ...]]:
    """What labels say, one entry for each image, and the classes that they mean, sorted as class folders are.

    An entry is a name or a number, a row of 0 and 1 with one column for each class, or several labels in a list or set;
    None and NaN are a missing label. Numbers count in `names` where these are given. Raises DataError for any other.
    """
    if hasattr(labels, "columns") and hasattr(labels, "to_numpy"):  # a DataFrame, as pandas.get_dummies makes one
        names = list(map(str, labels.columns)) if len(labels.columns) > 1 else names
        labels = labels.to_numpy()
    given = _checked(labels, names)
    flags = _is_table(given)
    said = _said(given, names)
    found = tuple(sorted({label for row in said for label in row}, key=natural))
    explicit = flags and any(isinstance(row, list) and not any(row) for row in given)
    return matrix(said, found, explicit=explicit), found


def matrix(said: Sequence[tuple[str, ...]], classes: tuple[str, ...], *, explicit: bool = False) -> Labels:
    """One number for each image, UNLABELLED where the label is missing; or a table of 0 and 1.

    A table if any image has several labels. Also if an image without one says something: because 0 was written for
    each class (`explicit`), or because there is but one class, to have or not to have.
    """
    number = {name: at for at, name in enumerate(classes)}
    none = not all(said)
    if all(len(labels) < 2 for labels in said) and not (none and (explicit or len(classes) == 1)):
        return np.array([number[labels[0]] if labels else UNLABELLED for labels in said], np.int32)
    table = np.zeros((len(said), len(classes)), np.uint8)
    for row, labels in enumerate(said):
        table[row, [number[label] for label in labels]] = 1
    return table


def texts(column: Any, names: Sequence[str] = ()) -> list[str]:
    """A column of a table as texts: several labels joined by NO_MARK, a missing value as an empty text."""
    return [NO_MARK.join(row) for row in _said(entries(column), names)]


def named(labels: Any, names: Sequence[str]) -> list[list[str] | None]:
    """Numbers or rows of 0 and 1 as the names that they mean, None where the label is missing."""
    given = _checked(labels, names)
    return [None if each is None else list(row) for each, row in zip(given, _said(given, names), strict=True)]


def _checked(labels: Any, names: Sequence[str]) -> list[Any]:
    """The entries of labels, None for the words that NumPy writes for NaN. Raises DataError for what is no label."""
    given = [
        None if isinstance(each, str) and each in MISSING and each not in names else each for each in entries(labels)
    ]
    square = np.ndim(labels if hasattr(labels, "ndim") else 0) > 1
    if square and not _is_table(given) and any(isinstance(each, list) and len(each) > 1 for each in given):
        raise DataError(
            f"Labels in {np.ndim(labels)} dimensions are rows of 0 and 1, one column for each class. "
            f"Got {list(np.shape(labels))} with other numbers: give the number of the likeliest class, or thresholds."
        )
    if odd := next(filter(_is_odd, _flat(given)), None):
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


def entries(labels: Any) -> list[Any]:
    """What was given for each image, in Python's own values; DataError for what has no length."""
    own = next((name for name in ("tolist", "to_pylist") if hasattr(labels, name)), "")  # of NumPy, of Arrow
    whole = getattr(labels, own)() if own else list(labels) if isinstance(labels, Iterator) else labels
    if isinstance(whole, str | bytes | Mapping) or not hasattr(whole, "__len__") or not hasattr(whole, "__iter__"):
        raise DataError(f"Labels are a list with one entry for each image. Got {type(labels).__name__}.")
    return [plain(each) for each in whole]


def plain(value: Any) -> Any:
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
        return _whole([plain(each) for each in value])
    return value


def _whole(values: list[Any]) -> Any:
    """A list whose entries all are missing is missing itself."""
    return None if values and all(each is None or is_missing(each) for each in values) else values


def is_missing(value: Any) -> bool:
    """None, NaN, and what pandas has for them."""
    number = isinstance(value, float | Decimal)
    return value is None or type(value).__name__ in _NOTHING or (number and value != value)


def _is_table(given: list[Any]) -> bool:
    """Whether entries are rows of 0 and 1, at least two, equally long."""
    rows = [each for each in given if isinstance(each, list)]
    numbers = all(isinstance(each, bool | int | float) and each in (0, 1) for row in rows for each in row)
    alone = all(isinstance(each, list) or is_missing(each) for each in given)
    return bool(rows) and alone and numbers and len({len(row) for row in rows}) == 1 and len(rows[0]) > 1


def _said(given: list[Any], names: Sequence[str]) -> list[tuple[str, ...]]:
    """The labels of each image, each once."""
    if _is_table(given):
        width = next(len(row) for row in given if isinstance(row, list))
        columns = names if len(names) == width else [str(at) for at in range(width)]
        shown = ([name for name, there in zip(columns, row or (), strict=False) if there] for row in given)
        return [tuple(sorted(row)) for row in shown]
    spell = _spelling([each for each in _flat(given) if not is_missing(each)], names)
    rows = ([spell(value) for value in _flat([each]) if not is_missing(value)] for each in given)
    return [tuple(sorted(set(row) - {""})) for row in rows]


def _spelling(values: list[Any], names: Sequence[str]) -> Callable[[Any], str]:
    """How these values are written as names: those of a column of whole numbers without a point."""
    whole = all(isinstance(each, int) or (isinstance(each, float) and each.is_integer()) for each in values)
    if whole and names and all(-1 <= each < len(names) for each in values):
        number = [*names, ""]  # -1 is what Hugging Face writes for 'unknown'
        return lambda value: number[int(value)]
    mixed = not all(isinstance(each, bool) for each in values)
    return lambda value: _text(int(value) if whole and mixed else value)


def _flat(values: Sequence[Any]) -> list[Any]:
    """What lists inside lists hold."""
    return [each for value in values for each in (_flat(value) if isinstance(value, list) else [value])]


def _text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        value = value.decode("utf-8", "replace")
    return unicodedata.normalize("NFC", str(value)).strip()


PARTS = {"": UNSPLIT} | FOLDERS
IDS = ("group", "groups", "patient", "subject", "session", "video")
GUESSED = {
    "file": FILES,
    "label": ("label", "labels", "class", "classes", "tags", "category"),
    "split": ("split", "part"),
    "group": IDS + tuple(f"{name}_id" for name in IDS),
}
MARKS = "|;,"  # what joins several labels: the first of these that any row has
LIKE_LABELS = (*GUESSED["label"], "species", "type", "name", "kind", "target", "diagnosis", "breed", "genus", "family")
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


_UNNAMED = re.compile(r"|Unnamed: \d+")  # as pandas writes and reads the index of a table
_LIST = re.compile(r"\[.*\]|\{'.*'\}|\('.*\)", re.DOTALL)  # as Python and JSON write a list
_ITEM = re.compile(r"'([^']*)'|\"([^\"]*)\"|([^\s,\[\](){}'\"]+)")
_WHOLE = re.compile(r"-?\d+(\.0+)?")  # a number that a gap in the column made a float


def _stated(cell: str) -> str:
    """A cell, empty where its value is missing."""
    return "" if cell in MISSING else cell


def _items(cell: str) -> list[str | int] | None:
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
    def of(cls, text: str) -> Columns:
        """From 'file=path,label=species,group=patient'; raises UsageError for other words than these four."""
        return spec.change(cls(), text, "--columns")


@dataclass(frozen=True)
class Cells:
    """The cells of a table as texts, each row as wide as the header, and what its columns were taken for.

    Several labels in a cell are joined by one of `marks`; in a column that is `whole`, by NO_MARK.
    """

    where: str
    header: list[str]
    rows: list[list[str]]
    named: Columns = field(default_factory=Columns)
    marks: str = MARKS
    whole: frozenset[str] = frozenset()
    encoding: str = ""  # where it is none of Unicode's
    known: tuple[str, ...] = ()  # classes of a trained classifier: a cell that is one is that, whatever marks it has

    def __post_init__(self) -> None:
        for role, name in asdict(self.named).items():
            if name and name not in self.header:
                raise DataError(f"{self.where} has no column {name!r} to be the {role}. {self._has()}")

    @cached_property
    def places(self) -> dict[str, int]:
        """The number of the column that plays each part, as named or guessed; parts that none plays are left out."""
        called = [name.lower() for name in self.header]
        given = asdict(self.named)
        found = {role: self.header.index(name) for role, name in given.items() if name}
        for role, names in GUESSED.items():
            free = (called.index(name) for name in names if name in called)
            at = next((at for at in free if at not in found.values()), None)
            if role not in found and at is not None:
                found[role] = at
        guessed_group = "group" in found and not self.named.group and "label" not in found
        if guessed_group and {row[found["group"]].lower() for row in self.rows} <= FLAGS.keys():
            del found["group"]  # among columns of 0 and 1 it is a class
        return found

    def column(self, role: str) -> list[str]:
        """The cells of the column that plays this part; raises DataError where none does."""
        if role not in self.places:
            raise DataError(self.lacking(role))
        at = self.places[role]
        name, cells = self.header[at], [row[at] for row in self.rows]
        twins = [place for place, other in enumerate(self.header) if other == name]
        if any([row[place] for row in self.rows] != cells for place in twins):
            raise DataError(f"{self.where} has two columns {name!r} that say different things. Rename or drop one.")
        return cells if name in self.whole else [_stated(cell) for cell in cells]

    def lacking(self, role: str, more: str = "") -> str:
        """What to say when no column plays this part."""
        *names, last = GUESSED[role]
        more += place.column_of_text(self.header) if role == "file" else ""
        return f"{self.where} has no column called {', '.join(names)} or {last}. {self._has(more)}"

    def _has(self, more: str = "") -> str:
        columns = ", ".join(map(repr, self.header))
        return f"Its columns are {columns}. {more}Name yours as in --columns file=path,label=species."

    def note(self) -> str:
        """What the columns were taken for, as a user would name them."""
        roles = [each.name for each in fields(Columns) if each.name in self.places]
        text = ",".join(f"{role}={self.header[self.places[role]]}" for role in roles)
        guessed = [role for role in roles if not getattr(self.named, role)]
        notes = [f"guessed: {', '.join(guessed)}"] * bool(guessed) + [f"read as {self.encoding}"] * bool(self.encoding)
        return f"{text} ({'; '.join(notes)})" if notes else text

    @cached_property
    def labels(self) -> list[tuple[str, ...]]:
        """The labels of each row, sorted, each once."""
        if "label" not in self.places:
            return self._from_flags()
        said = [unicodedata.normalize("NFC", cell) for cell in self.column("label")]
        whole = self.header[self.places["label"]] in self.whole
        marks = NO_MARK if whole else self.marks
        if not whole and any(said) and all(not cell or _LIST.fullmatch(cell) for cell in said):
            marks, said = NO_MARK, texts([_items(cell) for cell in said])
        joined = [cell for cell in said if cell not in self.known]
        mark = next((mark for mark in marks if any(mark in cell for cell in joined)), marks[0])
        rows = [{cell} if cell in self.known else {label.strip() for label in cell.split(mark)} - {""} for cell in said]
        if not whole and all(_WHOLE.fullmatch(label) for row in rows for label in row):
            rows = [{label.partition(".")[0] for label in row} for row in rows]
        return [tuple(sorted(row)) for row in rows]

    def _from_flags(self) -> list[tuple[str, ...]]:
        """Labels from columns of 0 and 1."""
        flags = self._flags
        said = {row[at] for row in self._flagged if any(row[at] for at in flags) for at in flags}
        odd = {cell for cell in said if cell.lower() not in FLAGS}
        if not flags or odd:
            raise DataError(self.lacking("label", f"Nor are they all 0 and 1: one holds {min(odd)!r}. " if odd else ""))
        return [tuple(sorted(self.header[at] for at in flags if FLAGS.get(row[at].lower()))) for row in self._flagged]

    @cached_property
    def _flags(self) -> list[int]:
        """The columns of 0 and 1, where there is none of labels. A column without a name is that of row numbers."""
        if "label" in self.places:
            return []
        taken = self.places.values()
        return [at for at, name in enumerate(self.header) if at not in taken and not _UNNAMED.fullmatch(name)]

    @cached_property
    def _flagged(self) -> list[list[str]]:
        """The rows, with empty cells where a value is missing."""
        return [[_stated(cell) for cell in row] for row in self.rows]

    @property
    def explicit(self) -> bool:
        """Whether an image without a label says so, by a 0 for each class."""
        flags = self._flags
        rows = zip(self._flagged if flags else (), self.labels, strict=False)
        return any(any(row[at] for at in flags) and not said for row, said in rows)

    def parts(self) -> list[int]:
        """The part of the split of each row."""
        if "split" not in self.places:
            return [UNSPLIT] * len(self.rows)
        named = self.column("split")
        if odd := next((name for name in named if name.lower() not in PARTS), None):
            legal = ", ".join(filter(None, PARTS))
            raise DataError(f"{self.where} names a part of the split {odd!r}. Parts are {legal}, or empty.")
        return [PARTS[name.lower()] for name in named]

    def groups(self) -> NDArray[np.int64] | None:
        """Numbers by order of first appearance, UNGROUPED where the cell is empty."""
        if "group" not in self.places:
            return None
        number: dict[str, int] = {}
        named = self.column("group")
        return np.array([number.setdefault(name, len(number)) if name else UNGROUPED for name in named], np.int64)


def labelled(
    images: Callable[[NDArray[np.intp]], Images],
    cells: Cells,
    rows: NDArray[np.intp],
    classes: tuple[str, ...] | None = None,
    parts: list[int] | None = None,
    ignored: dict[str, int] | None = None,
) -> Dataset:
    """The data set that these rows of a table describe; `images` gives the column of their images.

    Raises DataError: no label at all, all the same, or none that a trained classifier's `classes` have.
    """
    cells = replace(cells, known=classes or ())
    said = cells.labels
    found = tuple(sorted({label for row in said for label in row}, key=natural))
    _check(cells, found, classes)
    known = found if classes is None else matched(cells.where, found, classes)
    split = decided(cells.parts() if parts is None else parts)[rows]
    groups = cells.groups()
    return Dataset(
        images(rows),
        matrix([said[row] for row in rows], known, explicit=cells.explicit),
        known,
        split,
        ignored or {},
        None if groups is None else groups[rows],
        cells.note(),
    )


def _check(cells: Cells, found: tuple[str, ...], classes: tuple[str, ...] | None) -> None:
    where, said = cells.where, cells.labels
    if not found:
        raise DataError(f"{where} gives no image a label.")
    if classes is not None:
        return
    if len(found) == 1 and all(said):
        raise DataError(f"{where} gives every image the same label, {found[0]!r}; there is nothing to tell apart.")
    counts = Counter(label for row in said for label in row)
    alone = sum(all(counts[label] == 1 for label in row) for row in said if row)
    if "label" in cells.places and len(said) >= SEVERAL and alone >= ALONE * sum(map(bool, said)):
        name = cells.header[cells.places["label"]]
        raise DataError(
            f"{where} gives {alone} of its {len(said)} rows a label that no other row has, such as {found[0]!r}: the "
            f"column {name!r} seems to be none of classes, and there is nothing to learn. {_likelier(cells)}"
        )


def _likelier(cells: Cells) -> str:
    """Which columns may be the labels instead: those whose values repeat, the likeliest first."""
    taken = {cells.places.get(role) for role in ("file", "label", "split")}
    columns = {
        name: [row[at] for row in cells.rows if row[at]] for at, name in enumerate(cells.header) if at not in taken
    }
    found = {name: len(set(values)) for name, values in columns.items() if 2 <= len(set(values)) <= len(values) / 2}
    if not found:
        return "No other column has values that repeat. A class needs several images, better 20."

    def unlikely(name: str) -> tuple[bool, bool, int]:
        called = any(word in name.lower() for word in LIKE_LABELS)
        return not called, all(value.replace(".", "").isdigit() for value in columns[name]), found[name]

    best, *others = sorted(found, key=unlikely)
    more = f" Or {', '.join(map(repr, others[:3]))}?" if others else ""
    return f"Did you mean {best!r}, which has {found[best]} values? Then --columns label={best}.{more}"
