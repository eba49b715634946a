"""A cleaned list of a data set, for `graft fit`: a table that leaves out what harms. No picture is moved or deleted."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import SPLITS, TEST, UNSPLIT, VALID, Dataset
from graft.data.images import Files
from graft.data.read.place import Place
from graft.data.read.table import cells_of, tabled
from graft.data.twins import NOBODY, Twins
from graft.errors import DataError, UsageError
from graft.jobs import outputs
from graft.jobs.check import Report
from graft.training.material import described

BEGINS = "file,label,"


def check(path: Path, *, force: bool) -> None:
    """Refuses a place where `write` may not write, before any work is done."""
    if path.suffix.lower() != ".csv":
        raise UsageError(f"--fix writes a table; its name ends in .csv. Got {path}.")
    outputs.check(path, outputs.beginning(BEGINS), force=force)


def kept(report: Report) -> NDArray[np.intp]:
    """Rows that stay: readable; of the same content one; no training picture with a near-duplicate in the test part.

    Of the same content under different labels none stays, as nobody can say which is right.
    """
    if report.twins is None:
        return report.usable
    good, twins = report.data.take(report.usable), report.twins
    judged = good.split == (TEST if (good.split == TEST).any() else VALID)
    leaks = ~judged & np.isin(twins.groups, twins.groups[judged])
    stays = np.flatnonzero(~leaks & ~_contradicted(twins))
    order = stays[np.argsort(~judged[stays], kind="stable")]  # a copy in the test part is the one that stays
    _, first = np.unique(twins.first[order], return_index=True)
    return np.sort(report.usable[order[first]])


def _contradicted(twins: Twins) -> NDArray[np.bool_]:
    """Whether some picture of the same content has another label."""
    rows = np.flatnonzero(twins.disputed != NOBODY)
    same = rows[twins.first[rows] == twins.first[twins.disputed[rows]]]
    return np.isin(twins.first, twins.first[same])


def write(report: Report, path: Path, *, force: bool = False) -> int:
    """Write the list, and say how many pictures it has.

    Columns file, label, suspect (what the label more likely is), and split and group where the data has such. Raises
    UsageError for pictures that are no files, DataError for names that a table cannot hold, and OutputError.
    """
    check(path, force=force)
    if not isinstance(report.data.images, Files):
        raise UsageError(f"--fix lists files, and the pictures of {report.data.root or 'this source'} are none.")
    rows = kept(report)
    data = report.data.take(rows)
    columns = {
        "file": _paths(data, path.parent),
        "label": described(data, "|", ""),
        "suspect": [report.doubted.get(row, "") for row in rows.tolist()],
    }
    if (data.split != UNSPLIT).any():
        columns["split"] = [SPLITS[part] for part in data.split]
    if data.groups is not None:
        columns["group"] = [str(group) if group >= 0 else "" for group in data.groups]
    text = _table(columns)
    _read_back(path, text, columns)
    outputs.write(path, text.encode())
    return len(data)


def _paths(data: Dataset, folder: Path) -> list[str]:
    """Seen from the table's folder; none begins like a formula, which a spreadsheet would run."""
    ways = (os.path.relpath(os.path.join(data.root, name), folder) for name in data.names())
    return [f"./{way}" if way[0] in "=+-@" else way for way in ways]


def _table(columns: dict[str, list[str]]) -> str:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _read_back(path: Path, text: str, columns: dict[str, list[str]]) -> None:
    """Whether `fit` will see the same in it; a comma in a class name, say, would make two labels of one."""
    again = tabled(cells_of(str(path), text.encode()), Place.of(path.parent), None, strict=False)
    written = zip(map(os.path.normpath, columns["file"]), columns["label"], strict=True)
    for mine, read in zip(written, zip(again.names(), described(again, "|", ""), strict=True), strict=True):
        if mine != read:
            raise DataError(
                f"A table cannot hold the picture {mine[0]!r} with the label {mine[1]!r}: it would be read as {read}. "
                f"Names must not begin or end with a blank, nor hold a backslash; class names no '|', ';' or ','."
            )
