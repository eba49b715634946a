"""Labels of every shape that people have: what they mean, which are missing, and which are refused."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graft.data.dataset import TEST, TRAIN, UNLABELLED, UNSPLIT, from_paths
from graft.data.readers.columns import labels_to_texts, parse_labels
from graft.data.readers.source import read_source
from graft.errors import DataError, UsageError
from graft_runtime.image import ImageError

NAN = float("nan")
ONE = np.array([1, 0, 1, 2])
HOT = np.eye(3, dtype=int)[ONE]
SINGLE = (["0", "1", "2"], [1, 0, 1, 2])


@pytest.mark.parametrize(
    "labels",
    [
        ONE,
        ONE[:, None],
        ONE[:, None, None],
        ONE.astype(float),
        list(map(str, ONE)),
        list(map(np.int64, ONE)),
        [torch.tensor(int(each)) for each in ONE],
        [torch.tensor([int(each)]) for each in ONE],
        torch.tensor(ONE),
        torch.tensor(ONE, dtype=torch.bfloat16, requires_grad=True),
        HOT,
        HOT.astype(bool),
        HOT.astype(np.float32),
        torch.tensor(HOT),
        list(torch.tensor(HOT, dtype=torch.float32)),
        HOT.tolist(),
        [{"1"}, {"0"}, frozenset({"1"}), ("2",)],
        [[1], [0], [1], [2]],
        np.array([b"1", b"0", b"1", b"2"]),
    ],
)
def test_one_label_for_each_image_in_every_shape(labels: Any) -> None:
    found, classes = parse_labels(labels)
    assert (list(classes), found.tolist(), found.dtype) == (*SINGLE, np.int32)


@pytest.mark.parametrize(
    "labels",
    [
        [["a", "b"], ["b"], "a", None],
        [{"a", "b"}, {"b"}, {"a"}, set()],
        [("b", "a", "b"), "b", ["a"], NAN],
    ],
)
def test_several_labels_in_every_shape(labels: Any) -> None:
    found, classes = parse_labels(labels)
    assert (classes, found.tolist(), found.dtype) == (("a", "b"), [[1, 1], [0, 1], [1, 0], [0, 0]], np.uint8)


def test_rows_of_0_and_1_with_more_or_fewer_than_one_are_several_labels() -> None:
    for rows in ([[1, 1], [0, 1]], [[1, 0], [0, 0], [0, 1]]):  # a 0 for each class says that it shows none
        found, classes = parse_labels(np.array(rows))
        assert (classes, found.tolist()) == (("0", "1"), rows)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([None, "a", "b"], [UNLABELLED, 0, 1]),
        ([NAN, "a", "b"], [UNLABELLED, 0, 1]),
        ([np.nan, 0.0, 1.0], [UNLABELLED, 0, 1]),
        (np.array([np.nan, 3, 7]), [UNLABELLED, 0, 1]),
        (["", "a", "b"], [UNLABELLED, 0, 1]),
        (np.array(["a", NAN, "b"]), [0, UNLABELLED, 1]),  # NumPy makes it the text 'nan'
        (["<NA>", "a", "b"], [UNLABELLED, 0, 1]),
        (np.array([[0], [NAN], [1]]), [0, UNLABELLED, 1]),
        ([Decimal(1), Decimal("NaN"), Decimal(2)], [0, UNLABELLED, 1]),
        ([[], ["a"], ["b"]], [UNLABELLED, 0, 1]),
        ([None, [1, 0], [0, 1]], [UNLABELLED, 0, 1]),
        ([torch.tensor([NAN, NAN]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])], [UNLABELLED, 0, 1]),
    ],
)
def test_a_missing_label_is_no_class_and_changes_no_task(labels: Any, expected: list[int]) -> None:
    found, classes = parse_labels(labels)
    assert (found.tolist(), len(classes)) == (expected, 2)


def test_numbers_of_a_column_with_a_gap_are_whole_as_they_were() -> None:
    pandas = pytest.importorskip("pandas")
    assert parse_labels(pandas.Series([7, None, 12]))[1] == ("7", "12")
    assert parse_labels(pandas.Series([7, None, 12], dtype="Int64"))[1] == ("7", "12")
    assert parse_labels(pandas.Categorical(["b", None, "a"]))[0].tolist() == [1, UNLABELLED, 0]
    assert labels_to_texts([7.0, None, 12.0]) == ["7", "", "12"]
    assert labels_to_texts([0.5, None, 1.0]) == ["0.5", "", "1.0"]


def test_labels_of_more_libraries_and_types_are_what_their_owner_calls_them() -> None:
    arrow, pandas = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    for labels in (arrow.array(["b", None, "a"]), arrow.chunked_array([["b"], [None, "a"]]), iter(["b", None, "a"])):
        found, classes = parse_labels(labels)
        assert (found.tolist(), classes) == ([1, UNLABELLED, 0], ("a", "b"))
    found, classes = parse_labels(pandas.get_dummies(pandas.Series(["dog", "cat", "dog"])))
    assert (found.tolist(), classes) == ([1, 0, 1], ("cat", "dog"))
    assert parse_labels(pandas.DataFrame({"label": ["dog", "cat"]}))[1] == ("cat", "dog")
    assert parse_labels([bytearray(b"dog"), b"cat"])[1] == ("cat", "dog")
    assert parse_labels([True, 1, 0, False])[0].tolist() == [1, 1, 0, 0]  # two classes, not four


def test_numbers_count_in_names_and_minus_one_is_missing_there() -> None:
    assert labels_to_texts([1, -1, 0], ["cat", "dog"]) == ["dog", "", "cat"]
    assert labels_to_texts([[1, 0], [0]], ["cat", "dog"]) == ["cat\0dog", "cat"]
    assert parse_labels([1, -1, 0])[1] == ("0", "1", "-1")  # without names it is a number as any


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[0.2, 0.8], [0.7, 0.3]]), r"rows of 0 and 1, one column for each class. Got \[2, 2\]"),
        (torch.tensor([[3, 4], [5, 6]]), r"Got \[2, 2\] with other numbers"),
        ([[0.2, 0.8], [0.7, 0.3]], r"Got 0\.2: give the number of the likeliest class"),
        (np.array([[0.5], [1.5]]), r"Got 0\.5"),
        ([0, 1, float("inf")], "Got inf"),
        ([1j, 2j], "Got 1j"),
        ([object(), object()], "Got <object .* give its name"),
        ([{"boxes": []}, {"boxes": []}], "Got {'boxes': "),
        ("cat", "one entry for each image. Got str"),
        (3, "one entry for each image. Got int"),
    ],
)
def test_what_is_no_label_is_refused(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_labels(labels)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, None, 1], [0, UNLABELLED, 1]),
        ([0, NAN, 1], [0, UNLABELLED, 1]),
        ([[0], [1], [1]], [0, 1, 1]),
        ([[1, 0], [0, 1], [0, 1]], [0, 1, 1]),
    ],
)
def test_numbers_that_index_classes(labels: Any, expected: list[int]) -> None:
    assert from_paths(list("abc"), labels, ("x", "y")).labels.tolist() == expected


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0.5, 1], [0, -2, 1], ["x", "y", "x"]])
def test_numbers_that_index_no_class_are_refused(labels: Any) -> None:
    with pytest.raises(DataError, match="Labels are numbers that index the classes"):
        from_paths(list("abc"), labels, ("x", "y"))


# --- the same in every source -----------------------------------------------------------------------------------------

WANTED = (("cat", "dog"), [0, 0, 1, 1], {"images without a label": 1})
LABELS = ["cat", None, "cat", "dog", "dog"]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{at}.png" for at in range(5)]
    for at, path in enumerate(paths):
        Image.new("RGB", (8, 8), (40 * at, 0, 0)).save(path)
    return paths


class Items:
    """A map-style dataset."""

    def __init__(self, files: list[Path], labels: list[Any], **more: Any) -> None:
        self.items = list(zip(files, labels, strict=True))
        vars(self).update(more)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        return self.items[row]


def parquet(folder: Path, files: list[Path], labels: list[Any]) -> Path:
    import pyarrow
    from pyarrow import parquet as pq

    pq.write_table(pyarrow.table({"file": list(map(str, files)), "label": labels}), folder / "t.parquet")
    return folder / "t.parquet"


def table(folder: Path, files: list[Path], empty: str) -> Path:
    rows = [f"{file},{label or empty}" for file, label in zip(files, LABELS, strict=True)]
    (folder / "t.csv").write_text("\n".join(["file,label", *rows]))
    return folder / "t.csv"


@pytest.mark.parametrize("empty", ["", " ", "nan", "NaN", "<NA>"])
def test_one_empty_cell_is_left_out_and_counted(tmp_path: Path, files: list[Path], empty: str) -> None:
    data = read_source(table(tmp_path, files, empty))
    assert (data.classes, data.labels.tolist(), data.ignored) == WANTED
    assert [Path(name).name for name in data.names()] == ["0.png", "2.png", "3.png", "4.png"]


def test_one_that_says_none_is_a_class_of_that_name(tmp_path: Path, files: list[Path]) -> None:
    assert read_source(table(tmp_path, files, "None")).classes == ("cat", "dog", "None")


def test_every_other_source_does_the_same(tmp_path: Path, files: list[Path]) -> None:
    sources = [
        (files, LABELS),
        parquet(tmp_path, files, LABELS),
        Items(files, LABELS),
        Items(files, [0, -1, 0, 1, 1], classes=["cat", "dog"]),
        Items(files, [0, -1, 0, 1, 1], classes=["cat", "dog"], targets=[0, -1, 0, 1, 1]),
        Items(
            files, [torch.tensor(each) for each in ([1, 0], [NAN, NAN], [1, 0], [0, 1], [0, 1])], classes=["cat", "dog"]
        ),
        from_paths(files, [0, -1, 0, 1, 1], ("cat", "dog")),
    ]
    for source in sources:
        data = read_source(source)
        assert (data.classes, data.labels.tolist(), data.ignored) == WANTED


@pytest.mark.slow
def test_hugging_faces_unknown_and_its_test_part_without_labels(files: list[Path]) -> None:
    hf = pytest.importorskip("datasets")
    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["cat", "dog"])})

    def part(rows: list[int], labels: list[int | None]) -> Any:
        return hf.Dataset.from_dict({"image": [str(files[row]) for row in rows], "label": labels}, features=features)

    for gap in (-1, None):
        data = read_source(part([0, 1, 2, 3, 4], [0, gap, 0, 1, 1]))
        assert (data.classes, data.labels.tolist(), data.ignored) == WANTED
    data = read_source(hf.DatasetDict(train=part([0, 2, 3, 4], [0, 0, 1, 1]), test=part([1], [-1])))
    assert (data.classes, data.labels.tolist(), data.ignored) == WANTED
    assert data.split.tolist() == [UNSPLIT] * 4  # of a test part that says nothing, none is left
    hot = hf.Dataset.from_dict({"image": list(map(str, files)), "label": np.eye(2, dtype=int)[[0, 1, 0, 1, 1]]})
    data = read_source(hot.cast_column("image", hf.Image()))
    assert (data.task, data.classes, data.labels.tolist()) == ("multiclass", ("0", "1"), [0, 1, 0, 1, 1])


def test_a_row_of_hugging_face_without_an_image_is_a_fault(files: list[Path]) -> None:
    hf = pytest.importorskip("datasets")
    rows = {"image": [str(files[0]), None], "label": ["a", "b"]}
    data = read_source(
        hf.Dataset.from_dict(rows, features=hf.Features({"image": hf.Image(), "label": hf.Value("string")}))
    )
    assert data.read(0) == files[0].read_bytes()
    with pytest.raises(ImageError, match="no image"):
        data.read(1)
    items = read_source(Items([files[0], None, files[1]], ["a", "b", "a"]))  # type: ignore[list-item]
    with pytest.raises(ImageError, match="no image"):
        items.read(1)


def test_a_part_without_labels_is_left_out_and_the_other_parts_stand(tmp_path: Path, files: list[Path]) -> None:
    said = ["a,train", "b,train", "a,test", "b,test", ",val"]
    rows = [f"{file},{end}" for file, end in zip(files, said, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["file,label,split", *rows]))
    assert read_source(tmp_path / "t.csv").split.tolist() == [TRAIN, TRAIN, TEST, TEST]


def test_for_a_classifier_of_several_labels_an_image_without_one_shows_none(tmp_path: Path, files: list[Path]) -> None:
    data = read_source(table(tmp_path, files, ""), ("cat", "dog"), several=True)
    assert data.targets().tolist() == [[1, 0], [0, 0], [1, 0], [0, 1], [0, 1]]


def test_columns_of_true_and_false_are_columns_of_0_and_1(tmp_path: Path, files: list[Path]) -> None:
    for yes, no in (("True", "False"), ("1.0", "0.0"), ("TRUE", "FALSE")):
        rows = [f"{file},{yes if at < 2 else no},{no if at < 2 else yes}" for at, file in enumerate(files)]
        (tmp_path / "t.csv").write_text("\n".join(["file,cat,dog", *rows]))
        assert read_source(tmp_path / "t.csv").labels.tolist() == [0, 0, 1, 1, 1]
    (tmp_path / "t.csv").write_text("\n".join(["file,cat,dog", f"{files[0]},,", *rows[1:]]))
    assert read_source(tmp_path / "t.csv").ignored == {"images without a label": 1}


def test_coco_images_without_an_object_do_not_change_the_task(tmp_path: Path, files: list[Path]) -> None:
    images = [{"id": at, "file_name": file.name} for at, file in enumerate(files)]
    marks = [{"image_id": at, "category_id": at % 2, "bbox": [0, 0, 4, 4]} for at in range(4)]
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    whole = {"images": images, "annotations": marks, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(whole))
    data = read_source(tmp_path / "a.json")
    assert (data.task, data.labels.tolist(), data.ignored) == (
        "multiclass",
        [0, 1, 0, 1],
        {"images without a label": 1},
    )
    assert read_source(tmp_path / "a.json", ("dog", "cat")).labels.tolist() == [1, 0, 1, 0]
    marks.append({"image_id": 0, "category_id": 1, "bbox": [0, 0, 4, 4]})
    (tmp_path / "a.json").write_text(json.dumps(whole))
    assert read_source(tmp_path / "a.json").targets().tolist() == [[1, 1], [0, 1], [1, 0], [0, 1], [0, 0]]


def test_subsets_and_joined_sets_of_torch_have_the_names_of_what_they_hold(files: list[Path]) -> None:
    from torch.utils.data import ConcatDataset, Subset

    one = Items(files, [0, 1, 0, 1, 1], classes=["cat", "dog"])
    other = Items(files, [0, 0, 1, 1, 0], classes=["cow", "cat"])  # the same number is another class there
    part: Any = Subset(one, [1, 2])  # pyright: ignore[reportArgumentType]
    assert (read_source(part).classes, read_source(part).labels.tolist()) == (("cat", "dog"), [1, 0])
    both: Any = ConcatDataset([part, other])  # pyright: ignore[reportArgumentType]
    data = read_source(both)
    assert (data.classes, data.labels.tolist()) == (("cat", "cow", "dog"), [2, 0, 1, 1, 0, 0, 1])
    assert data.read(3) == files[1].read_bytes()

    class Own(Subset):  # pyright: ignore[reportMissingTypeArgument]
        def __getitem__(self, idx: Any) -> Any:
            return super().__getitem__(idx)

        def __getitems__(self, indices: list[int]) -> list[Any]:
            return [self[each] for each in indices]

    own: Any = Own(one, [1, 2])  # pyright: ignore[reportArgumentType]
    assert (read_source(own).classes, read_source(own).labels.tolist()) == (("cat", "dog"), [1, 0])
    nested: Any = Subset(both, [6, 0])
    assert (read_source(nested).classes, read_source(nested).labels.tolist()) == (("cow", "dog"), [0, 1])


def test_names_come_from_class_to_idx_where_there_are_no_classes(files: list[Path]) -> None:
    numbered = Items(files, [0, 1, 0, 1, 1], class_to_idx={"dog": 0, "cat": 1})
    assert read_source(numbered).classes == ("cat", "dog")
    assert read_source(numbered).labels.tolist() == [1, 0, 1, 0, 0]


def test_a_list_of_pairs_is_a_source_and_a_list_of_two_lists_is_not(files: list[Path]) -> None:
    pairs: Any = [(path, "ab"[row % 2]) for row, path in enumerate(files)]
    data = read_source(pairs)
    assert (data.classes, data.labels.tolist()[:3], data.read(1)) == (("a", "b"), [0, 1, 0], files[1].read_bytes())
    with pytest.raises(UsageError, match="no pairs"):
        read_source([files, ["a"] * len(files)])


def test_images_of_a_pair_are_all_that_can_be_predicted(files: list[Path]) -> None:
    raw = files[0].read_bytes()
    mixed = [raw, bytearray(raw), files[0], str(files[0]), Image.open(files[0]), np.asarray(Image.open(files[0]))]
    data = read_source((mixed, list("ababab")))
    assert [data.read(row) for row in range(4)] == [raw] * 4
    assert (np.asarray(data.read(4)) == np.asarray(data.read(5))).all()
    assert read_source((iter(files), [row % 2 for row in range(len(files))])).classes == ("0", "1")
    with pytest.raises(DataError, match="Got None, as number 1"):
        read_source(([files[0], None], ["a", "b"]))
