"""Wherever labelled pictures come from: what lies at a path decides who reads it."""

from __future__ import annotations

from pathlib import Path

from graft.data.dataset import Dataset
from graft.data.read.folder import read_folder
from graft.data.read.table import SUFFIXES, read_table
from graft.progress import Watch, unwatched

TABLE = "labels.csv"  # what makes a folder a table's folder


def read_source(path: str | Path, classes: tuple[str, ...] | None = None, watch: Watch = unwatched) -> Dataset:
    """A folder with one folder for each class, a table of files and labels, or a folder that holds a labels.csv.

    With `classes` given (a trained classifier's), labels are matched to them by name. Raises DataError.
    """
    path = Path(path)
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        return read_table(path, classes, watch)
    if (path / TABLE).is_file():
        return read_table(path / TABLE, classes, watch)
    return read_folder(path, classes, watch)
