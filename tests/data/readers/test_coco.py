"""COCO, read back as it was laid out; and JSON of every other shape."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import formats
import numpy as np
import pytest

from graft.data.dataset import TRAIN, UNSPLIT, VALID, Dataset
from graft.data.readers.coco import read_coco
from graft.data.readers.source import read_source
from graft.errors import DataError
from graft_runtime.image import decode

ORDER = [0, 1, 2, 4, 5, 6, 8, 9, 10, 3, 7, 11]  # of the images: train2017, then val2017


@pytest.fixture
def coco(photos: Path, tmp_path: Path) -> Path:
    return formats.coco(tmp_path / "coco", photos)


def shown(data: Dataset) -> dict[str, set[str]]:
    rows = zip(data.names(), data.targets(), strict=True)
    return {Path(name).name: {data.classes[at] for at in np.flatnonzero(row)} for name, row in rows}


def change(path: Path, **lists: Any) -> Path:
    """The JSON with some of its lists in another way."""
    path.write_text(json.dumps(json.loads(path.read_text()) | lists))
    return path


def lists(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture
def train(coco: Path) -> Path:
    return coco / "annotations/instances_train2017.json"


# --- what is found ----------------------------------------------------------------------------------------------------


def test_each_image_has_the_categories_of_its_objects(coco: Path, photos: Path) -> None:
    data = read_source(coco)
    made = [{name for name, _ in boxes} for _, _, boxes in formats.mosaics(photos, 12)]
    assert data.task == "multilabel"
    assert data.classes == ("disc", "frame", "stripes")
    assert shown(data) == {f"{number:012d}.jpg": made[number] for number in ORDER}
    assert data.names()[:1] + data.names()[-1:] == ["train2017/000000000000.jpg", "val2017/000000000011.jpg"]
    assert data.split.tolist() == [TRAIN] * 9 + [VALID] * 3
    assert data.ignored == {}


def test_with_boxes_each_object_is_an_image(coco: Path, photos: Path) -> None:
    data = read_source(coco, boxes=True)
    made = list(formats.mosaics(photos, 12))
    boxes = [(number, name, box) for number in ORDER for name, box in made[number][2]]
    assert [data.classes[label] for label in data.labels] == [name for _, name, _ in boxes]
    assert data.groups is not None
    assert [ORDER[group] for group in data.groups] == [number for number, _, _ in boxes]
    for row, (number, _, (left, top, right, bottom)) in enumerate(boxes):
        file = coco / f"{'val' if number % 4 == 3 else 'train'}2017/{number:012d}.jpg"
        np.testing.assert_array_equal(data.read(row), decode(file.read_bytes())[top:bottom, left:right])


@pytest.mark.parametrize("place", ["train2017", "images/train2017", "images", "", "annotations"])
def test_images_may_lie_in_several_places(coco: Path, train: Path, place: str) -> None:
    for number in ORDER[:9]:
        (coco / place).mkdir(parents=True, exist_ok=True)
        shutil.move(coco / f"train2017/{number:012d}.jpg", coco / place / f"{number:012d}.jpg")
    data = read_source(coco)
    assert data.names()[0] == f"{place}/000000000000.jpg".lstrip("/")
    assert data.ignored == {}
    assert np.array_equal(read_source(train).labels, data.labels[:9])


def test_a_single_json_is_no_split(train: Path) -> None:
    data = read_source(train)
    assert (len(data), set(data.split)) == (9, {UNSPLIT})


def test_the_export_with_a_json_in_each_part(coco: Path) -> None:
    for part in ("train", "val"):
        shutil.move(coco / f"{part}2017", coco / part)
        shutil.move(coco / f"annotations/instances_{part}2017.json", coco / f"{part}/_annotations.coco.json")
    data = read_source(coco)
    assert data.split.tolist() == [TRAIN] * 9 + [VALID] * 3
    assert data.names()[-1] == "val/000000000011.jpg"


def test_order_of_lists_numbers_and_entries_do_not_matter(coco: Path, train: Path) -> None:
    before = shown(read_source(coco))
    found = lists(train)
    turned = {name: found[name] for name in reversed(found)}
    turned["annotations"] = turned["annotations"][::-1]
    turned["extra"] = {"images": [1, {"annotations": []}]}  # a list of that name further in is another thing
    train.write_text(json.dumps(turned, indent=3))
    assert shown(read_source(coco)) == before


def test_categories_are_matched_by_name(coco: Path) -> None:
    path = coco / "annotations/instances_val2017.json"
    before, found = shown(read_source(coco)), lists(path)
    for entry in found["annotations"]:
        entry["category_id"] += 1000
    for entry in found["categories"]:
        entry["id"] += 1000
    change(path, annotations=found["annotations"], categories=[{"id": 5, "name": "unused"}, *found["categories"][::-1]])
    data = read_source(coco)
    assert data.classes == ("disc", "frame", "stripes")
    assert shown(data) == before


def test_an_image_without_objects_is_one_without_labels(coco: Path, train: Path) -> None:
    kept = [entry for entry in lists(train)["annotations"] if entry["image_id"] != 500]
    change(train, annotations=kept)
    assert shown(read_source(coco))["000000000000.jpg"] == set()
    assert len(np.unique(read_source(coco, boxes=True).groups)) == 11


def test_crowds_count_for_their_image_and_are_none_themselves(coco: Path, train: Path) -> None:
    whole, objects = read_source(coco), read_source(coco, boxes=True)
    entries = lists(train)["annotations"]
    entries[0]["iscrowd"] = 1
    entries[1]["bbox"] = [3.2, 3.2, 0.0, 5.0]
    del entries[2]["bbox"]
    change(train, annotations=entries)
    assert np.array_equal(read_source(coco).labels, whole.labels)
    data = read_source(coco, boxes=True)
    assert data.ignored == {"crowds": 1, "boxes without an area": 2}
    assert data.names() == objects.names()[3:]


def test_what_is_listed_and_not_there_is_counted(coco: Path, train: Path) -> None:
    before, objects = shown(read_source(coco)), read_source(coco, boxes=True).names()
    (coco / "train2017/000000000001.jpg").unlink()
    found = lists(train)
    odd = [{"id": 7, "file_name": name} for name in ("no\0image.jpg", "x" * 5000, "../../../etc", "日.jpg")]
    change(train, images=found["images"] + [entry | {"id": 900 + at} for at, entry in enumerate(odd)])
    change(train, annotations=[*found["annotations"], found["annotations"][0] | {"image_id": 12345}])
    data = read_source(coco)
    assert len(data) == 11
    counts = {"images that are listed but not there": 5, "annotations of images that are not listed": 1}
    assert data.ignored == counts
    assert shown(data) == {name: classes for name, classes in before.items() if name != "000000000001.jpg"}
    left = [name for name in objects if "000000000001.jpg" not in name]
    assert read_source(coco, boxes=True).names() == left


# --- JSON of another shape --------------------------------------------------------------------------------------------

IMAGE = {"id": 500, "file_name": "000000000000.jpg"}
OBJECT = {"image_id": 500, "category_id": 18, "bbox": [0, 0, 9, 9]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "should be an object with lists images, annotations, categories"),
        ("3", "should be an object"),
        ("", "it ends too early"),
        ("{", "it ends too early"),
        ('{"images": [{"id": 1', "Expecting"),
        ('{"images": [', "it ends too early"),
        ("{1: 2}", "a name should stand here"),
        ("{}", "no entries in a list 'annotations'"),
        ('{"images": {"0": {}}, "annotations": 3}', "no entries in a list 'annotations'"),
        ('{"images": ' + "[" * 100_000, "recursion"),
        ('{"x": ' + "9" * 5000 + "}", "limit"),
        ("GIF89a", "should be an object"),
    ],
)
def test_a_json_of_another_shape_is_named(coco: Path, train: Path, text: str, why: str) -> None:
    train.write_text(text)
    with pytest.raises(DataError, match=rf"instances_train2017\.json .*{why}"):
        read_source(coco)


@pytest.mark.parametrize(
    ("name", "entry", "why"),
    [
        ("images", [], "it is no object"),
        ("images", {"id": 1}, "'file_name' is missing"),
        ("images", {"id": 1.5, "file_name": "a"}, "the id 1.5 is neither a whole number nor a text"),
        ("images", {"id": 2**70, "file_name": "a"}, "int too"),
        ("images", {"id": 1, "file_name": ["a"]}, "'file_name' is not a text"),
        ("images", {"id": 1, "file_name": "\ud800"}, "surrogate"),
        ("annotations", OBJECT | {"bbox": [1, 2, 3]}, "'bbox' has 3 numbers"),
        ("annotations", OBJECT | {"bbox": "1234x"}, "could not convert"),
        ("annotations", OBJECT | {"bbox": 7}, "not iterable"),
        ("annotations", OBJECT | {"image_id": None}, "the id None is neither"),
        ("annotations", {"image_id": 500}, "'category_id' is missing"),
        ("categories", {"id": 1, "name": 3}, "'name' is not a text"),
    ],
)
def test_an_entry_of_another_shape_is_named(coco: Path, train: Path, name: str, entry: Any, why: str) -> None:
    change(train, **{name: [*lists(train)[name], entry]})
    with pytest.raises(DataError, match=rf"Entry \d+ of '{name}' in .*instances_train2017\.json .*{why}"):
        read_source(coco)


def test_a_category_that_is_not_listed_is_named(coco: Path, train: Path) -> None:
    change(train, annotations=[OBJECT | {"category_id": 99}])
    with pytest.raises(DataError, match="an annotation of category 99, which 'categories' does not list"):
        read_source(coco)


def test_nothing_there(coco: Path, train: Path) -> None:
    change(train, images=[IMAGE | {"file_name": "gone.jpg"}])
    with pytest.raises(DataError, match=r"no images with annotations\. Left out: images that are listed but not the"):
        read_coco(train)
    with pytest.raises(DataError, match=r"gone.json cannot be read: No such file"):
        read_source(coco / "gone.json")
    with pytest.raises(DataError, match="holds no annotations of COCO"):
        read_coco(coco / "train2017")


def test_objects_that_all_lie_in_images_that_are_gone(coco: Path, train: Path) -> None:
    change(train, annotations=[OBJECT | {"image_id": 497}])
    (coco / "train2017/000000000001.jpg").unlink()
    with pytest.raises(DataError, match="marks no object in any image"):
        read_coco(train, boxes=True)


def test_ids_may_be_texts(coco: Path, train: Path) -> None:
    before, found = shown(read_source(coco)), lists(train)
    for entry in found["annotations"]:
        entry["image_id"], entry["category_id"] = str(entry["image_id"]), f"kind {entry['category_id']}"
    for entry in found["categories"]:
        entry["id"] = f"kind {entry['id']}"
    change(train, annotations=found["annotations"], categories=found["categories"])
    assert shown(read_source(coco)) == before
    for entry in found["images"]:
        entry["id"] = f"image {entry['id']}"
    for entry in found["annotations"]:
        entry["image_id"] = f"image {entry['image_id']}"
    change(train, annotations=found["annotations"], images=found["images"])
    assert shown(read_source(coco)) == before
    found["annotations"][0]["category_id"] = "other"
    change(train, annotations=found["annotations"])
    with pytest.raises(DataError, match="an annotation of category 'other', which"):
        read_source(coco)
