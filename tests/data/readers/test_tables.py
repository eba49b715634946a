"""Tables of files and labels as people write them: every separator, encoding and layout, and every mistake in words."""

from __future__ import annotations

import shutil
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from graft.data.dataset import TEST, TRAIN, UNGROUPED, UNSPLIT, VALID, Dataset
from graft.data.readers.delimited import FILE_COLUMNS
from graft.data.readers.source import read_source
from graft.data.readers.tables import read_table
from graft.errors import DataError, UsageError
from graft_runtime.image import ImageError

SINGLE = "file,label\na.jpg,cat\nb.jpg,dog\nc.jpg,cat\n"


def lay(folder: Path, text: str | bytes, *more: str, name: str = "labels.csv", beside: str = "") -> Path:
    """A table, and an empty file for each of a.jpg, b.jpg, c.jpg and `more`, in the folder `beside` it."""
    (folder / beside).mkdir(exist_ok=True)
    for image in ("a.jpg", "b.jpg", "c.jpg", *more):
        (folder / beside / image).touch()
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def said(data: Dataset) -> dict[str, list[str]]:
    """The labels of each image, by its path."""
    rows = data.targets().astype(bool).tolist()
    labels = ([name for name, there in zip(data.classes, row, strict=True) if there] for row in rows)
    return dict(zip(data.names(), labels, strict=True))


def complaint(path: Path, classes: tuple[str, ...] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path, classes)
    return str(caught.value)


def test_one_label_for_each_image(tmp_path: Path) -> None:
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
        "image;classes\na.jpg;cat|dog\nb.jpg;\nc.jpg;dog\n",
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


def test_an_image_without_a_label_makes_all_of_them_of_the_kind_that_may(tmp_path: Path) -> None:
    data = read_table(lay(tmp_path, "file,label\na.jpg,cat\nb.jpg,\nc.jpg,cat\n"))
    assert data.task == "multilabel"
    assert said(data) == {"a.jpg": ["cat"], "b.jpg": [], "c.jpg": ["cat"]}


def test_columns_of_0_and_1_with_a_single_1_each_are_one_label(tmp_path: Path) -> None:
    data = read_table(lay(tmp_path, "file,split,dog,cat\na.jpg,train,1,0\nb.jpg,test,0,1\nc.jpg,train,1,0\n"))
    assert (data.task, data.classes, data.labels.tolist()) == ("multiclass", ("cat", "dog"), [1, 0, 1])


def test_only_one_mark_joins_labels_in_a_table(tmp_path: Path) -> None:
    data = read_table(lay(tmp_path, 'file,labels\na.jpg,"cod, raw|eel"\nb.jpg,"cod, raw"\nc.jpg,eel\n'))
    assert data.classes == ("cod, raw", "eel")


@pytest.mark.fault(26)
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


