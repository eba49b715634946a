"""A table of files and labels, CSV or TSV: one label for each picture, or several."""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graft.data.dataset import TRAIN, UNSPLIT, Dataset, Labels
from graft.data.images import Files
from graft.data.read.folder import PARTS as FOLDERS
from graft.data.read.folder import natural
from graft.errors import DataError
from graft.progress import Watch, unwatched

SUFFIXES = (".csv", ".tsv")
FILE = ("file", "image", "path", "filename", "picture")
LABEL = ("label", "labels", "class", "classes", "tags", "category")
SPLIT = ("split", "part")
PARTS = {"": UNSPLIT} | FOLDERS
BESIDE = "split.csv"  # file, split: read if the table says nothing of parts
IMAGES = "images"  # where pictures may lie that are not beside the table


@dataclass(frozen=True)
class _Cells:
    """The cells of a table, each row as wide as the header."""

    path: Path
    header: list[str]
    rows: list[list[str]]

    def find(self, names: Sequence[str]) -> int | None:
        """The number of the first column that is called one of these names."""
        called = [name.lower() for name in self.header]
        return next((called.index(name) for name in names if name in called), None)

    def column(self, names: Sequence[str]) -> list[str]:
        at = self.find(names)
        if at is None:
            raise DataError(_lacking(self, names))
        return [row[at] for row in self.rows]

    def files(self) -> list[str]:
        return [os.path.normpath(name.replace("\\", "/")) for name in self.column(FILE)]


def _lacking(cells: _Cells, names: Sequence[str]) -> str:
    columns = ", ".join(map(repr, cells.header))
    return f"{cells.path} has no column called {', '.join(names[:-1])} or {names[-1]}. Its columns are {columns}."


def read_table(path: str | Path, classes: tuple[str, ...] | None = None, watch: Watch = unwatched) -> Dataset:
    """The pictures that a table lists, with the label or labels of each.

    A column called file, image, path, filename or picture; and label, labels, class, classes, tags or category, with
    several labels joined by '|', by ';' or by ',' (the first of these that any row has), or else one column of 0 and
    1 for each class. A column called split, or a split.csv beside the table, names each picture's part. Pictures lie
    beside the table or in a folder `images` there. If any picture has several labels or none, all are taken to be of
    the kind that may. With `classes` given (a trained classifier's), other labels are an error.

    Raises DataError: no such table, columns missing, files that are not there, or files listed with other labels.
    """
    path = Path(path)
    cells = _cells(path)
    files, said = cells.files(), _labels(cells)
    first = _once(path, files, said)
    places = Files.of(_places(path, [files[row] for row in first], watch), str(path.parent))
    found = tuple(sorted({label for row in said for label in row}, key=natural))
    _check(path, found, classes, said)
    split = np.array(_parts(cells), np.int8)[first]
    if (split == TRAIN).all():  # training alone is not a decision about the test part
        split[:] = UNSPLIT
    repeated = {"rows listed twice": len(files) - len(first)} if len(first) < len(files) else {}
    labels = _column([said[row] for row in first], classes or found)
    return Dataset(places, labels, classes or found, split, repeated)


def _cells(path: Path) -> _Cells:
    text = _text(path)
    head = text.partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
    try:
        header, *rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=separator)]
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path} is not a table: {'it is empty' if not text.strip() else error}.") from error
    rows = [row for row in rows if any(row)]
    if not rows:
        raise DataError(f"{path} lists no pictures: there is no row below its header.")
    if odd := next((row for row in rows if len(row) != len(header)), None):
        raise DataError(
            f"The row of {odd[0]!r} in {path} has {len(odd)} cells, the header has {len(header)}. "
            f"Put labels that are joined by commas in quotes."
        )
    return _Cells(path, header, rows)


