"""A table of files and labels, CSV, TSV or a list: one label for each image, or several."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from graft.data.dataset import UNSPLIT, Dataset
from graft.data.readers import delimited
from graft.data.readers.columns import Cells, Columns, labelled
from graft.data.readers.delimited import decoded
from graft.data.readers.place import Place, composed
from graft.errors import DataError
from graft.progress import Watch, unwatched

SUFFIXES = (".csv", ".tsv")
BESIDE = "split.csv"  # file, split: read if the table says nothing of parts
LISTS = (".txt", ".lst")  # text files that may be lists of images
HEAD = 1 << 16  # bytes in which a list names an image
PROOFS = 200  # files that are looked for to tell an encoding
IMAGES = "images"  # where images may lie that are not beside the table


def read_table(
    path: str | Path,
    classes: tuple[str, ...] | None = None,
    columns: str = "",
    *,
    strict: bool = False,
    watch: Watch = unwatched,
) -> Dataset:
    """The images that a table lists, with the label or labels of each.

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
    place = Place.of(path.parent, watch)
    return tabled(cells_of(str(path), content(path), Columns.of(columns), place), place, classes, strict=strict)


def content(path: Path) -> bytes:
    """What is in a table's file; raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"The table {path} cannot be read: {error.strerror or error}.") from error


def tabled(cells: Cells, place: Place, classes: tuple[str, ...] | None, *, strict: bool) -> Dataset:
    """The data set of a table whose cells name files."""
    cells = replace(cells, known=classes or ())
    files = _files(cells)
    first, unnamed = _once(cells, files), files.count("")
    if not first:
        raise DataError(f"{cells.where} lists no images: not one row names a file.")
    where = _where(cells, place, [files[row] for row in first], strict=strict)
    counts = {"rows listed twice": len(files) - unnamed - len(first), "rows without a file": unnamed}
    ignored = {what: count for what, count in counts.items() if count}
    rows = np.array(first, np.intp)
    return labelled(lambda _: place.column(where), cells, rows, classes, _parts(cells, place, files), ignored)


def cells_of(where: str, raw: bytes, named: Columns | None = None, place: Place | None = None) -> Cells:
    """The cells of a table; the files that are in `place` tell its encoding where that is none of Unicode's."""

    def there(text: str) -> int:
        with suppress(DataError):
            names = [name for name in _files(_cells(where, text, named)) if not name.isascii()]
            return sum(any(map(place.find, _ways(name))) for name in names[:PROOFS]) if place else 0
        return 0

    text, encoding = decoded(where, raw, there)
    return replace(_cells(where, text, named), encoding=encoding)


def _cells(where: str, text: str, named: Columns | None) -> Cells:
    header, rows = delimited.table(where, text)
    if not rows:
        raise DataError(f"{where} lists no images: there is no row below its header.")
    if odd := next((row for row in rows if len(row) != len(header)), None):
        raise DataError(
            f"The row of {odd[0]!r} in {where} has {len(odd)} cells, the header has {len(header)}. "
            f"Put labels that are joined by commas in quotes."
        )
    return Cells(where, header, rows, named or Columns())


def text_of(where: str, raw: bytes) -> str:
    """The text in a file; see `encoding.decoded`."""
    return decoded(where, raw)[0]


def is_list(path: Path) -> bool:
    """Whether a file is a text with paths of images in its first lines, as many data sets are published."""
    if not path.name.lower().endswith(LISTS) or not path.is_file():
        return False
    with path.open("rb") as file:
        return delimited.is_list_text(file.read(HEAD).replace(b"\0", b"").decode("latin-1"))


def _files(cells: Cells) -> list[str]:
    return [os.path.normpath(name.replace("\\", "/")) if name else "" for name in cells.column("file")]


def _once(cells: Cells, files: list[str]) -> list[int]:
    """The first row of each file."""
    said, first = cells.labels, dict[str, int]()
    for row, name in ((row, name) for row, name in enumerate(files) if name):
        if said[first.setdefault(name, row)] != said[row]:
            raise DataError(
                f"{cells.where} lists {name} twice, as {said[first[name]]} and as {said[row]}. "
                f"An image has one row; several labels are joined by '|'."
            )
    return list(first.values())


def _where(cells: Cells, place: Place, files: list[str], *, strict: bool) -> list[str]:
    """Where each file lies, seen from the table's folder; one that is not there keeps the name that it is listed by."""
    looked = place.watch(files, "files looked for", len(files))
    ways = [next(filter(None, map(place.find, _ways(name))), "") for name in looked]
    absent = [name for name, way in zip(files, ways, strict=True) if not way]
    if absent and (strict or 2 * len(absent) > len(files)):
        raise DataError(
            f"{len(absent)} of {len(files)} files that {cells.where} lists are not there, the first is {absent[0]}. "
            f"They are looked for in {place.name} and in a folder {IMAGES} there."
        )
    return [way or name for name, way in zip(files, ways, strict=True)]


def _ways(name: str) -> tuple[str, str]:
    return name, f"{IMAGES}/{name}"


def _parts(cells: Cells, place: Place, files: list[str]) -> list[int]:
    """The part of the split of each row: by a column, or by a table beside this one."""
    beside = os.path.join(place.name, BESIDE)
    if "split" in cells.places or not place.has(BESIDE) or beside == cells.where:
        return cells.parts()
    other = cells_of(beside, place.read(BESIDE), place=place)
    other.column("split")
    known = dict(zip(map(composed, _files(other)), other.parts(), strict=True))
    files = [composed(name) for name in files]
    known[""] = UNSPLIT
    if lost := [name for name in files if name not in known]:
        table = os.path.basename(cells.where)
        raise DataError(f"{beside} has no row for {len(lost)} files of {table}, the first is {lost[0]}.")
    return [known[name] for name in files]
