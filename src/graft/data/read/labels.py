"""Labels of any shape as names for each image: names, numbers, one-hot rows, lists and sets, arrays and tensors."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from graft.data.dataset import UNLABELLED, Labels
from graft.data.read.layout import natural
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