def _text(path: Path) -> str:
    """UTF-8 with or without a mark, UTF-16 with one, else what Windows calls ANSI."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"The table {path} cannot be read: {error.strerror or error}.") from error
    for encoding in ("utf-16",) if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else ("utf-8-sig", "cp1252"):
        with suppress(UnicodeDecodeError):
            return raw.decode(encoding)
    raise DataError(f"{path} is not text in UTF-8, UTF-16 or Windows-1252. Please save it as UTF-8.")


def _labels(cells: _Cells) -> list[tuple[str, ...]]:
    """The labels of each row, sorted, each once."""
    if cells.find(LABEL) is None:
        return _from_flags(cells)
    said = [unicodedata.normalize("NFC", cell) for cell in cells.column(LABEL)]
    joint = next((mark for mark in "|;," if any(mark in cell for cell in said)), "|")
    return [tuple(sorted({label.strip() for label in cell.split(joint)} - {""})) for cell in said]


def _from_flags(cells: _Cells) -> list[tuple[str, ...]]:
    """Labels from columns of 0 and 1."""
    taken = {cells.find(FILE), cells.find(SPLIT)}
    flags = [at for at in range(len(cells.header)) if at not in taken]
    odd = {row[at] for at in flags for row in cells.rows} - {"0", "1"}
    if not flags or odd:
        raise DataError(
            f"{_lacking(cells, LABEL)}{f' They are not columns of 0 and 1: one holds {min(odd)!r}.' if odd else ''}"
        )
    return [tuple(sorted(cells.header[at] for at in flags if row[at] == "1")) for row in cells.rows]


def _once(path: Path, files: list[str], said: list[tuple[str, ...]]) -> list[int]:
    """The first row of each file."""
    first: dict[str, int] = {}
    for row, name in enumerate(files):
        if said[first.setdefault(name, row)] != said[row]:
            raise DataError(
                f"{path} lists {name} twice, as {said[first[name]]} and as {said[row]}. "
                f"A picture has one row; several labels are joined by '|'."
            )
    return list(first.values())


def _places(path: Path, files: list[str], watch: Watch) -> list[str]:
    """Where each file lies, seen from the table's folder."""
    looked = watch(files, "files", len(files))
    places = [next((way for way in (name, f"{IMAGES}/{name}") if (path.parent / way).is_file()), "") for name in looked]
    if absent := [name for name, place in zip(files, places, strict=True) if not place]:
        raise DataError(
            f"{len(absent)} of {len(files)} files that {path} lists are not there, the first is {absent[0]}. "
            f"They are looked for in {path.parent} and in a folder {IMAGES} there."
        )
    return places


def _check(path: Path, found: tuple[str, ...], classes: tuple[str, ...] | None, said: list[tuple[str, ...]]) -> None:
    if classes is not None and (unknown := sorted(set(found) - set(classes))):
        raise DataError(
            f"{path} has labels that the classifier does not know: {', '.join(map(repr, unknown))}. "
            f"It knows {', '.join(map(repr, classes))}."
        )
    if not found:
        raise DataError(f"{path} gives no picture a label.")
    if classes is None and len(found) == 1 and all(said):
        raise DataError(f"{path} gives every picture the same label, {found[0]!r}; there is nothing to tell apart.")


def _column(said: list[tuple[str, ...]], classes: tuple[str, ...]) -> Labels:
    """One number for each picture if each has one label, else a table of 0 and 1."""
    number = {name: at for at, name in enumerate(classes)}
    if all(len(labels) == 1 for labels in said):
        return np.array([number[labels[0]] for labels in said], np.int32)
    table = np.zeros((len(said), len(classes)), np.uint8)
    for row, labels in enumerate(said):
        table[row, [number[label] for label in labels]] = 1
    return table


def _parts(cells: _Cells) -> list[int]:
    """The part of the split of each row."""
    beside = cells.path.parent / BESIDE
    if cells.find(SPLIT) is not None:
        return _codes(cells.path, cells.column(SPLIT))
    if not beside.is_file() or beside == cells.path:
        return [UNSPLIT] * len(cells.rows)
    other = _cells(beside)
    known = dict(zip(other.files(), _codes(beside, other.column(SPLIT)), strict=True))
    if lost := [name for name in cells.files() if name not in known]:
        raise DataError(f"{beside} has no row for {len(lost)} files of {cells.path.name}, the first is {lost[0]}.")
    return [known[name] for name in cells.files()]


def _codes(path: Path, named: list[str]) -> list[int]:
    if odd := next((name for name in named if name.lower() not in PARTS), None):
        legal = ", ".join(filter(None, PARTS))
        raise DataError(f"{path} names a part of the split {odd!r}. Parts are {legal}, or empty.")
    return [PARTS[name.lower()] for name in named]
