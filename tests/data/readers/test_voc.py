"""Pascal VOC, read back as it was laid out; and annotations that want to do harm."""

from __future__ import annotations

from pathlib import Path

import formats
import numpy as np
import pytest
from PIL import Image

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset
from graft.data.readers.source import read_source
from graft.data.readers.voc import read_voc
from graft.errors import DataError
from graft_runtime.image import ImageError, decode

BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<annotation><object><name>&c;</name></object></annotation>"""


@pytest.fixture
def voc(photos: Path, tmp_path: Path) -> Path:
    return formats.voc(tmp_path / "VOCdevkit/VOC2012", photos)


def shown(data: Dataset) -> dict[str, set[str]]:
    """The classes of each image, by its stem."""
    rows = zip(data.names(), data.targets(), strict=True)
    return {Path(name.split(" [")[0]).stem: {data.classes[at] for at in np.flatnonzero(row)} for name, row in rows}


def expected(photos: Path) -> dict[str, set[str]]:
    return {stem: {name for name, _ in boxes} for stem, _, boxes in formats.mosaics(photos, 12)}


def add(voc: Path, stem: str, text: str) -> None:
    """One more image with this annotation, for training."""
    Image.new("RGB", (30, 20)).save(voc / f"JPEGImages/{stem}.jpg")
    (voc / f"Annotations/{stem}.xml").write_text(text, encoding="utf-8")
    with (voc / "ImageSets/Main/train.txt").open("a") as file:
        file.write(f"{stem}\n")


# --- whole images ---------------------------------------------------------------------------------------------------


def test_each_image_has_the_classes_of_its_objects(voc: Path, photos: Path) -> None:
    data = read_voc(voc)
    assert data.task == "multilabel"
    assert data.classes == ("disc", "frame", "stripes")
    assert shown(data) == expected(photos)
    assert data.names()[0] == "JPEGImages/2008_000000.jpg"
    assert data.split.tolist() == [TRAIN, TRAIN, TRAIN, VALID] * 3
    assert data.ignored == {}
    assert data.read(0) == (voc / "JPEGImages/2008_000000.jpg").read_bytes()


def test_the_folders_around_it_will_do(voc: Path) -> None:
    for path in (voc, voc.parent, voc.parent.parent):
        data = read_source(path)
        assert (data.root, len(data)) == (str(voc), 12)


def test_of_several_years_one_has_to_be_named(voc: Path, photos: Path) -> None:
    formats.voc(voc.with_name("VOC2007"), photos)
    with pytest.raises(DataError, match=r"several data sets: .*VOC2007, .*VOC2012\. Please name one"):
        read_source(voc.parent)


def test_without_lists_every_annotated_image_counts_and_nothing_is_split(voc: Path) -> None:
    for path in (voc / "ImageSets/Main").iterdir():
        path.unlink()
    (voc / "ImageSets/Main/default.txt").write_text("2008_000001\n")  # as CVAT writes it
    data = read_voc(voc)
    assert (len(data), set(data.split)) == (12, {UNSPLIT})


def test_trainval_is_for_training_and_a_test_list_for_the_test(voc: Path) -> None:
    lists = voc / "ImageSets/Main"
    (lists / "test.txt").write_text((lists / "val.txt").read_text())
    (lists / "train.txt").unlink()
    (lists / "val.txt").unlink()
    assert read_voc(voc).split.tolist() == [TRAIN, TRAIN, TRAIN, TEST] * 3


def test_what_does_not_belong_together_is_counted(voc: Path) -> None:
    add(voc, "unmarked", "<annotation/>")
    (voc / "Annotations/unmarked.xml").unlink()
    add(voc, "gone", "<annotation/>")
    (voc / "JPEGImages/gone.jpg").unlink()
    Image.new("RGB", (9, 9)).save(voc / "JPEGImages/unlisted.jpg")
    (voc / "Annotations/unlisted.xml").write_text("<annotation/>")
    data = read_voc(voc)
    assert len(data) == 12
    assert data.ignored == {
        "images in no list of ImageSets/Main": 1,
        "images without an annotation": 1,
        "annotations without their image": 1,
    }


@pytest.mark.parametrize("spelt", ["{}.jpg", "JPEGImages/{}.JPG", "{}.xml ", "./{}"])
def test_lists_may_name_files_with_their_ending_or_folder(voc: Path, spelt: str) -> None:
    before = read_voc(voc)
    for path in (voc / "ImageSets/Main").iterdir():
        path.write_text("".join(f"{spelt.format(stem)}\n" for stem in path.read_text().split()))
    data = read_voc(voc)
    assert (data.names(), data.split.tolist(), data.ignored) == (before.names(), before.split.tolist(), {})


def test_names_in_the_other_unicode_form_are_the_same(voc: Path, photos: Path) -> None:
    one, other = "e\u0301t\u00e9", "\u00e9te\u0301"
    (voc / "JPEGImages/2008_000001.jpg").rename(voc / f"JPEGImages/{one}.jpg")
    (voc / "Annotations/2008_000001.xml").rename(voc / f"Annotations/{other}.xml")
    path = voc / "ImageSets/Main/train.txt"
    path.write_text(path.read_text().replace("2008_000001", "\u00e9t\u00e9"), encoding="utf-8")
    assert shown(read_voc(voc))[one] == expected(photos)["2008_000001"]


def test_lists_of_classes_say_the_same_where_there_are_no_annotations(voc: Path, photos: Path) -> None:
    with_annotations = shown(read_voc(voc))
    for path in (voc / "Annotations").iterdir():
        path.unlink()
    for part in ("train", "val"):
        plain = voc / f"ImageSets/Main/{part}.txt"
        for name in ("disc", "frame", "stripes"):
            flags = {stem: "1" if name in with_annotations[stem] else "-1" for stem in plain.read_text().split()}
            lines = [f"{stem} {flag:>2}\n" for stem, flag in flags.items()]
            (plain.parent / f"{name}_{part}.txt").write_text("".join(lines))
        plain.unlink()
    (voc / "ImageSets/Main/trainval.txt").unlink()
    data = read_voc(voc)
    assert shown(data) == with_annotations == expected(photos)
    assert data.split.tolist() == [TRAIN, TRAIN, TRAIN, VALID] * 3
    path = voc / "ImageSets/Main/disc_train.txt"
    path.write_text(path.read_text().replace("2008_000001 -1", "2008_000001  0"))
    assert shown(read_voc(voc))["2008_000001"] == {"disc", "frame", "stripes"}  # 0: there, but difficult
    with pytest.raises(DataError, match="no XML files, so there are no boxes"):
        read_voc(voc, boxes=True)
    path.write_text("2008_000001 maybe\n")
    with pytest.raises(DataError, match=r"Line 1 of .*disc_train.txt is not an image and -1, 0 or 1"):
        read_voc(voc)


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_with_boxes_each_object_is_an_image(voc: Path, photos: Path) -> None:
    data = read_source(voc, boxes=True)
    made = [(stem, name, box) for stem, _, boxes in formats.mosaics(photos, 12) for name, box in boxes]
    assert data.task == "multiclass"
    assert [data.classes[label] for label in data.labels] == [name for _, name, _ in made]
    assert data.names() == [f"JPEGImages/{stem}.jpg [{','.join(map(str, box))}]" for stem, _, box in made]
    for row, (stem, _, (left, top, right, bottom)) in enumerate(made):
        whole = decode((voc / f"JPEGImages/{stem}.jpg").read_bytes())
        np.testing.assert_array_equal(data.read(row), whole[top:bottom, left:right])


def test_objects_of_one_image_are_a_group_and_in_its_part(voc: Path) -> None:
    data, whole = read_voc(voc, boxes=True), read_voc(voc)
    stems = [name.split(" ")[0] for name in data.names()]
    assert data.groups is not None
    assert [whole.names()[group] for group in data.groups] == stems
    assert data.split.tolist() == whole.split[data.groups].tolist()


def test_a_difficult_object_counts_for_its_image_but_is_none_itself(voc: Path) -> None:
    add(voc, "2009_1", formats.annotation("2009_1.jpg", (30, 20), [("cat", (1, 1, 9, 9))], difficult=True))
    assert shown(read_voc(voc))["2009_1"] == {"cat"}
    data = read_voc(voc, boxes=True)
    assert data.classes == ("disc", "frame", "stripes")
    assert data.ignored == {"difficult objects": 1}


def test_boxes_outside_the_image_and_without_an_area(voc: Path) -> None:
    boxes = [("disc", (500, 500, 600, 600)), ("disc", (5, 5, 5, 9)), ("disc", (-50, -50, 10**12, 10**12))]
    add(voc, "2009_1", formats.annotation("2009_1.jpg", (30, 20), boxes))
    data = read_voc(voc, boxes=True)
    assert data.ignored == {"boxes without an area": 1}
    outside, around = (row for row, name in enumerate(data.names()) if "2009_1" in name)
    with pytest.raises(ImageError, match="box outside the image"):
        data.read(outside)
    assert np.shape(data.read(around)) == (20, 30, 3)


@pytest.mark.parametrize("number", ["nan", "inf", "1e400"])
def test_numbers_that_are_none_make_no_box(voc: Path, number: str) -> None:
    text = formats.annotation("x.jpg", (30, 20), [("disc", (2, 2, 9, 9))]).replace("<xmin>3<", f"<xmin>{number}<")
    add(voc, "x", text)
    assert read_voc(voc, boxes=True).ignored == {"boxes without an area": 1}


# --- annotations that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "DOCTYPE"),
        ("<annotation><object>", "no element found"),
        ("", "no element found"),
        ("\0\1\2", "not well-formed"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "unknown encoding"),
        ("<annotation><object><name> </name></object></annotation>", "an object without a name"),
        (
            "<annotation><object><name>a</name><bndbox><xmin>left</xmin></bndbox></object></annotation>",
            "a box of 'a' that is not four numbers: .*'left'",
        ),
    ],
)
def test_an_annotation_that_cannot_be_read_is_named(voc: Path, text: str, why: str) -> None:
    add(voc, "evil", text)
    with pytest.raises(DataError, match=rf"Annotations.evil\.xml .*{why}"):
        read_voc(voc)


def test_a_bomb_in_another_encoding_is_one_too(voc: Path) -> None:
    add(voc, "evil", "<annotation/>")
    (voc / "Annotations/evil.xml").write_bytes(BOMB.replace("?>", ' encoding="utf-16"?>', 1).encode("utf-16"))
    with pytest.raises(DataError, match="DOCTYPE"):
        read_voc(voc)


def test_nothing_marked_and_nothing_there(voc: Path) -> None:
    for path in (voc / "Annotations").iterdir():
        path.write_text("<annotation/>")
    with pytest.raises(DataError, match="marks no object in any image"):
        read_voc(voc)
    (voc / "ImageSets/Main/train.txt").write_text("other\n")
    (voc / "ImageSets/Main/val.txt").unlink()
    (voc / "ImageSets/Main/trainval.txt").unlink()
    with pytest.raises(DataError, match=r"no images with annotations\. Left out: images in no list .*: 12"):
        read_voc(voc)
    with pytest.raises(DataError, match="not laid out as Pascal VOC"):
        read_voc(voc / "Annotations")
