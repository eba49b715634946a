"""Wherever labelled pictures come from: what lies at a path, or what an object can do, decides who reads it."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from graft.data.dataset import Dataset
from graft.data.read import archive, parquet, table, webdataset
from graft.data.read.folder import read_folder
from graft.data.read.members import index
from graft.data.read.library import read_object
from graft.errors import UsageError

TABLE = archive.TABLE


def read_source(
    source: Any, classes: tuple[str, ...] | None = None, columns: str = "", *, strict: bool = False
) -> Dataset:
    """Labelled pictures from a path or from an object of another library.

    A path is a folder with one folder for each class, a table of files and labels (CSV, TSV, Parquet) or a folder that
    holds a labels.csv, a zip or tar archive of either, or a folder of WebDataset shards or a pattern of their names. An
    object is a Dataset, one of Hugging Face `datasets`, a map-style dataset as torch has them, or (pictures, labels).

    With `classes` given (a trained classifier's), labels are matched to them by name. `columns` names the columns of a
    table, as in 'file=path,label=species,group=patient'; those left out are guessed. Files that a table lists and that
    are not there are named with the pictures that cannot be read; with `strict` they are an error.

    Raises DataError for pictures that make no data set, and UsageError for what is no source of pictures.
    """
    if isinstance(source, str | PathLike):
        data = _at(Path(source), classes, columns, strict)
    else:
        data = source if isinstance(source, Dataset) else read_object(source, classes, columns)
    if columns and (data is source or not data.columns):
        raise UsageError(f"--columns names the columns of a table, and {data.root or 'this source'} is none.")
    return data


def _at(path: Path, classes: tuple[str, ...] | None, columns: str, strict: bool) -> Dataset:
    """What lies at a path."""
    name = path.name.lower()
    if not path.is_dir() and name.endswith(table.SUFFIXES):
        return table.read_table(path, classes, columns, strict=strict)
    if not path.is_dir() and name.endswith(parquet.SUFFIXES):
        return parquet.read_parquet(path, classes, columns, strict=strict)
    if (path / TABLE).is_file():
        return table.read_table(path / TABLE, classes, columns, strict=strict)
    if webdataset.shards(path):
        return webdataset.read_shards(path, classes)
    if not path.is_dir() and name.endswith(archive.SUFFIXES):
        found = index(path)
        if webdataset.is_shard(found):
            return webdataset.of_indices(str(path), [found], classes)
        return archive.of_index(found, classes, columns, strict=strict)
    return read_folder(path, classes)