@pytest.mark.fault(24)
def test_classes_are_in_the_order_of_class_folders(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,label\na.jpg,class 10\nb.jpg,Class 2\nc.jpg,apple\n")
    assert read_table(path).classes == ("apple", "Class 2", "class 10")


# --- where the images are -------------------------------------------------------------------------------------------


def test_images_lie_in_a_folder_of_images_or_wherever_the_table_says(tmp_path: Path) -> None:
    assert list(said(read_table(lay(tmp_path, SINGLE, beside="images")))) == [
        *("images/a.jpg", "images/b.jpg", "images/c.jpg")
    ]
    text = f"file,label\nimages\\a.jpg,cat\n./images/b.jpg,dog\n{tmp_path}/images/c.jpg,cat\n"
    assert list(said(read_table(lay(tmp_path, text, beside="images")))) == [
        *("images/a.jpg", "images/b.jpg", f"{tmp_path}/images/c.jpg")
    ]


@pytest.mark.fault(27)
def test_files_that_are_not_there_stay_to_be_named_with_those_that_cannot_be_read(tmp_path: Path) -> None:
    path = lay(tmp_path, SINGLE + "x.jpg,cat\ny.jpg,dog\n")
    data = read_table(path)
    assert data.names() == ["a.jpg", "b.jpg", "c.jpg", "x.jpg", "y.jpg"]
    with pytest.raises(FileNotFoundError):
        data.read(3)


@pytest.mark.fault(27)
def test_files_that_are_not_there_are_an_error_if_asked_for_or_if_they_are_most(tmp_path: Path) -> None:
    path = lay(tmp_path, SINGLE + "x.jpg,cat\ny.jpg,dog\n")
    said = (
        f"that {path} lists are not there, the first is x.jpg. "
        f"They are looked for in {tmp_path} and in a folder images there."
    )
    with pytest.raises(DataError) as caught:
        read_table(path, strict=True)
    assert str(caught.value) == f"2 of 5 files {said}"
    path.write_text(SINGLE + "x.jpg,cat\ny.jpg,dog\nz.jpg,dog\n")
    assert len(read_table(path)) == 6  # half of them are not most
    path.write_text(SINGLE + "x.jpg,cat\ny.jpg,dog\nz.jpg,dog\n0.jpg,cat\n")
    assert complaint(path) == f"4 of 7 files {said}"


@pytest.mark.fault(27)
def test_a_file_listed_twice_counts_once_and_with_other_labels_is_refused(tmp_path: Path) -> None:
    data = read_table(lay(tmp_path, SINGLE + "./a.jpg,cat\n"))
    assert len(data) == 3
    assert data.ignored == {"rows listed twice": 1}
    path = lay(tmp_path, SINGLE + "a.jpg,dog\n")
    assert complaint(path) == (
        f"{path} lists a.jpg twice, as ('cat',) and as ('dog',). "
        f"An image has one row; several labels are joined by '|'."
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
        ("file,label\n\n", "lists no images: there is no row below its header."),
        (
            "name,label\na.jpg,cat\n",
            "image_path or img. Its columns are 'name', 'label'. Name yours as in --columns file=path",
        ),
        (
            "file\na.jpg\n",
            "has no column called label, labels, class, classes, tags or category. Its columns are 'file'. Name yours",
        ),
        ("file,cat,dog\na.jpg,1,2\n", "Nor are they all 0 and 1: one holds '2'. Name yours as in"),
        (
            "file,label\na.jpg,cat,dog\n",
            "has 3 cells, the header has 2. Put labels that are joined by commas in quotes.",
        ),
        ("file,label\na.jpg\n", "The row of 'a.jpg' in"),
        ("file,label\na.jpg,\nb.jpg,\n", "gives no image a label."),
        ("file,label\na.jpg,cat\nb.jpg,cat\n", "gives every image the same label, 'cat'; there is nothing to tell"),
        (
            b"file,label\na.jpg,\x81\n",
            "is not UTF-8, and nothing tells which encoding it is in. It says 'Ѓ' in Windows-1251, 'Å' in Mac Roman",
        ),
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
    data = read_table(path, ("dog", "eel"))  # cat follows after
    assert (data.classes, data.labels.tolist()) == (("dog", "eel", "cat"), [2, 0, 2])
    assert complaint(path, ("ant", "bee")) == (
        f"{path} has no class that the classifier knows. It has 'cat', 'dog'; the classifier knows 'ant', 'bee'."
    )
    one = lay(tmp_path, "file,label\na.jpg,cat\n", name="one.csv")
    assert read_table(one, ("cat", "dog")).labels.tolist() == [0]  # one class suffices to be judged by


# --- which column is what ---------------------------------------------------------------------------------------------

GROUPED = "id,path,species,Patient,fold\n1,a.jpg,cat,p9,train\n2,b.jpg,dog,,test\n3,c.jpg,cat,p9,train\n"


def test_groups_are_numbers_by_first_appearance(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,label,session_id\na.jpg,cat,z\nb.jpg,dog,\nc.jpg,cat,a\nd.jpg,cat,z\n", "d.jpg")
    data = read_table(path)
    assert data.groups is not None
    assert data.groups.tolist() == [0, UNGROUPED, 1, 0]
    assert data.columns == "file=file,label=label,group=session_id (guessed: file, label, group)"
    assert read_table(lay(tmp_path, SINGLE)).groups is None


def test_columns_are_named_in_one_text(tmp_path: Path) -> None:
    path = lay(tmp_path, GROUPED)
    data = read_table(path, columns="label=species,split=fold")
    assert (data.classes, data.labels.tolist(), data.split.tolist()) == (
        ("cat", "dog"),
        [0, 1, 0],
        [TRAIN, TEST, TRAIN],
    )
    assert data.groups is not None
    assert data.groups.tolist() == [0, UNGROUPED, 0]
    assert data.columns == "file=path,label=species,split=fold,group=Patient (guessed: file, group)"
    data = read_table(path, columns="file=path,label=fold,group=id")
    assert data.columns == "file=path,label=fold,group=id"
    assert (data.classes, data.split.tolist()) == (("test", "train"), [UNSPLIT] * 3)


def test_a_column_that_is_named_plays_no_other_part(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,class,label\na.jpg,x,cat\nb.jpg,y,dog\n")
    assert read_table(path, columns="group=label,label=class").classes == ("x", "y")
    assert read_table(path, columns="group=label").classes == ("x", "y")


def test_columns_that_there_are_not(tmp_path: Path) -> None:
    path = lay(tmp_path, GROUPED)
    with pytest.raises(DataError) as caught:
        read_table(path, columns="label=kind")
    assert str(caught.value) == (
        f"{path} has no column 'kind' to be the label. Its columns are 'id', 'path', 'species', 'Patient', 'fold'. "
        f"Name yours as in --columns file=path,label=species."
    )
    with pytest.raises(UsageError, match=r"--columns has no option 'class'\. It has file, label, split, group"):
        read_table(path, columns="class=species")


def test_among_columns_of_0_and_1_a_group_is_one_only_if_its_cells_are_others(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,cat,video\na.jpg,1,0\nb.jpg,0,1\n")
    assert read_table(path).classes == ("cat", "video")
    path = lay(tmp_path, "file,cat,dog,video\na.jpg,1,0,v1\nb.jpg,0,1,v2\n")
    data = read_table(path)
    assert (data.classes, data.columns) == (("cat", "dog"), "file=file,group=video (guessed: file, group)")


def test_the_group_of_a_file_listed_twice_stays_with_it(tmp_path: Path) -> None:
    data = read_table(lay(tmp_path, "file,label,group\na.jpg,cat,x\na.jpg,cat,x\nb.jpg,dog,y\n"))
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1]


# --- the wrong column -------------------------------------------------------------------------------------------------

WRONG = [f"{at}.jpg,id{at},{at % 3 + 100},{'ab'[at % 2]},{at}" for at in range(28)]


def test_a_column_in_which_each_row_has_its_own_value_is_no_label(tmp_path: Path) -> None:
    for some, alone in ((WRONG, 28), ([*WRONG[:27], "27.jpg,id0,102,b,27"], 26)):  # each, and nearly each
        path = lay(tmp_path, "\n".join(["file,label,width,species,score", *some]), *(f"{at}.jpg" for at in range(28)))
        assert complaint(path) == (
            f"{path} gives {alone} of its 28 rows a label that no other row has, such as 'id0': the column 'label' "
            f"seems to be none of classes, and there is nothing to learn. Did you mean 'species', which has 2 values? "
            f"Then --columns label=species. Or 'width'?"
        )
        assert read_table(path, columns="label=species").classes == ("a", "b")
        assert len(read_table(path, ("id0", "id1")).classes) >= 26  # a classifier's own score is no matter of that


def test_where_no_column_repeats_that_is_said(tmp_path: Path) -> None:
    path = lay(
        tmp_path, "\n".join(["file,label", *(f"{at}.jpg,{at}" for at in range(5))]), *(f"{at}.jpg" for at in range(5))
    )
    assert complaint(path).endswith("No other column has values that repeat. A class needs several images, better 20.")
    path = lay(tmp_path, "\n".join(["file,label", *(f"{at}.jpg,{at // 2}" for at in range(5))]))
    assert read_table(path).classes == ("0", "1", "2")


def test_a_class_may_be_the_beginning_of_another_one_with_a_number(tmp_path: Path) -> None:
    path = lay(tmp_path, f"file,label\na.jpg,dog\nb.jpg,dog 2\nc.jpg,dog 10\nd.jpg,{'1' * 5000}\n", "d.jpg")
    assert read_table(path).classes == ("1" * 5000, "dog", "dog 2", "dog 10")


# --- lists as data sets are published with ----------------------------------------------------------------------------

LIST = {"a.jpg": ["3"], "b.jpg": ["0"], "c.jpg": ["3"]}


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    "text",
    [
        "a.jpg 3\nb.jpg 0\nc.jpg 3\n",
        "a.jpg   3\r\nb.jpg\t0\r\nc.jpg 3",
        "3 a.jpg\n0 b.jpg\n3 c.jpg\n",
        "a.jpg,3\nb.jpg,0\nc.jpg,3\n",
        "a.jpg;3\nb.jpg;0\nc.jpg;3\n",
        "# path class\na.jpg 3\nb.jpg 0\nc.jpg 3\n",
        "file label\na.jpg 3\nb.jpg 0\nc.jpg 3\n",
        "sep=;\nfile;label\na.jpg;3\nb.jpg;0\nc.jpg;3\n",
        '"sep=|"\nfile|label\na.jpg|3\nb.jpg|0\nc.jpg|3\n',
        "SEP=,\r\nfile,label\r\na.jpg,3\r\nb.jpg,0\r\nc.jpg,3\r\n",
        "file,label\ra.jpg,3\rb.jpg,0\rc.jpg,3",
        "\n \n,,\nfile,label\na.jpg,3\n\nb.jpg,0\nc.jpg,3\n\n",
        "file|label\na.jpg|3\nb.jpg|0\nc.jpg|3\n",
        "a.jpg|3\nb.jpg|0\nc.jpg|3\n",
        "0,a.jpg,3\n1,b.jpg,0\n2,c.jpg,3\n",
        "1\t3.000000\ta.jpg\n2\t0.000000\tb.jpg\n3\t3.000000\tc.jpg\n",
        "file,label\r\na.jpg,3\r\nb.jpg,0\r\nc.jpg,3\r\n\x1a",
        "file,label\na.jpg,3.0\nb.jpg,0\nc.jpg,3.0\n",
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "train.txt", "val.lst"])
def test_a_table_in_every_layout(tmp_path: Path, text: str, name: str) -> None:
    assert said(read_table(lay(tmp_path, text, name=name))) == LIST


def test_several_labels_as_python_and_json_write_a_list(tmp_path: Path) -> None:
    for one, two, none in (
        ("['sea', 'big sand']", "['sea']", "[]"),
        ('["sea", "big sand"]', '["sea"]', "[]"),
        ("{'big sand', 'sea'}", "{'sea'}", ""),
    ):
        cells = [cell.replace('"', '""') for cell in (one, two, none)]
        rows = "".join(f'{name}.jpg,"{cell}"\n' for name, cell in zip("abc", cells, strict=True))
        found = said(read_table(lay(tmp_path, f"file,label\n{rows}")))
        assert found == {"a.jpg": ["big sand", "sea"], "b.jpg": ["sea"], "c.jpg": []}
    hot = read_table(lay(tmp_path, 'file,label\na.jpg,"[1, 0]"\nb.jpg,"[0, 1]"\nc.jpg,"[1, 0]"\n'))
    assert (hot.classes, hot.labels.tolist()) == (("0", "1"), [0, 1, 0])


def test_a_missing_value_is_one_in_every_column(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,label,split,group\na.jpg,x,train,nan\nb.jpg,y,nan,NaN\nc.jpg,x,test,g\n,y,,\nnan,x,,\n")
    data = read_table(path)
    assert (data.names(), data.split.tolist()) == (["a.jpg", "b.jpg", "c.jpg"], [TRAIN, UNSPLIT, TEST])
    assert data.groups is not None
    assert data.groups.tolist() == [UNGROUPED, UNGROUPED, 0]  # two rows without a group are no group
    assert data.ignored == {"rows without a file": 2}
    flags = read_table(lay(tmp_path, ",file,x,y\n0,a.jpg,1,0\n1,b.jpg,0,1\n2,c.jpg,nan,nan\n"))
    assert (flags.classes, flags.labels.tolist()) == (("x", "y"), [0, 1, -1])
    assert "not one row names a file" in complaint(lay(tmp_path, "file,label\n,x\nnan,y\n"))


def test_two_columns_of_one_name_may_not_differ(tmp_path: Path) -> None:
    assert said(read_table(lay(tmp_path, "file,label,label\na.jpg,3,3\nb.jpg,0,0\nc.jpg,3,3\n"))) == LIST
    path = lay(tmp_path, "file,label,label\na.jpg,3,4\nb.jpg,0,1\nc.jpg,3,4\n")
    assert complaint(path).endswith("has two columns 'label' that say different things. Rename or drop one.")


def test_a_cell_that_is_a_class_of_a_classifier_is_that_whatever_marks_it_has(tmp_path: Path) -> None:
    path = lay(tmp_path, 'file,label\na.jpg,a|b\nb.jpg,"c, d"\nc.jpg,e\n')
    data = read_table(path, ("a|b", "c, d", "e"))
    assert (data.task, data.labels.tolist()) == ("multiclass", [0, 1, 2])
    assert read_table(path, ("a", "b", "c, d", "e")).labels.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_paths_and_labels_of_a_list_may_have_blanks_in_them(tmp_path: Path) -> None:
    (tmp_path / "my photos").mkdir()
    path = lay(tmp_path, "my photos/a 1.JPG golden retriever\nb.jpg cat\n", "my photos/a 1.JPG")
    assert said(read_table(path)) == {"my photos/a 1.JPG": ["golden retriever"], "b.jpg": ["cat"]}
    path = lay(tmp_path, "file label\nmy photos/a 1.JPG golden retriever\nb.jpg small cat\n")
    assert said(read_table(path)) == {"my photos/a 1.JPG": ["golden retriever"], "b.jpg": ["small cat"]}


def test_columns_of_a_list_are_found_or_called_by_their_number(tmp_path: Path) -> None:
    path = lay(tmp_path, "a.jpg train 3\nb.jpg test 0\nc.jpg train 3\n")
    assert (said(read_table(path)), read_table(path).split.tolist()) == (LIST, [TRAIN, TEST, TRAIN])
    path = lay(tmp_path, "a.jpg 7 3\nb.jpg 9 0\nc.jpg 8 3\n")
    assert "Its columns are 'file', '2', '3'. " in complaint(path)
    assert said(read_table(path, columns="label=3")) == LIST


def test_a_text_file_is_a_list_where_it_names_images(tmp_path: Path) -> None:
    assert said(read_source(lay(tmp_path, "a.jpg 3\nb.jpg 0\nc.jpg 3\n", name="TRAIN.TXT"))) == LIST
    with pytest.raises(DataError, match="text is not this program's job"):
        read_source(lay(tmp_path, "once upon a time\n", name="story.txt"))


# --- encodings --------------------------------------------------------------------------------------------------------

LATER = ("koi8_r", "cp1256", "cp874")
WORDS = {
    "gb18030": ("猫", "狗"),
    "big5": ("貓", "狗"),
    "cp932": ("ネコ", "犬"),
    "cp949": ("고양이", "개"),
    "cp1251": ("кошка", "собака"),
    "cp1250": ("łoś", "źrebię"),
    "cp1252": ("Käfer", "Löwe"),
    "koi8_r": ("кошка", "собака"),
    "cp1256": ("قطة", "كلب"),
    "cp874": ("แมว", "หมา"),
}


@pytest.mark.fault(26)
@pytest.mark.parametrize("encoding", WORDS)
def test_files_that_are_there_tell_the_encoding(tmp_path: Path, encoding: str) -> None:
    one, two = WORDS[encoding]
    text = f"file,label\n{one}.jpg,{one}\n{two}.jpg,{two}\n{two}2.jpg,{two}\n"
    path = lay(tmp_path, text.encode(encoding), f"{one}.jpg", f"{two}.jpg", f"{two}2.jpg")
    data = read_table(path)
    assert said(data) == {f"{one}.jpg": [one], f"{two}.jpg": [two], f"{two}2.jpg": [two]}
    assert "read as " in data.columns
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        for name in ("labels.csv", f"{one}.jpg", f"{two}.jpg", f"{two}2.jpg"):
            archive.write(tmp_path / name, name)
    assert said(read_source(tmp_path / "t.zip")) == said(data)


@pytest.mark.parametrize("encoding", sorted(WORDS.keys() - {"cp1252"}))
def test_where_nothing_tells_the_encoding_nothing_is_guessed(tmp_path: Path, encoding: str) -> None:
    one, two = WORDS[encoding]
    path = lay(tmp_path, f"file,label\na.jpg,{one}\nb.jpg,{two}\nc.jpg,{two}\n".encode(encoding))
    assert "is not UTF-8, and nothing tells which encoding it is in. It says " in complaint(path)
    assert one in complaint(path) or encoding in (
        "cp949",
        "cp1250",
        "cp1251",
        "koi8_r",
        "cp1256",
        "cp874",
    )  # the first four readings are shown


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-8-sig"])
def test_unicode_with_and_without_its_mark(tmp_path: Path, encoding: str) -> None:
    path = lay(tmp_path, "file,label\na.jpg,猫\nb.jpg,Käse\nc.jpg,猫\n".encode(encoding))
    assert (read_table(path).classes, read_table(path).columns) == (
        ("Käse", "猫"),
        "file=file,label=label (guessed: file, label)",
    )


def test_a_file_of_another_kind_is_not_called_unicode(tmp_path: Path) -> None:
    assert "is no text: it has bytes of 0, as files of other kinds have." in complaint(lay(tmp_path, bytes(range(256))))


def test_an_encoding_that_was_chosen_is_said(tmp_path: Path) -> None:
    path = lay(tmp_path, "file,label\na.jpg,Käse\nb.jpg,Brötchen\nc.jpg,Käse\n".encode("cp1252"))
    assert read_table(path).columns == "file=file,label=label (guessed: file, label; read as Windows-1252)"


# --- the other Unicode form -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_files_are_found_by_names_in_the_other_unicode_form(tmp_path: Path, listed: str, stored: str) -> None:
    names = [unicodedata.normalize(stored, "käfer/") + unicodedata.normalize(listed, f"é{at}.jpg") for at in range(3)]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / Path(names[0]).parent).mkdir()
    for name in names:
        (tmp_path / "images" / Path(name).parent / unicodedata.normalize(stored, Path(name).name)).write_bytes(b"x")
    rows = [f"{unicodedata.normalize(listed, name)},{'ab'[at > 0]}" for at, name in enumerate(names)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    data = read_table(tmp_path / "labels.csv", strict=True)
    assert [data.read(row) for row in range(3)] == [b"x"] * 3
    shutil.make_archive(str(tmp_path / "t"), "zip", tmp_path)
    assert len(read_source(tmp_path / "t.zip", strict=True)) == 3


# --- a DataFrame ------------------------------------------------------------------------------------------------------


def test_a_dataframe_is_what_its_csv_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    path = lay(tmp_path, "file,label,split,group\na.jpg,7,train,x\nb.jpg,,train,\nc.jpg,12,test,y\n")
    monkeypatch.chdir(tmp_path)
    csv, frame = read_source(path), read_source(pandas.read_csv(path))
    for name in ("classes", "ignored", "columns"):
        assert getattr(frame, name) == getattr(csv, name)
    for name in ("labels", "split", "groups"):
        assert getattr(frame, name).tolist() == getattr(csv, name).tolist()
    assert (frame.classes, frame.labels.tolist(), frame.read(1)) == (("7", "12"), [0, 1], b"")


def test_a_dataframe_may_hold_images_and_lists_of_labels() -> None:
    pandas = pytest.importorskip("pandas")
    images = [np.full((2, 2, 3), 9, np.uint8), b"bytes", None]
    data = read_source(pandas.DataFrame({"image": images, "tags": [["a", "b|c"], [], ["a"]]}))
    assert (data.task, data.classes) == ("multilabel", ("a", "b|c"))
    assert (np.asarray(data.read(0)).tolist(), data.read(1), data.name(2)) == (images[0].tolist(), b"bytes", "row 2")
    with pytest.raises(ImageError, match="no image"):
        data.read(2)
    with pytest.raises(DataError, match="two columns 'x'"):
        read_source(pandas.DataFrame([[1, 2]], columns=["x", "x"]))
    with pytest.raises(DataError, match="The DataFrame has no column called file"):
        read_source(pandas.DataFrame({"x": [1]}))


@pytest.mark.parametrize("name", FILE_COLUMNS)
def test_a_column_of_any_of_these_names_holds_the_files(name: str, photos: Path, tmp_path: Path) -> None:
    assert FILE_COLUMNS.count(name) == 1
    rows = [f"{path},{label}" for label in ("disc", "frame") for path in sorted((photos / label).iterdir())[:4]]
    table = tmp_path / "t.csv"
    table.write_text("\n".join([f"{name},label", *rows, ""]))
    assert read_source(table).counts().tolist() == [4, 4]
