"""What lies at a path decides how it is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.data.dataset import Dataset
from graft.data.read.folder import read_folder
from graft.data.read.source import read_source
from graft.data.read.table import read_table
from graft.errors import DataError
from graft.progress import Work

TABLE = "file,label\ncat/1.jpg,red\ndog/1.jpg,blue\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    return tmp_path


def same(one: Dataset, other: Dataset) -> bool:
    columns = ("labels", "split")
    same_place = (one.classes, one.root, one.names()) == (other.classes, other.root, other.names())
    return same_place and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)


def test_a_folder_of_class_folders_and_a_table(root: Path) -> None:
    assert same(read_source(root), read_folder(root))
    (root / "other.CSV").write_text(TABLE)
    assert same(read_source(str(root / "other.CSV")), read_table(root / "other.CSV"))
    assert same(read_source(root), read_folder(root))  # only a labels.csv makes a folder a table's
    (root / "labels.csv").write_text(TABLE)
    assert same(read_source(root), read_table(root / "labels.csv"))
    assert read_source(root).classes == ("blue", "red")


def test_classes_that_are_given_reach_both_readers(root: Path) -> None:
    assert read_source(root, ("dog", "cat")).classes == ("dog", "cat")
    (root / "labels.csv").write_text(TABLE)
    assert read_source(root, ("red", "blue")).classes == ("red", "blue")


def test_what_is_not_there_is_a_folder_or_a_table_by_its_name(root: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        read_source(root / "gone")
    with pytest.raises(DataError, match=r"The table .* cannot be read: No such file"):
        read_source(root / "gone.csv")


def test_a_long_scan_can_be_watched(root: Path) -> None:
    seen = []

    def watch(things: Iterable[Any], what: str | Work, count: int) -> Iterable[Any]:
        seen.append((str(what), count))
        return things

    read_source(root, watch=watch)
    (root / "labels.csv").write_text(TABLE)
    read_source(root, watch=watch)
    assert seen == [("class folders", 2), ("files", 2)]
