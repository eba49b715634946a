"""A table of files and labels, CSV or TSV: one label for each picture, or several."""

from __future__ import annotations

import csv
import io
import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graft.data.dataset import Dataset
from graft.data.images import Files, Images
from graft.data.read.columns import Cells, Columns, labelled
from graft.errors import DataError
from graft.progress import Watch, unwatched

SUFFIXES = (".csv", ".tsv")
BESIDE = "split.csv"  # file, split: read if the table says nothing of parts
IMAGES = "images"  # where pictures may lie that are not beside the table


@dataclass(frozen=True)
class Place:
    """Where a table lies, on the disk or in an archive, and what lies beside it."""

    name: str  # what to call it
    has: Callable[[str], bool]
    column: Callable[[list[str]], Images]
    read: Callable[[str], bytes]  # a file beside the table
    watch: Watch = unwatched  # over the files that are looked for

    @classmethod
    def of(cls, folder: Path, watch: Watch = unwatched) -> Place:
        """A folder on the disk."""
        return cls(
            str(folder),
            lambda name: (folder / name).is_file(),
            lambda names: Files.of(names, str(folder)),
            lambda name: (folder / name).read_bytes(),
            watch,
        )


def read_table(
    path: str | Path,
    classes: tuple[str, ...] | None = None,
    columns: str = "",
    *,
    strict: bool = False,
    watch: Watch = unwatched,
) -> Dataset:
    """The pictures that a table lists, with the label or labels of each.

    A column called file, image, path, filename or picture; and label, labels, class, classes, tags or category, with
    several labels joined by '|', by ';' or by ',' (the first of these that any row has), or else one column of 0 and
    1 for each class. A column called split, or a split.csv beside the table, names each picture's part; one called
    group, patient, subject, session or video says which pictures belong together. `columns` names others, as in
    'file=path,label=species,group=patient'. Pictures lie beside the table or in a folder `images` there. If any picture
    has several labels, all are taken to be of the kind that may; else a row without one has UNLABELLED. With `classes`
    given (a trained classifier's), other labels are an error.

    A file that is not there stays in the table, to be named with those that cannot be read, unless `strict`.

    Raises DataError: no such table, columns missing, files listed with other labels, or more than half of the files not
    there; UsageError for `columns` that cannot be.
    """
    path = Path(path)
    cells = cells_of(str(path), content(path), Columns.of(columns))
    return tabled(cells, Place.of(path.parent, watch), classes, strict=strict)


def content(path: Path) -> bytes:
    """What is in a table's file; raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"The table {path} cannot be read: {error.strerror or error}.") from error


def tabled(cells: Cells, place: Place, classes: tuple[str, ...] | None, *, strict: bool) -> Dataset:
    """The data set of a table whose cells name files."""
    files = _files(cells)
    first = _once(cells, files)
    where = _where(cells, place, [files[row] for row in first], strict=strict)
    repeated = {"rows listed twice": len(files) - len(first)} if len(first) < len(files) else {}
    rows = np.array(first, np.intp)
    return labelled(lambda _: place.column(where), cells, rows, classes, _parts(cells, place, files), repeated)


def cells_of(where: str, raw: bytes, named: Columns | None = None) -> Cells:
    """The cells of a CSV or TSV; the separator is the one that the header has most of."""
    text = text_of(where, raw)
    head = text.partition("\n")[0]
    separator = "\t" if where.lower().endswith(".tsv") else max(",;\t", key=head.count)
    try:
        header, *rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=separator)]
    except (csv.Error, ValueError) as error:
        raise DataError(f"{where} is not a table: {'it is empty' if not text.strip() else error}.") from error
    rows = [row for row in rows if any(row)]
    if not rows:
        raise DataError(f"{where} lists no pictures: there is no row below its header.")
    if odd := next((row for row in rows if len(row) != len(header)), None):
        raise DataError(
            f"The row of {odd[0]!r} in {where} has {len(odd)} cells, the header has {len(header)}. "
            f"Put labels that are joined by commas in quotes."
        )
    return Cells(where, header, rows, named or Columns())


def text_of(where: str, raw: bytes) -> str:
    """UTF-8 with or without a mark, UTF-16 with one, else what Windows calls ANSI."""
    for encoding in ("utf-16",) if raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else ("utf-8-sig", "cp1252"):
        with suppress(UnicodeDecodeError):
            return raw.decode(encoding)
    raise DataError(f"{where} is not text in UTF-8, UTF-16 or Windows-1252. Please save it as UTF-8.")


def _files(cells: Cells) -> list[str]:
    return [os.path.normpath(name.replace("\\", "/")) for name in cells.column("file")]


def _once(cells: Cells, files: list[str]) -> list[int]:
    """The first row of each file."""
    said, first = cells.labels, dict[str, int]()
    for row, name in enumerate(files):
        if said[first.setdefault(name, row)] != said[row]:
            raise DataError(
                f"{cells.where} lists {name} twice, as {said[first[name]]} and as {said[row]}. "
                f"A picture has one row; several labels are joined by '|'."
            )
    return list(first.values())


def _where(cells: Cells, place: Place, files: list[str], *, strict: bool) -> list[str]:
    """Where each file lies, seen from the table's folder; one that is not there keeps the name that it is listed by."""
    looked = place.watch(files, "files looked for", len(files))
    ways = [next((way for way in (name, f"{IMAGES}/{name}") if place.has(way)), "") for name in looked]
    absent = [name for name, way in zip(files, ways, strict=True) if not way]
    if absent and (strict or 2 * len(absent) > len(files)):
        raise DataError(
            f"{len(absent)} of {len(files)} files that {cells.where} lists are not there, the first is {absent[0]}. "
            f"They are looked for in {place.name} and in a folder {IMAGES} there."
        )
    return [way or name for name, way in zip(files, ways, strict=True)]


def _parts(cells: Cells, place: Place, files: list[str]) -> list[int]:
    """The part of the split of each row: by a column, or by a table beside this one."""
    beside = os.path.join(place.name, BESIDE)
    if "split" in cells.places or not place.has(BESIDE) or beside == cells.where:
        return cells.parts()
    other = cells_of(beside, place.read(BESIDE))
    other.column("split")
    known = dict(zip(_files(other), other.parts(), strict=True))
    if lost := [name for name in files if name not in known]:
        table = os.path.basename(cells.where)
        raise DataError(f"{beside} has no row for {len(lost)} files of {table}, the first is {lost[0]}.")
    return [known[name] for name in files]
