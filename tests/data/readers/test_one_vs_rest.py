"""One class against the rest: which image is of which, wherever the two folders lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graft.data.dataset import TEST, TRAIN, Dataset, from_arrays
from graft.data.readers.source import read_source
from graft.errors import DataError, UsageError


def lay(root: Path, *names: str) -> Path:
    """Files of these names below root."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"bytes that a reader of folders has no need to open")
    return root


def table(data: Dataset) -> dict[str, str]:
    """Path -> name of the class."""
    return {Path(name).as_posix(): data.classes[label] for name, label in zip(data.names(), data.labels, strict=True)}


def test_a_folder_of_images_is_a_class_and_all_below_the_other_one_is_the_rest(tmp_path: Path) -> None:
    lay(tmp_path, "cats/1.jpg", "cats/deep/2.png", "cats/notes.txt", "others/3.jpg", "others/dog/4.jpg")
    found = read_source(tmp_path / "cats", against=tmp_path / "others")
    assert found.classes == ("cats", "not cats")
    assert table(found) == {
        "cats/1.jpg": "cats",
        "cats/deep/2.png": "cats",
        "others/3.jpg": "not cats",
        "others/dog/4.jpg": "not cats",
    }
    assert found.ignored == {"other files": 1}
    assert found.root == str(tmp_path)
    assert found.read(3) == (tmp_path / "others/dog/4.jpg").read_bytes()


def test_a_class_folder_stands_against_the_class_folders_beside_it(tmp_path: Path) -> None:
    lay(tmp_path, "set/cat/1.jpg", "set/dog/2.jpg", "set/hen/3.jpg")
    found = read_source(tmp_path / "set/cat", against=str(tmp_path / "set"))
    assert table(found) == {"set/cat/1.jpg": "cat", "set/dog/2.jpg": "not cat", "set/hen/3.jpg": "not cat"}
    assert found.ignored == {}, "the class's own folder is no part of the rest, and nothing strange"
    inner = read_source(tmp_path / "set", against=tmp_path / "set/cat")
    assert table(inner) == {"set/cat/1.jpg": "not set", "set/dog/2.jpg": "set", "set/hen/3.jpg": "set"}


def test_what_the_rest_calls_by_the_same_name_is_left_out_and_counted(tmp_path: Path) -> None:
    lay(tmp_path, "mine/cat/1.jpg", "set/cat/1.jpg", "set/in/cat/2.jpg", "set/dog/cat.jpg")
    found = read_source(tmp_path / "mine/cat", against=tmp_path / "set")
    assert table(found) == {"mine/cat/1.jpg": "cat", "set/dog/cat.jpg": "not cat"}
    assert found.ignored == {"images of 'cat' among the rest": 2}


def test_parts_are_kept_where_both_have_them(tmp_path: Path) -> None:
    lay(tmp_path, "cat/train/1.jpg", "cat/test/2.jpg", "rest/train/dog/3.jpg", "rest/test/4.jpg", "rest/5.jpg")
    found = read_source(tmp_path / "cat", against=tmp_path / "rest")
    parts = dict(zip(map(lambda name: Path(name).as_posix(), found.names()), found.split.tolist(), strict=True))
    assert parts == {
        "cat/train/1.jpg": TRAIN,
        "cat/test/2.jpg": TEST,
        "rest/train/dog/3.jpg": TRAIN,
        "rest/test/4.jpg": TEST,
    }
    assert found.ignored == {"images outside class folders": 1}
    lay(tmp_path, "plain/1.jpg")
    for one, rest in (("cat", "plain"), ("plain", "cat")):
        with pytest.raises(DataError, match=r"cat is divided into test, train, .*plain is not: divide both"):
            read_source(tmp_path / one, against=tmp_path / rest)


def test_anything_that_is_read_may_be_the_rest(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "list.csv").write_text("file,label,group\na.jpg,dog,x\nb.jpg,hen,y\nc.jpg,cat,y\n")
    found = read_source(tmp_path / "cat", against=tmp_path / "list.csv")
    assert table(found) == {"cat/1.jpg": "cat", "a.jpg": "not cat", "b.jpg": "not cat"}
    assert found.ignored == {"images of 'cat' among the rest": 1}
    assert found.groups is not None
    assert (found.groups[0] < 0, found.groups[1] != found.groups[2]) == (True, True)
    assert found.read(0) == (tmp_path / "cat/1.jpg").read_bytes()
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    objects = read_source((list(pixels), ["cat", "cat"]), against=from_arrays(list(pixels)))
    assert (objects.classes, objects.labels.tolist()) == (("cat", "not cat"), [0, 0, 1, 1])
    with pytest.raises(UsageError, match=r"has one label\. Got 2"):
        read_source((list(pixels), ["cat", "dog"]), against=tmp_path / "cat")


def test_a_classifier_of_one_class_against_the_rest_names_the_class(tmp_path: Path) -> None:
    lay(tmp_path, "new/1.jpg", "others/2.jpg")
    found = read_source(tmp_path / "new", ("cat", "not cat"), against=tmp_path / "others")
    assert table(found) == {"new/1.jpg": "cat", "others/2.jpg": "not cat"}
    with pytest.raises(DataError, match="no class that the classifier knows"):
        read_source(tmp_path / "new", ("cat", "dog"), against=tmp_path / "others")


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    lay(tmp_path, "cats/1.jpg", "empty/notes.txt")
    (tmp_path / "link").symlink_to("cats")
    cats = tmp_path / "cats"
    for against, message in (
        (cats, "cannot be both the class and the rest"),
        (tmp_path / "link", "cannot be both the class and the rest"),
        (tmp_path / "none", "There is no folder"),
        (tmp_path / "empty", r"empty holds no images for 'not cats'\. Left out: other files: 1"),
    ):
        with pytest.raises(DataError, match=message):
            read_source(cats, against=against)
    with pytest.raises(UsageError, match="--columns says where labels are"):
        read_source(cats, against=tmp_path, columns="label=a")
    with pytest.raises(UsageError, match="--boxes says where labels are"):
        read_source(cats, against=tmp_path, boxes=True)


@pytest.mark.fault(22)
@pytest.mark.parametrize("where", ["cats", "."])
def test_a_single_class_is_refused_with_the_way_to_do_it(tmp_path: Path, where: str) -> None:
    with pytest.raises(DataError, match="for one class against the rest, add --against OTHERS"):
        read_source(lay(tmp_path, "cats/1.jpg") / where)
