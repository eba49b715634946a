"""What lies at a path decides how it is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import formats
import numpy as np
import pytest

from graft.data.dataset import Dataset
from graft.data.readers.folder import read_folder
from graft.data.readers.source import read_source
from graft.data.readers.tables import read_table
from graft.errors import DataError, UsageError

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


# --- every format keeps the same promises -----------------------------------------------------------------------------

FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("VOCdevkit", {}),
    ("VOCdevkit/VOC2012", {"boxes": True}),
    ("coco", {}),
    ("coco/annotations/instances_train2017.json", {"boxes": True}),
    ("cifar-10-python.tar.gz", {}),
    ("cifar-100-python", {}),
    ("mnist", {}),
    ("imagenet", {}),
    ("photos", {}),
]


@pytest.fixture(scope="module")
def published(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    formats.lay(root, photos)
    (root / "photos").symlink_to(photos)
    return root


@pytest.mark.parametrize(("name", "options"), FORMATS)
def test_columns_fit_together_and_rows_can_be_taken(published: Path, name: str, options: dict[str, Any]) -> None:
    data = read_source(published / name, **options)
    assert len(data) == len(data.images) == len(data.labels) == len(data.split) == len(set(data.names()))
    assert data.counts().min() > 0
    assert Path(data.root).exists()
    assert data.groups is None or len(data.groups) == len(data)
    rows = np.arange(len(data))[::-2]
    taken = data.take(rows)
    for at, row in enumerate(rows.tolist()):
        assert taken.name(at) == data.name(row)
        one, other = taken.read(at), data.read(row)
        assert isinstance(one, bytes) == isinstance(other, bytes)
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert np.array_equal(taken.labels, data.labels[rows])


@pytest.mark.parametrize(("name", "options"), FORMATS)
def test_labels_are_matched_to_given_classes_by_name(published: Path, name: str, options: dict[str, Any]) -> None:
    data = read_source(published / name, **options)
    classes = ("zebra", *data.classes[::-1])
    matched = read_source(published / name, classes, **options)
    assert matched.classes == classes
    assert np.array_equal(dataclasses.replace(matched, images=data.images).targets()[:, :0:-1], data.targets())
    assert not matched.targets()[:, 0].any()
    fewer = read_source(published / name, classes[:-1], **options)  # one class too few: it follows after
    assert fewer.classes == classes
    assert np.array_equal(fewer.labels, matched.labels)
    with pytest.raises(DataError, match="no class that the classifier knows"):
        read_source(published / name, ("zebra", "okapi"), **options)


@pytest.mark.parametrize(
    "name", [name for name, options in FORMATS if not options and name[:4] not in ("VOCd", "coco")]
)
def test_what_marks_no_boxes_says_so(published: Path, name: str) -> None:
    with pytest.raises(UsageError, match="marks no boxes; only Pascal VOC and COCO do"):
        read_source(published / name, boxes=True)


def test_a_table_in_the_folder_comes_first(published: Path, tmp_path: Path) -> None:
    voc = formats.voc(tmp_path / "VOC2012", published / "photos", 3)
    (voc / "labels.csv").write_text("file,label\nJPEGImages/2008_000000.jpg,red\nJPEGImages/2008_000001.jpg,blue\n")
    assert read_source(voc).classes == ("blue", "red")


def test_the_search_for_files_can_be_watched(root: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    def watch(things: Any, what: Any, count: int) -> Any:
        found = list(things)
        seen.append((str(what), count, len(found)))
        return found

    (root / "table.csv").write_text(TABLE)
    folder = read_source(root, watch=watch)
    table = read_source(root / "table.csv", watch=watch)
    assert seen == [("files found", 0, len(folder)), ("files looked for", len(table), len(table))]


def test_a_path_that_cannot_be_and_a_pattern_of_images_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a name has no null character"):
        read_source("a\0b")
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match=r"There is no folder .*\*\.jpg"):
        read_source(tmp_path / "*.jpg")
    (tmp_path / "x.npz").touch()
    with pytest.raises(DataError, match=r"x\.npz: a NumPy array is not read: .*give arrays in Python"):
        read_source(tmp_path / "x.npz")
