"""Tables of files and labels as people write them: every separator, encoding and layout, and every mistake in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset
from graft.data.read.table import read_table
from graft.errors import DataError

SINGLE = "file,label\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\n"


def lay(folder: Path, text: str | bytes, *more: str, name: str = "labels.csv", beside: str = "") -> Path:
    """A table, and an empty file for each of a.jpg, b.jpg, c.jpg and `more`, in the folder `beside` it."""
    (folder / beside).mkdir(exist_ok=True)
    for picture in ("a.jpg", "b.jpg", "c.jpg", *more):
        (folder / beside / picture).touch()
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def said(data: Dataset) -> dict[str, list[str]]:
    """The labels of each picture, by its path."""
    rows = data.targets().astype(bool).tolist()
    labels = ([name for name, there in zip(data.classes, row, strict=True) if there] for row in rows)
    return dict(zip(data.names(), labels, strict=True))


def complaint(path: Path, classes: tuple[str, ...] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path, classes)
    return str(caught.value)


def test_one_label_for_each_picture(tmp_path: Path) -> None:
    data = read_table(lay(tmp_path, SINGLE))
    assert data.task == "multiclass"
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, 0]
    assert data.split.tolist() == [UNSPLIT] * 3
    assert data.root == str(tmp_path)
    assert data.read(0) == b""


TAGGED = {"a.jpg": ["cat", "dog"], "b.jpg": [], "c.jpg": ["dog"]}


@pytest.mark.parametrize(
    "text",
    [
        "file,labels\na.jpg,cat|dog\nb.jpg,\nc.jpg,dog\n",
        "file,labels\na.jpg,dog;cat\nb.jpg,\nc.jpg,dog\n",
        'file,tags\na.jpg,"cat, dog"\nb.jpg,""\nc.jpg,dog\n',
        "picture;classes\na.jpg;cat|dog\nb.jpg;\nc.jpg;dog\n",
        'Path;Category\na.jpg;"cat;dog"\nb.jpg;\nc.jpg;dog\n',
        "image\tlabels\na.jpg\tcat|dog\nb.jpg\t\nc.jpg\tdog\n",
        "filename,cat,dog\na.jpg,1,1\nb.jpg,0,0\nc.jpg,0,1\n",
        "file,labels\r\na.jpg,cat|dog|cat\r\n\r\nb.jpg, \r\n c.jpg , dog \r\n",
        "id,LABEL,File\n7,cat|dog,a.jpg\n8,,b.jpg\n9,dog,c.jpg\n",
    ],
)
def test_several_labels_in_every_spelling(tmp_path: Path, text: str) -> None:
    data = read_table(lay(tmp_path, text))
    assert data.task == "multilabel"
    assert data.classes == ("cat", "dog")
    assert said(data) == TAGGED


def test_a_picture_without_a_label_makes_all_of_them_of_the_kind_that_may(tmp_path: Path) -> None:
    data = read_table(lay(tmp_path, "file,label\na.jpg,cat\nb.jpg,\nc.jpg,cat\n"))
    assert data.task == "multilabel"
    assert said(data) == {"a.jpg": ["cat"], "b.jpg": [], "c.jpg": ["cat"]}


def test_columns_of_0_and_1_with_a_single_1_each_are_one_label(tmp_path: Path) -> None:
    data = read_table(lay(tmp_path, "file,split,dog,cat\na.jpg,train,1,0\nb.jpg,test,0,1\nc.jpg,train,1,0\n"))
    assert (data.task, data.classes, data.labels.tolist()) == ("multiclass", ("cat", "dog"), [1, 0, 1])


def test_only_one_mark_joins_labels_in_a_table(tmp_path: Path) -> None:
    data = read_table(lay(tmp_path, 'file,labels\na.jpg,"cod, raw|eel"\nb.jpg,"cod, raw"\nc.jpg,eel\n'))
    assert data.classes == ("cod, raw", "eel")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_every_encoding_that_spreadsheets_write(tmp_path: Path, encoding: str) -> None:
    path = lay(tmp_path, "file,label\na.jpg,Käse\nb.jpg,Brötchen\nc.jpg,Käse\n".encode(encoding))
    assert read_table(path).classes == ("Brötchen", "Käse")


def test_accents_stored_in_two_ways_are_one_label(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,label\na.jpg,K\u00e4se\nb.jpg,Ka\u0308se\nc.jpg,Brot\n")
    assert read_table(path).labels.tolist() == [1, 1, 0]


def test_a_tsv_is_separated_by_tabs_whatever_else_is_in_it(tmp_path: Path) -> None:
    path = lay(tmp_path, "file\tlabel,x\tlabel\na.jpg\t,,\tcat\nb.jpg\t\tdog\n", name="t.tsv")
    assert said(read_table(path)) == {"a.jpg": ["cat"], "b.jpg": ["dog"]}


def test_classes_are_in_the_order_of_class_folders(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,label\na.jpg,class 10\nb.jpg,Class 2\nc.jpg,apple\n")
    assert read_table(path).classes == ("apple", "Class 2", "class 10")


# --- where the pictures are -------------------------------------------------------------------------------------------


def test_pictures_lie_in_a_folder_of_images_or_wherever_the_table_says(tmp_path: Path) -> None:
    assert list(said(read_table(lay(tmp_path, SINGLE, beside="images")))) == [
        *("images/a.jpg", "images/b.jpg", "images/c.jpg")
    ]
    text = f"file,label\nimages\\a.jpg,cat\n./images/b.jpg,dog\n{tmp_path}/images/c.jpg,cat\n"
    assert list(said(read_table(lay(tmp_path, text, beside="images")))) == [
        *("images/a.jpg", "images/b.jpg", f"{tmp_path}/images/c.jpg")
    ]


def test_files_that_are_not_there_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    path = lay(tmp_path, SINGLE + "x.jpg,cat\ny.jpg,dog\n")
    assert complaint(path) == (
        f"2 of 5 files that {path} lists are not there, the first is x.jpg. "
        f"They are looked for in {tmp_path} and in a folder images there."
    )


def test_a_file_listed_twice_counts_once_and_with_other_labels_is_refused(tmp_path: Path) -> None:
    data = read_table(lay(tmp_path, SINGLE + "./a.jpg,cat\n"))
    assert len(data) == 3
    assert data.ignored == {"rows listed twice": 1}
    path = lay(tmp_path, SINGLE + "a.jpg,dog\n")
    assert complaint(path) == (
        f"{path} lists a.jpg twice, as ('cat',) and as ('dog',). "
        f"A picture has one row; several labels are joined by '|'."
    )


# --- the split --------------------------------------------------------------------------------------------------------


def test_a_column_names_the_parts(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,label,split\na.jpg,cat,Train\nb.jpg,dog,val\nc.jpg,cat,test\n")
    (tmp_path / "split.csv").write_text("file,split\na.jpg,test\n")  # the column comes first
    assert read_table(path).split.tolist() == [TRAIN, VALID, TEST]


def test_a_table_beside_names_the_parts_in_any_order(tmp_path: Path) -> None:
    path = lay(tmp_path, SINGLE)
    (tmp_path / "split.csv").write_text("split,file\ntest,c.jpg\ntrain,./a.jpg\nvalid,b.jpg\ntest,z.jpg\n")
    assert read_table(path).split.tolist() == [TRAIN, VALID, TEST]
    (tmp_path / "split.csv").write_text("file,split\nb.jpg,train\n")
    assert complaint(path) == (f"{tmp_path / 'split.csv'} has no row for 2 files of labels.csv, the first is a.jpg.")


def test_training_alone_is_not_a_decision_about_the_test_part(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,label,split\na.jpg,cat,train\nb.jpg,dog,train\n")
    assert read_table(path).split.tolist() == [UNSPLIT, UNSPLIT]


def test_a_part_that_there_is_not_is_named(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,label,split\na.jpg,cat,train\nb.jpg,dog,later\n")
    assert complaint(path) == (
        f"{path} names a part of the split 'later'. "
        f"Parts are train, training, val, valid, validation, test, testing, or empty."
    )


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a table: it is empty."),
        ("file,label\n\n", "lists no pictures: there is no row below its header."),
        (
            "name,label\na.jpg,cat\n",
            "has no column called file, image, path, filename or picture. Its columns are 'name', 'label'.",
        ),
        (
            "file\na.jpg\n",
            "has no column called label, labels, class, classes, tags or category. Its columns are 'file'.",
        ),
        ("file,cat,dog\na.jpg,1,2\n", "They are not columns of 0 and 1: one holds '2'."),
        (
            "file,label\na.jpg,cat,dog\n",
            "has 3 cells, the header has 2. Put labels that are joined by commas in quotes.",
        ),
        ("file,label\na.jpg\n", "The row of 'a.jpg' in"),
        ("file,label\na.jpg,\nb.jpg,\n", "gives no picture a label."),
        ("file,label\na.jpg,cat\nb.jpg,cat\n", "gives every picture the same label, 'cat'; there is nothing to tell"),
        (b"file,label\na.jpg,\x81\n", "is not text in UTF-8, UTF-16 or Windows-1252. Please save it as UTF-8."),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = lay(tmp_path, text)
    found = complaint(path)
    assert message in found
    assert str(path) in found


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    assert complaint(tmp_path / "t.csv") == f"The table {tmp_path / 't.csv'} cannot be read: No such file or directory."


def test_a_classifiers_own_classes_are_matched_by_name(tmp_path: Path) -> None:
    path = lay(tmp_path, SINGLE)
    data = read_table(path, ("dog", "eel", "cat"))
    assert (data.classes, data.labels.tolist()) == (("dog", "eel", "cat"), [2, 0, 2])
    assert complaint(path, ("dog", "eel")) == (
        f"{path} has labels that the classifier does not know: 'cat'. It knows 'dog', 'eel'."
    )
    one = lay(tmp_path, "file,label\na.jpg,cat\n", name="one.csv")
    assert read_table(one, ("cat", "dog")).labels.tolist() == [0]  # one class suffices to be judged by
